"""Playout: frames leave every 20 ms, timestamps follow the clock over talk spurts."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise
from math import pi, sin

import pytest
import trio
import trio.testing

from edge.audio.codec import make_decoder, make_encoder
from edge.audio.pacer import Pacer
from edge.backends.protocol import AudioFormat, AudioFrame, CallQuality
from edge.errors import Drop
from edge.transceiver.playout import REST_WAIT, Playout

FRAME = AudioFrame(b"frame", 0.02)  # no real Opus: what can not be faded is cut
OPUS = AudioFormat("opus", 48_000)
PCMU = AudioFormat("PCMU", 8_000)
QUALITY = CallQuality(None, 0.0, 0, 0.0, 0.0, None, None)


@dataclass
class Sent:
    payload: bytes
    timestamp: int
    marker: bool
    now: float


class Rig:
    def __init__(
        self,
        *,
        codec: AudioFormat = OPUS,
        wanted: AudioFormat | None = None,
        queue_seconds: float = 1.0,
        fade_seconds: float = 0.02,
        pacer: Pacer | None = None,
    ) -> None:
        self.codec = codec
        self.pacer = pacer or Pacer(trio.current_time)
        self.sent: list[Sent] = []
        self.playout = Playout(
            self.pacer,
            lambda *frame: self.sent.append(Sent(*frame)),
            codec=codec,
            wanted=wanted or codec,
            media_time=lambda now: round((now + 1.0) * codec.clock_rate),
            queue_seconds=queue_seconds,
            fade_seconds=fade_seconds,
            quality=lambda: QUALITY,
        )

    def heard(self) -> list[int]:
        """What the client hears, packet after packet."""
        decoder = make_decoder(self.codec, 8_000)
        return samples(b"".join(decoder.decode(sent.payload) for sent in self.sent))


def samples(pcm: bytes) -> list[int]:
    return array("h", pcm).tolist()


def tone(seconds: float, rate: int, *, hertz: float = 200.0, level: int = 8_000) -> bytes:
    step = 2 * pi * hertz / rate
    return array("h", (int(level * sin(i * step)) for i in range(round(seconds * rate)))).tobytes()


def pcm(content: bytes, rate: int) -> AudioFrame:
    return AudioFrame(content, len(content) / 2 / rate)


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_a_burst_is_paced_at_the_frames_own_duration(
    autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
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


def test_no_drift_over_an_hour() -> None:
    now = 100.0
    last = Sent(b"", 0, False, 0.0)
    markers = 0

    def send(payload: bytes, timestamp: int, marker: bool, at: float) -> None:
        nonlocal last, markers
        markers += marker
        last = Sent(payload, timestamp, marker, at)

    pacer = Pacer(lambda: now)
    rig = Rig(pacer=pacer, queue_seconds=2.0)
    rig.playout._send = send
    for part in range(6_000):
        for _ in range(10):
            rig.playout.play(AudioFrame(b"", 0.06))
        for tick in range(6):  # of a process that is always late
            now = 100.0 + part * 0.6 + tick * 0.1 + part % 8 * 0.001
            pacer.turn(now)
    assert rig.playout.played + rig.playout.queued == 3_600.0
    assert markers == 1
    behind = (last.now - 100.0) - (last.timestamp / 48_000 - 101.0)
    assert abs(behind) <= 0.1


async def test_a_new_spurt_takes_its_timestamp_from_the_clock(
    autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
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
    autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
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
    autojump_clock: trio.abc.Clock, rig: Rig
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
    autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
) -> None:
    for number in range(60):
        rig.playout.play(AudioFrame(bytes([number]), 0.02))
    assert rig.playout.queued == 1.0
    assert rig.playout.drops == {Drop.QUEUE_FULL: 9}
    nursery.start_soon(rig.pacer.run)
    await trio.sleep(1.2)
    assert [frame.payload[0] for frame in rig.sent] == [0, *range(10, 60)]


async def test_flush_without_a_codec_cuts_and_tells_what_was_played(
    autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    for _ in range(50):
        rig.playout.play(FRAME)
    await trio.sleep(0.1)
    played = rig.playout.flush()
    assert played == len(rig.sent) * 0.02
    await trio.sleep(1.0)
    assert len(rig.sent) * 0.02 == played == rig.playout.played
    rig.playout.play(FRAME)
    await trio.sleep(0.05)
    assert rig.sent[-1].marker


async def test_nothing_is_taken_after_close(
    autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    rig.playout.close()
    rig.playout.play(FRAME)
    await trio.sleep(0.1)
    assert rig.sent == []
    assert rig.playout.drops == {Drop.NOT_READY: 1}


async def test_an_idle_pacer_does_not_tick(
    autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
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
    autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    pacer = Pacer(trio.current_time)
    rigs = [Rig(codec=PCMU, pacer=pacer) for _ in range(20)]
    nursery.start_soon(pacer.run)
    for one in rigs:
        await trio.sleep(0.003)
        for _ in range(10):
            one.playout.play(FRAME)
    await trio.sleep(0.5)
    assert [len(one.sent) for one in rigs] == [10] * 20
    assert {b.timestamp - a.timestamp for one in rigs for a, b in pairwise(one.sent)} == {160}


async def test_a_bug_in_one_does_not_stop_the_others(
    autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    class Broken:
        calls = 0

        def emit(self, now: float) -> float:
            self.calls += 1
            raise ZeroDivisionError

    rig, broken = Rig(), Broken()
    rig.pacer.schedule(broken, 0.0)
    nursery.start_soon(rig.pacer.run)
    for _ in range(3):
        rig.playout.play(FRAME)
    await trio.sleep(0.1)
    assert (len(rig.sent), broken.calls) == (3, 1)


def test_what_is_due_and_alone_does_not_wait_for_a_tick() -> None:
    rig = Rig(pacer=Pacer(lambda: 100.0013))
    rig.playout.play(FRAME)
    assert [sent.now for sent in rig.sent] == [100.0013]
    rig.playout.play(FRAME)  # early: this one waits
    assert len(rig.sent) == 1


def test_who_speaks_in_real_time_is_not_held_back_for_having_begun_late() -> None:
    now = 0.0
    rig = Rig(pacer=Pacer(lambda: now))
    waited = []
    for number in range(100):
        comes = 100.0 + 0.02 * number + (0.019 if number == 0 else number % 3 * 0.001)
        while now < comes:
            now = min(now + 0.005, comes) if now > 99.0 else comes
            rig.pacer.turn(now)
        rig.playout.play(FRAME)
        waited.append(rig.playout.queued)
    assert waited[1] > 0.0
    assert sum(waited[10:]) == 0.0
    assert {b.timestamp - a.timestamp for a, b in pairwise(rig.sent)} == {960}
    assert len(rig.sent) == 100


def test_quality_is_what_the_session_says() -> None:
    assert Rig(pacer=Pacer(lambda: 0.0)).playout.quality is QUALITY


# Audio that is encoded here


@pytest.fixture
def pcm_rig() -> Rig:
    return Rig(codec=PCMU, wanted=AudioFormat("pcm16", 8_000))


@pytest.mark.parametrize("piece", [1, 37, 160, 240, 999, 8_000])
async def test_pieces_of_any_length_become_20_ms(
    piece: int, autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    said = tone(0.5, 8_000)
    for start in range(0, len(said), 2 * piece):
        pcm_rig.playout.play(pcm(said[start : start + 2 * piece], 8_000))
    await trio.sleep(0.6)
    assert [len(sent.payload) for sent in pcm_rig.sent] == [160] * 25
    assert {b.timestamp - a.timestamp for a, b in pairwise(pcm_rig.sent)} == {160}
    assert max(abs(a - b) for a, b in zip(samples(said), pcm_rig.heard(), strict=True)) < 300
    assert (pcm_rig.playout.played, pcm_rig.playout.queued) == (0.5, 0.0)


async def test_what_is_left_over_waits_for_more_and_is_padded_then(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    start = trio.current_time()
    pcm_rig.playout.play(pcm(tone(0.03, 8_000), 8_000))
    assert pcm_rig.playout.queued == 0.01  # 20 ms are on their way
    await trio.sleep(0.1)
    first, second = pcm_rig.sent
    assert 0.02 <= second.now - start <= 0.02 + REST_WAIT + 0.005
    assert set(pcm_rig.heard()[240:]) == {0}
    assert second.timestamp - first.timestamp == 160
    assert pcm_rig.playout.played == 0.03  # the padding is none of the backend's


async def test_what_is_not_whole_samples_is_dropped(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig
) -> None:
    pcm_rig.playout.play(AudioFrame(b"odd", 0.02))
    assert pcm_rig.playout.drops == {Drop.MALFORMED: 1}
    assert pcm_rig.sent == []


async def test_a_backend_may_speak_g711_to_a_client_of_opus(
    autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    rig = Rig(codec=OPUS, wanted=PCMU)
    nursery.start_soon(rig.pacer.run)
    encoder = make_encoder(PCMU, 8_000)
    for start in range(0, 16 * 320, 320):
        rig.playout.play(AudioFrame(encoder.encode(tone(0.5, 8_000)[start : start + 320]), 0.02))
    await trio.sleep(0.5)
    assert len(rig.sent) == 16
    assert {b.timestamp - a.timestamp for a, b in pairwise(rig.sent)} == {960}
    assert 7_000 < max(rig.heard()) < 9_500


# Barge-in


@pytest.mark.parametrize("fade", [0.01, 0.02, 0.03])
@pytest.mark.parametrize("delay", [0.1, 0.1111])
async def test_flush_fades_at_once_and_tells_exactly_what_was_played(
    fade: float, delay: float, autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    rig = Rig(codec=PCMU, wanted=AudioFormat("pcm16", 8_000), fade_seconds=fade)
    nursery.start_soon(rig.pacer.run)
    rig.playout.play(pcm(tone(1.0, 8_000), 8_000))
    await trio.sleep(delay)
    before = rig.playout.played
    at = trio.current_time()
    told = rig.playout.flush()
    assert told == pytest.approx(before + fade, abs=1e-12)
    await trio.sleep(0.3)
    assert rig.playout.played == told
    assert rig.playout.queued == 0.0
    assert rig.sent[-1].now - at <= 0.02 + fade
    heard = rig.heard()
    full = round(before * 8_000)
    assert max(map(abs, heard[:full])) > 7_500
    middle = full + round(fade * 4_000)
    assert max(map(abs, heard[middle : middle + 40])) < 5_500
    assert set(heard[full + round(fade * 8_000) :]) <= {0}
    assert max(abs(b - a) for a, b in pairwise(heard)) < 2_000  # no click


async def test_flush_fades_less_where_less_is_left(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    pcm_rig.playout.play(pcm(tone(0.025, 8_000), 8_000))
    assert pcm_rig.playout.flush() == 0.025
    await trio.sleep(0.1)
    assert len(pcm_rig.sent) == 2
    assert pcm_rig.playout.played == 0.025


async def test_flush_of_what_was_never_heard_is_silent(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    pcm_rig.playout.play(pcm(tone(0.2, 8_000), 8_000))
    await trio.sleep(0.05)
    first = pcm_rig.playout.flush()
    pcm_rig.playout.play(pcm(tone(1.0, 8_000), 8_000))
    assert pcm_rig.playout.flush() == first  # the fade is still to come, and the only thing to come
    await trio.sleep(0.025)
    packets = len(pcm_rig.sent)
    pcm_rig.playout.play(pcm(tone(1.0, 8_000), 8_000))
    assert pcm_rig.playout.flush() == first  # of the new audio nothing was heard yet
    pcm_rig.playout.pause()
    pcm_rig.playout.play(pcm(tone(1.0, 8_000), 8_000))
    assert pcm_rig.playout.flush() == first == pcm_rig.playout.played
    await trio.sleep(0.1)
    assert len(pcm_rig.sent) == packets


@pytest.mark.parametrize("codec", [OPUS, PCMU], ids=["opus", "PCMU"])
async def test_flush_fades_audio_that_passes_through(
    codec: AudioFormat, autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    rig = Rig(codec=codec)
    nursery.start_soon(rig.pacer.run)
    rate = codec.clock_rate
    encoder = make_encoder(codec, rate)
    said = tone(0.6, rate)
    size = 2 * encoder.frame_samples
    for start in range(0, len(said), size):
        rig.playout.play(AudioFrame(encoder.encode(said[start : start + size]), 0.02))
    await trio.sleep(0.21)
    packets, before = len(rig.sent), rig.playout.played
    assert rig.playout.flush() == pytest.approx(before + 0.02)
    await trio.sleep(0.1)
    assert len(rig.sent) == packets + 1
    heard = rig.heard()
    full = packets * 160
    assert max(map(abs, heard[full - 160 : full])) > 6_000
    assert max(map(abs, heard[full + 60 : full + 100])) > 3_000
    assert max(map(abs, heard[-4:])) < 150
    assert max(abs(b - a) for a, b in pairwise(heard[full - 100 :])) < 1_800  # no click


@pytest.mark.parametrize(("fade", "packets"), [(0.01, 1), (0.02, 2), (0.03, 2)])
async def test_a_fade_brings_out_what_the_encoder_holds_back(
    fade: float, packets: int, autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    rig = Rig(wanted=AudioFormat("pcm16", 24_000), fade_seconds=fade)
    nursery.start_soon(rig.pacer.run)
    rig.playout.play(pcm(tone(0.6, 24_000), 24_000))
    await trio.sleep(0.21)
    sent, at = len(rig.sent), trio.current_time()
    told = rig.playout.flush()
    await trio.sleep(0.1)
    assert len(rig.sent) == sent + packets
    assert rig.sent[-1].now - at <= 0.02 + fade
    assert rig.playout.played == told == pytest.approx(sent * 0.02 + fade)
    assert max(map(abs, rig.heard()[-20:])) < 100


async def test_a_flush_of_nothing_still_ends_in_silence(
    autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    rig = Rig(wanted=AudioFormat("pcm16", 24_000))
    nursery.start_soon(rig.pacer.run)
    rig.playout.play(pcm(tone(0.1, 24_000), 24_000))
    await trio.sleep(0.11)
    assert rig.playout.flush() == 0.1
    await trio.sleep(0.1)
    assert len(rig.sent) == 6
    assert max(map(abs, rig.heard()[-20:])) < 400
    assert rig.playout.played == 0.1


async def test_a_pause_can_be_taken_back_and_nothing_is_lost(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    said = tone(0.5, 8_000, hertz=211.0)
    pcm_rig.playout.play(pcm(said[:4_000], 8_000))
    await trio.sleep(0.1)
    before, packets = pcm_rig.playout.played, len(pcm_rig.sent)
    assert pcm_rig.playout.pause() == pytest.approx(before + 0.02) == pcm_rig.playout.pause()
    pcm_rig.playout.play(pcm(said[4_000:], 8_000))
    await trio.sleep(0.4)
    assert len(pcm_rig.sent) == packets + 1
    assert pcm_rig.playout.played == pytest.approx(before + 0.02)
    pcm_rig.playout.resume()
    assert pcm_rig.playout.played + pcm_rig.playout.queued == pytest.approx(0.5)
    await trio.sleep(1.0)
    assert pcm_rig.playout.played == 0.5
    assert [sent.marker for sent in pcm_rig.sent].index(True, 1) == packets + 1
    heard = pcm_rig.heard()
    del heard[packets * 160 : (packets + 1) * 160]  # the fade
    assert max(abs(a - b) for a, b in zip(samples(said), heard, strict=True)) < 300


async def test_a_pause_taken_back_at_once_is_not_heard(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    said = tone(0.3, 8_000)
    pcm_rig.playout.play(pcm(said, 8_000))
    await trio.sleep(0.101)
    pcm_rig.playout.pause()
    pcm_rig.playout.resume()
    await trio.sleep(0.4)
    assert max(abs(a - b) for a, b in zip(samples(said), pcm_rig.heard(), strict=True)) < 300
    assert [sent.marker for sent in pcm_rig.sent] == [True] + 14 * [False]


async def test_a_pause_keeps_what_it_holds(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    pcm_rig.playout.play(pcm(tone(1.0, 8_000), 8_000))
    await trio.sleep(0.1)
    pcm_rig.playout.pause()
    pcm_rig.playout.play(pcm(tone(1.0, 8_000), 8_000))
    assert pcm_rig.playout.queued == 1.0
    pcm_rig.playout.resume()
    await trio.sleep(2.0)
    assert pcm_rig.playout.played == pytest.approx(1.0 + 0.02 * 6, abs=0.021)
    assert pcm_rig.playout.drops[Drop.QUEUE_FULL] > 40


async def test_flush_ends_a_pause(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    pcm_rig.playout.play(pcm(tone(0.5, 8_000), 8_000))
    await trio.sleep(0.1)
    told = pcm_rig.playout.pause()
    await trio.sleep(0.1)
    assert pcm_rig.playout.flush() == told == pcm_rig.playout.played
    pcm_rig.playout.play(pcm(tone(0.1, 8_000), 8_000))
    pcm_rig.playout.resume()
    await trio.sleep(0.3)
    assert pcm_rig.playout.played == pytest.approx(told + 0.1)


async def test_a_pause_while_a_flush_fades(
    autojump_clock: trio.abc.Clock, pcm_rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(pcm_rig.pacer.run)
    pcm_rig.playout.play(pcm(tone(0.5, 8_000), 8_000))
    await trio.sleep(0.1)
    told = pcm_rig.playout.flush()
    pcm_rig.playout.play(pcm(tone(0.2, 8_000), 8_000))
    assert pcm_rig.playout.pause() == told
    await trio.sleep(0.1)
    assert pcm_rig.playout.played == told
    pcm_rig.playout.resume()
    await trio.sleep(0.4)
    assert pcm_rig.playout.played == pytest.approx(told + 0.2)


# Backpressure


async def test_a_backend_waits_until_the_queue_is_low(
    autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
) -> None:
    nursery.start_soon(rig.pacer.run)
    woken: dict[float, float] = {}

    async def wait(level: float) -> None:
        await rig.playout.wait_queued_below(level)
        assert rig.playout.queued <= level
        woken[level] = trio.current_time()

    start = trio.current_time()
    for _ in range(50):
        rig.playout.play(FRAME)
    for level in (2.0, 0.5, 0.2, 0.0):
        nursery.start_soon(wait, level)
    await trio.sleep(1.1)
    assert {level: at - start for level, at in woken.items()} == pytest.approx(
        {2.0: 0.0, 0.5: 0.48, 0.2: 0.78, 0.0: 0.98}, abs=0.006
    )


@pytest.mark.parametrize("how", ["flush", "close"])
async def test_a_waiting_backend_is_woken_by(
    how: str, autojump_clock: trio.abc.Clock, rig: Rig, nursery: trio.Nursery
) -> None:
    for _ in range(50):
        rig.playout.play(FRAME)
    nursery.start_soon(rig.playout.wait_queued_below, 0.1)
    await trio.testing.wait_all_tasks_blocked()
    assert nursery.child_tasks
    getattr(rig.playout, how)()
    await trio.testing.wait_all_tasks_blocked()
    assert not nursery.child_tasks
