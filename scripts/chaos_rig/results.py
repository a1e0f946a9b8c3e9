"""Rows and verdicts: what all runs of a fault come to, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from chaos_rig.runs import Fault, Run
from tests.support.egress import Egress, Nonce

HEAD: Final = (
    f"{'fault':<34}{'runs':>5}{'up: median':>12}{'worst':>7}{'down: median':>14}{'worst':>7}"
    f"{'lost':>7}{'messages':>10}{'calls':>7}  {'budget':<26}verdict"
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One fault; times in milliseconds."""

    fault: str
    title: str
    runs: int
    up_median_ms: float
    up_worst_ms: float
    down_median_ms: float
    down_worst_ms: float
    up_again_median_ms: float
    lost_packets: int
    said_packets: int
    doubled_packets: int
    messages_lost: int
    messages_doubled: int
    lost_calls: int
    budget: str
    reached_runs: int
    passed: bool
    each: list[Run]

    @classmethod
    def sum_up(cls, fault: Fault, runs: Sequence[Run], *, slack: float) -> Row:
        """Make the row of a fault from all its runs."""
        ups = [run.hole_up * 1000 for run in runs]
        downs = [run.hole_down * 1000 for run in runs]
        reached = sum(fault.budget.allows(run, slack=slack) for run in runs)
        holes = [max(run.hole_up, run.hole_down) for run in runs]
        return cls(
            fault=fault.name,
            title=fault.title,
            runs=len(runs),
            up_median_ms=percentile(ups, 50),
            up_worst_ms=max(ups),
            down_median_ms=percentile(downs, 50),
            down_worst_ms=max(downs),
            up_again_median_ms=percentile([run.downtime * 1000 for run in runs], 50),
            lost_packets=sum(run.lost_up + run.lost_down for run in runs),
            said_packets=sum(run.said for run in runs),
            doubled_packets=sum(run.doubled for run in runs),
            messages_lost=sum(sum(run.messages_lost) for run in runs),
            messages_doubled=sum(sum(run.messages_doubled) for run in runs),
            lost_calls=sum(run.calls_lost for run in runs),
            budget=fault.budget.text,
            reached_runs=reached,
            passed=reached == len(runs) and percentile(holes, 95) <= fault.budget.p95 + slack,
            each=list(runs),
        )


class Secrecy(msgspec.Struct, frozen=True):
    """What the look at everything that left the transceivers has found."""

    datagrams: int
    repeated: int
    reused: dict[str, int]
    missed: int
    """What the capture itself had no room for."""

    @classmethod
    def sum_up(cls, egresses: Sequence[tuple[Egress, int]]) -> Secrecy:
        """Add up those of all fleets, each with what its capture missed."""
        return cls(
            sum(egress.datagrams for egress, _ in egresses),
            sum(egress.repeated for egress, _ in egresses),
            {kind.value: sum(egress.reused[kind] for egress, _ in egresses) for kind in Nonce},
            sum(missed for _, missed in egresses),
        )

    @property
    def passed(self) -> bool:
        """No nonce was used twice, and everything was seen."""
        return not any(self.reused.values()) and not self.missed


class Result(msgspec.Struct, frozen=True):
    """Everything that is printed."""

    seed: int
    calls: int
    seconds: float
    rows: list[Row]
    secrecy: Secrecy

    @property
    def passed(self) -> bool:
        """Whether every row and the capture are as they should be."""
        return self.secrecy.passed and all(row.passed for row in self.rows)


def percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def verdict(passed: bool) -> str:
    """One word."""
    return "pass" if passed else "FAIL"


def table(result: Result) -> str:
    """The result for a person."""
    lines = [
        f"{result.calls} calls, seed {result.seed}, {result.seconds:.0f} s; longest hole in ms, "
        "client to backend (up) and back (down)",
        "",
        HEAD,
        *(_line(row) for row in result.rows),
        "",
        *(f"{row.title}: {text}" for row in result.rows for text in _words(row)),
        _secrecy_line(result.secrecy),
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    messages = f"{row.messages_lost}/{row.messages_doubled}"
    return (
        f"{row.title:<34}{row.runs:>5}{row.up_median_ms:>12.0f}{row.up_worst_ms:>7.0f}"
        f"{row.down_median_ms:>14.0f}{row.down_worst_ms:>7.0f}{row.lost_packets:>7}{messages:>10}"
        f"{row.lost_calls:>7}  {row.budget:<26}"
        f"{verdict(row.passed)} {row.reached_runs}/{row.runs}"
    )


def _words(row: Row) -> list[str]:
    """What the figures do not say: the downtime, what was wrong, and each different note."""
    words = [f"up again after {row.up_again_median_ms:.0f} ms"] if row.up_again_median_ms else []
    words += dict.fromkeys(f"WRONG: {run.wrong}" for run in row.each if run.wrong)
    return words + list(dict.fromkeys(note for run in row.each for note in run.notes))


def _secrecy_line(secrecy: Secrecy) -> str:
    reused = ", ".join(f"{count} of {kind}" for kind, count in secrecy.reused.items())
    return (
        f"{secrecy.datagrams:,} datagrams left the transceivers; nonces used twice: {reused}; "
        f"{secrecy.missed} not seen: {verdict(secrecy.passed)}"
    )
