"""Classic BPF: the machine of a socket filter, the few instructions the gate needs, and attaching.

A program has an accumulator A, a register X and 16 words M; jumps lead forward only, conditional
ones over 255 instructions at most. What it returns is how many bytes of the datagram to keep, 0 to
drop it. Loading from beyond the packet drops it as well. linux/filter.h, and
Documentation/networking/filter.rst of the kernel.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

MAX_INSTRUCTIONS: Final = 4_096
"""BPF_MAXINSNS."""
KEEP: Final = 0xFFFF
"""The longest datagram is kept whole."""
END: Final = -1
"""A jump's target until ``to_the_end`` has set it."""

NETWORK: Final = -0x100000 & 0xFFFFFFFF
"""SKF_NET_OFF: offsets from here on are the IP header's. Others begin at the UDP header."""
RANDOM: Final = -0x1000 + 56 & 0xFFFFFFFF
"""SKF_AD_OFF + SKF_AD_RANDOM: 32 random bits."""

LD_WORD, LD_HALF, LD_BYTE, LD_LENGTH, LD, LD_MEM = 0x20, 0x28, 0x30, 0x80, 0x00, 0x60
LDX, LDX_MEM, ST, TAX, TXA = 0x01, 0x61, 0x02, 0x07, 0x87
ADD_X, SUB, MUL, OR_X, AND, AND_X = 0x0C, 0x14, 0x24, 0x4C, 0x54, 0x5C
LSH_X, RSH, XOR_X = 0x6C, 0x74, 0xAC
JA, JEQ, JEQ_X, JGT, JGE, RET = 0x05, 0x15, 0x1D, 0x25, 0x35, 0x06

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_SO_MEMINFO: Final = 55
_SK_MEMINFO_DROPS: Final = 8
_SOCK_FILTER: Final = struct.Struct("HBBI")
_SOCK_FPROG: Final = struct.Struct("HP")
_MEMINFO: Final = struct.Struct("9I")


class Instruction(NamedTuple):
    """One struct sock_filter. The jumps count the instructions to leave out."""

    code: int
    if_true: int = 0
    if_false: int = 0
    k: int = 0


Program = list[Instruction]


def to_the_end(*code: Instruction) -> Program:
    """Let the jumps to END lead behind this code."""
    return [
        each._replace(
            if_true=len(code) - 1 - at if each.if_true == END else each.if_true,
            if_false=len(code) - 1 - at if each.if_false == END else each.if_false,
        )
        for at, each in enumerate(code)
    ]


def search(
    starts: Sequence[int], leaf: Callable[[int, int], Program], *, after: int = 0
) -> Program:
    """Make a search tree: run the leaf of the last of ``starts`` that is not above A.

    ``starts`` is sorted and not empty; the first leaf takes what is below it, too. A leaf is made
    from its index and the number of instructions between it and ``after`` ones behind the tree.
    """
    return _search(starts, leaf, 0, len(starts), after)


def _search(
    starts: Sequence[int], leaf: Callable[[int, int], Program], low: int, high: int, after: int
) -> Program:
    if high - low == 1:
        return leaf(low, after)
    middle = (low + high) // 2
    right = _search(starts, leaf, middle, high, after)
    left = _search(starts, leaf, low, middle, after + len(right))
    return [*_branch(starts[middle], len(left)), *left, *right]


def _branch(least: int, skipped: int) -> Program:
    if skipped <= 0xFF:
        return [Instruction(JGE, skipped, 0, least)]
    return [Instruction(JGE, 0, 1, least), Instruction(JA, k=skipped)]


def attach(sock: socket.socket, program: Program) -> None:
    """Set the filter of a socket, in place of the one it may have.

    Raises OSError: ENOMEM when the program is too long for the system (net.core.optmem_max, of
    which the old and the new one together take 8 to 16 bytes an instruction), EINVAL for a faulty
    one, and others where there are no such filters.
    """
    code = ctypes.create_string_buffer(b"".join(_SOCK_FILTER.pack(*each) for each in program))
    fprog = _SOCK_FPROG.pack(len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def detach(sock: socket.socket) -> None:
    """Take the filter off. Raises OSError (ENOENT) when there is none."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def kernel_drops(sock: socket.socket) -> int:
    """Count what the kernel dropped of a socket, for a full queue or by its filter; 32 bits wide.

    Raises OSError where the kernel does not tell (Linux before 4.12).
    """
    meminfo = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    return int(_MEMINFO.unpack(meminfo)[_SK_MEMINFO_DROPS])
