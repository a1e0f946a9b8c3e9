"""What is known of Redis's clock: bounds that only ever narrow, but for drift."""

from __future__ import annotations

from random import Random

import pytest

from edge.registry.redis_clock import CLOCK_SECONDS, DRIFT, SHARP_SECONDS, RedisClock

AHEAD = 1_700_000_000.0


def read(clock: RedisClock, *, at: float, there: float, back: float, ahead: float = AHEAD) -> None:
    clock.read(at + there + ahead, asked=at, answered=at + there + back)


def test_a_reading_is_due_at_first_and_then_now_and_again() -> None:
    clock = RedisClock(offset=5.0)
    assert clock.offset == 5.0
    assert clock.is_due(now=0.0)
    read(clock, at=0.0, there=0.001, back=0.001)
    assert clock.offset == pytest.approx(AHEAD, abs=1e-6)
    assert not clock.is_due(now=CLOCK_SECONDS)
    assert clock.is_due(now=CLOCK_SECONDS + 0.01)
    clock.doubt()
    assert clock.is_due(now=0.01)


def test_a_slow_answer_is_soon_asked_for_again_and_makes_nothing_worse() -> None:
    clock = RedisClock(offset=0.0)
    read(clock, at=0.0, there=0.001, back=0.5)
    assert abs(clock.offset - AHEAD) <= 0.26
    assert clock.is_due(now=0.6), "its bounds are wide"
    read(clock, at=0.6, there=0.002, back=0.001)
    assert abs(clock.offset - AHEAD) < SHARP_SECONDS / 2
    read(clock, at=5.6, there=0.001, back=0.9)
    assert abs(clock.offset - AHEAD) < SHARP_SECONDS / 2 + 5 * DRIFT


def test_a_clock_that_was_set_is_believed() -> None:
    clock = RedisClock(offset=0.0)
    for ahead in (AHEAD, AHEAD - 3.0, AHEAD + 60.0):
        read(clock, at=10.0, there=0.01, back=0.01, ahead=ahead)
        assert clock.offset == pytest.approx(ahead, abs=0.011)


def test_the_truth_is_never_left_whatever_the_line_does() -> None:
    random = Random(1)
    for _ in range(50):
        clock, now, ahead = RedisClock(offset=0.0), 0.0, AHEAD
        longest = random.choice((0.01, 1.0))
        best = longest
        for _ in range(100):
            seconds = random.uniform(0.0, 10.0)
            now, ahead = now + seconds, ahead + seconds * random.uniform(-DRIFT, DRIFT)
            there, back = (random.uniform(0.0, longest) for _ in range(2))
            read(clock, at=now, there=there, back=back, ahead=ahead)
            best = min(best + 2 * DRIFT * (seconds + there + back), there + back)
            assert abs(clock.offset - ahead) <= best + 0.001
            now += there + back
