"""Bytes and writes that checkpoints cost a session, and what one Redis and one process take.

python scripts/bench_checkpoints.py [--sessions N] [--seconds S]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import trio

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge.registry.redis import open_redis_registry
from edge.registry.sessions import Claim, SessionBook, Slot, StoreOutcome
from edge.transceiver.checkpoint import Checkpoint, CheckpointKeys
from edge.transceiver.checkpoint_writer import CHANGE_SECONDS, Answer, CheckpointWriter
from edge.webrtc.reserve import Reserve
from tests.support.redis_server import running_redis
from tests.support.session_values import CLAIM, NOW, SECRET, stored, write_checkpoint

ROUNDS = 2_000


def microseconds(operation: Callable[[], object], rounds: int = ROUNDS) -> float:
    """CPU time of one round."""
    start = time.process_time()
    for _ in range(rounds):
        operation()
    return (time.process_time() - start) / rounds * 1e6


def count_writes(seconds: float, *, packets: int, changes: float, within: float) -> int:
    """Writes of one session that sends so many packets and changes so often a second."""
    writer, now, writes, next_change = CheckpointWriter(now=0.0), 0.0, 0, 0.0
    while now < seconds:
        if now >= next_change:
            writer.change(now=now, within=within)
            next_change = now + 1 / changes if changes else seconds
        used = Reserve(rtp=int(now * packets))
        if writer.look(used, now=now):
            writer.end(writer.begin(used, now=now), Answer.STORED, now=now)
            writes += 1
        now = min(writer.deadline, next_change)
    return writes


def print_sizes(keys: CheckpointKeys) -> None:
    """What a session is as bytes."""
    print("checkpoint                        plain   sealed  seal us  open us")
    for name, checkpoint in (
        ("voice", write_checkpoint(6.0)),
        ("voice, red and nack", write_checkpoint(6.0, nack=True)),
        ("voice and a data channel", write_checkpoint(6.0, channel=True)),
    ):
        one = stored(checkpoint, keys)
        print(
            f"{name:<32}{len(msgspec.msgpack.encode(checkpoint)):>7}{len(one.sealed):>9}"
            f"{microseconds(partial(keys.seal, checkpoint)):>9.0f}"
            f"{microseconds(partial(keys.open, one, now=NOW)):>9.0f}"
        )


def print_writes(bytes_each: int) -> None:
    """How often a session is written in ten minutes."""
    print("\nten minutes of                    writes  a minute  bytes/s")
    for name, packets, changes, within in (
        ("silence", 0, 0.0, CHANGE_SECONDS),
        ("talk, 50 packets/s", 50, 0.0, CHANGE_SECONDS),
        ("talk, 100 packets/s", 100, 0.0, CHANGE_SECONDS),
        ("talk, and a change every 5 s", 50, 0.2, CHANGE_SECONDS),
        ("talk, and 100 changes/s", 50, 100.0, CHANGE_SECONDS),
        ("talk, and 10 messages/s", 50, 10.0, 0.0),
        ("talk, and 100 messages/s", 50, 100.0, 0.0),
    ):
        writes = count_writes(600.0, packets=packets, changes=changes, within=within)
        print(f"{name:<32}{writes:>8}{writes / 10:>10.1f}{writes * bytes_each / 600:>9.0f}")


async def print_redis(sessions: int, seconds: float, checkpoint: Checkpoint) -> None:
    """How fast many sessions' checkpoints are stored, and a take-over."""
    sealed = CheckpointKeys(SECRET).seal(checkpoint)
    claims = [Claim(session=f"rtc_{n}", owner=Slot(1), epoch=1) for n in range(sessions)]
    latencies: list[float] = []

    async def keep_storing(book: SessionBook, claim: Claim, until: float) -> None:
        await book.claim(claim)
        serial = 0
        while (start := trio.current_time()) < until:
            serial += 1
            assert await book.store(claim, serial, sealed) is StoreOutcome.STORED
            latencies.append(trio.current_time() - start)

    with running_redis() as server:
        async with open_redis_registry(server.url, secret=SECRET) as registry:
            cpu, until = time.process_time(), trio.current_time() + seconds
            async with trio.open_nursery() as nursery:
                for claim in claims:
                    nursery.start_soon(keep_storing, registry.sessions, claim, until)
            cpu = (time.process_time() - cpu) / len(latencies) * 1e6
            print(f"\n{sessions} sessions store as fast as they can, {len(sealed)} bytes each:")
            print(f"{len(latencies) / seconds:.0f} stores/s, {cpu:.0f} us of our CPU each")
            print_spread("store", latencies)
            took: list[float] = []
            for claim in claims:
                start = trio.current_time()
                heir = claim.next_of(Slot(2))
                held, stored = await registry.sessions.inherit(heir, claim.owner)
                assert held == heir
                assert stored is not None
                took.append(trio.current_time() - start)
            print_spread("claim and load, one at a time", took)
        with server.client() as client:
            used = client.memory_usage("edge:0:session:rtc_0")
            print(f"a session takes {used} bytes of Redis's memory")


def print_spread(name: str, seconds: list[float]) -> None:
    """The median and the worst of a hundred."""
    seconds.sort()
    middle, late = (seconds[int(len(seconds) * part)] * 1000 for part in (0.5, 0.99))
    print(f"{name}: median {middle:.2f} ms, p99 {late:.2f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    keys = CheckpointKeys(SECRET)
    print_sizes(keys)
    voice = msgspec.structs.replace(write_checkpoint(6.0), claim=CLAIM)
    print_writes(len(keys.seal(voice)))
    trio.run(print_redis, arguments.sessions, arguments.seconds, voice)


if __name__ == "__main__":
    main()
