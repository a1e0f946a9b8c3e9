"""Mutated datagrams through both data planes on loopback: no answer, no exception, no growth.

    python -m tests.fuzz.fuzz_forwarder --runs 10000000 --seed 7 [--engine native] [--json FILE]

The seeds are STUN, DTLS, RTP and RTCP, with an SPP header from the inside. They are sent in bursts,
each by one role: by clients and strangers, by transceivers, by relays of other clusters, or by
nobody that the relay knows. What must hold: nothing comes back to any sender of a burst's role, nor
to those who have no part in it; the flows stay as they are; the queues of what is raised stay
within their bounds; and both engines do the same, by their counters and by what they raise. A round
depends on seed and number alone. One that fails is kept in ``tests/fuzz/crashers`` and tried first
in every later run; so is one that ends the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path as File
from time import perf_counter

import trio

from edge.errors import Drop
from edge.forwarder.protocol import RAISED_BATCH
from tests.fuzz.forwarder_arena import (
    HOSTS,
    MAX_FLOWS,
    ROUND,
    Arena,
    Round,
    load_round,
    make_round,
    save_round,
    saved_rounds,
)
from tests.support.forwarder_rig import MAKERS, rig_opener
from tests.support.net import open_loopback


@dataclass
class Result:
    """What a run of one engine has shown."""

    engine: str
    runs: int = 0
    seconds: float = 0.0
    forwarded: int = 0
    raised: int = 0
    answers: int = 0
    bugs: int = 0
    flows_changed: int = 0
    largest_batch: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list, repr=False)
    """What became of each round, as a checksum."""

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        harm = self.answers + self.bugs + self.flows_changed
        return not harm and self.largest_batch <= 2 * RAISED_BATCH


async def attack(engine: str, rounds: Iterable[Round], progress: Callable[[], None]) -> Result:
    """Send rounds through an engine."""
    result, began = Result(engine), perf_counter()
    host = HOSTS[engine]
    async with open_loopback() as net:
        open_rig = rig_opener(net, MAKERS[engine], host)
        async with open_rig(strangers_per_second=1e9, max_flows=MAX_FLOWS) as rig:
            arena = Arena(rig, net, host)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(arena.take_raised)
                for bursts in rounds:
                    progress()
                    for role, mutants in bursts:
                        await arena.burst(role, mutants)
                        result.runs += len(mutants)
                    result.rounds.append(await arena.outcome())
                nursery.cancel_scope.cancel()
            _sum_up(result, arena)
    result.seconds = round(perf_counter() - began, 1)
    return result


def _sum_up(result: Result, arena: Arena) -> None:
    counts = arena.forwarder.statistics()
    result.forwarded = counts.packets_to_clients + counts.packets_to_transceivers
    result.raised, result.largest_batch = arena.raised, arena.largest_batch
    result.answers, result.flows_changed = arena.answers, arena.changed_flows()
    result.bugs = counts.drops.get(Drop.BUG, 0)
    result.drops = {drop.value: count for drop, count in sorted(counts.drops.items()) if count}


def run(
    engine: str,
    runs: int,
    seed: int,
    *,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Send saved rounds and then ``runs`` mutants, in whole rounds."""
    saved = map(load_round, saved_rounds())
    made = (make_round(seed, number) for number in range(-(-runs // ROUND)))
    return trio.run(attack, engine, chain(saved, made), progress)


def first_difference(one: Result, other: Result) -> int | None:
    """Find the first round, of saved and made ones, in which two engines did not do the same."""
    pairs = enumerate(zip(one.rounds, other.rounds, strict=True))
    return next((number for number, (a, b) in pairs if a != b), None)


# From the command line.


def _worker(options: argparse.Namespace) -> int:
    """Run one engine in this process; write the rounds begun, and at last the result."""
    with File(options.into).open("w", buffering=1) as report:
        result = run(
            options.engine, options.runs, options.seed, progress=lambda: print(file=report)
        )
        json.dump(asdict(result), report)
    return 0


def _supervise(engine: str, options: argparse.Namespace, directory: str) -> Result | None:
    """Run one engine in a process of its own; None, and a saved round, when that breaks."""
    report = File(directory) / engine
    command = [sys.executable, "-m", __spec__.name, "--engine", engine, "--into", str(report)]
    command += ["--runs", str(options.runs), "--seed", str(options.seed)]
    status = subprocess.run(command, check=False).returncode
    *begun, last = report.read_text().split("\n")
    if status == 0:
        return Result(**json.loads(last))
    print(f"{engine}: exit status {status} in round {len(begun)} of seed {options.seed}")
    _save_number(len(begun) - 1, options.seed)
    return None


def _save_number(number: int, seed: int) -> None:
    """Keep a round by its place among the saved and the made ones."""
    made = number - len(saved_rounds())
    if made >= 0:
        save_round(make_round(seed, made))


def _print(result: Result) -> None:
    rate = f"{result.runs / max(result.seconds, 0.1):,.0f} datagrams/s"
    print(f"{result.engine}: {rate}, {'passed' if result.passed else 'FAILED'}")
    for name, value in asdict(result).items():
        if isinstance(value, int):
            print(f"  {name:<20}{value:>14,}")
    for drop, number in result.drops.items():
        print(f"  drops {drop:<14}{number:>14,}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--engine", choices=sorted(MAKERS), help="only one of them")
    parser.add_argument("--json", type=File)
    parser.add_argument("--into", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.into:
        return _worker(options)
    with tempfile.TemporaryDirectory() as directory:
        engines = [options.engine] if options.engine else sorted(MAKERS)
        results = [_supervise(engine, options, directory) for engine in engines]
    done = [result for result in results if result is not None]
    for result in done:
        _print(result)
    if len(done) == 2 and (number := first_difference(*done)) is not None:
        print(f"FAILED: the engines differ in round {number} of seed {options.seed}")
        _save_number(number, options.seed)
        return 1
    if options.json:
        table = [asdict(replace(each, rounds=[])) | {"passed": each.passed} for each in done]
        options.json.write_text(json.dumps(table, indent=2))
    return 0 if len(done) == len(results) and all(result.passed for result in done) else 1


if __name__ == "__main__":
    sys.exit(main())
