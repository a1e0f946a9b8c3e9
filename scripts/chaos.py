#!/usr/bin/env python3
"""What calls hear of every fault of a fleet: docs/chaos.md tells how to read the table.

Each process is a pod with an address of its own; audio and messages are numbered both ways. Every
fault has a fresh fleet, into which it is injected again and again. Exit code 1 when a budget of the
design was not kept, a nonce was used twice, or a record was left behind.

    scripts/chaos --runs 20 --json chaos.json
    scripts/chaos --only drain --only dies --runs 3
    scripts/chaos --soak 120 --seed 7
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos_rig.faults import FAULTS
from chaos_rig.fleet import running_fleet
from chaos_rig.results import Result, Row, Secrecy, table
from chaos_rig.runs import SLACK_MS, Fault, Run, run_fault
from chaos_rig.scene import Scene
from chaos_rig.soak import SoakResult, soak, soak_table
from reporting import json_option, write_json

from edge.client import open_load
from tests.support.egress import Egress
from tests.support.numbered_calls import open_conversations

NAMES: Final = tuple(fault.name for fault in FAULTS)
FOLDER: Final = click.Path(path_type=Path, file_okay=False, exists=True)

Captures = list[tuple[Egress, int]]


async def measure(
    faults: Sequence[Fault], *, calls: int, runs: int, seed: int, slack: float, logs: Path | None
) -> Result:
    """Inject every fault so many times, each into a fleet of its own."""
    began = trio.current_time()
    captures: Captures = []
    rows = []
    for fault in faults:
        done = await repeat(fault, captures, calls=calls, runs=runs, seed=seed, logs=logs)
        rows.append(Row.sum_up(fault, done, slack=slack))
    seconds = trio.current_time() - began
    return Result(seed, calls, seconds, rows, Secrecy.sum_up(captures))


async def repeat(
    fault: Fault, captures: Captures, *, calls: int, runs: int, seed: int, logs: Path | None
) -> list[Run]:
    """Inject one fault so many times into one fleet, and say how it goes on stderr."""
    done: list[Run] = []
    async with (
        open_load(channel=True) as load,
        open_conversations(load) as conversations,
        running_fleet(conversations, env=fault.env, logs=logs) as fleet,
    ):
        scene = Scene(fleet, conversations, seed=seed)
        await scene.open_calls(calls)
        for number in range(runs):
            done.append(await run_fault(scene, fault, number))
            click.echo(f"\r{fault.name} {number + 1}/{runs}", nl=False, err=True)
        captures.append((fleet.egress, fleet.missed))
    click.echo("\r\033[K", nl=False, err=True)
    return done


async def endure(seconds: float, *, calls: int, seed: int, logs: Path | None) -> SoakResult:
    """Kill at random for so long."""
    async with (
        open_load(channel=True) as load,
        open_conversations(load) as conversations,
        running_fleet(conversations, logs=logs) as fleet,
    ):
        scene = Scene(fleet, conversations, seed=seed)
        await scene.open_calls(calls)
        return await soak(scene, seconds)


@click.command()
@click.option("--calls", default=6, show_default=True, help="Calls at the same time.")
@click.option("--runs", default=20, show_default=True, help="How many times each fault.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Not all faults.")
@click.option("--seed", default=1, show_default=True, help="Of what is left to chance.")
@click.option("--soak", "soak_seconds", type=float, help="Kill at random for so many seconds.")
@click.option("--slack", default=SLACK_MS, show_default=True, help="Granted to a hole, in ms.")
@json_option
@click.option("--logs", type=FOLDER, help="Have each process leave its log here.")
def main(
    calls: int,
    runs: int,
    only: Sequence[str],
    seed: int,
    soak_seconds: float | None,
    slack: float,
    json_file: Path | None,
    logs: Path | None,
) -> None:
    """Measure what calls hear of every fault of a fleet."""
    if soak_seconds is not None:
        endured = trio.run(partial(endure, soak_seconds, calls=calls, seed=seed, logs=logs))
        finish(endured, soak_table(endured), endured.passed, json_file)
        return
    faults = [fault for fault in FAULTS if not only or fault.name in only]
    sizes = {"calls": calls, "runs": runs, "seed": seed}
    result = trio.run(partial(measure, faults, **sizes, slack=slack / 1000, logs=logs))
    finish(result, table(result), result.passed, json_file)


def finish(result: msgspec.Struct, text: str, passed: bool, json_file: Path | None) -> None:
    """Print, write, and leave with the verdict."""
    click.echo(text)
    write_json(json_file, result)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the pods are taken down either way
    main()
