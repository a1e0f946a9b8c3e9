#!/usr/bin/env python3
"""What calls hear of each fault: two regions of processes over a real Redis, and echo calls.

Two clusters, each with two relays and two transceivers. Half of the calls enter at a relay of the
other cluster. Every fault is injected again and again into the same fleet; of each time the longest
hole in any call's numbered audio counts. Printed beside the budget of DESIGN.md, section 7, which
is reached when the worst time is within it. "up again" is the time from the kill until the process
was ready again, which the budget allows for; "mixed" are packets that came back out of order.

    scripts/bench_faults --calls 16 --runs 20
    scripts/bench_faults --only relay --only redis --runs 5
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reporting import json_option, write_json

from edge.client import open_load
from tests.support.fault_runs import Fault, Run, Scene, run_fault
from tests.support.faults import FAULTS
from tests.support.global_fleet import Call, global_fleet, open_calls
from tests.support.redis_server import RedisServer, running_redis

SETTLE_SECONDS: Final = 1.0
NAMES: Final = tuple(fault.name for fault in FAULTS)


class Row(msgspec.Struct, frozen=True):
    """One fault; times in milliseconds."""

    fault: str
    title: str
    runs: int
    hole_median_ms: float
    hole_p95_ms: float
    hole_worst_ms: float
    up_again_median_ms: float
    up_again_worst_ms: float
    lost_calls: int
    reordered_packets: int
    budget: str
    reached_runs: int
    holes_ms: list[float]
    up_again_ms: list[float]
    """In the order of the runs."""

    @classmethod
    def sum_up(cls, fault: Fault, runs: Sequence[Run]) -> Row:
        """Make the row of a fault from all its runs."""
        holes = [run.hole * 1000 for run in runs]
        downtimes = [run.downtime * 1000 for run in runs]
        return cls(
            fault=fault.name,
            title=fault.title,
            runs=len(runs),
            hole_median_ms=percentile(holes, 50),
            hole_p95_ms=percentile(holes, 95),
            hole_worst_ms=max(holes),
            up_again_median_ms=percentile(downtimes, 50),
            up_again_worst_ms=max(downtimes),
            lost_calls=sum(run.lost for run in runs),
            reordered_packets=sum(run.reordered for run in runs),
            budget=fault.budget,
            reached_runs=sum(run.reached for run in runs),
            holes_ms=holes,
            up_again_ms=downtimes,
        )


class Audio(msgspec.Struct, frozen=True):
    """What all calls heard, in packets; all but the first should be none."""

    received: int
    foreign: int
    """Another call's words."""
    reordered: int
    duplicates: int
    rejected: int

    @classmethod
    def sum_up(cls, calls: Sequence[Call]) -> Audio:
        """Add up the calls."""
        all_of = [call.client.statistics() for call in calls]
        return cls(
            received=sum(each.received for each in all_of),
            foreign=sum(each.foreign for each in all_of),
            reordered=sum(each.reordered for each in all_of),
            duplicates=sum(each.duplicates for each in all_of),
            rejected=sum(each.rejected for each in all_of),
        )


class Result(msgspec.Struct, frozen=True):
    """Everything that is printed."""

    calls: int
    crossing: int
    seconds: float
    rows: list[Row]
    audio: Audio


def percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


async def measure(redis: RedisServer, faults: Sequence[Fault], *, calls: int, runs: int) -> Result:
    """Inject every fault so many times into one fleet."""
    began = trio.current_time()
    async with global_fleet(redis.url) as fleet, open_load() as load:
        scene = Scene(redis, fleet, load, await open_calls(load, fleet, calls))
        await trio.sleep(SETTLE_SECONDS)
        rows = [Row.sum_up(fault, await repeat(scene, fault, runs)) for fault in faults]
        result = Result(
            calls=calls,
            crossing=sum(call.way.crosses for call in scene.calls),
            seconds=trio.current_time() - began,
            rows=rows,
            audio=Audio.sum_up(scene.calls + scene.former),
        )
        for call in scene.calls:
            call.client.close()
    return result


async def repeat(scene: Scene, fault: Fault, runs: int) -> list[Run]:
    """Inject one fault so many times, and say how it goes on stderr."""
    done: list[Run] = []
    for number in range(runs):
        done.append(await run_fault(scene, fault, number))
        click.echo(f"\r{fault.name} {number + 1}/{runs}", nl=False, err=True)
    click.echo("\r\033[K", nl=False, err=True)
    return done


def table(result: Result) -> str:
    """The result for a person."""
    columns = f"{'median':>9}{'p95':>9}{'worst':>9}{'up again':>10}{'lost':>6}{'mixed':>7}"
    lines = [
        f"{result.calls} calls, {result.crossing} of them through a relay of the other region, "
        f"{result.seconds:.0f} s; longest hole in ms",
        "",
        f"{'fault':<38}{columns}  {'budget':<16}within",
        *(_line(row) for row in result.rows),
        "",
        f"{result.audio.received:,} packets came back: {result.audio.foreign} of another call, "
        f"{result.audio.reordered} out of order, {result.audio.duplicates} twice, "
        f"{result.audio.rejected} unreadable",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    up_again = f"{row.up_again_median_ms:.0f}" if row.up_again_worst_ms else ""
    return (
        f"{row.title:<38}{row.hole_median_ms:>9.0f}{row.hole_p95_ms:>9.0f}{row.hole_worst_ms:>9.0f}"
        f"{up_again:>10}{row.lost_calls:>6}{row.reordered_packets:>7}"
        f"  {row.budget:<16}{row.reached_runs}/{row.runs}"
    )


@click.command()
@click.option("--calls", default=16, show_default=True, help="Calls at the same time.")
@click.option("--runs", default=20, show_default=True, help="How many times each fault.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Not all faults.")
@json_option
def main(calls: int, runs: int, only: Sequence[str], json_file: Path | None) -> None:
    """Measure what calls hear of each fault of a fleet."""
    faults = [fault for fault in FAULTS if not only or fault.name in only]
    with running_redis() as server:
        result = trio.run(partial(measure, server, faults, calls=calls, runs=runs))
    click.echo(table(result))
    write_json(json_file, result)


if __name__ == "__main__":
    main()
