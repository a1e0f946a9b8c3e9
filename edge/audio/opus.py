"""Opus at any of its rates (RFC 6716), tuned for speech over a lossy network (RFC 7587).

The decoder runs at the rate the model wants, so nothing is resampled. The encoder works for
``VOIP`` because only its SILK layers carry in-band FEC: ``RESTRICTED_LOWDELAY`` would save 4 ms and
three quarters of the time, and lose a syllable with every lost packet.

FEC takes its bits from the speech, so the encoder spends them by what the listener says it loses.
"""

from __future__ import annotations

import ctypes
from typing import Final

from edge.audio.opus_library import libopus
from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.wire.opus import MAX_SAMPLES, opus_samples

BITRATE: Final = 32_000  # bit/s
COMPLEXITY: Final = 2  # of 0 to 10; less loses all above 8 kHz, more costs time: docs/audio.md
EXPECTED_LOSS: Final = 0.1  # of the packets, until the listener has told
FEC_LOSS: Final = 0.01  # below it FEC costs more than it saves
MAX_EXPECTED_LOSS: Final = 0.25  # of more, libopus leaves the speech no bits
MAX_PACKET: Final = 1_275  # bytes of one 20 ms frame; RFC 6716, 3.2.1

# opus_defines.h
_VOIP: Final = 2048
_SET_BITRATE: Final = 4002
_SET_COMPLEXITY: Final = 4010
_SET_INBAND_FEC: Final = 4012
_SET_PACKET_LOSS_PERC: Final = 4014
_SET_DTX: Final = 4016
_SET_SIGNAL: Final = 4024
_GET_LOOKAHEAD: Final = 4027
_SIGNAL_VOICE: Final = 3001

_CLOCK_RATE: Final = 48_000
_STEPS_A_SECOND: Final = 400  # libopus makes up audio in steps of 2.5 ms


class OpusEncoder:
    """Mono pcm16 into packets of 20 ms. For one thread at a time."""

    def __init__(self, rate: int, *, bitrate: int = BITRATE, complexity: int = COMPLEXITY) -> None:
        """``rate`` in Hz, one of PCM_RATES; raises StartupError when there is no libopus."""
        library = libopus()
        self.frame_samples = rate // 50
        self._encode = library.opus_encode
        self._control = library.opus_encoder_ctl
        self._state = ctypes.create_string_buffer(library.opus_encoder_get_size(1))
        self._packet = ctypes.create_string_buffer(MAX_PACKET)
        _check(library.opus_encoder_init(self._state, rate, 1, _VOIP))
        for request, value in (
            (_SET_BITRATE, bitrate),
            (_SET_COMPLEXITY, complexity),
            (_SET_DTX, 0),
            (_SET_SIGNAL, _SIGNAL_VOICE),
        ):
            self._set(request, value)
        self.expected_loss = EXPECTED_LOSS
        self._spend_on_fec()
        delay = ctypes.c_int()
        _check(library.opus_encoder_ctl(self._state, _GET_LOOKAHEAD, ctypes.byref(delay)))
        self.delay_samples = delay.value

    def encode(self, pcm: bytes) -> bytes:
        """One frame of ``frame_samples``; raises LocalProtocolError when it is not exactly one."""
        if len(pcm) != 2 * self.frame_samples:
            raise LocalProtocolError("the Opus encoder takes frames of exactly 20 ms")
        size = self._encode(self._state, pcm, self.frame_samples, self._packet, MAX_PACKET)
        return ctypes.string_at(self._packet, _check(size))

    def note_loss(self, share: float) -> None:
        """Take what a report says was lost since the last one, 0 to 1.

        More is believed at once, less by half a report: losses come in groups.
        """
        self.expected_loss = max(share, (self.expected_loss + share) / 2)
        self._spend_on_fec()

    def _spend_on_fec(self) -> None:
        expected = min(self.expected_loss, MAX_EXPECTED_LOSS)
        self._set(_SET_INBAND_FEC, expected >= FEC_LOSS)
        self._set(_SET_PACKET_LOSS_PERC, round(100 * expected))

    def _set(self, request: int, value: int) -> None:
        _check(self._control(self._state, request, ctypes.c_int(value)))


class OpusDecoder:
    """Packets of any kind into mono pcm16 at one rate. For one thread at a time."""

    def __init__(self, rate: int) -> None:
        """``rate`` in Hz, one of PCM_RATES; raises StartupError when there is no libopus."""
        library = libopus()
        self._step = rate // _STEPS_A_SECOND
        self._most = MAX_SAMPLES * rate // _CLOCK_RATE
        self._rate = rate
        self._decode = library.opus_decode
        self._state = ctypes.create_string_buffer(library.opus_decoder_get_size(1))
        self._pcm = ctypes.create_string_buffer(2 * self._most)
        _check(library.opus_decoder_init(self._state, rate, 1))

    def decode(self, payload: bytes) -> bytes:
        """The packet's audio; raises RemoteProtocolError when it is no Opus packet."""
        if not payload:  # libopus would take it for a lost packet
            raise RemoteProtocolError("empty Opus packet")
        samples = self._decode(self._state, payload, len(payload), self._pcm, self._most, 0)
        if samples <= 0:
            raise RemoteProtocolError("not an Opus packet")
        return ctypes.string_at(self._pcm, 2 * samples)

    def conceal(self, samples: int) -> bytes:
        """Make up ``samples`` in the place of what was lost; fades out after some 60 ms."""
        made = bytearray()
        while len(made) < 2 * samples:
            made += self._fill(None, min(samples - len(made) // 2, self._most))
        return bytes(made[: 2 * samples])

    def recover(self, following: bytes, samples: int) -> bytes | None:
        """The lost audio of ``samples`` before ``following``, out of its FEC; None: it has none."""
        if not 0 < samples <= self._most or not has_fec(following):
            return None
        return self._fill(following, samples)[: 2 * samples] or None

    def _fill(self, following: bytes | None, samples: int) -> bytes:
        """At least ``samples``, in whole steps; nothing where FEC can not be decoded."""
        whole = -(-samples // self._step) * self._step
        length = 0 if following is None else len(following)
        made = self._decode(self._state, following, length, self._pcm, whole, length > 0)
        return ctypes.string_at(self._pcm, 2 * made) if made > 0 else b""


def has_fec(payload: bytes) -> bool:
    """Whether a packet of one Opus frame carries the one before it: LBRR, RFC 6716, 4.2.4.

    Packets of several frames are said to have none; a voice client sends them only when told to.
    """
    if len(payload) < 2 or payload[0] & 0x03 or payload[0] & 0x80:  # not code 0, or CELT only
        return False
    # The first bits of a SILK frame are a voice activity flag for each of its 20 ms, then LBRR.
    frames = max(opus_samples(payload) // 960, 1)
    mono = payload[1] >> (7 - frames) & 1
    side = payload[1] >> (6 - 2 * frames) & 1 if payload[0] & 0x04 else 0
    return bool(mono | side)


def _check(result: int) -> int:
    if result < 0:
        raise LocalProtocolError(f"libopus refused: error {result}")
    return int(result)
