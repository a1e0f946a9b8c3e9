#!/usr/bin/env python3
"""How soon a conversation's turns come, and how exact a barge-in is, at the client's ear.

An edge, the demo voice and its recogniser are processes of their own; this one is the client, and
the backend that flushes. A turn is a new call: a question, its answer, an interruption. Times are
between packets of the client's: from the last of the question, and from the first of the
interruption. A flush is timed from the call in the backend to the last packet with any sound.

    scripts/bench_voice --turns 20 --flushes 50
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reporting import json_option, write_json

from tests.support.voice_runs import (
    Flush,
    Turn,
    demo_voice_edge,
    flush_once,
    flushing_edge,
    spoken,
    take_turn,
)

PERCENTILES: Final = (50, 95, 100)
FORMATS: Final = (("opus", "pcm16/24000"), ("pcmu", "pcmu"))
"""A client's codec and what the backend speaks: encoded, and passed through."""
FIRST_SECONDS: Final = 0.3
STEP_SECONDS: Final = 0.0073
"""Flushes come at all phases of a frame."""


class Result(msgspec.Struct, frozen=True):
    """Everything that is measured."""

    turns: list[Turn]
    flushes: dict[str, list[Flush]]
    """By the client's codec and the backend's format."""


async def measure(turns: int, flushes: int) -> Result:
    """Run both scenes."""
    spoken("Hello.")  # loads the voice
    return Result(
        turns=await _take_turns(turns),
        flushes={
            f"{codec} {audio}": await _flush(codec, audio, flushes) for codec, audio in FORMATS
        },
    )


async def _take_turns(count: int) -> list[Turn]:
    async with demo_voice_edge() as http:
        return [await take_turn(http) for _ in range(count)]


async def _flush(codec: str, audio: str, count: int) -> list[Flush]:
    with tempfile.TemporaryDirectory() as directory:
        async with flushing_edge(f"unix:{directory}/flusher.sock", audio=audio) as (http, flusher):
            times = [FIRST_SECONDS + STEP_SECONDS * number for number in range(count)]
            return [await flush_once(http, flusher, seconds, codec) for seconds in times]


def table(result: Result) -> str:
    """The result for a person."""
    names = "".join(f"{'max' if p == 100 else f'p{p}':>9}" for p in PERCENTILES)
    lines = [f"{'ms':<58}{names}"]
    if result.turns:
        lines += [
            _line("end of speech -> first answer packet", [turn.answer for turn in result.turns]),
            _line("end of speech -> first audible packet", [turn.audible for turn in result.turns]),
            _line("interruption -> last audible packet", [turn.silence for turn in result.turns]),
        ]
    for name, flushes in result.flushes.items():
        if flushes:
            lines += _flush_lines(name, flushes)
    return "\n".join(lines)


def _flush_lines(name: str, flushes: Sequence[Flush]) -> list[str]:
    beyond = [(flush.sound_ms - flush.played_ms) / 1_000 for flush in flushes]
    return [
        _line(f"flush -> last audible packet, {name}", [flush.silence for flush in flushes]),
        _line(f"flush -> played is known, {name}", [flush.answered for flush in flushes]),
        _line(f"sound that came, less what played said, {name}", beyond),
    ]


def _line(name: str, seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    ranks = (max(0, -(-len(ordered) * p // 100) - 1) for p in PERCENTILES)
    return f"{name:<58}" + "".join(f"{ordered[rank] * 1_000:>9.1f}" for rank in ranks)


@click.command()
@click.option("--turns", default=20, show_default=True, help="Questions, each a call; 6 s each.")
@click.option("--flushes", default=50, show_default=True, help="Of each format; 1 s each.")
@json_option
def main(turns: int, flushes: int, json_file: Path | None) -> None:
    """Measure the demo voice's turns, and a backend's flushes."""
    result = trio.run(measure, turns, flushes)
    click.echo(table(result))
    write_json(json_file, result)


if __name__ == "__main__":
    main()
