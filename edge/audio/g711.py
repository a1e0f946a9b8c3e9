"""G.711, A-law and mu-law, by tables (ITU-T G.711; one byte a sample at 8 kHz, RFC 3551, 4.5.14).

Lost audio is made up in the manner of G.711's Appendix I, without its overlap: the last pitch
period is repeated, at full level for 10 ms, then falling to silence within another 50 ms.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import pairwise
from math import sqrt
from operator import mul
from typing import Final

from edge.errors import LocalProtocolError, RemoteProtocolError

RATE: Final = 8_000  # Hz
MAX_SAMPLES: Final = 1_600  # 200 ms, what a receiver should accept; RFC 3551, 4.2

_FRAME: Final = 160  # samples; 20 ms
_HISTORY: Final = 320  # 40 ms, in which a pitch period is looked for
_SHORTEST, _LONGEST = 40, 120  # samples of a pitch period: 200 to 66 Hz, as Appendix I
_WINDOW: Final = 160  # samples that are compared
_FLAT, _SILENT = 80, 480  # samples of concealment until it begins to fall, until it is silence


def _mu_law(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return 0x84 - magnitude if code & 0x80 else magnitude - 0x84


def _a_law(code: int) -> int:
    code ^= 0x55
    exponent = (code & 0x70) >> 4
    magnitude = ((code & 0x0F) << 4) + 8
    if exponent:
        magnitude = (magnitude + 0x100) << (exponent - 1)
    return magnitude if code & 0x80 else -magnitude


class Law:
    """One of the two laws, as tables; made once a process."""

    def __init__(self, expand: Callable[[int], int]) -> None:
        levels = [expand(code) for code in range(256)]
        words = [level & 0xFFFF for level in levels]
        self._low = bytes(word & 0xFF for word in words)
        self._high = bytes(word >> 8 for word in words)
        self._codes = _nearest_codes(levels)

    def expand(self, payload: bytes) -> bytes:
        """Codes into pcm16; each table turns all of them into one byte of their samples."""
        pcm = bytearray(2 * len(payload))
        pcm[0::2] = payload.translate(self._low)
        pcm[1::2] = payload.translate(self._high)
        return bytes(pcm)

    def compress(self, pcm: bytes) -> bytes:
        """pcm16 into codes; LocalProtocolError when it is no whole number of samples."""
        if len(pcm) % 2:
            raise LocalProtocolError("pcm16 has two bytes a sample")
        return bytes(map(self._codes.__getitem__, memoryview(pcm).cast("H")))


def _nearest_codes(levels: list[int]) -> bytes:
    """The code of the nearest level for each of the 65,536 samples, by their unsigned words."""
    ranked = sorted(range(256), key=levels.__getitem__)
    signed = bytearray()
    for code, following in pairwise(ranked):
        until = (levels[code] + levels[following] + 1) // 2  # zero is the upper of two
        signed += bytes([code]) * (until + 32_768 - len(signed))
    signed += bytes(ranked[-1:]) * (65_536 - len(signed))
    return bytes(signed[32_768:] + signed[:32_768])


LAWS: Final = {"PCMU": Law(_mu_law), "PCMA": Law(_a_law)}


class G711Encoder:
    """pcm16 at 8 kHz into codes."""

    frame_samples: Final = _FRAME
    delay_samples: Final = 0

    def __init__(self, law: Law) -> None:
        self._law = law

    def encode(self, pcm: bytes) -> bytes:
        """One frame of 20 ms; raises LocalProtocolError when it is not exactly one."""
        if len(pcm) != 2 * _FRAME:
            raise LocalProtocolError("the G.711 encoder takes frames of exactly 20 ms")
        return self._law.compress(pcm)

    def note_loss(self, share: float) -> None:
        """Nothing in G.711 helps against loss."""


class G711Decoder:
    """Codes into pcm16 at 8 kHz."""

    def __init__(self, law: Law) -> None:
        self._law = law
        self._past = bytes(2 * _HISTORY)
        self._period = b""
        self._made = 0

    def decode(self, payload: bytes) -> bytes:
        """The packet's audio; RemoteProtocolError when it is empty or longer than 200 ms."""
        if not 0 < len(payload) <= MAX_SAMPLES:
            raise RemoteProtocolError("G.711 packet of no or more than 200 ms")
        pcm = self._law.expand(payload)
        self._past = (self._past + pcm)[-2 * _HISTORY :]
        self._made = 0
        return pcm

    def conceal(self, samples: int) -> bytes:
        """Make up ``samples`` in the place of what was lost."""
        if not self._made:
            self._period = _last_period(self._past)
        heard = max(min(samples, _SILENT - self._made), 0)
        made = array("h", map(self._sample, range(self._made, self._made + heard)))
        self._made += samples
        return made.tobytes() + bytes(2 * (samples - heard))

    def recover(self, following: bytes, samples: int) -> bytes | None:
        """G.711 has no in-band FEC."""
        return None

    def _sample(self, place: int) -> int:
        at = 2 * place % len(self._period)
        sample = int.from_bytes(self._period[at : at + 2], "little", signed=True)
        return sample * min(_SILENT - place, _SILENT - _FLAT) // (_SILENT - _FLAT)


def _last_period(past: bytes) -> bytes:
    """The last pitch period: the lag at which the past is most like itself."""
    samples = memoryview(past).cast("h").tolist()
    recent = samples[-_WINDOW::2]  # every other sample tells enough

    def likeness(lag: int) -> float:
        earlier = samples[-_WINDOW - lag : -lag : 2]
        energy = 1 + sum(map(mul, earlier, earlier))
        return float(sum(map(mul, recent, earlier)) / sqrt(energy))

    near = max(range(_SHORTEST, _LONGEST + 1, 3), key=likeness)
    best = max((near - 1, near, near + 1), key=likeness)
    return past[-2 * best :]
