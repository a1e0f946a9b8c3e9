"""What would be said again, against a model that knows what was played."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.backends.frames.unplayed import REPORT_SECONDS, Unplayed
from edge.backends.frames.wire import FORMATS

PCM = FORMATS["pcm16/8000"]
RATE = 8_000
STEP = 160  # samples: 20 ms

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 800)),
        st.tuples(st.just("pass"), st.integers(1, 20)),
        st.tuples(st.sampled_from(["note", "flush", "stop", "go on"]), st.just(0)),
    ),
    max_size=40,
)


class Model:
    """A transceiver that plays in real time, and numbers for samples."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[bytes] = []  # samples that are not dropped, since the call began
        self.played = 0
        self.stopped = False
        self.unplayed = Unplayed(PCM, 0)
        self._number = 0

    def step(self, kind: str, amount: int) -> None:
        match kind:
            case "say":
                samples = [self._next() for _ in range(amount)]
                self.unplayed.add(b"".join(samples), amount, now=self.now)
                self.said += samples
            case "pass":
                self.now += amount * 0.02
                if not self.stopped:
                    self.played = min(self.played + amount * STEP, len(self.said))
            case "note":
                self.unplayed.note(self.played, now=self.now)
            case "flush":
                self.unplayed.flush()
                del self.said[self.played :]
                self.unplayed.flushed(self.played, now=self.now)
            case _:
                self._set_stopped(kind == "stop")

    def rest(self) -> bytes:
        return b"".join(piece for piece, _ in self.unplayed.pieces())

    def _set_stopped(self, stopped: bool) -> None:
        self.stopped = stopped
        if stopped:
            self.unplayed.stop(now=self.now)
        else:
            self.unplayed.go_on(now=self.now)

    def _next(self) -> bytes:
        self._number += 1
        return (self._number % 65_536).to_bytes(2, "little")


@given(STEPS)
def test_from_an_exact_place_nothing_is_lost_or_doubled(steps: list[tuple[str, int]]) -> None:
    model = Model()
    for step in steps:
        model.step(*step)
    model.unplayed.begin_at(model.played)
    assert model.rest() == b"".join(model.said[model.played :])


@given(STEPS)
def test_a_guess_is_off_by_no_more_than_what_was_not_reported(
    steps: list[tuple[str, int]],
) -> None:
    model = Model()
    for step in steps:
        model.step(*step)
        if step[0] == "pass":  # the last report is at most so old
            model.step("note", 0)
    model.unplayed.begin_at(model.unplayed.guess(now=model.now))
    whole, rest = b"".join(model.said), model.rest()
    assert whole.endswith(rest)
    assert abs((len(whole) - len(rest)) // 2 - model.played) <= REPORT_SECONDS * RATE


def test_a_stopped_clock_guesses_no_further() -> None:
    unplayed = Unplayed(PCM, 1_000)
    unplayed.add(bytes(16_000), 8_000, now=5.0)
    assert unplayed.guess(now=5.1) == 1_800
    assert unplayed.guess(now=9.0) == 1_000 + REPORT_SECONDS * RATE
    unplayed.stop(now=5.2)
    assert unplayed.guess(now=9.0) == 2_600
    unplayed.go_on(now=9.0)
    assert unplayed.guess(now=9.1) == 1_800


def test_an_answer_from_before_a_flush_says_nothing() -> None:
    unplayed = Unplayed(PCM, 0)
    unplayed.add(bytes(1_600), 800, now=0.0)
    unplayed.flush()
    unplayed.add(b"\1" * 1_600, 800, now=0.1)
    unplayed.note(800, now=0.1)
    unplayed.begin_at(800)  # where the flush ended is not known
    assert unplayed.pieces() == [(b"\1" * 1_600, 800)]
    unplayed.flushed(400, now=0.1)
    unplayed.begin_at(500)
    assert unplayed.pieces() == [(b"\1" * 1_400, 700)]


@pytest.mark.parametrize(
    ("position", "first"), [(0, 0), (479, 0), (480, 1), (1_439, 1), (1_440, 2)]
)
def test_opus_packets_stay_whole(position: int, first: int) -> None:
    unplayed = Unplayed(FORMATS["opus"], 0)
    packets = [(bytes([number]), 960) for number in range(3)]
    for packet in packets:
        unplayed.add(*packet, now=0.0)
    unplayed.begin_at(position)
    assert unplayed.pieces() == packets[first:]
