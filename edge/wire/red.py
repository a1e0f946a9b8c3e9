"""Redundant audio data (RFC 2198): a packet that repeats the audio of the packets before it.

A chain of headers, one for each block, then the blocks. The last header, of one byte, is that of
the primary block, which is the packet's own audio; the four bytes of every other one also tell how
much earlier its audio was and how long it is.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge.errors import RemoteProtocolError

MAX_BLOCKS: Final = 32  # browsers send two, and at most ten

_HEADER_BYTES: Final = 4


class RedBlock(msgspec.Struct, frozen=True, gc=False):
    """One block; ``offset`` is how much earlier than the packet it was, in timestamp units."""

    payload_type: int
    offset: int
    payload: bytes

    def __repr__(self) -> str:
        return f"RedBlock({len(self.payload)} bytes, offset={self.offset})"


def decode_red(payload: bytes) -> tuple[RedBlock, ...]:
    """The blocks in the order of the packet: the primary one, of offset 0, is the last.

    Raises RemoteProtocolError when a header or a block is cut short.
    """
    headers, at = _decode_headers(payload)
    blocks = []
    for payload_type, offset, length in headers:
        end = len(payload) if length is None else at + length
        if end > len(payload):
            raise RemoteProtocolError("RED block overruns the packet")
        blocks.append(RedBlock(payload_type, offset, payload[at:end]))
        at = end
    return tuple(blocks)


def _decode_headers(payload: bytes) -> tuple[list[tuple[int, int, int | None]], int]:
    """Type, offset and length (None: the rest) of each block, and where the first begins."""
    headers: list[tuple[int, int, int | None]] = []
    at = 0
    while at < len(payload) and payload[at] & 0x80:
        if len(headers) == MAX_BLOCKS - 1 or at + _HEADER_BYTES > len(payload):
            raise RemoteProtocolError("RED header is cut short or has too many blocks")
        word = int.from_bytes(payload[at : at + _HEADER_BYTES], "big")
        headers.append((word >> 24 & 0x7F, word >> 10 & 0x3FFF, word & 0x3FF))
        at += _HEADER_BYTES
    if at == len(payload):
        raise RemoteProtocolError("RED packet without a primary block")
    return [*headers, (payload[at], 0, None)], at + 1
