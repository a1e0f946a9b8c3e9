"""The gate: a socket filter that keeps strangers out of the kernel's queue while a flood lasts.

One UDP socket has one receive queue, and what does not fit is dropped whoever sent it. A filter
runs before that queue and needs no privilege. This one holds the *known* sources, the clients of
confirmed flows:

1. A Binding request (RFC 8489) of plausible length passes by lot, with probability ``share``, so
   that new calls can be set up, if slower.
2. What a known source sends passes.
3. All else is dropped.

A source is known by a keyed hash of its address and port. Up to about 3,200 hashes are compared as
they are; more become two bits each in a Bloom filter of one word, and some strangers pass
(docs/floods.md has the rates). Both are trees of jumps, since such a filter can hold no table.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from edge.address import Address
from edge.forwarder import bpf
from edge.forwarder.bpf import MAX_INSTRUCTIONS, Instruction, Program, search, to_the_end

MAX_SOURCES: Final = 32_768
"""With more the Bloom filter lets two strangers of three pass: then None, for all, is quicker."""

# Offsets and lengths from the UDP header on.
_PAYLOAD: Final = 8
_STUN_BODY: Final = 28
_COOKIE: Final = 0x2112A442
_MIN_REQUEST: Final = 56
"""A STUN body of USERNAME (a token, a colon, 4 chars) and MESSAGE-INTEGRITY."""
_MAX_REQUEST: Final = 1_180
"""With a datagram of DTLS inside (SPED): what an MTU of 1,200 bytes leaves of a body."""

_LEAF: Final = 16
"""Hashes compared in a row: longer leaves are slower, shorter ones leave room for fewer."""


def compile_gate(
    known: Iterable[Address] | None, *, share: float, key: int, limit: int = MAX_INSTRUCTIONS
) -> Program:
    """Make the filter that passes ``known`` sources and a ``share`` (0.0 to 1.0) of strangers.

    ``key`` (64 random bits, new each time) hides which strangers pass with the known. None for
    ``known`` passes all that may be DTLS, RTP or STUN, from anybody. The program has at most
    ``limit`` instructions, which is 256 or more.
    """
    if known is None:
        return _only_webrtc()
    mix = Mix(key)
    hashes = sorted({mix(source) for source in known})
    head = [*_by_lot(share), *mix.program()]
    tail = _exact(hashes)
    if len(head) + len(tail) > limit:
        tail = _bloom(hashes, limit - len(head))
    return head + tail


# Strangers.


def _by_lot(share: float) -> Program:
    """Pass a share of the Binding requests, go on with the rest."""
    if share <= 0.0:
        return []
    return to_the_end(
        Instruction(bpf.LD_LENGTH),
        Instruction(bpf.JGE, 0, bpf.END, _STUN_BODY + _MIN_REQUEST),
        Instruction(bpf.JGT, bpf.END, 0, _STUN_BODY + _MAX_REQUEST),
        Instruction(bpf.SUB, k=_STUN_BODY),
        Instruction(bpf.TAX),
        Instruction(bpf.LD_HALF, k=_PAYLOAD + 2),
        Instruction(bpf.JEQ_X, 0, bpf.END),
        Instruction(bpf.LD_HALF, k=_PAYLOAD),
        Instruction(bpf.JEQ, 0, bpf.END, 0x0001),
        Instruction(bpf.LD_WORD, k=_PAYLOAD + 4),
        Instruction(bpf.JEQ, 0, bpf.END, _COOKIE),
        Instruction(bpf.LD_WORD, k=bpf.RANDOM),
        Instruction(bpf.JGT, bpf.END, 0, min(0xFFFFFFFF, int(share * 2**32))),
        Instruction(bpf.RET, k=bpf.KEEP),
    )


def _only_webrtc() -> Program:
    """Pass STUN by its cookie, and DTLS, RTP and RTCP by their first byte (RFC 7983, 7)."""
    return [
        *to_the_end(
            Instruction(bpf.LD_LENGTH),
            Instruction(bpf.JGE, 0, bpf.END, _STUN_BODY),
            Instruction(bpf.LD_WORD, k=_PAYLOAD + 4),
            Instruction(bpf.JEQ, 0, bpf.END, _COOKIE),
            Instruction(bpf.LD_BYTE, k=_PAYLOAD),
            Instruction(bpf.JGT, bpf.END, 0, 3),
            Instruction(bpf.RET, k=bpf.KEEP),
        ),
        Instruction(bpf.LD_BYTE, k=_PAYLOAD),
        Instruction(bpf.JGE, 0, 1, 128),
        Instruction(bpf.JGT, 3, 2, 191),
        Instruction(bpf.JGT, 2, 0, 63),
        Instruction(bpf.JGE, 0, 1, 20),
        Instruction(bpf.RET, k=bpf.KEEP),
        Instruction(bpf.RET),
    ]


# The known.


class Mix:
    """The keyed hash of a source, and the program that leaves that of a packet's in A.

    It multiplies with secret odd numbers and adds up, which is a universal hash, and then mixes the
    high bits into the low ones. 31 bits: jumps take an extra instruction for greater numbers.
    """

    def __init__(self, key: int) -> None:
        secret = struct.unpack("6I", blake2b(key.to_bytes(8), digest_size=24).digest())
        self._start, self._port, *self._words = (number | 1 for number in secret)

    def __call__(self, source: Address) -> int:
        """Hash a source."""
        family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
        words = struct.iter_unpack("!I", socket.inet_pton(family, source[0]))
        mixed: int = self._start + self._port * source[1]
        for factor, (word,) in zip(self._words, words, strict=False):  # IPv4 has one word
            mixed += factor * word
        mixed &= 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 16) * 0x7FEB352D & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 15) * 0x846CA68B & 0xFFFFFFFF
        return mixed >> 1

    def program(self) -> Program:
        """Compute the hash; an IPv6 packet with extension headers has the hash of another port."""
        v4, v6 = self._sum(12, words=1), self._sum(8, words=4)
        return [
            Instruction(bpf.LD_BYTE, k=bpf.NETWORK),
            Instruction(bpf.RSH, k=4),
            Instruction(bpf.JEQ, len(v4) + 1, 0, 6),
            *v4,
            Instruction(bpf.JA, k=len(v6)),
            *v6,
            Instruction(bpf.TAX),
            Instruction(bpf.LD_HALF, k=0),
            Instruction(bpf.MUL, k=self._port),
            Instruction(bpf.ADD_X),
            *_xor_shifted(16),
            Instruction(bpf.MUL, k=0x7FEB352D),
            *_xor_shifted(15),
            Instruction(bpf.MUL, k=0x846CA68B),
            Instruction(bpf.RSH, k=1),
        ]

    def _sum(self, offset: int, *, words: int) -> Program:
        code = [Instruction(bpf.LD, k=self._start)]
        for index in range(words):
            code += (
                Instruction(bpf.TAX),
                Instruction(bpf.LD_WORD, k=bpf.NETWORK + offset + 4 * index),
                Instruction(bpf.MUL, k=self._words[index]),
                Instruction(bpf.ADD_X),
            )
        return code


def _xor_shifted(bits: int) -> Program:
    return [Instruction(bpf.TAX), Instruction(bpf.RSH, k=bits), Instruction(bpf.XOR_X)]


def _exact(hashes: Sequence[int]) -> Program:
    """Pass these hashes and no others."""
    if not hashes:
        return [Instruction(bpf.RET)]

    def leaf(index: int, _after: int) -> Program:
        some = hashes[index * _LEAF : (index + 1) * _LEAF]
        equal = (Instruction(bpf.JEQ, len(some) - at, 0, each) for at, each in enumerate(some))
        return [*equal, Instruction(bpf.RET), Instruction(bpf.RET, k=bpf.KEEP)]

    return search(hashes[::_LEAF], leaf)


def _bloom(hashes: Sequence[int], room: int) -> Program:
    """Pass these hashes and others whose two bits are set as well.

    The high bits choose the word. A leaf loads its complement, which has none of a member's bits.
    """
    count = (room - 32) * 8 // 25  # a word takes three instructions; long jumps, a little more
    words = [0] * count
    for each in hashes:
        words[(each >> 10) * count >> 21] |= 1 << (each & 31) | 1 << (each >> 5 & 31)

    def leaf(index: int, after: int) -> Program:
        return [Instruction(bpf.LD, k=~words[index] & 0xFFFFFFFF), Instruction(bpf.JA, k=after)]

    return [
        Instruction(bpf.ST, k=0),
        *_one_bit(0),
        Instruction(bpf.ST, k=1),
        *_one_bit(5),
        Instruction(bpf.TAX),
        Instruction(bpf.LD_MEM, k=1),
        Instruction(bpf.OR_X),
        Instruction(bpf.TAX),
        Instruction(bpf.LD_MEM, k=0),
        Instruction(bpf.RSH, k=10),
        Instruction(bpf.MUL, k=count),
        Instruction(bpf.RSH, k=21),
        *search(range(count), leaf),
        Instruction(bpf.AND_X),
        Instruction(bpf.JEQ, 0, 1, 0),
        Instruction(bpf.RET, k=bpf.KEEP),
        Instruction(bpf.RET),
    ]


def _one_bit(shift: int) -> Program:
    return [
        Instruction(bpf.LD_MEM, k=0),
        Instruction(bpf.RSH, k=shift),
        Instruction(bpf.AND, k=31),
        Instruction(bpf.TAX),
        Instruction(bpf.LD, k=1),
        Instruction(bpf.LSH_X),
    ]
