"""When a supervisor replaces a worker, and when it takes one for dead."""

from __future__ import annotations

import pytest

from edge.supervisor import MAX_SILENT_LOOKS, PAUSES, SERVED_SECONDS, Pulse, Restarts, Silence


def test_who_has_served_is_replaced_at_once_however_often() -> None:
    restarts = Restarts()
    assert [restarts.pause(SERVED_SECONDS) for _ in range(50)] == [0.0] * 50
    assert restarts.total == 50


@pytest.mark.parametrize("served", [None, SERVED_SECONDS / 2])
def test_a_crash_loop_slows_down_and_ends(served: float | None) -> None:
    restarts = Restarts()
    assert [restarts.pause(served) for _ in PAUSES] == list(PAUSES)
    assert PAUSES[0] == 0.0
    assert list(PAUSES) == sorted(set(PAUSES))
    assert restarts.pause(served) is None
    assert restarts.total == len(PAUSES)
    assert restarts.ever_served is (served is not None)


def test_a_worker_that_serves_ends_a_crash_loop() -> None:
    restarts = Restarts()
    for _ in PAUSES[1:]:
        restarts.pause(None)
    assert restarts.pause(SERVED_SECONDS) == 0.0
    assert restarts.pause(None) == PAUSES[1]


def test_silence_is_too_long_after_some_looks() -> None:
    silence = Silence()
    assert not silence.is_too_long(5.0)
    assert [silence.is_too_long(5.0) for _ in range(MAX_SILENT_LOOKS)] == [
        *[False] * (MAX_SILENT_LOOKS - 1),
        True,
    ]


def test_a_beat_ends_a_silence() -> None:
    silence, pulse = Silence(), Pulse()
    for _ in range(3 * MAX_SILENT_LOOKS):
        pulse.beat()
        for _ in range(MAX_SILENT_LOOKS):
            assert not silence.is_too_long(pulse.beats)


def test_a_pulse_tells_for_how_long_there_was_service() -> None:
    pulse = Pulse()
    assert pulse.served(now=7.0) is None
    pulse.serve(now=7.0)
    assert pulse.served(now=9.5) == 2.5
