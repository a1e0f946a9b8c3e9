"""A fault once: what every call hears of it in both directions, and whether the budget held.

A hole is the longest time without anything new at the far end, beyond the 20 ms from one frame to
the next. That of a run is the longest of all calls. Lost is what was said and never heard.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

import msgspec

from chaos_rig.scene import Mark, Scene, counts, mark
from tests.support.numbered_calls import NumberedCall

SLACK_MS: Final = 30.0
"""What one machine with everything on it adds to a hole; see the row without a fault."""


@dataclass(frozen=True, slots=True)
class Injected:
    """What was done."""

    downtime: float = 0.0
    """Seconds from the kill until the process was ready again."""
    touched: Sequence[NumberedCall] | None = None
    """Who may hear of it; nobody else may lose anything. None: all."""
    wrong: str = ""
    """What else was not as it should be."""
    notes: tuple[str, ...] = ()
    """What else is worth telling."""
    mend: Callable[[], Awaitable[None]] | None = None
    """Makes the fleet whole again, after all was measured."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a fault may cost; seconds."""

    text: str
    hole: float = inf
    p95: float = inf
    after_downtime: bool = False
    """The hole is beside the downtime."""
    lost: float = inf
    """Part of the audio of the run that may be lost."""
    messages: bool = True
    """No message may be lost or doubled."""

    def allows(self, run: Run, *, slack: float) -> bool:
        """Tell whether one run is within; the 95th percentile is of all runs."""
        hole = self.hole + slack + (run.downtime if self.after_downtime else 0.0)
        return (
            not (run.wrong or run.calls_lost or run.bystanders_lost)
            and max(run.hole_up, run.hole_down) <= hole
            and run.lost_up + run.lost_down <= self.lost * run.said
            and not (self.messages and any(run.messages_lost))
            and not (self.messages and any(run.messages_doubled))
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the table."""

    name: str
    title: str
    inject: Callable[[Scene, int], Awaitable[Injected]]
    budget: Budget
    env: dict[str, str] = field(default_factory=dict)
    """Added to the environment of its fleet."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One injection; seconds, packets, messages."""

    hole_up: float
    hole_down: float
    lost_up: int
    lost_down: int
    said: int
    """Packets that were due in both directions."""
    doubled: int
    """Packets that a listener got twice."""
    messages_lost: tuple[int, int]
    """Up and down."""
    messages_doubled: tuple[int, int]
    downtime: float
    calls_lost: int
    bystanders_lost: int
    """Packets that calls lost which the fault was none of the business of."""
    wrong: str
    notes: tuple[str, ...]


async def run_fault(scene: Scene, fault: Fault, number: int) -> Run:
    """Inject a fault once, and leave the scene healthy."""
    await scene.wait_calm()
    marks = {id(call): mark(call) for call in scene.calls}
    before = list(scene.calls)
    began = time.monotonic()
    injected = await fault.inject(scene, number)
    lost = await scene.wait_heard(before)
    run = sum_up(before, marks, began, injected, lost)
    if injected.mend is not None:
        await injected.mend()
    await scene.replace(lost)
    return run


def sum_up(
    calls: Sequence[NumberedCall],
    marks: dict[int, Mark],
    began: float,
    injected: Injected,
    lost: Sequence[NumberedCall],
) -> Run:
    """Put together what all calls have heard since ``began``."""
    until = time.monotonic()
    missed = [_missed(call, marks[id(call)]) for call in calls]
    doubled = [_doubled(call, marks[id(call)]) for call in calls]
    touched = calls if injected.touched is None else injected.touched
    return Run(
        hole_up=max(call.up.audio.longest_hole(began, until) for call in calls),
        hole_down=max(call.down.audio.longest_hole(began, until) for call in calls),
        lost_up=sum(each[0] for each in missed),
        lost_down=sum(each[1] for each in missed),
        said=round(len(calls) * 2 * (until - began) / 0.02),
        doubled=sum(each[0] + each[1] for each in doubled),
        messages_lost=(sum(each[2] for each in missed), sum(each[3] for each in missed)),
        messages_doubled=(sum(each[2] for each in doubled), sum(each[3] for each in doubled)),
        downtime=injected.downtime,
        calls_lost=len(lost),
        bystanders_lost=sum(
            each[0] + each[1]
            for call, each in zip(calls, missed, strict=True)
            if call not in touched
        ),
        wrong=injected.wrong,
        notes=injected.notes,
    )


def _missed(call: NumberedCall, since: Mark) -> list[int]:
    return [heard.lost(number) for heard, number in zip(counts(call), since.numbers, strict=True)]


def _doubled(call: NumberedCall, since: Mark) -> list[int]:
    return [
        heard.doubled - doubled for heard, doubled in zip(counts(call), since.doubled, strict=True)
    ]
