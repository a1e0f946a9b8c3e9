"""Classic BPF as the kernel's documentation defines it, to run a socket filter without a kernel."""

from __future__ import annotations

import operator
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edge.address import Address
from edge.forwarder.bpf import MAX_INSTRUCTIONS, NETWORK, RANDOM, Instruction, Program

WORD: Final = 0xFFFFFFFF
ALU: Final[dict[int, Callable[[int, int], int]]] = {
    0x00: operator.add,
    0x10: operator.sub,
    0x20: operator.mul,
    0x40: operator.or_,
    0x50: operator.and_,
    0x60: lambda a, b: a << b if b < 32 else 0,
    0x70: operator.rshift,
    0xA0: operator.xor,
}
JUMPS: Final[dict[int, Callable[[int, int], bool]]] = {
    0x10: operator.eq,
    0x20: operator.gt,
    0x30: operator.ge,
}


@dataclass(frozen=True, slots=True)
class Packet:
    """What a UDP socket's filter sees: a packet from the UDP header on, and its IP header."""

    network: bytes
    """The IP header and what follows it."""
    transport: bytes

    def load(self, offset: int, size: int) -> int | None:
        """Read big-endian; None beyond the end."""
        data = self.transport
        if offset >= 1 << 31:
            data, offset = self.network, offset - NETWORK
        return int.from_bytes(data[offset : offset + size]) if offset + size <= len(data) else None


def packet(source: Address, payload: bytes) -> Packet:
    """Write the packet of a datagram; checksums are left out."""
    udp = struct.pack("!4H", source[1], 3478, 8 + len(payload), 0) + payload
    if ":" in source[0]:
        host = socket.inet_pton(socket.AF_INET6, source[0])
        ip = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + host + bytes(16)
    else:
        host = socket.inet_pton(socket.AF_INET, source[0])
        ip = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, 17, 0) + host + bytes(4)
    return Packet(ip + udp, udp)


def run(program: Program, seen: Packet, *, random: int = 0) -> int:
    """Return what the program returns. AssertionError when the kernel would not take it."""
    assert 0 < len(program) <= MAX_INSTRUCTIONS
    a = x = at = 0
    memory: dict[int, int] = {}
    while True:
        code, if_true, if_false, k = program[at]
        assert 0 <= k <= WORD
        assert 0 <= if_true <= 255
        assert 0 <= if_false <= 255
        at += 1
        operand = x if code & 8 else k
        match code & 7, code:
            case 0, 0x00:
                a = k
            case 0, 0x80:
                a = len(seen.transport)
            case 0, 0x60:
                a = memory[k]
            case 0, _:
                loaded = random if k == RANDOM else seen.load(k, {0: 4, 8: 2, 16: 1}[code & 0x18])
                if loaded is None:
                    return 0
                a = loaded
            case 2, _:
                memory[k] = a
            case 4, _:
                a = ALU[code & 0xF0](a, operand) & WORD
            case 5, 0x05:
                at += k
            case 5, _:
                at += if_true if JUMPS[code & 0xF0](a, operand) else if_false
            case 6, _:
                return k
            case 7, 0x07:
                x = a
            case _:
                raise AssertionError(
                    f"an instruction nobody needs: {Instruction(*program[at - 1])}"
                )
