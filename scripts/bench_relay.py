#!/usr/bin/env python3
"""What a forwarded packet costs in Edge's relay, native and pure, against a C reference.

Everything is on loopback and in one run: a traffic program (C) plays clients and a transceiver and
drives each forwarder in turn, round after round, so that ratios compare neighbours in time. All
figures are medians over the rounds. CPU is user plus system time of the forwarder's process alone;
the delay is from the sender's call to the arrival in the receiver's socket, both ways together.

    scripts/bench_relay --json figures.json --plot relay.png
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import click
from bench.processes import (
    ForwarderProcess,
    Sample,
    Traffic,
    Unavailable,
    command_of,
    take_precedence,
)
from bench.report import NAMES, Run, plot, summarize, table
from reporting import json_option, write_json

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
WARM_SECONDS: Final = 0.25
DIRECT_SECONDS: Final = 0.5
TRAFFIC_CORE: Final = 0
FORWARDER_CORE: Final = 1

Field = dict[tuple[str, int], ForwarderProcess]
"""Who takes part: by engine and number of flows."""


def busy_seconds() -> float:
    """CPU time that all cores have spent on something; proc(5), stat."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND


class Bench:
    """One whole run."""

    def __init__(self, traffic: Traffic, field: Field, *, seconds: float) -> None:
        self._traffic = traffic
        self._field = field
        self._seconds = seconds
        self.runs: list[Run] = []

    def round(self, repeat: int, rates: Sequence[int]) -> None:
        """Drive everybody at every rate; each round begins with another one."""
        members = list(self._field.items())
        start = repeat * 3 % len(members)
        for rate in rates:
            self._drive("", None, rate, repeat)
            for (engine, _), forwarder in members[start:] + members[:start]:
                self._drive(engine, forwarder, rate, repeat)

    def _drive(
        self, engine: str, forwarder: ForwarderProcess | None, rate: int, repeat: int
    ) -> None:
        before, busy = forwarder and forwarder.counters(), busy_seconds()
        if forwarder is None:
            flows = max(flows for _, flows in self._field)
            sample = self._traffic.run_direct(rate, flows=flows, warm=0.1, seconds=DIRECT_SECONDS)
        else:
            flows = forwarder.flows
            sample = self._traffic.run(forwarder, rate, warm=WARM_SECONDS, seconds=self._seconds)
        busy = busy_seconds() - busy
        after, batch = forwarder and forwarder.counters(), 0.0
        if before and after and after.wakes > before.wakes:
            batch = (after.packets - before.packets) / (after.wakes - before.wakes)
        warm = 1 + (WARM_SECONDS if forwarder else 0.1) / sample.seconds
        others = max(0.0, busy - self._used(sample, forwarder) * warm) * 100 / sample.seconds
        self.runs.append(Run(engine, rate, flows, repeat, sample, batch, others))

    @staticmethod
    def _used(sample: Sample, forwarder: ForwarderProcess | None) -> float:
        """CPU seconds of the two that take part."""
        return (sample.own_cpu_ns + (sample.cpu_ns if forwarder else 0)) / 1e9


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run of this script is under way."""
    with (Path(tempfile.gettempdir()) / "edge-bench-relay.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo("waiting for another run to end", err=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_field(
    stack: ExitStack, engines: Sequence[str], flows: Sequence[int], traffic: Traffic, go: str
) -> Field:
    """Start all that can be had; who can not take part is named on stderr."""
    field: Field = {}
    core = FORWARDER_CORE
    for engine in engines:
        try:
            command = command_of(engine, traffic.flows_file.parent, go)
            for count in flows:
                forwarder = ForwarderProcess(command, traffic, count, core=core)
                field[engine, count] = stack.enter_context(closing(forwarder))
        except Unavailable as why:
            click.echo(f"{NAMES[engine]} is left out: {why}", err=True)
    return field


@click.command()
@click.option("--rate", "rates", type=int, multiple=True, default=(1_000, 20_000, 100_000))
@click.option("--flows", type=int, multiple=True, default=(1_000, 100_000), show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 30.0),
    default=0.9,
    show_default=True,
    help="Measured, a competitor and round.",
)
@click.option("--rounds", default=5, show_default=True, help="Figures are their medians.")
@click.option(
    "--engine",
    "engines",
    type=click.Choice(list(NAMES)),
    multiple=True,
    default=tuple(NAMES),
    help="Who takes part (default: all).",
)
@click.option("--go", default="go", show_default=True, help="A Go toolchain, if there is one.")
@click.option(
    "--real-time/--no-real-time", default=True, help="Run before other work on this machine."
)
@click.option("--quick", is_flag=True, help="One short round.")
@json_option
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw them here.")
def main(
    rates: tuple[int, ...],
    flows: tuple[int, ...],
    seconds: float,
    rounds: int,
    engines: tuple[str, ...],
    go: str,
    real_time: bool,
    quick: bool,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Measure the relay's loops against a C reference; takes at most four minutes."""
    if plot_file and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: pip install matplotlib")
    if quick:
        rounds, seconds = 1, min(seconds, 0.8)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception, which ends children
    if real_time and not take_precedence():
        click.echo(
            "no real-time priority here: other work on this machine adds to delays", err=True
        )
    with alone(), ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            traffic = Traffic(directory, max(flows), core=TRAFFIC_CORE)
        except Unavailable as why:
            raise click.ClickException(f"a C compiler is needed: {why}") from None
        stack.enter_context(closing(traffic))
        field = open_field(stack, engines, flows, traffic, go)
        bench = Bench(traffic, field, seconds=seconds)
        try:
            for repeat in range(rounds):
                bench.round(repeat, rates)
        except Unavailable as why:
            raise click.ClickException(str(why)) from None
        memory = {key: each.ready.bytes_per_flow for key, each in field.items()}
    result = summarize(bench.runs, memory)
    click.echo(table(result))
    write_json(json_file, result)
    if plot_file:
        plot(result, plot_file)


if __name__ == "__main__":
    main()
