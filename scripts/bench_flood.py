#!/usr/bin/env python3
"""What running calls lose while strangers flood the relay at three times what it can take.

An `edge serve` with some echo calls on one core, a flooder (C, a batch a system call) on another.
For each kind of garbage, first the capacity: the highest rate at which the calls lose less than
0.1 % without the gate. Then, on a fresh edge, that rate times a factor: with the gate, and for a
shorter time without it. Printed: what the calls lost during the flood, how long after its end they
still lost packets, and how many new calls could be set up meanwhile.

    scripts/bench_flood --json figures.json

Kinds: noise (the first byte of no protocol), rtp and dtls of nobody, checks (Binding requests with
a ufrag that is no token), tokens (with one that looks like a token and is forged).
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import click
import msgspec
import trio
from bench.processes import compile_c, take_precedence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reporting import json_option, write_json

from edge.client import CallRefused, Load, LoadClient, open_load
from tests.support.edges import SERVE
from tests.support.processes import Edge, edge

KINDS: Final = ("noise", "rtp", "dtls", "checks", "tokens")
CALLS: Final = 10
CAPACITY_LOSS: Final = 0.1  # percent
FIRST_RATE: Final = 40_000
STEP: Final = 1.4
MAX_RATE: Final = 4_000_000
SHORT_OF: Final = 0.85
"""A flooder that reaches less than this of its rate can do no more."""
SETTLE_SECONDS: Final = 1.5
MARK_SECONDS: Final = 0.1
MARKS: Final = 20
SETUP_SECONDS: Final = 8.0
PAUSE_SECONDS: Final = 0.5
EDGE_CORE: Final = 0
FLOOD_CORE: Final = 1


class Flood(msgspec.Struct, frozen=True):
    """One flood, and what it did."""

    kind: str
    gate: bool
    seconds: float
    per_second: float
    dropped_per_second: float
    """By the kernel: for a full queue, or by the gate's filter."""
    lost_percent: float
    recovery_seconds: float
    """From the end of the flood until no packet is lost any more; infinite when it did not end."""
    longest_hole: float
    """In seconds of audio, in the worst call."""
    setup_seconds: tuple[float, ...]
    """New calls during the flood, one after another; infinite for those not set up."""


class Figures(msgspec.Struct, frozen=True):
    """A whole run."""

    capacity: dict[str, float]
    """Datagrams a second, by kind."""
    capped: list[str]
    """Kinds of which the flooder could not send more than the relay can take."""
    floods: list[Flood]


def kernel_drops(port: int) -> int:
    """What the kernel dropped of a port's IPv4 sockets; the last field of /proc/net/udp."""
    lines = (line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:])
    return sum(int(fields[-1]) for fields in lines if fields[1].endswith(f":{port:04X}"))


class Bench:
    """The flooder, and what it floods."""

    def __init__(self, flooder: Path, engine: str, *, search_seconds: float) -> None:
        self._flooder = flooder
        self._engine = engine
        self._search_seconds = search_seconds

    async def capacity(self, kind: str) -> tuple[float, bool]:
        """Find the highest rate without loss; and whether the flooder could send no more."""
        best = rate = float(FIRST_RATE)
        async with edge_with_calls(self._engine, gate=False) as (server, load):
            while rate <= MAX_RATE:
                flood = await self._best_of_two(server, load, kind, rate)
                if flood.lost_percent >= CAPACITY_LOSS:
                    return best, False
                best = flood.per_second
                if best < SHORT_OF * rate:
                    return best, True
                rate *= STEP
        return best, True

    async def _best_of_two(self, server: Edge, load: Load, kind: str, rate: float) -> Flood:
        """Flood once, and again if packets were lost: others use this machine, too."""
        flood = await self.flood(server, load, kind, rate, self._search_seconds, gate=False)
        if flood.lost_percent >= CAPACITY_LOSS:
            again = await self.flood(server, load, kind, rate, self._search_seconds, gate=False)
            flood = min(flood, again, key=lambda each: each.lost_percent)
        return flood

    async def fresh_flood(self, kind: str, rate: float, seconds: float, *, gate: bool) -> Flood:
        """Flood an edge of its own, and try new calls meanwhile."""
        async with edge_with_calls(self._engine, gate=gate) as (server, load):
            return await self.flood(server, load, kind, rate, seconds, gate=gate, setups=True)

    async def flood(
        self,
        server: Edge,
        load: Load,
        kind: str,
        rate: float,
        seconds: float,
        *,
        gate: bool,
        setups: bool = False,
    ) -> Flood:
        """Flood an edge with running calls, and wait until all is over."""
        calls = tuple(load.calls)
        start, dropped = marks(calls), kernel_drops(server.udp_port)
        tried: list[float] = []
        async with trio.open_nursery() as nursery:
            if setups:
                nursery.start_soon(keep_calling, load, server.http, tried)
            sent = await self._send(server.udp, kind, rate, seconds)
            nursery.cancel_scope.cancel()
        end, dropped = marks(calls), kernel_drops(server.udp_port) - dropped
        later = []
        for _ in range(MARKS):
            later.append(marks(calls))
            await trio.sleep(MARK_SECONDS)
        await trio.sleep(SETTLE_SECONDS)
        lost = missing(calls, start) - missing(calls, end)
        return Flood(
            kind=kind,
            gate=gate,
            seconds=seconds,
            per_second=sent / seconds,
            dropped_per_second=dropped / seconds,
            lost_percent=100 * lost / (sum(end) - sum(start)),
            recovery_seconds=recovery(calls, later),
            longest_hole=max(
                call.longest_hole(since=since) for call, since in zip(calls, start, strict=True)
            ),
            setup_seconds=tuple(tried),
        )

    async def _send(self, address: str, kind: str, rate: float, seconds: float) -> int:
        host, _, port = address.rpartition(":")
        command = [str(self._flooder), host, port, kind, str(rate), str(seconds), str(FLOOD_CORE)]
        done = await trio.run_process(command, capture_stdout=True)
        return int(done.stdout)


def marks(calls: Sequence[LoadClient]) -> list[int]:
    """Number the packets that the calls send next."""
    return [call.sent for call in calls]


def missing(calls: Sequence[LoadClient], since: Sequence[int]) -> int:
    """Count the packets that never came back, of those after the marks."""
    return sum(call.statistics(since=mark).missing for call, mark in zip(calls, since, strict=True))


def recovery(calls: Sequence[LoadClient], later: Sequence[Sequence[int]]) -> float:
    """Find the first marks after which nothing is missing; in seconds."""
    for number, since in enumerate(later):
        if not missing(calls, since):
            return number * MARK_SECONDS
    return math.inf


async def keep_calling(load: Load, url: str, tried: list[float]) -> None:
    """Set up call after call, and note how long each took; infinite when it was not set up."""
    running = set(load.calls)
    while True:
        began, took = trio.current_time(), math.inf
        try:
            with trio.move_on_after(SETUP_SECONDS):
                await load.open_call(url)
                took = trio.current_time() - began
        except (CallRefused, OSError, trio.TooSlowError):
            await trio.sleep(PAUSE_SECONDS)
        tried.append(took)
        for call in set(load.calls) - running:
            call.close()
        await trio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def edge_with_calls(engine: str, *, gate: bool) -> AsyncGenerator[tuple[Edge, Load]]:
    """Run an edge that serves some calls."""
    env = {"EDGE_RELAY_GATE": "true" if gate else "false", "EDGE_RELAY_ENGINE": engine}
    async with edge(*SERVE, env=env) as server, open_load() as load:
        for _ in range(CALLS):
            await load.open_call(server.http)
        await trio.sleep(SETTLE_SECONDS)
        yield server, load


async def measure(
    bench: Bench,
    kinds: Sequence[str],
    *,
    rate: float,
    factor: float,
    seconds: float,
    without: float,
) -> Figures:
    """Find capacities and flood."""
    figures = Figures({}, [], [])
    for kind in kinds:
        capacity, capped = (math.nan, False) if rate else await bench.capacity(kind)
        figures.capacity[kind] = capacity
        if capped:
            figures.capped.append(kind)
        if not rate:
            click.echo(f"{kind}: {'at least ' * capped}{capacity:,.0f}/s without loss", err=True)
        for gate, lasts in ((False, without), (True, seconds)):
            if lasts:
                flood = await bench.fresh_flood(kind, rate or factor * capacity, lasts, gate=gate)
                figures.floods.append(flood)
    return figures


def table(figures: Figures, factor: float) -> str:
    """The figures for a person."""
    lines = [
        f"{'garbage':<8}{'gate':>5}{'seconds':>8}{'sent/s':>11}{'x capacity':>11}{'dropped/s':>11}"
        f"{'calls lost %':>13}{'hole s':>8}{'recovery s':>11}{'new calls':>10}{'median s':>9}"
    ]
    for flood in figures.floods:
        done = [took for took in flood.setup_seconds if took < math.inf]
        lines.append(
            f"{flood.kind:<8}{'yes' if flood.gate else 'no':>5}{flood.seconds:>8.0f}"
            f"{flood.per_second:>11,.0f}"
            f"{flood.per_second / figures.capacity[flood.kind]:>11.1f}"
            f"{flood.dropped_per_second:>11,.0f}{flood.lost_percent:>13.2f}"
            f"{flood.longest_hole:>8.2f}{flood.recovery_seconds:>11.1f}"
            f"{f'{len(done)}/{len(flood.setup_seconds)}':>10}"
            f"{median(done) if done else math.nan:>9.2f}"
        )
    for kind in figures.capped:
        lines.append(f"{kind}: the flooder can send no more than the relay takes without a gate")
    for flood in figures.floods:
        if flood.gate and flood.per_second < SHORT_OF * factor * figures.capacity[flood.kind]:
            lines.append(f"{flood.kind}: the flooder can not send {factor:g} times the capacity")
    return "\n".join(lines)


@click.command()
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, default=KINDS)
@click.option("--engine", type=click.Choice(["auto", "native", "pure"]), default="auto")
@click.option("--factor", type=float, default=3.0, help="Of the capacity, that the flood has.")
@click.option("--rate", type=float, default=0.0, help="Of the flood, instead of a search.")
@click.option("--seconds", type=float, default=30.0, help="With the gate.")
@click.option("--without-seconds", type=float, default=10.0, help="Without it; 0: not at all.")
@click.option("--search-seconds", type=float, default=3.0, help="At each rate of the search.")
@json_option
def main(
    kinds: Sequence[str],
    engine: str,
    factor: float,
    rate: float,
    seconds: float,
    without_seconds: float,
    search_seconds: float,
    json_file: Path | None,
) -> None:
    """Measure what running calls lose while strangers flood the relay."""
    os.sched_setaffinity(0, {EDGE_CORE})
    if not take_precedence():
        click.echo("other work on this machine counts as well (no right to SCHED_RR)", err=True)
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(compile_c("flood", Path(directory)), engine, search_seconds=search_seconds)
        figures = trio.run(
            partial(
                measure,
                bench,
                kinds,
                rate=rate,
                factor=factor,
                seconds=seconds,
                without=without_seconds,
            )
        )
    click.echo(table(figures, factor))
    write_json(json_file, figures)


if __name__ == "__main__":
    main()
