"""What a jitter buffer gives out; ``samples`` in units of the codec's clock."""

from __future__ import annotations

import msgspec


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A packet's payload and its 32-bit timestamp.

    A ``surplus`` frame is to be left out, best by blending it into the next one. ``copied`` is a
    redundant copy of a packet that never came itself.
    """

    payload: bytes
    timestamp: int
    samples: int
    surplus: bool = False
    copied: bool = False

    def __repr__(self) -> str:
        return f"Frame({len(self.payload)} bytes, timestamp={self.timestamp})"


class Lost(msgspec.Struct, frozen=True, gc=False):
    """Audio that is not there; ``following`` is the packet right behind it, for in-band FEC."""

    samples: int
    following: bytes | None = None

    def __repr__(self) -> str:
        return f"Lost({self.samples} samples)"


class Silence(msgspec.Struct, frozen=True, gc=False):
    """A pause that the client made (discontinuous transmission)."""

    samples: int


Pulled = Frame | Lost | Silence
