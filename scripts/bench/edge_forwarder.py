"""One of Edge's loops as a process of its own: ``edge_forwarder.py ENGINE HOP_PORT FLOWS COUNT``.

Arguments and output are those of ``reference_forwarder.c``. The flows are put in directly and the
hop is named directly, so that what is measured is the loop alone.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edge.address import Address
from edge.config import RelayConfig
from edge.datagram import bind_udp
from edge.forwarder.engine import Engine, make_forwarder
from edge.forwarder.protocol import FlowEntry, Forwarder
from edge.wire.spp import encode_path

HOP: Final = 1
FLOW: Final = struct.Struct("!4BH")


def resident_bytes() -> int:
    """Memory of this process; proc(5), statm."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fill(forwarder: Forwarder, flows: Path, count: int, public: Address) -> None:
    """Put the first flows of the file in."""
    with flows.open("rb") as file:
        for _ in range(count):
            *host, port = FLOW.unpack(file.read(FLOW.size))
            path = encode_path((".".join(map(str, host)), port), public)
            forwarder.flows.put(path, FlowEntry(owner=HOP, heard=trio.current_time()))


async def discard(forwarder: Forwarder) -> None:
    """Take what is raised; in this benchmark nothing should be."""
    while True:
        await forwarder.receive()


async def report(forwarder: Forwarder) -> None:
    """Print the counters whenever asked."""
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            found = forwarder.statistics()
            answer = {
                "packets": found.packets_to_transceivers + found.packets_to_clients,
                "wakes": found.wakes,
                "dropped": sum(found.drops.values()),
            }
            print(msgspec.json.encode(answer).decode(), flush=True)


async def serve(engine: Engine, hop_port: int, flows: Path, count: int) -> None:
    """Forward until killed."""
    public, internal = bind_udp(("127.0.0.1", 0)), bind_udp(("127.0.0.1", 0))
    advertised: Address = public.getsockname()
    settings = RelayConfig(max_flows=max(count, 100_000))
    forwarder = make_forwarder(
        engine, [public], [internal], advertised=advertised, settings=settings, stale=lambda: None
    )
    forwarder.set_hop(HOP, ("127.0.0.1", hop_port), group=HOP, public=None)
    before = resident_bytes()
    fill(forwarder, flows, count, advertised)
    ready = {
        "public": advertised[1],
        "internal": internal.getsockname()[1],
        "bytes_per_flow": (resident_bytes() - before) / count,
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report, forwarder)
        nursery.start_soon(discard, forwarder)
        await nursery.start(forwarder.run)
        print(msgspec.json.encode(ready).decode(), flush=True)


def main() -> None:
    """Read the arguments and serve."""
    name, hop_port, flows, count = sys.argv[1:]
    engine: Engine = "native" if name == "native" else "pure"
    trio.run(partial(serve, engine, int(hop_port), Path(flows), int(count)))


if __name__ == "__main__":
    main()
