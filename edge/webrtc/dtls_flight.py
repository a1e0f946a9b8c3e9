"""Our last flight of handshake messages, and when it is sent again; RFC 6347, section 4.2.4.

OpenSSL's timer follows the real clock and starts at one second; WebRTC paths answer within a
tenth of it. So the flight is kept here as records and sent again 100, 200, 400, 800, 800 ...
milliseconds after its last copy.

Every copy carries fresh record numbers, because a peer discards a number it has seen. In epoch 0
nothing authenticates the number, so all plaintext records we ever send are numbered here, whatever
OpenSSL wrote into them. In epoch 1 only the client's Finished needs a fresh number, because a
server answers no other: the server's is wanted only by a client that never received it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from edge.webrtc.dtls_records import NUMBERS, Record, decode_records, pack

FIRST_INTERVAL: Final = 0.1  # seconds
MAX_INTERVAL: Final = 0.8  # seconds
MIN_SPACING: Final = 0.05
"""Seconds between two copies when it is the peer that asks for them."""

Renew = Callable[[Record], Record]
"""An encrypted record of ours under a fresh number."""


class FlightSnapshot(msgspec.Struct, frozen=True):
    """The flight that ended a handshake, to be sent again when the peer asks for it."""

    mtu: int
    records: bytes
    next_sequence: int
    """Of epoch 0."""


class Flight:
    """The latest flight: numbering, packing and repetition. Knows no TLS state."""

    def __init__(self, mtu: int) -> None:
        self.deadline = math.inf
        self.datagrams: tuple[bytes, ...] = ()
        """The latest copy, as long as it may be sent again; not after a restore."""
        self._mtu = mtu
        self._records: Sequence[Record] = ()
        self._next_sequence = 0
        self._sent_at = -math.inf
        self._interval = FIRST_INTERVAL
        self._repeats_left = math.inf

    def encode(self, records: Sequence[Record]) -> list[bytes]:
        """Datagrams of these records, which are not kept (alerts, data)."""
        return pack([self._number(record) for record in records], self._mtu)

    def send(self, records: Sequence[Record], *, now: float) -> list[bytes]:
        """The datagrams of a new flight, which takes the former one's place."""
        self._records = records
        self._interval = FIRST_INTERVAL
        self._sent_at = now
        self.deadline = now + self._interval
        return self._keep(self.encode(records))

    def carried(self, *, now: float) -> None:
        """A copy left in another way than by our returning it: the next is due later."""
        self._sent_at = now
        if self.deadline < math.inf:
            self.deadline = now + self._interval

    def finish(self, *, repeats: int) -> None:
        """The handshake is over: send the flight at most ``repeats`` times more unasked."""
        self._repeats_left = repeats
        if repeats == 0:
            self.forget()

    def forget(self) -> None:
        """Nothing will be sent again."""
        self._records, self.datagrams = (), ()
        self.deadline = math.inf

    def tick(self, renew: Renew | None = None, *, now: float) -> list[bytes]:
        """The flight again because its time has come; the next time is later."""
        self._interval = min(2 * self._interval, MAX_INTERVAL)
        self._repeats_left -= 1
        datagrams = self._again(renew, now)
        if self._repeats_left <= 0:
            self.deadline = math.inf
        return datagrams

    def asked(self, renew: Renew | None = None, *, now: float) -> list[bytes]:
        """The flight again because the peer repeats the one before; nothing if that is too soon."""
        if now - self._sent_at < MIN_SPACING:
            return []
        return self._again(renew, now)

    def snapshot(self) -> FlightSnapshot:
        """What is needed to answer a peer that asks; the timer does not travel."""
        records = b"".join(record.encode() for record in self._records)
        return FlightSnapshot(self._mtu, records, self._next_sequence)

    @classmethod
    def restore(cls, snapshot: FlightSnapshot, *, skip: int = 0) -> Flight:
        """Go on from a snapshot; ``skip`` as for the records of epoch 1."""
        flight = cls(snapshot.mtu)
        flight._records = decode_records(snapshot.records) if snapshot.records else ()
        flight._next_sequence = (snapshot.next_sequence + skip) % NUMBERS
        return flight

    def _again(self, renew: Renew | None, now: float) -> list[bytes]:
        self.carried(now=now)
        fresh = [renew(r) if r.epoch and renew is not None else r for r in self._records]
        return self._keep(self.encode(fresh))

    def _keep(self, datagrams: list[bytes]) -> list[bytes]:
        self.datagrams = tuple(datagrams)
        return datagrams

    def _number(self, record: Record) -> Record:
        if record.epoch:
            return record
        number = self._next_sequence  # no nonce depends on it: it may go round
        self._next_sequence = (number + 1) % NUMBERS
        return record.numbered(number)
