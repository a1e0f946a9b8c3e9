"""From packets to what a backend hears; a number is the clock, and mostly a fake the decoder."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import pi, sin
from random import Random
from struct import pack, unpack

import pytest

from edge.audio.codec import Decoder, make_decoder, make_encoder
from edge.audio.listener import Listener
from edge.audio.pacer import Pacer
from edge.backends.protocol import AudioFormat, AudioFrame
from edge.config import AudioConfig
from edge.errors import Drop, RemoteProtocolError
from edge.webrtc.outputs import AudioReceived
from edge.wire.red import RedBlock

OPUS = AudioFormat("opus", 48_000)
PCMU = AudioFormat("PCMU", 8_000)
TICK = 0.005
MADE_UP, FEC = 7_000, b"F"
TOCS = {10: b"\x70", 20: b"\x78", 40: b"\x7a", 60: b"\x7b\x03"}
"""The head of an Opus packet of so many milliseconds; RFC 6716, 3.1."""


def packet(level: int, *, milliseconds: int = 20, fec: bool = False) -> bytes:
    """An Opus packet whose audio is all of this level."""
    return TOCS[milliseconds] + bytes([level]) * 3 + (FEC if fec else b"-")


class FakeDecoder:
    """Gives flat audio: of a packet its level times 100, of nothing MADE_UP."""

    def __init__(self, codec: AudioFormat, rate: int) -> None:
        self._rate = rate
        self.made_up = 0

    def decode(self, payload: bytes) -> bytes:
        if len(payload) == 1:
            return bytes(self._rate // 25)
        if payload[-2] == 255:
            raise RemoteProtocolError("not Opus")
        seconds = next(ms for ms, toc in TOCS.items() if toc[0] == payload[0]) / 1000
        return pack("<h", payload[-2] * 100) * round(self._rate * seconds)

    def conceal(self, samples: int) -> bytes:
        self.made_up += samples
        return pack("<h", MADE_UP) * samples

    def recover(self, following: bytes, samples: int) -> bytes | None:
        if following[-1:] != FEC:
            return None
        return pack("<h", (following[-2] - 1) * 100) * samples


class Ear:
    """A listener with a pacer of 5 ms ticks, and what it heard when."""

    def __init__(
        self,
        wanted: AudioFormat,
        codec: AudioFormat = OPUS,
        *,
        settings: AudioConfig = AudioConfig(),  # noqa: B008 - frozen
        decoder: Callable[[AudioFormat, int], Decoder] = FakeDecoder,
        fail: Callable[[], None] | None = None,
    ) -> None:
        self.now = 0.0
        self.frames: list[AudioFrame] = []
        self.times: list[float] = []
        self.pacer = Pacer(lambda: self.now)
        self.broken = False
        self.listener = Listener(
            codec=codec,
            wanted=wanted,
            hear=self._hear,
            pacer=self.pacer,
            settings=settings,
            fail=fail,
            decoder=decoder,
        )

    def _hear(self, frame: AudioFrame) -> None:
        if self.broken:
            raise ZeroDivisionError
        self.frames.append(frame)
        self.times.append(self.now)

    def wait(self, until: float) -> None:
        while self.now + TICK / 2 < until:
            self.now += TICK
            self.pacer.turn(self.now)

    def take(self, number: int, payload: bytes, timestamp: int, *red: RedBlock) -> None:
        self.listener.receive(AudioReceived(payload, number, timestamp, False, red), now=self.now)

    @property
    def levels(self) -> list[int]:
        """The first sample of each frame, in hundreds."""
        return [unpack("<h", frame.payload[:2])[0] // 100 for frame in self.frames]


def pcm(rate: int = 24_000) -> AudioFormat:
    return AudioFormat("pcm16", rate)


def talk(
    ear: Ear,
    numbers: range,
    *,
    lost: Callable[[int], bool] = lambda number: False,
    fec: bool = False,
    red: bool = False,
    milliseconds: int = 20,
) -> None:
    """Packets of the levels 1 to 100, each at its time after number 0."""
    for number in numbers:
        ear.wait(number * milliseconds / 1000)
        if lost(number):
            continue
        samples = milliseconds * 48
        payload = packet(number % 100 + 1, milliseconds=milliseconds, fec=fec)
        copy = RedBlock(111, samples, packet((number - 1) % 100 + 1, milliseconds=milliseconds))
        ear.take(number, payload, number * samples, *([copy] if red else []))
    ear.wait(numbers.stop * milliseconds / 1000)


# --- Passthrough ---------------------------------------------------------------------------


def test_the_clients_codec_passes_straight_through() -> None:
    ear = Ear(OPUS)
    first, second = packet(1), packet(2, milliseconds=60)
    ear.take(9, first, 4_800)
    ear.take(7, second, 0, RedBlock(111, 960, first))
    assert ear.frames == [AudioFrame(first, 0.02, 4_800), AudioFrame(second, 0.06, 0)]
    assert ear.listener.statistics().received == 0
    assert ear.listener.emit(0.0) == float("inf")


@pytest.mark.parametrize("wanted", [OPUS, pcm()])
def test_what_is_no_audio_is_dropped_and_counted(wanted: AudioFormat) -> None:
    ear = Ear(wanted)
    ear.take(1, b"", 0)
    ear.take(2, b"\xff", 0)
    assert ear.frames == []
    assert ear.listener.drops == {Drop.MALFORMED: 2}


@pytest.mark.parametrize(("size", "heard"), [(0, 0), (1, 1), (160, 1), (1_600, 1), (1_601, 0)])
def test_g711_passes_up_to_200_ms(size: int, heard: int) -> None:
    ear = Ear(PCMU, PCMU)
    ear.take(1, bytes(size), 0)
    assert [frame.duration for frame in ear.frames] == [size / 8_000] * heard
    assert ear.listener.drops.total() == 1 - heard


def test_passthrough_with_a_delay_puts_packets_in_order_undecoded() -> None:
    settings = AudioConfig(min_delay_seconds=0.06, passthrough_delay_seconds=0.06)
    ear = Ear(OPUS, settings=settings, decoder=lambda codec, rate: pytest.fail("decoded"))
    for place, number in enumerate((0, 2, 1, 3, 5)):
        ear.wait(place * 0.02)
        ear.take(number, packet(number), number * 960)
    ear.wait(0.3)
    assert [frame.timestamp for frame in ear.frames] == [960 * n for n in (0, 1, 2, 3, 5)]
    assert [round(time, 3) for time in ear.times] == [0.06, 0.08, 0.1, 0.12, 0.16]


def test_a_burst_of_passthrough_is_caught_up() -> None:
    ear = Ear(OPUS, settings=AudioConfig(passthrough_delay_seconds=0.4))
    for number in range(200):
        ear.wait(1.2 if 50 <= number < 60 else number * 0.02)
        ear.take(number, packet(1), number * 960)
    ear.wait(4.0)
    statistics = ear.listener.statistics()
    assert statistics.lost == 0
    assert statistics.skipped >= 7
    assert len(ear.frames) == 200 - statistics.skipped


# --- Frames of 20 ms -----------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("milliseconds", [10, 20, 40, 60])
def test_frames_of_exactly_20_ms_every_20_ms(rate: int, milliseconds: int) -> None:
    ear = Ear(pcm(rate))
    talk(
        ear,
        range(1_200 // milliseconds),
        lost=lambda number: number % 7 == 6,
        milliseconds=milliseconds,
    )
    step = rate // 50
    assert len(ear.frames) >= 55
    assert {len(frame.payload) for frame in ear.frames} == {2 * step}
    assert {frame.duration for frame in ear.frames} == {0.02}
    assert [frame.timestamp for frame in ear.frames] == [step * n for n in range(len(ear.frames))]
    assert {round(b - a, 3) for a, b in pairwise(ear.times)} <= {0.015, 0.02, 0.025}


def test_an_undisturbed_stream_is_heard_as_it_was_said() -> None:
    ear = Ear(pcm())
    talk(ear, range(50))
    assert ear.levels == list(range(1, len(ear.levels) + 1))
    assert ear.times[0] == pytest.approx(0.02, abs=TICK)
    statistics = ear.listener.statistics()
    assert (statistics.concealed, statistics.silence, statistics.lost) == (0.0, 0.0, 0)
    assert statistics.delay == pytest.approx(0.02)


def test_opus_for_a_g711_backend() -> None:
    ear = Ear(PCMU)
    talk(ear, range(10))
    assert {(len(frame.payload), frame.duration) for frame in ear.frames} == {(160, 0.02)}
    assert [frame.timestamp for frame in ear.frames[:3]] == [0, 160, 320]


@pytest.mark.parametrize("rate", [8_000, 24_000])
def test_g711_for_a_backend_of_samples(rate: int) -> None:
    ear = Ear(pcm(rate), PCMU, decoder=make_decoder)
    for number in range(50):
        ear.wait(number * 0.02)
        if number != 25:
            ear.take(number, (b"\x10" * 8 + b"\x90" * 8) * 10, number * 160)
    assert len(ear.frames) == 49
    assert {len(frame.payload) for frame in ear.frames} == {rate // 25}
    assert ear.listener.statistics().concealed == pytest.approx(0.02)


# --- Repair --------------------------------------------------------------------------------

LATER = AudioConfig(min_delay_seconds=0.06)


@pytest.mark.parametrize(
    ("red", "fec", "counts", "level"),
    [
        (True, True, (1, 0, 0.0), 11),
        (True, False, (1, 0, 0.0), 11),
        (False, True, (0, 1, 0.0), 11),
        (False, False, (0, 0, 0.02), MADE_UP // 100),
    ],
)
def test_redundancy_then_fec_then_made_up(
    red: bool, fec: bool, counts: tuple[int, int, float], level: int
) -> None:
    ear = Ear(pcm(), settings=LATER)
    talk(ear, range(20), lost=lambda number: number == 10, red=red, fec=fec)
    statistics = ear.listener.statistics()
    assert (statistics.recovered_red, statistics.recovered_fec) == counts[:2]
    assert statistics.concealed == pytest.approx(counts[2])
    assert statistics.lost == (0 if red else 1)
    assert ear.levels[9:12] == [10, level, 12]


def test_every_copy_of_a_packet_finds_its_place() -> None:
    ear = Ear(pcm(), settings=AudioConfig(min_delay_seconds=0.1))
    ear.take(0, packet(1), 0)
    copies = [RedBlock(111, 960 * back, packet(4 - back)) for back in (2, 1)]
    ear.wait(0.06)
    ear.take(3, packet(4), 2_880, RedBlock(111, 2_880, b""), *copies)
    ear.wait(0.165)
    assert ear.levels == [1, 2, 3, 4]
    assert ear.listener.statistics().recovered_red == 2


def test_a_copy_that_is_no_audio_is_dropped_and_counted() -> None:
    ear = Ear(pcm(), settings=LATER)
    ear.take(0, packet(1), 0)
    ear.take(2, packet(3), 1_920, RedBlock(111, 960, b"\xff"))
    assert ear.listener.drops == {Drop.MALFORMED: 1}


def test_made_up_audio_fades_to_silence_and_audio_rises_out_of_it() -> None:
    ear = Ear(pcm(8_000), settings=LATER)
    talk(ear, range(40), lost=lambda number: 10 <= number < 25)
    heard = [unpack("<160h", frame.payload) for frame in ear.frames]
    hole = next(place for place, frame in enumerate(heard) if frame[0] == MADE_UP)
    assert {frame[0] for frame in heard[hole : hole + 5]} == {MADE_UP}
    fading = heard[hole + 4]
    assert list(fading) == sorted(fading, reverse=True)
    assert fading[-1] < 100
    assert set(heard[hole + 5 : hole + 15]) == {(0,) * 160}
    rising = heard[hole + 15]
    assert (rising[0], list(rising)) == (0, sorted(rising))
    assert ear.listener.statistics().concealed == pytest.approx(0.3)


def test_a_packet_that_the_decoder_refuses_is_counted_and_made_up() -> None:
    ear = Ear(pcm(), settings=LATER)
    talk(ear, range(5))
    ear.take(5, packet(255), 4_800)
    ear.wait(0.24)
    assert ear.listener.drops == {Drop.MALFORMED: 1}
    assert ear.levels[5] == MADE_UP // 100


def test_a_pause_is_comfort_noise_and_no_loss() -> None:
    ear = Ear(pcm())
    talk(ear, range(10))
    ear.take(10, b"\x78", 9_600)  # no frame in it: a pause begins
    ear.wait(1.2)
    ear.take(11, packet(50), 48 * 1_200)
    ear.wait(1.4)
    statistics = ear.listener.statistics()
    assert statistics.silence == pytest.approx(0.98, abs=0.03)
    assert statistics.lost == 0
    assert MADE_UP // 100 in ear.levels[12:40]


def test_late_and_repeated_packets_are_drops() -> None:
    ear = Ear(pcm())
    talk(ear, range(10), lost=lambda number: number == 5)
    ear.take(5, packet(6), 4_800)
    ear.take(3, packet(4), 2_880)
    assert ear.listener.drops == {Drop.LATE: 1, Drop.REPLAY: 1}


# --- Delay ---------------------------------------------------------------------------------


def test_a_burst_is_caught_up_by_blending() -> None:
    ear = Ear(pcm(8_000))
    talk(ear, range(100))
    ear.wait(2.2)  # nothing comes for 200 ms
    for number in range(100, 260):
        ear.wait(number * 0.02)
        ear.take(number, packet(number - 90), number * 960)
    ear.wait(5.2)
    statistics = ear.listener.statistics()
    assert statistics.skipped >= 7
    assert statistics.lost == 0
    assert statistics.delay <= 0.04
    heard = [unpack("<160h", frame.payload) for frame in ear.frames]
    ramps = [max(frame) - frame[0] for frame in heard if frame[-1] not in (0, frame[0])]
    # Into the silence of the hole; out of it, which is the first surplus frame; then the others,
    # each into the one after it.
    assert ramps[2:] == [99] * (statistics.skipped - 1)
    assert statistics.concealed == pytest.approx(0.2)


def test_a_process_that_stood_still_does_not_flood_the_backend() -> None:
    ear = Ear(pcm())
    talk(ear, range(20))
    before = len(ear.frames)
    ear.now += 5.0
    ear.pacer.turn(ear.now)
    assert len(ear.frames) - before <= 1
    ear.now += 0.08
    before = len(ear.frames)
    ear.pacer.turn(ear.now)
    assert 3 <= len(ear.frames) - before <= 5  # a short stop is made up for


def test_nothing_is_heard_after_the_end() -> None:
    ear = Ear(pcm())
    talk(ear, range(5))
    ear.listener.close()
    before = len(ear.frames)
    talk(ear, range(5, 10))
    assert len(ear.frames) == before


def test_a_backend_that_breaks_is_told_and_stops_no_pacer() -> None:
    failures: list[str] = []
    ear = Ear(pcm(), fail=lambda: failures.append("failed"))
    talk(ear, range(5))
    ear.broken = True
    ear.wait(0.2)
    assert failures == ["failed"]
    ear.broken = False
    before = len(ear.frames)
    ear.wait(0.4)
    assert len(ear.frames) == before


def test_without_somebody_to_tell_the_exception_goes_on() -> None:
    ear = Ear(pcm())
    talk(ear, range(5))
    ear.broken = True
    with pytest.raises(ZeroDivisionError):
        ear.listener.emit(ear.now + 0.02)


# --- The real decoder ----------------------------------------------------------------------


def voice(number: int) -> bytes:
    """20 ms of a voiced sound at 16 kHz, four syllables a second: FEC is only for speech."""
    times = (number / 50 + place / 16_000 for place in range(320))
    return pack(
        "<320h",
        *(
            round(6_000 * (2 * (140 * time % 1) - 1) * (0.55 + 0.45 * sin(8 * pi * time)))
            for time in times
        ),
    )


@pytest.mark.parametrize("red", [False, True])
def test_speech_over_a_lossy_network(red: bool) -> None:
    """Opus with one packet in five lost: most of it is repaired."""
    encoder = make_encoder(OPUS, 16_000)
    ear = Ear(pcm(16_000), decoder=make_decoder)
    random, copy = Random(5), b""
    for number in range(150):
        ear.wait(number * 0.02)
        payload = encoder.encode(voice(number))
        blocks = [RedBlock(111, 960, copy)] if red and copy else []
        if number < 5 or random.random() > 0.2:
            ear.take(number, payload, number * 960, *blocks)
        copy = payload
    statistics = ear.listener.statistics()
    repaired = statistics.recovered_red if red else statistics.recovered_fec
    assert repaired > (22 if red else 14)  # of 33 lost ones
    assert statistics.concealed < (0.21 if red else 0.4)
    loud = [max(unpack("<320h", frame.payload)) > 200 for frame in ear.frames[5:]]
    assert sum(loud) > 0.94 * len(loud)
