"""The cancel sweep: one scenario, run again and again, cut short after each of its task steps.

By default some steps are sampled; ``EDGE_SWEEP=all`` in the environment takes every one.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Final

import trio
import trio.abc

from tests.support.clock import VirtualClock

SWEEP_ALL: Final = os.environ.get("EDGE_SWEEP") == "all"


class Cut(trio.abc.Instrument):
    """Does something after the ``at``-th task step that follows ``arm``; None: never."""

    def __init__(self, at: int | None = None) -> None:
        self.steps = 0
        self.done = False
        self._at = at
        self._action: Callable[[], object] | None = None

    def arm(self, action: Callable[[], object]) -> None:
        """Begin to count; ``action`` is what to do, such as a scope's ``cancel``."""
        self._action = action

    def disarm(self) -> None:
        """Count no further."""
        self._action = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See ``trio.abc.Instrument``."""
        if self._action is None:
            return
        self.steps += 1
        if self.steps == self._at:
            self.done = True
            action, self._action = self._action, None
            action()


Scenario = Callable[[Cut], Awaitable[None]]
"""Arms the cut, lets things happen, disarms it, and asserts what must hold afterwards."""


def sweep(
    scenario: Scenario,
    *,
    samples: int,
    real: bool = False,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Run a scenario uncut, then cut after steps from the first to the last.

    ``check`` is called after each run, ``real`` takes the real clock.
    """
    uncut = Cut()
    _run(scenario, uncut, real=real)
    assert uncut.steps, "the scenario never armed its cut"
    for at in _chosen(uncut.steps, samples):
        try:
            _run(scenario, Cut(at), real=real)
            check()
        except BaseException as error:
            error.add_note(f"cut after step {at} of {uncut.steps}")
            raise


def _run(scenario: Scenario, cut: Cut, *, real: bool) -> None:
    clock = None if real else VirtualClock()
    trio.run(scenario, cut, clock=clock, instruments=[cut])


def _chosen(steps: int, samples: int) -> range:
    return range(1, steps + 1, 1 if SWEEP_ALL else max(steps // samples, 1))
