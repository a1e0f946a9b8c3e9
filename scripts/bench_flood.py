#!/usr/bin/env python3
"""What running calls lose while strangers flood the relay with garbage.

An `edge serve` with a few echo calls; another process sends STUN checks with forged tokens, bytes
of no protocol, or RTP of nobody, at each rate in turn. Printed: what the kernel dropped before the
relay saw it, what the calls lost meanwhile and from one second after the flood.

    scripts/bench_flood --kind checks --rate 20000 --rate 80000 --rate 250000 --seconds 8
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edge.address import Address, parse_address
from edge.client import LoadClient, open_load
from edge.wire.stun import TRANSACTION_ID_BYTES, encode_request
from tests.support.edges import SERVE
from tests.support.processes import edge

CALLS: Final = 5
SOURCES: Final = 64
DATAGRAMS: Final = 512
SETTLE_SECONDS: Final = 1.0


class Flood(msgspec.Struct, frozen=True):
    """One rate."""

    kind: str
    per_second: float
    kernel_drops_per_second: float
    lost_percent: float
    lost_percent_afterwards: float


def garbage(kind: str) -> bytes:
    """One datagram."""
    match kind:
        case "checks":
            return encode_request(
                os.urandom(TRANSACTION_ID_BYTES),
                username=f"{os.urandom(12).hex()[:23]}:abcd",
                password="nobody's",
                priority=1,
            )
        case "rtp":
            return b"\x80\x6f" + os.urandom(150)
        case _:
            return b"\xff" + os.urandom(150)


def send(address: Address, kind: str, rate: int, seconds: float) -> int:
    """Send at a rate from many ports; returns how many went out."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(SOURCES)]
    for each in sockets:
        each.connect(address)
    datagrams = [garbage(kind) for _ in range(DATAGRAMS)]
    started, sent = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        due = min(int(elapsed * rate) - sent, SOURCES)
        if due <= 0:
            time.sleep(0.0003)
        for number in range(sent, sent + max(due, 0)):
            sockets[number % SOURCES].send(datagrams[number % DATAGRAMS])
        sent += max(due, 0)
    for each in sockets:
        each.close()
    return sent


def kernel_drops(port: int) -> int:
    """What the kernel dropped for a full receive buffer; the last field of /proc/net/udp."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}"):
            return int(fields[-1])
    raise LookupError(f"no UDP socket on port {port}")


class Tally:
    """Packets of all calls since it was made."""

    def __init__(self, calls: Sequence[LoadClient]) -> None:
        self._calls = calls
        self._before = self._count()

    def lost_percent(self) -> float:
        """How many of those sent did not come back; those under way make it a little wrong."""
        sent, received = (now - was for now, was in zip(self._count(), self._before, strict=True))
        return max(0.0, 100 * (1 - received / sent))

    def _count(self) -> tuple[int, int]:
        return sum(call.sent for call in self._calls), sum(call.received for call in self._calls)


async def measure(kind: str, rates: Sequence[int], seconds: float) -> list[Flood]:
    """Flood a fresh edge at each rate."""
    floods = []
    async with edge(*SERVE) as server, open_load() as load:
        calls = [await load.open_call(server.http) for _ in range(CALLS)]
        for rate in rates:
            await trio.sleep(SETTLE_SECONDS)
            during, dropped = Tally(calls), kernel_drops(server.udp_port)
            command = [sys.executable, __file__, "--send", server.udp, "--kind", kind]
            command += ["--rate", str(rate), "--seconds", str(seconds)]
            done = await trio.run_process(command, capture_stdout=True)
            lost, dropped = during.lost_percent(), kernel_drops(server.udp_port) - dropped
            await trio.sleep(SETTLE_SECONDS)
            afterwards = Tally(calls)
            await trio.sleep(2 * SETTLE_SECONDS)
            floods.append(
                Flood(
                    kind=kind,
                    per_second=int(done.stdout) / seconds,
                    kernel_drops_per_second=dropped / seconds,
                    lost_percent=lost,
                    lost_percent_afterwards=afterwards.lost_percent(),
                )
            )
    return floods


@click.command()
@click.option("--kind", type=click.Choice(["checks", "rtp", "noise"]), default="checks")
@click.option("--rate", "rates", type=int, multiple=True, default=(20_000, 80_000, 250_000))
@click.option("--seconds", type=float, default=8.0)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
@click.option("--send", "target", hidden=True, help="Only send, to HOST:PORT.")
def main(
    kind: str, rates: Sequence[int], seconds: float, json_file: Path | None, target: str | None
) -> None:
    """Measure what running calls lose while strangers flood the relay."""
    if target is not None:
        click.echo(send(parse_address(target), kind, rates[0], seconds))
        return
    floods = trio.run(measure, kind, rates, seconds)
    click.echo(f"{'garbage/s':>12}{'kernel drops/s':>16}{'calls lost %':>14}{'afterwards %':>14}")
    for flood in floods:
        click.echo(
            f"{flood.per_second:>12,.0f}{flood.kernel_drops_per_second:>16,.0f}"
            f"{flood.lost_percent:>14.1f}{flood.lost_percent_afterwards:>14.1f}"
        )
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(floods)))


if __name__ == "__main__":
    main()
