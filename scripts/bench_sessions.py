#!/usr/bin/env python3
"""What an echoed packet, a session and a setup cost a transceiver, by number of sessions.

Three processes beside a redis-server: ``edge relay``, ``edge transceiver``, and this one, which
makes the calls: real ICE, DTLS and SRTP, 50 packets of some 100 bytes a second each, every echo
authenticated and counted. An echoed packet is one in and one out. CPU is user plus system time of
the transceiver's process over the steady phase alone. The added delay is the whole round trip, so
the relay's two passes and this process's own waits are in it: an upper bound. Where it is allowed,
all of them run at real-time priority: what else the machine does then costs less.

A machine of two cores can not carry 1,000 calls with their clients and their relay, so those send
packets of 60 ms: a third as many, from as many sessions.

    scripts/bench_sessions --json sessions.json --plot docs/img/bench_sessions.png
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.processes import take_precedence
from bench.sessions_report import Result, Row, plot, table
from bench.usage import Usage, busy_seconds
from reporting import json_option, write_json

from edge.client import Load, LoadClient, open_load
from edge.client.load_report import percentiles
from tests.support.edges import Fleet, fleet
from tests.support.redis_server import running_redis

DEFAULT_COUNTS: Final = (10, 100, 400)
SETTLE_SECONDS: Final = 1.0
SETUPS: Final = 200
"""Calls that are opened, SETUPS_AT_ONCE at a time, and closed at once, for the cost of a setup."""
SETUPS_AT_ONCE: Final = 4
OFFERS_PER_SECOND: Final = "100000"


class Scene(msgspec.Struct, frozen=True):
    """So many sessions, which all send a packet every ``frame_seconds``."""

    sessions: int
    frame_seconds: float


class Probe(msgspec.Struct, frozen=True):
    """One moment."""

    at: float
    received: int
    relay: Usage
    transceiver: Usage
    load: Usage
    busy: float

    @classmethod
    def take(cls, group: Fleet, calls: Sequence[LoadClient]) -> Probe:
        """Read all processes at once."""
        return cls(
            at=trio.current_time(),
            received=sum(call.received for call in calls),
            relay=Usage.read(group.relay.worker),
            transceiver=Usage.read(group.transceivers[0].pid),
            load=Usage.read(os.getpid()),
            busy=busy_seconds(),
        )


async def open_calls(load: Load, http: str, count: int, rate: float) -> list[LoadClient]:
    """Open calls at a steady rate, whether or not the earlier ones are done."""
    calls: list[LoadClient] = []

    async def open_one() -> None:
        calls.append(await load.open_call(http))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(open_one)
            await trio.sleep(1 / rate)
    return calls


async def prepare(calls: Sequence[LoadClient], seconds: float, frame_seconds: float) -> None:
    """Protect what will be sent, so that this process takes less CPU from the others."""
    for call in calls:
        call.prepare(round(seconds / frame_seconds))
        await trio.sleep(0)


async def measure_sessions(
    group: Fleet, idle: Probe, scene: Scene, rate: float, seconds: float
) -> Row:
    """Run so many sessions once."""
    async with open_load(frame_seconds=scene.frame_seconds) as load:
        calls = await open_calls(load, group.transceivers[0].http, scene.sessions, rate)
        await prepare(calls, seconds + 2 * SETTLE_SECONDS, scene.frame_seconds)
        await trio.sleep(SETTLE_SECONDS)
        marks = [(call.sent, call.received) for call in calls]
        start = Probe.take(group, calls)
        await trio.sleep(seconds)
        end = Probe.take(group, calls)
        await trio.sleep(SETTLE_SECONDS)
        return make_row(scene, calls, marks, idle, start, end)


def make_row(
    scene: Scene,
    calls: Sequence[LoadClient],
    marks: Sequence[tuple[int, int]],
    idle: Probe,
    start: Probe,
    end: Probe,
) -> Row:
    """Put one run together."""
    seconds, packets = end.at - start.at, end.received - start.received
    found = [call.statistics(since=sent) for call, (sent, _) in zip(calls, marks, strict=True)]
    trips = percentiles(
        trip
        for each, (_, received) in zip(found, marks, strict=True)
        for trip in each.round_trips[received:]
    )
    used = [
        after.cpu_seconds - before.cpu_seconds
        for before, after in (
            (start.transceiver, end.transceiver),
            (start.relay, end.relay),
            (start.load, end.load),
        )
    ]
    grown = end.transceiver.resident_bytes - idle.transceiver.resident_bytes
    return Row(
        sessions=len(calls),
        packets_per_second=1 / scene.frame_seconds,
        packets=packets,
        lost=sum(each.missing for each in found),
        cpu_microseconds_per_packet=used[0] * 1e6 / packets,
        cpu_percent=used[0] * 100 / seconds,
        added_p50_ms=trips["p50"],
        added_p99_ms=trips["p99"],
        kib_per_session=grown / 1024 / len(calls),
        relay_microseconds_per_packet=used[1] * 1e6 / packets,
        load_cpu_percent=used[2] * 100 / seconds,
        others_cpu_percent=(end.busy - start.busy - sum(used)) * 100 / seconds,
    )


async def measure_setups(group: Fleet) -> tuple[float, dict[str, float]]:
    """CPU seconds of the transceiver for a call that is opened and closed, and how long it took."""
    times: list[float] = []
    http = group.transceivers[0].http
    async with open_load() as load:

        async def open_some() -> None:
            for _ in range(SETUPS // SETUPS_AT_ONCE):
                call = await load.open_call(http)
                times.append(call.setup.secured)
                call.close()

        before = Usage.read(group.transceivers[0].pid)
        async with trio.open_nursery() as nursery:
            for _ in range(SETUPS_AT_ONCE):
                nursery.start_soon(open_some)
        await trio.sleep(SETTLE_SECONDS)
        after = Usage.read(group.transceivers[0].pid)
    return (after.cpu_seconds - before.cpu_seconds) / len(times), percentiles(times)


async def warm_up(group: Fleet) -> Probe:
    """Make one call, so that everything is loaded, and read the idle processes."""
    async with open_load() as load:
        call = await load.open_call(group.transceivers[0].http)
        await call.wait_received(10)
    await trio.sleep(SETTLE_SECONDS)
    return Probe.take(group, ())


async def measure(scenes: Sequence[Scene], rate: float, seconds: float, redis_url: str) -> Result:
    """Run the whole scene; each number of sessions has fresh processes."""
    rows: list[Row] = []
    for scene in scenes:
        async with fleet(redis_url, transceivers=1) as group:
            idle = await warm_up(group)
            rows.append(await measure_sessions(group, idle, scene, rate, seconds))
    async with fleet(redis_url, transceivers=1) as group:
        await warm_up(group)
        setup, times = await measure_setups(group)
    return Result(
        rows=rows,
        setups_a_second_a_core=1 / setup,
        setup_p50_ms=times["p50"],
        setup_p99_ms=times["p99"],
    )


@click.command()
@click.option("--sessions", "counts", type=click.IntRange(1), multiple=True,
              default=DEFAULT_COUNTS, show_default=True,
              help="With 50 packets/s each; may be repeated.")  # fmt: skip
@click.option("--sparse", type=click.IntRange(1), multiple=True,
              help="With packets of 60 ms; without --sessions 1000.")  # fmt: skip
@click.option("--rate", default=100.0, show_default=True, help="Calls opened a second.")
@click.option("--seconds", default=10.0, show_default=True, help="Length of each steady phase.")
@click.option("--real-time/--no-real-time", default=True, show_default=True,
              help="Run before other work on this machine.")  # fmt: skip
@json_option
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw them here.")
def main(
    counts: tuple[int, ...],
    sparse: tuple[int, ...],
    rate: float,
    seconds: float,
    real_time: bool,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure what echo sessions cost a transceiver."""
    if plot_file and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: pip install matplotlib")
    if real_time and not take_precedence():
        click.echo("no real-time priority here: other work adds to all figures", err=True)
    for limit in ("", "_PER_KEY", "_PER_ADDRESS"):
        os.environ[f"EDGE_HTTP_OFFERS_PER_SECOND{limit}"] = OFFERS_PER_SECOND
    os.environ["EDGE_TRANSCEIVER_MAX_LOAD"] = "1"  # the cost of the last session counts, too
    if counts == DEFAULT_COUNTS and not sparse:
        sparse = (1000,)
    scenes = [Scene(each, 0.02) for each in counts] + [Scene(each, 0.06) for each in sparse]
    with running_redis() as server:
        result = trio.run(measure, scenes, rate, seconds, server.url)
    click.echo(table(result))
    write_json(json_file, result)
    if plot_file:
        plot({"Edge": result.rows}, plot_file)


if __name__ == "__main__":
    main()
