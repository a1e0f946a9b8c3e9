"""A session's timer and its leash: plain calls on a clock of numbers."""

from __future__ import annotations

import gc
import weakref
from math import inf

import pytest

from edge.audio.pacer import Pacer
from edge.errors import EndReason
from edge.transceiver.alarm import Alarm
from edge.transceiver.leash import IDLE_CHECKS, Leash, SessionLimits

LIMITS = SessionLimits(
    setup_seconds=10.0, session_seconds=100.0, idle_seconds=16.0, playout_seconds=1.0
)


class Bell:
    """Notes when it rang, and wants to ring next when it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rung: list[float] = []
        self.next = inf
        self.pacer = Pacer(lambda: self.now)
        self.alarm = Alarm(self.pacer, self.ring)

    def ring(self, now: float) -> float:
        self.rung.append(now)
        return self.next

    def run_until(self, end: float) -> None:
        while self.now < end:
            self.now = round(self.now + 0.005, 3)
            self.pacer.turn(self.now)


def test_it_rings_at_the_earliest_time_set_and_then_as_it_wants() -> None:
    bell = Bell()
    bell.alarm.set(3.0)
    bell.alarm.set(1.0)
    bell.alarm.set(2.0)
    bell.next = 2.5
    bell.run_until(2.0)
    assert bell.rung == [1.0]
    bell.next = inf
    bell.run_until(4.0)
    assert bell.rung == [1.0, 2.5]


def test_what_is_set_while_it_rings_counts() -> None:
    bell = Bell()
    alarm = Alarm(bell.pacer, lambda now: _set_again(now))

    def _set_again(now: float) -> float:
        bell.rung.append(now)
        if len(bell.rung) == 1:
            alarm.set(now + 0.1)
        return inf

    alarm.set(1.0)
    bell.run_until(3.0)
    assert bell.rung == [1.0, 1.1]


def test_a_closed_one_is_silent_and_holds_nothing() -> None:
    bell = Bell()
    pacer, gone = bell.pacer, weakref.ref(bell)
    bell.alarm.set(50.0)
    bell.alarm.close()
    bell.alarm.set(1.0)
    bell.run_until(2.0)
    assert bell.rung == []
    pacer.now = float  # type: ignore[misc] # the clock is the bell's
    del bell
    gc.collect()
    assert gone() is None


def test_who_never_connects_is_let_go() -> None:
    leash = Leash(LIMITS)
    leash.start(now=5.0)
    assert leash.deadline == 15.0
    assert leash.check((0, 0), now=14.9) is None
    assert leash.check((0, 0), now=15.0) is EndReason.NEVER_CONNECTED


def test_who_connects_before_the_start_is_not() -> None:
    leash = Leash(LIMITS)
    leash.connect(now=4.0)
    leash.start(now=5.0)
    assert leash.check((1, 1), now=15.0) is None


@pytest.mark.parametrize(
    ("talks", "reason", "at"),
    [(True, EndReason.MAX_DURATION, 101.0), (False, EndReason.IDLE, 17.0)],
)
def test_the_silent_end_before_the_talkative(talks: bool, reason: EndReason, at: float) -> None:
    leash = Leash(LIMITS)
    leash.connect(now=1.0)
    spoken, found, now = 0, None, 1.0
    while found is None:
        now = leash.deadline
        spoken += talks
        found = leash.check((spoken, 0), now=now)
    assert found is reason
    assert at <= now <= at + LIMITS.idle_seconds / IDLE_CHECKS
