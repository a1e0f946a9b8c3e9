#!/usr/bin/env python3
"""What an echoed packet, a setup and a session cost: a relay and a transceiver under a real load.

Three processes beside a redis-server: the relay, the transceiver, and this one, which makes the
calls. A packet counts once in each direction, since the relay forwards both; CPU is user plus
system time of the whole process from /proc, over the steady phase alone.

    scripts/bench_first --sessions 100 --rate 20 --seconds 10
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reporting import json_option, write_json

from edge.client import Load, LoadClient, open_load
from tests.support.edges import Fleet, fleet
from tests.support.redis_server import running_redis

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
SETTLE_SECONDS: Final = 1.0
SETUPS: Final = 100
"""Calls made one after the other, and closed at once, for the CPU of a setup."""
PERCENTILES: Final = (50, 95, 99, 100)


class Usage(msgspec.Struct, frozen=True):
    """What a process has used so far."""

    cpu_seconds: float
    resident_bytes: int

    @classmethod
    def read(cls, pid: int) -> Usage:
        """Read /proc; proc(5) numbers the fields of stat from 1, the name may hold spaces."""
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        utime, stime, resident_pages = int(stat[11]), int(stat[12]), int(stat[21])
        return cls((utime + stime) / TICKS_PER_SECOND, resident_pages * PAGE_BYTES)


class Cost(msgspec.Struct, frozen=True):
    """One process under load."""

    cpu_microseconds_per_packet: float
    cpu_percent: float
    resident_kib_per_session: float


class Result(msgspec.Struct, frozen=True):
    """Everything that is printed; times in milliseconds, percentiles by their number."""

    sessions: int
    seconds: float
    packets: int
    lost_packets: int
    longest_hole_ms: float
    relay: Cost
    transceiver: Cost
    load_cpu_percent: float
    setup_cpu_ms: float
    """Of the transceiver, for one whole call without media: HTTP, ICE, DTLS, and its end."""
    first_echo_ms: dict[int, float]
    first_sent_ms: dict[int, float]
    secured_ms: dict[int, float]
    answered_ms: dict[int, float]
    round_trip_ms: dict[int, float]


class Probe(msgspec.Struct, frozen=True):
    """One moment of the steady phase."""

    at: float
    packets: int
    relay: Usage
    transceiver: Usage
    load: Usage

    @classmethod
    def take(cls, group: Fleet, calls: Sequence[LoadClient]) -> Probe:
        """Read all processes at once."""
        return cls(
            at=trio.current_time(),
            packets=sum(call.sent + call.received for call in calls),
            relay=Usage.read(group.relay.worker),
            transceiver=Usage.read(group.transceivers[0].pid),
            load=Usage.read(os.getpid()),
        )


def percentiles(values: Sequence[float]) -> dict[int, float]:
    """Nearest-rank percentiles, in milliseconds."""
    ordered = sorted(values)
    return {p: ordered[max(0, -(-len(ordered) * p // 100) - 1)] * 1000 for p in PERCENTILES}


def cost(before: Usage, after: Usage, idle: Usage, sessions: int, span: Probe, end: Probe) -> Cost:
    """What a process used between two probes."""
    cpu = after.cpu_seconds - before.cpu_seconds
    return Cost(
        cpu_microseconds_per_packet=cpu * 1e6 / (end.packets - span.packets),
        cpu_percent=cpu * 100 / (end.at - span.at),
        resident_kib_per_session=(after.resident_bytes - idle.resident_bytes) / 1024 / sessions,
    )


async def setup_cpu(load: Load, http: str, pid: int) -> float:
    """CPU seconds of a transceiver for a call that is opened and closed."""
    before = Usage.read(pid)
    for _ in range(SETUPS):
        (await load.open_call(http)).close()
    await trio.sleep(SETTLE_SECONDS)
    return (Usage.read(pid).cpu_seconds - before.cpu_seconds) / SETUPS


async def open_calls(load: Load, http: str, count: int, rate: float) -> list[LoadClient]:
    """Open calls at a steady rate, whether or not the earlier ones are done."""
    calls: list[LoadClient] = []

    async def open_one() -> None:
        call = await load.open_call(http)
        calls.append(call)
        with trio.fail_after(10.0):
            await call.wait_received(1)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(open_one)
            await trio.sleep(1 / rate)
    return calls


async def measure(sessions: int, rate: float, seconds: float, redis_url: str) -> Result:
    """Run the whole scene once."""
    async with fleet(redis_url, transceivers=1) as group, open_load() as load:
        http = group.transceivers[0].http
        warm = await load.open_call(http)
        await warm.wait_received(10)
        warm.close()
        idle = Probe.take(group, ())
        calls = await open_calls(load, http, sessions, rate)
        await trio.sleep(SETTLE_SECONDS)
        marks = [call.sent for call in calls]
        start = Probe.take(group, calls)
        await trio.sleep(seconds)
        end = Probe.take(group, calls)
        await trio.sleep(SETTLE_SECONDS)
        statistics = [call.statistics(since=mark) for call, mark in zip(calls, marks, strict=True)]
        setups = [each.setup for each in statistics]
        for call in calls:
            call.close()
        await trio.sleep(SETTLE_SECONDS)
        # Last, as the heap that it leaves behind would hide the memory of sessions.
        setup = await setup_cpu(load, http, group.transceivers[0].pid)
        return Result(
            sessions=sessions,
            seconds=end.at - start.at,
            packets=end.packets - start.packets,
            lost_packets=sum(each.missing for each in statistics),
            longest_hole_ms=max(each.longest_hole for each in statistics) * 1000,
            relay=cost(start.relay, end.relay, idle.relay, sessions, start, end),
            transceiver=cost(
                start.transceiver, end.transceiver, idle.transceiver, sessions, start, end
            ),
            load_cpu_percent=(end.load.cpu_seconds - start.load.cpu_seconds)
            * 100
            / (end.at - start.at),
            setup_cpu_ms=setup * 1000,
            first_echo_ms=percentiles([each.first_echo for each in setups]),
            first_sent_ms=percentiles([each.first_sent for each in setups]),
            secured_ms=percentiles([each.secured for each in setups]),
            answered_ms=percentiles([each.answered for each in setups]),
            round_trip_ms=percentiles([trip for each in statistics for trip in each.round_trips]),
        )


def table(result: Result) -> str:
    """The result for a person."""
    lines = [
        f"{result.sessions} echo sessions, 50 packets/s each way, {result.seconds:.1f} s, "
        f"{result.packets} packets forwarded, {result.lost_packets} lost, "
        f"longest hole {result.longest_hole_ms:.0f} ms",
        "",
        f"{'process':<14}{'CPU us/packet':>15}{'CPU %':>9}{'KiB/session':>14}",
    ]
    for name, each in (("relay", result.relay), ("transceiver", result.transceiver)):
        lines.append(
            f"{name:<14}{each.cpu_microseconds_per_packet:>15.1f}{each.cpu_percent:>9.1f}"
            f"{each.resident_kib_per_session:>14.1f}"
        )
    lines += [
        f"{'(load)':<14}{'':>15}{result.load_cpu_percent:>9.1f}",
        f"{'(setup)':<14}{result.setup_cpu_ms:>15.1f}  ms of transceiver CPU a call",
        "",
        f"{'ms after POST':<22}" + "".join(f"{_name(p):>9}" for p in PERCENTILES),
    ]
    rows = (
        ("answer", result.answered_ms),
        ("DTLS done", result.secured_ms),
        ("first client packet", result.first_sent_ms),
        ("first echoed packet", result.first_echo_ms),
        ("round trip (running)", result.round_trip_ms),
    )
    for name, values in rows:
        lines.append(f"{name:<22}" + "".join(f"{values[p]:>9.1f}" for p in PERCENTILES))
    return "\n".join(lines)


def _name(percentile: int) -> str:
    return "max" if percentile == 100 else f"p{percentile}"


@click.command()
@click.option("--sessions", default=100, show_default=True, help="Calls at the same time.")
@click.option("--rate", default=20.0, show_default=True, help="Setups a second.")
@click.option("--seconds", default=10.0, show_default=True, help="Length of the steady phase.")
@json_option
def main(sessions: int, rate: float, seconds: float, json_file: Path | None) -> None:
    """Measure the first edge under echo load."""
    with running_redis() as server:
        result = trio.run(measure, sessions, rate, seconds, server.url)
    click.echo(table(result))
    write_json(json_file, result)


if __name__ == "__main__":
    main()
