"""Playout: frames leave every 20 ms, timestamps follow the clock over talk spurts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import trio
import trio.testing

from edge.backends.protocol import AudioFrame
from edge.errors import Drop
from edge.transceiver.playout import Pacer, Playout

FRAME = AudioFrame(b"frame", 0.02)


@dataclass
class Sent:
    payload: bytes
    timestamp: int
    marker: bool
    now: float


class Rig:
    def __init__(self, *, queue_seconds: float = 1.0) -> None:
        self.pacer = Pacer(trio.current_time)
        self.sent: list[Sent] = []
        self.playout = Playout(
            self.pacer,
            lambda *frame: self.sent.append(Sent(*frame)),
            clock_rate=48_000,
            media_time=lambda now: round((now + 1.0) * 48_000),
            queue_seconds=queue_seconds,
        )


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_a_burst_is_paced_at_the_frames_own_duration(
    autojump_clock: trio.testing.MockClock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    for _ in range(50):
        rig.playout.play(FRAME)
    await trio.sleep(1.1)
    assert len(rig.sent) == 50
    gaps = [b.now - a.now for a, b in pairwise(rig.sent)]
    assert all(gap == pytest.approx(0.02, abs=0.0051) for gap in gaps)
    assert rig.sent[-1].now - rig.sent[0].now == pytest.approx(49 * 0.02, abs=0.006)
    assert {b.timestamp - a.timestamp for a, b in pairwise(rig.sent)} == {960}
    assert [frame.marker for frame in rig.sent] == [True] + 49 * [False]
    assert rig.playout.played == pytest.approx(1.0)


async def test_no_drift_over_four_minutes(
    autojump_clock: trio.testing.MockClock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    start = trio.current_time()
    for _ in range(240):
        for _ in range(50):
            rig.playout.play(FRAME)
        await trio.sleep(1.0)
    assert len(rig.sent) >= 240 * 50 - 1
    last = rig.sent[-1]
    behind = (last.now - start) - last.timestamp / 48_000 + 1.0
    assert abs(behind) <= 0.01


async def test_a_new_spurt_takes_its_timestamp_from_the_clock(
    autojump_clock: trio.testing.MockClock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    rig.playout.play(FRAME)
    await trio.sleep(2.0)
    rig.playout.play(FRAME)
    await trio.sleep(0.1)
    first, second = rig.sent
    assert second.marker
    passed = (second.timestamp - first.timestamp) / 48_000
    assert passed == pytest.approx(second.now - first.now, abs=0.001)


async def test_a_late_frame_stays_in_its_spurt_and_the_grid_holds(
    autojump_clock: trio.testing.MockClock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    start = trio.current_time()
    for at in (0.0, 0.02, 0.055, 0.06, 0.08):
        await trio.sleep_until(start + at)
        rig.playout.play(FRAME)
    await trio.sleep(0.1)
    assert [frame.marker for frame in rig.sent] == [True, False, False, False, False]
    assert rig.sent[-1].now - start <= 0.09
    assert {b.timestamp - a.timestamp for a, b in pairwise(rig.sent)} == {960}


async def test_a_stall_of_the_process_leaves_no_delay(
    autojump_clock: trio.testing.MockClock, rig: Rig
) -> None:
    for _ in range(20):
        rig.playout.play(FRAME)
    start = trio.current_time() + 0.005
    for at in (0.0, 0.02, 0.04, 0.15, 0.16, 0.18):
        await trio.sleep_until(start + at)
        rig.pacer.turn(trio.current_time())
    assert len(rig.sent) == 10
    assert [frame.marker for frame in rig.sent] == [True] + 9 * [False]
    assert {b.timestamp - a.timestamp for a, b in pairwise(rig.sent)} == {960}


async def test_the_queue_is_bounded_and_drops_the_oldest(
    autojump_clock: trio.testing.MockClock, rig: Rig, nursery: trio.Nursery
) -> None:
    for number in range(60):
        rig.playout.play(AudioFrame(bytes([number]), 0.02))
    assert rig.playout.queued == pytest.approx(1.0)
    assert rig.playout.drops == {Drop.QUEUE_FULL: 10}
    nursery.start_soon(rig.pacer.run)
    await trio.sleep(1.2)
    assert [frame.payload[0] for frame in rig.sent] == list(range(10, 60))


async def test_flush_silences_at_once_and_tells_what_was_played(
    autojump_clock: trio.testing.MockClock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    for _ in range(50):
        rig.playout.play(FRAME)
    await trio.sleep(0.1)
    played = rig.playout.flush()
    assert played == pytest.approx(len(rig.sent) * 0.02)
    await trio.sleep(1.0)
    assert len(rig.sent) * 0.02 == pytest.approx(played)
    rig.playout.play(FRAME)
    await trio.sleep(0.05)
    assert rig.sent[-1].marker


async def test_nothing_is_taken_after_close(
    autojump_clock: trio.testing.MockClock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    rig.playout.close()
    rig.playout.play(FRAME)
    await trio.sleep(0.1)
    assert rig.sent == []
    assert rig.playout.drops == {Drop.NOT_READY: 1}


async def test_an_idle_pacer_does_not_tick(
    autojump_clock: trio.testing.MockClock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    rig.playout.play(FRAME)
    await trio.sleep(0.1)
    steps = 0

    class Count(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += task.name.endswith("Pacer.run")

    trio.lowlevel.add_instrument(counter := Count())
    await trio.sleep(60.0)
    trio.lowlevel.remove_instrument(counter)
    assert steps == 0


async def test_many_playouts_share_one_pacer(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    rigs = [Rig() for _ in range(20)]
    pacer = rigs[0].pacer
    for one in rigs:
        one.playout = Playout(
            pacer,
            lambda *frame, one=one: one.sent.append(Sent(*frame)),
            clock_rate=8_000,
            media_time=lambda now: round(now * 8_000),
            queue_seconds=1.0,
        )
    nursery.start_soon(pacer.run)
    for one in rigs:
        await trio.sleep(0.003)
        for _ in range(10):
            one.playout.play(FRAME)
    await trio.sleep(0.5)
    assert [len(one.sent) for one in rigs] == [10] * 20
    assert {b.timestamp - a.timestamp for one in rigs for a, b in pairwise(one.sent)} == {160}
