"""The jitter buffer against simulated networks; a number is the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.audio.jitter import MAX_PACKETS, JitterBuffer
from edge.audio.pulled import Frame, Lost, Pulled, Silence

RATE = 48_000
FRAME = 960
WAY = 0.050  # seconds from client to us, undisturbed

Arrival = tuple[float, int, int]
"""When, which packet, at what media time in samples."""


@dataclass
class Heard:
    buffer: JitterBuffer
    pieces: list[tuple[float, Pulled]]
    delays: list[tuple[float, float, float]]
    """Time, delay, target."""

    def count(self, kind: type[Pulled]) -> int:
        return sum(isinstance(piece, kind) for _, piece in self.pieces)

    @property
    def recoverable(self) -> int:
        return sum(
            isinstance(piece, Lost) and piece.following is not None for _, piece in self.pieces
        )

    def delay_at(self, time: float) -> float:
        return next(delay for at, delay, _ in self.delays if at >= time)

    def above_target_at(self, time: float) -> float:
        return next(delay - target for at, delay, target in self.delays if at >= time)


def make(
    least: float = 0.0, most: float = 0.4, *, pause_bytes: int = 2, repair_seconds: float = 0.0
) -> JitterBuffer:
    return JitterBuffer(
        RATE,
        min_delay=least,
        max_delay=most,
        pause_bytes=pause_bytes,
        repair_seconds=lambda: repair_seconds,
    )


def talk(
    seconds: float,
    delay: Callable[[int, float], float] = lambda number, time: 0.0,
    lost: Callable[[int], bool] = lambda number: False,
    *,
    skew: float = 0.0,
    samples: int = FRAME,
) -> list[Arrival]:
    """Packets one after the other; ``skew`` makes the client's clock fast."""
    arrivals = []
    for number in range(int(seconds * RATE / samples)):
        time = number * samples / RATE * (1 - skew)
        if not lost(number):
            arrivals.append((time + WAY + delay(number, time), number, number * samples))
    return sorted(arrivals)


def play(
    arrivals: list[Arrival],
    buffer: JitterBuffer | None = None,
    *,
    quiet: bool = False,
    samples: int = FRAME,
    payload: bytes = b"speech",
) -> Heard:
    buffer = buffer or make()
    heard = Heard(buffer, [], [])
    due = arrivals[0][0] + buffer.start_delay
    for time, number, media_time in arrivals:
        while due < time:
            due += _pull(heard, due, quiet)
        timestamp = 0xFFFFFF00 + media_time & 0xFFFFFFFF  # it soon rolls over
        buffer.put(65_530 + number, timestamp, payload, samples, now=time)
    return heard


def _pull(heard: Heard, due: float, quiet: bool) -> float:
    piece = heard.buffer.pull(now=due, quiet=lambda: quiet)
    heard.pieces.append((due, piece))
    heard.delays.append((due, heard.buffer.delay, heard.buffer.target))
    surplus = isinstance(piece, Frame) and piece.surplus
    return 0.0 if surplus else piece.samples / RATE


def jitter(seconds: float, seed: int = 1) -> Callable[[int, float], float]:
    random = Random(seed)
    return lambda number, time: seconds * random.random()


def losing(share: float, seed: int = 2) -> Callable[[int], bool]:
    random = Random(seed)
    return lambda number: random.random() < share


def stall(at: float, seconds: float) -> Callable[[int, float], float]:
    """Nothing comes for a while, then all of it at once and in order."""

    def delay(number: int, time: float) -> float:
        return at + seconds - time + number * 1e-7 if at <= time < at + seconds else 0.0

    return delay


def test_an_undisturbed_stream_passes_in_order_a_frame_late() -> None:
    heard = play(talk(3))
    frames = [piece for _, piece in heard.pieces if isinstance(piece, Frame)]
    assert len(frames) == len(heard.pieces) == 148
    assert [piece.timestamp for piece in frames[:2]] == [0xFFFFFF00, 704]
    assert heard.buffer.delay == pytest.approx(0.02)
    assert heard.buffer.target == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "made_up", "recoverable"), [(0.01, 0.015, 0.6), (0.05, 0.06, 0.85), (0.2, 0.21, 0.75)]
)
def test_loss(share: float, made_up: float, recoverable: float) -> None:
    heard = play(talk(30, jitter(0.002), losing(share)))
    lost = heard.count(Lost)
    assert share * 0.7 < lost / len(heard.pieces) < made_up
    assert heard.recoverable > recoverable * lost  # of the rest most have no packet behind them
    assert abs(heard.buffer.lost - lost) < 5
    assert heard.delays[-1][1] < 0.045


def test_what_fec_can_not_repair_in_time_stays_as_early_as_configured() -> None:
    heard = play(talk(10, jitter(0.002), losing(0.05)), make(most=0.0))
    assert max(delay for _, delay, _ in heard.delays) <= 0.03
    assert heard.count(Frame) / 500 > 0.93


@pytest.mark.parametrize("quiet", [False, True])
def test_jitter_of_100_ms(quiet: bool) -> None:
    """Packets overtake each other by up to five."""
    heard = play(talk(30, jitter(0.1)), quiet=quiet)
    late = [delay for at, delay, _ in heard.delays if at > 2]
    assert heard.count(Lost) < 12  # of 1,500: the delay had to grow by five of them
    assert heard.buffer.late < 5
    assert max(late) < 0.14
    assert heard.buffer.skipped + heard.buffer.stretched < 8


@pytest.mark.parametrize(
    ("seconds", "quiet", "after"),
    [(0.2, False, 1.4), (0.2, True, 1.3), (0.4, False, 2.0), (0.4, True, 1.3)],
)
def test_a_burst_is_played_whole_and_the_delay_comes_back(
    seconds: float, quiet: bool, after: float
) -> None:
    heard = play(talk(12, stall(5.0, seconds)), quiet=quiet)
    assert heard.buffer.lost == heard.buffer.late == 0
    assert heard.count(Frame) == 600 - 1
    over = 5.0 + seconds + WAY
    assert heard.delay_at(over) == pytest.approx(seconds, abs=0.03)
    assert heard.delay_at(over + after) <= 0.04
    assert heard.delays[-1][1] <= 0.03


def test_speech_is_caught_up_by_half_and_then_by_a_quarter() -> None:
    heard = play(talk(12, stall(5.0, 0.4)))
    surplus = [
        place
        for place, (_, piece) in enumerate(heard.pieces)
        if isinstance(piece, Frame) and piece.surplus
    ]
    distances = [b - a for a, b in pairwise(surplus)][3:]  # the first while the target held
    assert set(distances) == {2, 4}
    assert distances == sorted(distances)


def test_a_burst_beyond_the_longest_delay_is_cut() -> None:
    heard = play(talk(12, stall(5.0, 0.6)))
    assert 8 <= heard.buffer.late <= 11
    assert max(delay for _, delay, _ in heard.delays) <= 0.43


def test_a_blackout_of_10_s_leaves_nothing_behind() -> None:
    heard = play(talk(20, lost=lambda number: 250 <= number < 750))
    assert heard.buffer.lost == 500
    assert heard.count(Lost) == 500
    assert heard.delay_at(15.0 + WAY + 0.1) <= 0.03


def test_ten_seconds_that_come_at_once_are_let_go() -> None:
    heard = play(talk(20, stall(5.0, 10.0)))
    assert heard.delay_at(15.0 + WAY + 2.0) <= 0.04
    assert heard.count(Frame) < 520
    assert len(heard.buffer._packets) <= MAX_PACKETS


@pytest.mark.parametrize("skew", [2e-4, -2e-4])
def test_an_hour_of_another_clock_neither_delays_nor_starves(skew: float) -> None:
    samples = 5_760
    heard = play(talk(3600, jitter(0.003), skew=skew, samples=samples), samples=samples)
    delays = [delay for _, delay, _ in heard.delays]
    assert max(delays) < 0.02 + 0.12 + 0.015
    assert min(delays) > -0.005
    assert heard.buffer.late == heard.buffer.lost == 0
    drift = round(3600 * abs(skew) / (0.12 if skew > 0 else 0.02))
    adjusted = heard.buffer.skipped if skew > 0 else heard.count(Lost)
    assert abs(adjusted - drift) <= 2


def test_the_least_delay_is_kept() -> None:
    heard = play(talk(5), make(least=0.1))
    assert {round(delay, 3) for _, delay, _ in heard.delays} == {0.1}


def test_never_lose_a_word() -> None:
    random = Random(3)
    heard = play(
        talk(20, lambda number, time: random.random() * 0.39 if number else 0.0), make(least=0.4)
    )
    assert heard.buffer.late == heard.buffer.lost == heard.count(Lost) == 0


def test_another_way_that_takes_longer() -> None:
    heard = play(talk(20, lambda number, time: 0.6 if time >= 5 else 0.0))
    assert heard.buffer.restarts == 0
    assert heard.count(Frame) > 1000 - 80
    assert heard.delay_at(5.6 + WAY + 3.5) <= 0.06


def test_another_way_that_is_shorter() -> None:
    heard = play(talk(20, lambda number, time: 0.6 if time < 5 else 0.0))
    assert heard.delay_at(5.6 + WAY + 3.5) <= 0.06
    assert heard.count(Frame) > 1000 - 80


# --- Single packets ------------------------------------------------------------------------


def test_duplicates_are_counted_and_played_once() -> None:
    twice = sorted([*talk(2), *talk(2, lambda number, time: 0.3), *talk(2, jitter(0.01))])
    heard = play(twice)
    frames = [piece.timestamp for _, piece in heard.pieces if isinstance(piece, Frame)]
    assert len(frames) == len(set(frames))
    assert heard.buffer.duplicates == 200
    assert heard.buffer.late == 0
    assert heard.buffer.delay <= 0.041


def test_a_late_packet_is_counted() -> None:
    buffer = make()
    for number in (0, 1, 3, 4):
        buffer.put(number, number * FRAME, b"speech", FRAME, now=number * 0.02)
    pieces = [buffer.pull(now=0.04 + step * 0.02) for step in range(4)]
    assert [type(piece) for piece in pieces] == [Frame, Frame, Lost, Frame]
    assert pieces[2] == Lost(FRAME, b"speech")
    buffer.put(2, 2 * FRAME, b"speech", FRAME, now=0.13)
    assert (buffer.late, buffer.duplicates, buffer.lost) == (1, 0, 1)
    buffer.put(3, 3 * FRAME, b"speech", FRAME, now=0.13)
    assert (buffer.late, buffer.duplicates) == (1, 1)


def test_overtaking_packets_are_put_in_order() -> None:
    buffer = make(least=0.06)
    for place, number in enumerate((0, 2, 1, 3)):
        buffer.put(number, number * FRAME, bytes([number]), FRAME, now=place * 0.02)
    pieces = [buffer.pull(now=0.06 + step * 0.02) for step in range(4)]
    assert [piece.payload for piece in pieces if isinstance(piece, Frame)] == [
        b"\0",
        b"\1",
        b"\2",
        b"\3",
    ]


def test_the_first_packets_may_overtake_each_other() -> None:
    buffer = make()
    for place, number in enumerate((2, 0, 1)):
        buffer.put(number, number * FRAME, bytes([number]), FRAME, now=place * 0.002)
    pieces = [buffer.pull(now=0.02 + step * 0.02) for step in range(3)]
    assert [piece.payload for piece in pieces if isinstance(piece, Frame)] == [b"\0", b"\1", b"\2"]


def test_a_redundant_copy_fills_a_hole_and_gives_way_to_the_packet() -> None:
    buffer = make(least=0.06)
    for number in (0, 3):
        buffer.put(number, number * FRAME, b"speech", FRAME, now=number * 0.02)
    assert [buffer.lacks(number) for number in range(4)] == [False, True, True, False]
    buffer.fill(1, FRAME, b"copy", FRAME)
    buffer.fill(2, 2 * FRAME, b"copy", FRAME)
    buffer.put(2, 2 * FRAME, b"itself", FRAME, now=0.06)
    pieces = [buffer.pull(now=0.06 + step * 0.02) for step in range(4)]
    assert [piece.payload for piece in pieces if isinstance(piece, Frame)] == [
        b"speech", b"copy", b"itself", b"speech",
    ]  # fmt: skip
    assert (buffer.copied, buffer.lost, buffer.duplicates) == (1, 0, 0)


def test_a_copy_for_a_hole_that_is_over_is_not_played() -> None:
    buffer = make()
    for number in (0, 2):
        buffer.put(number, number * FRAME, b"speech", FRAME, now=number * 0.02)
    pieces = [buffer.pull(now=0.05 + step * 0.02) for step in range(2)]
    assert [type(piece) for piece in pieces] == [Frame, Lost]
    buffer.fill(1, FRAME, b"copy", FRAME)
    piece = buffer.pull(now=0.09)
    assert isinstance(piece, Frame)
    assert piece.payload == b"speech"


def test_the_playhead_waits_for_what_repairs_a_hole() -> None:
    buffer = make(least=0.06)
    buffer.put(0, 0, b"speech", FRAME, now=0.0)
    pieces = [buffer.pull(now=now) for now in (0.02, 0.04)]  # too early
    buffer.put(2, 2 * FRAME, b"repair", FRAME, now=0.041)
    pieces += [buffer.pull(now=now) for now in (0.06, 0.08, 0.1)]
    assert [type(piece) for piece in pieces] == [Frame, Lost, Lost, Lost, Frame]
    assert pieces[3] == Lost(FRAME, b"repair")


def test_quiet_audio_is_stretched_to_the_least_delay() -> None:
    buffer = make(least=0.1)
    for number in range(3):
        buffer.put(number, number * FRAME, b"hush", FRAME, now=number * 0.02)
    pieces = [buffer.pull(now=0.02 + step * 0.02, quiet=lambda: True) for step in range(6)]
    assert [type(piece) for piece in pieces] == [Lost] * 4 + [Frame] * 2
    assert buffer.stretched == 4


def test_a_stop_of_our_own_leaves_no_delay() -> None:
    buffer = make()
    buffer.put(0, 0, b"speech", FRAME, now=0.0)
    buffer.pull(now=0.02)
    assert isinstance(buffer.pull(now=5.0), Lost)
    assert buffer.delay <= 0.43


def test_a_copy_of_what_was_played_is_not_wanted() -> None:
    buffer = make()
    buffer.put(7, 0, b"speech", FRAME, now=0.0)
    assert isinstance(buffer.pull(now=0.02), Frame)
    assert not buffer.lacks(7)
    buffer.fill(7, 0, b"copy", FRAME)
    assert isinstance(buffer.pull(now=0.04), Lost)


# --- Pauses --------------------------------------------------------------------------------


def with_pause(pause: int, *, refresh: int = 20) -> Iterator[tuple[float, int, int, bytes]]:
    """Half a second of speech, a pause of so many frames with a packet in ``refresh``, speech."""
    sequence = 0
    for frame in range(25 + pause + 25):
        silent = 25 <= frame < 25 + pause
        if silent and (frame - 25) % refresh:
            continue
        yield frame * 0.02, sequence, frame * FRAME, b"\x08" if silent else b"speech"
        sequence += 1


def test_a_pause_of_the_client_is_silence_and_no_loss() -> None:
    buffer = make()
    packets = list(with_pause(100))
    heard = Heard(buffer, [], [])
    due = 0.025
    for time, sequence, timestamp, payload in packets:
        while due < time:
            due += _pull(heard, due, quiet=False)
        buffer.put(sequence, timestamp, payload, FRAME, now=time)
    assert heard.count(Lost) == buffer.lost == buffer.late == 0
    assert heard.count(Silence) == 95
    assert buffer.delay == pytest.approx(0.025)


def test_a_pause_is_shortened_where_the_delay_is_too_long() -> None:
    heard = Heard(make(), [], [])
    due = 0.02
    for time, sequence, timestamp, payload in with_pause(100):
        held_up = max(time, 0.4) if time > 0.1 else time
        while due < held_up:
            due += _pull(heard, due, quiet=False)
        heard.buffer.put(sequence, timestamp, payload, FRAME, now=held_up)
    assert max(delay for _, delay, _ in heard.delays) > 0.25
    assert heard.buffer.skipped == heard.buffer.lost == 0
    assert heard.buffer.delay < 0.04


def test_a_talk_spurt_that_is_late_begins_with_its_first_word() -> None:
    buffer = make()
    buffer.put(0, 0, b"\x08", FRAME, now=0.0)
    for step in range(25):
        buffer.pull(now=0.02 + step * 0.02)
    buffer.put(1, 20 * FRAME, b"word", FRAME, now=0.51)  # 0.11 s late
    piece = buffer.pull(now=0.52)
    assert isinstance(piece, Frame)
    assert piece.payload == b"word"


# --- Other streams -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequence", "timestamp"),
    [
        (65_000, 50 * FRAME),  # another SSRC counts from elsewhere
        (50, 0x7FFFFFFF),  # the timestamp jumps ahead
        (50, 0x80000001),  # and back
        (50, 48 * FRAME),
        (-5_000, 3),
    ],
)
def test_another_stream_is_played_at_once(sequence: int, timestamp: int) -> None:
    buffer = make()
    for number in range(50):
        buffer.put(number, number * FRAME, b"old", FRAME, now=number * 0.02)
        buffer.pull(now=0.02 + number * 0.02)
    pieces = []
    for step in range(10):
        now = 1.0 + step * 0.02
        buffer.put(sequence + step, timestamp + step * FRAME & 0xFFFFFFFF, b"new", FRAME, now=now)
        pieces.append(buffer.pull(now=now + 0.02))
    played = [piece for piece in pieces if isinstance(piece, Frame) and piece.payload == b"new"]
    assert buffer.restarts == 1
    assert len(played) >= 8


def sent_again(share: float, seconds: float) -> Callable[[int, float], float]:
    """What is lost comes so many seconds after its time, for as long as 20 s."""
    lost = losing(share)
    return lambda number, time: seconds if lost(number) and time < 20.0 else 0.0


def test_the_delay_covers_what_is_sent_again_while_packets_get_lost() -> None:
    heard = play(talk(27, sent_again(0.05, 0.07)), make(repair_seconds=0.07))
    assert heard.buffer.lost <= 2  # the first ones
    targets = {round(target, 3) for time, _, target in heard.delays if 2.0 < time < 20.0}
    assert targets == {0.09}  # and a packet: the gap is seen when the next one comes
    assert heard.delays[-1][2] == pytest.approx(0.0, abs=1e-6)
    assert heard.delay_at(23.0) <= 0.12
    assert heard.delays[-1][1] <= 0.03


def test_the_delay_does_not_grow_for_what_comes_too_late_all_the_same() -> None:
    heard = play(talk(20, sent_again(0.05, 0.07)), make(most=0.08, repair_seconds=0.07))
    assert heard.buffer.lost > 30
    assert max(target for _, _, target in heard.delays) <= 0.03


def test_memory_is_bounded() -> None:
    buffer = make()
    for number in range(2000):
        buffer.put(number, number * 120, b"speech", 120, now=0.0)
    assert len(buffer._packets) <= MAX_PACKETS
    assert buffer.overflown > 0


STEPS = st.lists(
    st.tuples(
        st.integers(0, 400) | st.integers(-5_000, 70_000),  # sequence
        st.integers(0, 400).map(lambda frame: frame * FRAME) | st.integers(0, 2**32 - 1),
        st.sampled_from([b"", b"x", b"speech"]),
        st.sampled_from([120, FRAME, 5_760]),
        st.floats(0, 0.5),  # seconds since the last step
        st.booleans(),  # a copy
        st.integers(0, 4),  # pulls
    ),
    max_size=40,
)


@given(STEPS, st.floats(0, 0.4), st.floats(0, 0.4), st.booleans())
def test_whatever_comes(
    steps: list[tuple[int, int, bytes, int, float, bool, int]],
    least: float,
    most: float,
    quiet: bool,
) -> None:
    """Each pull gives a piece of some length, each packet comes out once, nothing piles up."""
    buffer = make(least, most)
    now, put, played = 0.0, 0, 0
    for sequence, timestamp, payload, samples, pause, copy, pulls in steps:
        now += pause
        if copy:
            put += buffer.lacks(sequence)
            buffer.fill(sequence, timestamp, payload, samples)
        else:
            put += 1
            buffer.put(sequence, timestamp, payload, samples, now=now)
        for _ in range(pulls):
            piece = buffer.pull(now=now, quiet=lambda: quiet)
            assert 0 < piece.samples <= 5_760
            played += isinstance(piece, Frame)
            now += piece.samples / RATE
            assert 0 <= buffer.target <= max(most, 0.0)
    assert played + len(buffer._packets) <= put
    assert buffer.lost >= 0
