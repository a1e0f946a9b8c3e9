"""Saying no before quality falls: sessions, CPU and lateness, each on its own and together."""

from __future__ import annotations

import math
import time

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from edge.transceiver.admission import (
    MOST_LATE,
    RESUME,
    SETTLE_SECONDS,
    Admission,
    LoopReading,
    Overloaded,
)
from edge.transceiver.load import INTERVAL_SECONDS, LoopMeter, watch_load
from tests.support.edge_net import open_edge
from tests.support.net import open_network

MAX_LOAD, MAX_LAG = 0.8, 0.05


def admission() -> Admission:
    return Admission(max_sessions=10, max_load=MAX_LOAD, max_lag_seconds=MAX_LAG)


class Loop:
    """A thread that is busy and late as a test wants it."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.at = self.busy_seconds = 0.0
        self.admission.observe(LoopReading(0.0, 0.0, 0.0))

    def go(self, seconds: float, *, busy: float = 0.0, late: float = 0.0) -> None:
        for _ in range(round(seconds / INTERVAL_SECONDS)):
            self.at += INTERVAL_SECONDS
            self.busy_seconds += busy * INTERVAL_SECONDS
            self.admission.observe(LoopReading(self.at, self.busy_seconds, late))


def test_there_is_room_up_to_the_last_session() -> None:
    room = admission()
    room.check(9, draining=False)
    with pytest.raises(Overloaded) as refusal:
        room.check(10, draining=False)
    assert refusal.value.retry_after_seconds >= 1
    assert room.load(5) == 0.5
    assert room.load(12) == 1.0


def test_who_drains_takes_nobody() -> None:
    with pytest.raises(Overloaded, match="about to stop"):
        admission().check(0, draining=True)


@pytest.mark.parametrize(("busy", "late"), [(MAX_LOAD * 1.05, 0.0), (0.1, MAX_LAG * 1.05)])
def test_a_loop_that_stays_at_its_limit_refuses(busy: float, late: float) -> None:
    room = admission()
    loop = Loop(room)
    loop.go(5 * SETTLE_SECONDS, busy=busy, late=late)
    with pytest.raises(Overloaded, match="no room"):
        room.check(0, draining=False)
    assert room.load(0) == 1.0


@pytest.mark.parametrize(("busy", "late"), [(MAX_LOAD * 0.97, 0.0), (0.1, MAX_LAG * 0.97)])
def test_a_loop_below_its_limit_takes_calls(busy: float, late: float) -> None:
    room = admission()
    Loop(room).go(60.0, busy=busy, late=late)
    room.check(0, draining=False)
    assert room.load(0) == pytest.approx(0.97, abs=0.01)


def test_full_load_is_noticed_within_four_seconds_and_a_hiccup_is_not_taken_for_it() -> None:
    room = admission()
    loop = Loop(room)
    loop.go(1.0, busy=0.3)
    loop.go(0.1, busy=1.0, late=0.25)
    assert not room.overloaded
    loop.go(4.0, busy=1.0)
    assert room.overloaded


def test_one_stop_however_long_is_no_overload() -> None:
    room = admission()
    loop = Loop(room)
    loop.at += 60.0
    room.observe(LoopReading(loop.at, 0.0, 59.9))
    weight = 1 - math.exp(-MOST_LATE / SETTLE_SECONDS)
    assert room.lag_seconds == pytest.approx(weight * MOST_LATE)
    assert not room.overloaded


def test_stall_after_stall_is() -> None:
    room = admission()
    loop = Loop(room)
    for _ in range(2):
        loop.at += 1.1
        room.observe(LoopReading(loop.at, 0.0, 1.0))
    assert room.overloaded


def test_what_has_refused_goes_on_until_there_is_room_to_spare() -> None:
    room = admission()
    loop = Loop(room)
    loop.go(20.0, busy=0.9)
    loop.go(20.0, busy=MAX_LOAD * (RESUME + 1) / 2)
    assert room.overloaded
    loop.go(20.0, busy=MAX_LOAD * (RESUME - 0.05))
    assert not room.overloaded
    loop.go(20.0, busy=MAX_LOAD * (RESUME + 1) / 2)
    assert not room.overloaded


def test_a_clock_that_stands_still_changes_nothing() -> None:
    room = admission()
    loop = Loop(room)
    room.observe(LoopReading(loop.at, 5.0, 3.0))
    assert (room.busy, room.lag_seconds, room.overloaded) == (0.0, 0.0, False)


READINGS = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1), st.floats(0, 10)), max_size=50)


@given(READINGS, st.integers(0, 20))
def test_load_is_a_part_and_means_what_is_refused(
    readings: list[tuple[float, float, float]], sessions: int
) -> None:
    room = admission()
    at = cpu = 0.0
    for elapsed, share, late in readings:
        at, cpu = at + elapsed, cpu + share * elapsed
        room.observe(LoopReading(at, cpu, late))
    assert 0.0 <= room.load(sessions) <= 1.0
    if room.load(sessions) >= 1.0:
        with pytest.raises(Overloaded):
            room.check(sessions, draining=False)


async def test_the_meter_tells_work_from_waiting() -> None:
    meter = LoopMeter(trio.current_time)
    trio.lowlevel.add_instrument(meter)
    busy = meter.busy_seconds()
    await trio.sleep(0.1)
    assert meter.busy_seconds() - busy < 0.05
    time.sleep(0.05)  # work, however little of a processor there is
    await trio.lowlevel.checkpoint()
    trio.lowlevel.remove_instrument(meter)
    assert meter.busy_seconds() - busy >= 0.05


async def test_calls_are_refused_while_the_loop_is_busy_and_running_ones_go_on(
    autojump_clock: trio.abc.Clock,
) -> None:
    busy = False
    used = 0.0

    def busy_seconds() -> float:
        nonlocal used
        used += INTERVAL_SECONDS * (0.95 if busy else 0.1)
        return used

    async with (
        open_network() as network,
        open_edge(network) as edge,
        trio.open_nursery() as nursery,
    ):
        service = edge.transceivers[0]
        nursery.start_soon(watch_load, service.admission, busy_seconds)
        async with edge.call() as phone:
            await phone.heard(10)
            offer = phone.caller.offer.encode()
            busy = True
            await trio.sleep(5 * SETTLE_SECONDS)
            with pytest.raises(Overloaded, match="no room"):
                await service.open_call(offer)
            await phone.heard(10)
            busy = False
            await trio.sleep(2 * SETTLE_SECONDS)
            await service.open_call(offer)
            assert service.sessions == 2
        nursery.cancel_scope.cancel()
