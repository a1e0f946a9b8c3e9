"""Codecs: what goes in comes out, what is lost is made up, and what is malformed is refused."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from math import log10, pi, sin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.audio import opus_library
from edge.audio.codec import fade_out, make_decoder, make_encoder, prepare
from edge.audio.g711 import LAWS
from edge.audio.opus import FEC_LOSS, OpusDecoder, OpusEncoder, has_fec
from edge.backends.protocol import PCM_RATES, AudioFormat
from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.ready import StartupError
from tests.support.sounds import syllables

OPUS = AudioFormat("opus", 48_000)
PCMU = AudioFormat("PCMU", 8_000)
PCMA = AudioFormat("PCMA", 8_000)
CODECS = pytest.mark.parametrize("codec", [OPUS, PCMU, PCMA], ids=lambda codec: codec.name)
RATES = pytest.mark.parametrize("rate", PCM_RATES)


def voice(seconds: float, rate: int) -> bytes:
    """Some harmonics of a voice of 200 Hz: what every codec and rate here can carry."""
    period = [
        int(sum(level * sin(2 * pi * k * place * 200 / rate) for k, level in HARMONICS))
        for place in range(rate // 200)
    ]
    return array("h", period * round(seconds * 200)).tobytes()


HARMONICS = ((1, 4_000), (2, 3_000), (5, 2_000))


def samples(pcm: bytes) -> list[int]:
    return array("h", pcm).tolist()


def signal_to_noise(original: Sequence[int], heard: Sequence[int]) -> float:
    """In dB; both of the same time."""
    noise = sum((a - b) ** 2 for a, b in zip(original, heard, strict=True))
    return 10 * log10(sum(a * a for a in original) / max(noise, 1))


def packets(codec: AudioFormat, pcm: bytes, rate: int) -> list[bytes]:
    encoder = make_encoder(codec, rate)
    size = 2 * encoder.frame_samples
    return [encoder.encode(pcm[start : start + size]) for start in range(0, len(pcm), size)]


def quality(rate: int, pcm: bytes) -> float:
    """Signal to noise of a voice that was heard, at the delay within its period that fits."""
    heard = samples(pcm)[rate // 5 : rate // 4]
    spoken = samples(voice(0.2, rate))
    return max(
        signal_to_noise(spoken[delay : delay + len(heard)], heard)
        for delay in range(0, rate // 200, rate // 24_000 or 1)
    )


@CODECS
@RATES
def test_what_goes_in_comes_out(codec: AudioFormat, rate: int) -> None:
    sent = packets(codec, voice(0.3, rate), rate)
    decoder = make_decoder(codec, rate)
    decoded = [decoder.decode(packet) for packet in sent]
    assert {len(pcm) for pcm in decoded} == {rate // 25}
    assert quality(rate, b"".join(decoded)) > (6.0 if codec is OPUS else 30.0)


@pytest.mark.parametrize(
    ("spoken_at", "heard_at"), [(24_000, 8_000), (24_000, 16_000), (16_000, 48_000)]
)
def test_opus_needs_no_resampler(spoken_at: int, heard_at: int) -> None:
    decoder = make_decoder(OPUS, heard_at)
    heard = b"".join(map(decoder.decode, packets(OPUS, voice(0.3, spoken_at), spoken_at)))
    assert quality(heard_at, heard) > 6.0


def test_opus_is_sent_as_one_frame_of_20_ms_at_its_bitrate() -> None:
    sent = packets(OPUS, voice(1.0, 24_000), 24_000)
    assert {packet[0] & 3 for packet in sent} == {0}
    assert 16_000 < sum(map(len, sent)) * 8 < 40_000


def test_decoded_packets_may_be_of_any_duration() -> None:
    first, second = packets(OPUS, voice(0.04, 48_000), 48_000)
    decoder = make_decoder(OPUS, 16_000)
    assert len(decoder.decode(first)) == 640
    two = bytes([first[0] | 2, len(first) - 1]) + first[1:] + second[1:]  # code 2: RFC 6716, 3.2.4
    assert len(decoder.decode(two)) == 1_280
    for seconds in (0.0025, 0.005, 0.01, 0.06, 0.2):
        assert len(make_decoder(PCMU, 16_000).decode(bytes(round(seconds * 8_000)))) == round(
            seconds * 32_000
        )


# Loss


@CODECS
@RATES
def test_what_is_lost_is_made_up_and_then_fades(codec: AudioFormat, rate: int) -> None:
    decoder = make_decoder(codec, rate)
    for packet in packets(codec, voice(0.2, rate), rate):
        decoder.decode(packet)
    made = [samples(decoder.conceal(rate // 50)) for _ in range(30)]
    assert {len(part) for part in made} == {rate // 50}
    assert max(map(abs, made[0])) > 2_000
    assert max(map(abs, made[-1])) < 500


@CODECS
@RATES
def test_any_number_of_samples_can_be_made_up(codec: AudioFormat, rate: int) -> None:
    decoder = make_decoder(codec, rate)
    for count in (0, 1, 7, 123, 5_761, 20_000):
        assert len(decoder.conceal(count)) == 2 * count


def test_concealment_of_g711_goes_on_in_the_voices_pitch() -> None:
    decoder = make_decoder(PCMA, 8_000)
    said = samples(voice(0.22, 8_000))
    for packet in packets(PCMA, voice(0.2, 8_000), 8_000):
        decoder.decode(packet)
    made = samples(decoder.conceal(160))
    assert signal_to_noise(said[1_600:1_680], made[:80]) > 3.0


def test_fec_brings_back_a_lost_packet() -> None:
    said = voice(0.6, 16_000)
    sent = packets(OPUS, said, 16_000)
    whole = make_decoder(OPUS, 16_000)
    heard = [samples(whole.decode(packet)) for packet in sent]
    gain = []
    for lost in (lost for lost in range(10, 28, 3) if has_fec(sent[lost + 1])):
        with_fec, without = make_decoder(OPUS, 16_000), make_decoder(OPUS, 16_000)
        for packet in sent[:lost]:
            with_fec.decode(packet)
            without.decode(packet)
        recovered = with_fec.recover(sent[lost + 1], 320)
        assert recovered is not None
        assert len(recovered) == 640
        concealed = signal_to_noise(heard[lost], samples(without.conceal(320)))
        gain.append(signal_to_noise(heard[lost], samples(recovered)) - concealed)
    assert len(gain) >= 4
    assert sum(gain) / len(gain) > 3.0


def fec_of(encoder: OpusEncoder) -> int:
    """How many of 25 packets carry FEC; those before them were encoded on other terms."""
    said, size = syllables(0.6), 640
    sent = [encoder.encode(said[start : start + size]) for start in range(0, len(said), size)]
    return sum(map(has_fec, sent[5:]))


def test_fec_is_there_as_long_as_losses_are_expected() -> None:
    encoder = OpusEncoder(16_000)
    assert fec_of(encoder) > 10  # nobody knows yet
    expected = []
    while encoder.expected_loss >= FEC_LOSS:
        encoder.note_loss(0.0)
        expected.append(encoder.expected_loss)
    assert expected == [0.05, 0.025, 0.0125, 0.00625]
    assert fec_of(encoder) == 0
    encoder.note_loss(0.02)
    assert encoder.expected_loss == 0.02
    assert fec_of(encoder) > 10
    encoder.note_loss(1.0)  # more than libopus is ever told
    assert fec_of(encoder) > 10


@pytest.mark.parametrize("rate", [8_000, 24_000])
def test_g711_sounds_the_same_whatever_is_lost(rate: int) -> None:
    encoder, other = make_encoder(PCMU, rate), make_encoder(PCMU, rate)
    other.note_loss(0.5)
    said = voice(0.02, rate)
    assert encoder.encode(said) == other.encode(said)


def test_where_there_is_no_fec_nothing_is_recovered() -> None:
    decoder = make_decoder(OPUS, 16_000)
    silence = packets(OPUS, bytes(16_000), 16_000)
    assert decoder.recover(silence[-1], 320) is None
    assert decoder.recover(b"", 320) is None
    assert decoder.recover(b"\xfc\x00", 320) is None  # CELT only
    fec = next(filter(has_fec, packets(OPUS, voice(0.4, 16_000), 16_000)))
    assert decoder.recover(fec, 0) is None
    assert decoder.recover(fec, 20_000) is None
    assert make_decoder(PCMU, 16_000).recover(b"\xff" * 160, 320) is None


@pytest.mark.parametrize("count", [1, 119, 120, 319, 640, 1_920])
def test_odd_gaps_can_be_recovered(count: int) -> None:
    fec = next(filter(has_fec, packets(OPUS, voice(0.4, 16_000), 16_000)))
    recovered = make_decoder(OPUS, 16_000).recover(fec, count)
    assert recovered is not None
    assert len(recovered) == 2 * count


def libopus_sees_fec(packet: bytes) -> bool:
    function = opus_library.libopus().opus_packet_has_lbrr  # since libopus 1.5
    function.argtypes, function.restype = (ctypes.c_char_p, ctypes.c_int32), ctypes.c_int
    return bool(function(packet, len(packet)) == 1)


@given(st.binary(min_size=2, max_size=60))
@example(b"\x08\x40")
def test_fec_is_seen_as_libopus_sees_it(payload: bytes) -> None:
    single = bytes([payload[0] & 0xFC]) + payload[1:]
    assert has_fec(single) == libopus_sees_fec(single)


# What is not in the format


@CODECS
def test_what_is_empty_or_too_long_is_malformed(codec: AudioFormat) -> None:
    decoder = make_decoder(codec, 16_000)
    for payload in (b"", b"\xff" * 1_601):
        with pytest.raises(RemoteProtocolError) as caught:
            decoder.decode(payload)
        assert caught.value.drop is Drop.MALFORMED


@given(st.binary(max_size=1_300), st.sampled_from(PCM_RATES))
@example(b"\x03\x00", 8_000)
@example(b"\x03\xbf" + b"\xff" * 200, 48_000)
def test_bytes_are_audio_or_malformed(payload: bytes, rate: int) -> None:
    decoder = OpusDecoder(rate)
    good = packets(OPUS, voice(0.02, 48_000), 48_000)[0]
    recovered = decoder.recover(payload, rate // 50)
    assert recovered is None or len(recovered) == rate // 25
    with suppress(RemoteProtocolError):
        assert 0 < len(decoder.decode(payload)) <= 0.12 * rate * 2
    assert len(decoder.decode(good)) == rate // 25


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 80), st.integers(1, 255)), max_size=9))
def test_a_mutated_stream_does_no_harm(faults: list[tuple[int, int, int]]) -> None:
    stream = [bytearray(packet) for packet in STREAM]
    for number, place, flip in faults:
        packet = stream[number % len(stream)]
        packet[place % len(packet)] ^= flip
    decoder = OpusDecoder(24_000)
    for packet in stream:
        try:
            assert len(decoder.decode(bytes(packet))) <= 5_760
        except RemoteProtocolError:
            assert len(decoder.conceal(480)) == 960


STREAM = packets(OPUS, voice(0.3, 24_000), 24_000)


@CODECS
@pytest.mark.parametrize("length", [0, 1, 638, 642])
def test_an_encoder_takes_exactly_one_frame(codec: AudioFormat, length: int) -> None:
    with pytest.raises(LocalProtocolError):
        make_encoder(codec, 16_000).encode(bytes(length))


@pytest.mark.parametrize("make", [make_decoder, make_encoder])
def test_other_codecs_and_rates_are_refused(make: Callable[[AudioFormat, int], object]) -> None:
    for codec, rate in ((AudioFormat("G722", 8_000), 16_000), (OPUS, 44_100), (PCMU, 0)):
        with pytest.raises(LocalProtocolError):
            make(codec, rate)


# G.711


@pytest.mark.parametrize(
    ("law", "code", "level"),
    [
        ("PCMU", 0xFF, 0),
        ("PCMU", 0x80, 32_124),
        ("PCMU", 0x00, -32_124),
        ("PCMU", 0xEF, 132),
        ("PCMA", 0xD5, 8),
        ("PCMA", 0x55, -8),
        ("PCMA", 0xAA, 32_256),
        ("PCMA", 0x2A, -32_256),
    ],
)
def test_g711_levels(law: str, code: int, level: int) -> None:
    assert samples(LAWS[law].expand(bytes([code]))) == [level]
    assert LAWS[law].compress(array("h", [level]).tobytes()) == bytes([code])


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
def test_g711_takes_the_nearest_level(law: str) -> None:
    levels = sorted(samples(LAWS[law].expand(bytes(range(256)))))
    every = array("h", range(-32_768, 32_768))
    heard = samples(LAWS[law].expand(LAWS[law].compress(every.tobytes())))
    widest = {
        level: (after - before) / 2
        for before, level, after in zip(levels, levels[1:], levels[2:], strict=False)
    }
    assert all(a <= b for a, b in pairwise(heard))
    for sample, level in zip(every[::97], heard[::97], strict=True):
        if level in widest:
            assert abs(sample - level) <= widest[level]
    for level in levels:
        assert heard[level + 32_768] == level


# Fading


@pytest.mark.parametrize("count", [0, 1, 80, 160, 480])
def test_a_fade_falls_to_nothing(count: int) -> None:
    faded = samples(fade_out(array("h", [20_000] * 480).tobytes(), count))
    assert len(faded) == 480
    assert all(a >= b for a, b in pairwise(faded))
    assert set(faded[max(count - 1, 0) :]) <= {0}
    if count > 1:
        assert faded[0] > 19_000
        assert faded[count // 2] == pytest.approx(10_000, rel=0.05)


# Where the libraries are


def test_the_wheels_library_comes_before_the_systems() -> None:
    found = opus_library.candidates()
    assert found
    assert "libopus" in found[0]
    assert opus_library.version().startswith("libopus ")


def test_a_missing_codec_is_one_clear_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    opus_library.libopus.cache_clear()
    broken = f"{tmp_path}/libopus.so.0"
    for found in ([], [broken], ["libc.so.6"]):
        monkeypatch.setattr(opus_library, "candidates", lambda found=found: found)
        with pytest.raises(StartupError, match=r"edge\[audio\].*libopus0"):
            prepare(OPUS, AudioFormat("pcm16", 24_000))
        prepare(OPUS, OPUS)  # what passes through needs none
        prepare(PCMU, AudioFormat("pcm16", 8_000))
    monkeypatch.undo()
    prepare(OPUS, AudioFormat("pcm16", 24_000))
