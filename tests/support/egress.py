"""All that transceivers send to relays, looked at for nonces that are used twice.

Under one key an AEAD's nonce must never come twice with another content: for SRTP it is made of the
SSRC and the packet index (RFC 7714, 8.1), for SRTCP of the SSRC and its index (9.1), for a DTLS
record of its epoch and sequence number (RFC 5288, 3). Keys belong to a call, so the SSRC and, for
DTLS, the client stand for them. The same bytes again are a repetition, which tells nobody anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from edge.wire.demux import Kind, classify
from edge.wire.spp import HEADER_BYTES, MAGIC

DTLS_HEADER_BYTES: Final = 13
CLIENT: Final = slice(2, HEADER_BYTES)
"""What tells a client apart in the header: its address and port, as its relay sees it."""
ROLL: Final = 1 << 16


class Nonce(StrEnum):
    """What makes a nonce."""

    SRTP = "SRTP"
    SRTCP = "SRTCP"
    DTLS = "DTLS"


class Egress:
    """Notes every framed datagram of every transceiver; ``reused`` counts the misfortunes."""

    def __init__(self) -> None:
        self.datagrams = 0
        self.reused: Counter[Nonce] = Counter()
        self.repeated = 0
        """The same bytes again."""
        self._seen: dict[tuple[object, ...], int] = {}
        self._highest: dict[int, int] = {}

    def note(self, framed: bytes) -> None:
        """Take a datagram with its header."""
        if not framed.startswith(MAGIC) or len(framed) <= HEADER_BYTES:
            return
        self.datagrams += 1
        for nonce, key, content in self._nonces(framed[CLIENT], framed[HEADER_BYTES:]):
            before = self._seen.get((nonce, *key))
            if before is None:
                self._seen[nonce, *key] = hash(content)
            elif before == hash(content):
                self.repeated += 1
            else:
                self.reused[nonce] += 1

    def _nonces(
        self, client: bytes, datagram: bytes
    ) -> Iterator[tuple[Nonce, tuple[object, ...], bytes]]:
        match classify(datagram):
            case Kind.RTP if len(datagram) >= 12:
                yield Nonce.SRTP, self._rtp_index(datagram), datagram
            case Kind.RTCP if len(datagram) >= 12:
                ssrc, word = datagram[4:8], datagram[-4:]  # the index is last: RFC 7714, 9.1
                yield Nonce.SRTCP, (ssrc, word), datagram
            case Kind.DTLS:
                for record in cut_records(datagram):
                    if record[3:5] != b"\0\0":  # epoch 0 has no key
                        yield Nonce.DTLS, (client, record[3:11]), record

    def _rtp_index(self, datagram: bytes) -> tuple[object, ...]:
        """Guess the roll-over counter as a receiver does; RFC 3711, 3.3.1."""
        sequence, ssrc = int.from_bytes(datagram[2:4], "big"), int.from_bytes(datagram[8:12], "big")
        highest = self._highest.get(ssrc, sequence)
        around = highest - highest % ROLL + sequence
        index = min((around - ROLL, around, around + ROLL), key=lambda each: abs(each - highest))
        self._highest[ssrc] = max(highest, index)
        return ssrc, index


def cut_records(datagram: bytes) -> Iterator[bytes]:
    """Cut a datagram into DTLS records (RFC 6347, 4.1); a torn one ends it."""
    while len(datagram) >= DTLS_HEADER_BYTES:
        size = DTLS_HEADER_BYTES + int.from_bytes(datagram[11:13], "big")
        if len(datagram) < size:
            return
        yield datagram[:size]
        datagram = datagram[size:]


class Waking:
    """What of an owner of former times leaves its pod, and what of it reaches a client."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sent = 0
        self.reached = 0
        self._payloads: set[int] = set()

    def note_framed(self, source: str, framed: bytes) -> None:
        """Take what a transceiver sends to a relay."""
        if source == self.address and len(framed) > HEADER_BYTES + 4:
            self.sent += 1
            self._payloads.add(hash(framed[HEADER_BYTES:]))

    def note_plain(self, datagram: bytes) -> None:
        """Take what a relay sends to a client."""
        self.reached += hash(datagram) in self._payloads
