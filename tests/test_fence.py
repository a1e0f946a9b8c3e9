"""Leases, heirs, and when a process may not speak for its sessions any more."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest

from edge.registry.heirs import able, heir, next_heir
from edge.registry.lease import (
    DETECTION_SECONDS,
    LEASE_SECONDS,
    LOOK_SECONDS,
    RENEW_SECONDS,
    Lease,
)
from edge.registry.protocol import Slot, TransceiverRecord
from edge.registry.sessions import Claim
from edge.transceiver.fence import STALL_SECONDS, Fence

OURS = Claim(session="rtc_a", owner=Slot(1), epoch=1)
OTHER = Claim(session="rtc_b", owner=Slot(1), epoch=3)
HEIRS = OURS.next_of(Slot(2))


def transceiver(slot: int, *, draining: bool = False) -> TransceiverRecord:
    return TransceiverRecord(
        slot=Slot(slot), cluster=0, address=("10.0.0.1", slot), http_url="", draining=draining
    )


def renew(lease: Lease, *, now: float) -> None:
    lease.ask(now=now)
    lease.answer(renewed=True, now=now)


class Process:
    """A fence that ticks every 20 ms and renews when it is due, unless the registry is away."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lease = Lease(now=0.0)
        self.fence = Fence(self.lease, now=0.0)
        for claim in (OURS, OTHER):
            assert self.fence.hold(claim, asked=0.0, now=0.0)

    def run(self, seconds: float, *, away: bool = False) -> bool:
        """Live on; whether it stood still."""
        stalled, until = False, self.now + seconds
        while self.now < until:
            stalled |= self.fence.tick(now=self.now)
            if self.now >= self.lease.deadline:
                self.lease.ask(now=self.now)
                self.lease.answer(renewed=not away, now=self.now)
            self.now += 0.02
        return stalled

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# Leases.


def test_a_death_is_noticed_in_time() -> None:
    assert LEASE_SECONDS + LOOK_SECONDS <= DETECTION_SECONDS
    assert 3 * RENEW_SECONDS < LEASE_SECONDS
    assert RENEW_SECONDS + 0.3 < LEASE_SECONDS, "who was busy for so long is not dead"


def test_a_lease_counts_from_when_it_was_asked_for() -> None:
    lease = Lease(now=10.0)
    assert lease.deadline == 10.0
    assert lease.lapsed(now=10.0)
    lease.ask(now=10.0)
    assert lease.deadline == inf
    lease.answer(renewed=True, now=10.4)
    assert not lease.lapsed(now=10.49)
    assert lease.lapsed(now=10.5)
    assert lease.deadline == 10.4, "overdue already"


def test_a_failure_is_tried_again_and_shortens_nothing() -> None:
    lease = Lease(now=0.0)
    renew(lease, now=0.0)
    lease.ask(now=0.1)
    lease.answer(renewed=False, now=0.1)
    assert lease.until == LEASE_SECONDS
    assert lease.deadline == 0.1 + RENEW_SECONDS


def test_a_break_is_remembered() -> None:
    lease = Lease(now=0.0)
    for now in (0.0, 0.4, 0.8):
        renew(lease, now=now)
    assert (lease.breaks, lease.since) == (0, 0.0)
    renew(lease, now=2.0)
    assert (lease.breaks, lease.since) == (1, 2.0)


# Heirs.


def test_everybody_proposes_the_same_heir() -> None:
    slots = [Slot(number) for number in range(1, 6)]
    assert heir(b"rtc_a", slots) == heir(b"rtc_a", reversed(slots))
    assert heir(b"rtc_a", []) is None


def test_sessions_are_spread_and_only_those_of_the_dead_move() -> None:
    slots = [Slot(number) for number in range(1, 6)]
    names = [b"rtc_%d" % number for number in range(500)]
    before = {name: heir(name, slots) for name in names}
    share = Counter(before.values())
    assert all(70 <= share[slot] <= 130 for slot in slots)
    for name, first in before.items():
        left = [slot for slot in slots if slot != first]
        assert heir(name, [*left, Slot(5)]) in (Slot(5), heir(name, left))
        if first != Slot(5):
            assert heir(name, slots[:4]) == first


def test_who_can_not_leaves_it_to_each_other_in_turn() -> None:
    slots = [Slot(number) for number in range(1, 6)]
    assert next_heir(b"rtc_a", [Slot(1)], Slot(1)) is None
    asked = [Slot(1)]
    while len(asked) < len(slots):
        after = next_heir(b"rtc_a", slots, asked[-1])
        assert after is not None
        asked.append(after)
    assert sorted(asked) == slots


def test_those_who_drain_take_over_when_all_do() -> None:
    draining = [transceiver(slot, draining=True) for slot in (1, 3)]
    assert able([*draining, transceiver(2)]) == (Slot(2),)
    assert able(draining) == (Slot(1), Slot(3))


# Fences.


def test_a_process_that_runs_speaks() -> None:
    process = Process()
    assert not process.run(60.0)
    assert process.fence.speaks("rtc_a")
    assert not process.fence.speaks("rtc_c")
    process.fence.release("rtc_a")
    assert not process.fence.speaks("rtc_a")
    assert len(process.fence) == 1


@pytest.mark.parametrize("pause", [STALL_SECONDS * 0.9, 0.6, 10.0])
def test_who_stood_still_is_silent_until_it_has_asked(pause: float) -> None:
    process = Process()
    process.run(1.0)
    process.sleep(pause)
    assert process.fence.tick(now=process.now) == (pause > LEASE_SECONDS)
    assert process.fence.speaks("rtc_a") == (pause < LEASE_SECONDS)


def test_a_pause_that_cost_no_lease_is_none() -> None:
    process = Process()
    process.run(1.0)
    renew(process.lease, now=process.now)
    process.sleep(LEASE_SECONDS - 0.1)
    assert not process.run(0.02)
    renew(process.lease, now=process.now)
    process.sleep(LEASE_SECONDS + 0.1)
    assert process.run(0.02)


def test_while_the_registry_is_away_calls_go_on() -> None:
    process = Process()
    process.run(1.0)
    assert not process.run(60.0, away=True)
    process.sleep(STALL_SECONDS + 0.1)  # a busy moment takes nobody's word
    assert not process.run(10.0, away=True)
    assert process.fence.speaks("rtc_a")
    process.sleep(LEASE_SECONDS)
    assert process.run(0.02, away=True), "this long, who knows"


def test_after_standing_still_each_session_goes_by_its_owner() -> None:
    process = Process()
    process.run(1.0)
    process.sleep(3.0)
    process.run(0.1)
    fence, now = process.fence, process.now
    asked = sorted(fence.doubtful)
    assert asked == ["rtc_a", "rtc_b"]
    assert fence.confirm(asked, [HEIRS, OTHER], asked=now, now=now) == ["rtc_a"]
    assert len(fence) == 1  # "rtc_a" is not held any more
    assert fence.speaks("rtc_b")
    assert fence.doubtful == ()


def test_a_session_that_nobody_is_known_to_own_ends_after_standing_still() -> None:
    process = Process()
    process.run(1.0)
    assert process.fence.confirm(["rtc_a"], [None], asked=1.0, now=process.now) == []
    assert process.fence.speaks("rtc_a"), "an emptied registry ends no call"
    process.sleep(3.0)
    process.run(0.1)
    now = process.now
    assert process.fence.confirm(["rtc_a"], [None], asked=now, now=now) == ["rtc_a"]


def test_an_answer_from_before_standing_still_confirms_nothing() -> None:
    process = Process()
    process.run(1.0)
    asked = process.now
    process.sleep(3.0)
    fence = process.fence
    assert fence.confirm(["rtc_a"], [OURS], asked=asked, now=process.now) == []
    assert not fence.speaks("rtc_a")
    assert not fence.hold(Claim(session="rtc_c", owner=Slot(1), epoch=2), asked=asked, now=4.1)
    again = process.now + 0.1
    assert fence.hold(OURS, asked=again, now=again + 0.01)
    assert fence.speaks("rtc_a")


def test_a_higher_epoch_ends_a_session_wherever_it_is_heard_of() -> None:
    fence = Process().fence
    assert fence.hears(HEIRS)
    assert not fence.hears(OURS)
    assert not fence.hears(None)
    assert fence.confirm(["rtc_a"], [HEIRS], asked=0.0, now=0.01) == ["rtc_a"]
    assert not fence.hears(HEIRS), "it is ours no more"
    later = OTHER.next_of(Slot(1))
    assert fence.hold(later, asked=0.02, now=0.02)
    assert not fence.hold(OTHER, asked=0.03, now=0.03), "never back"
