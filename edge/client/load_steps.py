"""The steps of a setup, from a call's first datagram on: milliseconds, and round trips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from edge.client.journal import CallStatistics

PERCENTILES: Final = (50, 95, 99, 100)

Percentiles = dict[str, float]
"""Milliseconds by ``p50``, ``p95``, ``p99`` and ``max``; empty where nothing was measured."""

_T = TypeVar("_T", int, float)


class SetupStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step, for all calls that have reached it."""

    step: str
    round_trips: dict[str, int]
    """By percentile; counted by what answers what (see ``turns``)."""
    ms: Percentiles


def setup_steps(calls: Sequence[CallStatistics]) -> tuple[SetupStep, ...]:
    """Every step that a call has reached, in order."""
    found: dict[str, list[tuple[int, float]]] = {}
    for call in calls:
        for name, (trips, seconds) in _reached(call).items():
            if trips is not None:
                found.setdefault(name, []).append((trips, seconds - call.setup.answered))
    steps = (_step(name, *zip(*pairs, strict=True)) for name, pairs in found.items())
    return tuple(sorted(steps, key=lambda step: step.round_trips["p50"]))


def steps_table(steps: Iterable[SetupStep]) -> list[str]:
    """The lines of a table for people."""
    lines = [
        f"{'after the first datagram':<26}{'round trips':>12}{'max':>6}{'ms p50':>10}{'p95':>8}"
    ]
    for each in steps:
        trips, ms = each.round_trips, each.ms
        counts = f"{trips['p50']:>12}{trips['max']:>6}"
        lines.append(f"{each.step:<26}{counts}{ms['p50']:>10.1f}{ms['p95']:>8.1f}")
    return lines


def by_percentile(values: Iterable[_T]) -> dict[str, _T]:
    """Nearest-rank percentiles; empty where there is nothing."""
    ordered = sorted(values)
    if not ordered:
        return {}
    ranks = {p: max(0, -(-len(ordered) * p // 100) - 1) for p in PERCENTILES}
    return {percentile_name(p): ordered[rank] for p, rank in ranks.items()}


def percentile_name(percentile: int) -> str:
    """Its key in a report."""
    return "max" if percentile == 100 else f"p{percentile}"


def _reached(call: CallStatistics) -> dict[str, tuple[int | None, float]]:
    trips, times = call.trips, call.setup
    return {
        "check answered": (trips.checked, times.checked),
        "DTLS done, audio sent": (trips.secured, times.secured),
        "first echo": (trips.first_echo, times.first_echo),
        "channel open": (trips.opened, times.opened),
    }


def _step(name: str, trips: Sequence[int], seconds: Sequence[float]) -> SetupStep:
    return SetupStep(
        step=name,
        round_trips=by_percentile(trips),
        ms=by_percentile([value * 1000 for value in seconds]),
    )
