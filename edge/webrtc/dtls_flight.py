"""Our last flight of handshake messages, and when it is sent again; RFC 6347, section 4.2.4.

OpenSSL's timer follows the real clock and starts at one second; WebRTC paths answer within a
tenth of it. So the flight is kept here as records and sent again 100, 200, 400, 800, 800 ...
milliseconds after its last copy.

Every copy carries fresh record numbers, because a peer discards a number it has seen. In epoch 0
nothing authenticates the number, so all plaintext records we ever send are numbered here, whatever
OpenSSL wrote into them. In epoch 1 only the client's Finished needs a fresh number (see
``dtls_protection``): the server's is wanted only by a client that never received it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from edge.webrtc.dtls_protection import RecordProtection
from edge.webrtc.dtls_records import Record, pack

FIRST_INTERVAL: Final = 0.1  # seconds
MAX_INTERVAL: Final = 0.8  # seconds
MIN_SPACING: Final = 0.05
"""Seconds between two copies when it is the peer that asks for them."""


class Flight:
    """The latest flight: numbering, packing and repetition. Knows no TLS state."""

    def __init__(self, mtu: int) -> None:
        self.deadline = math.inf
        self.renewed = 0
        """Epoch-1 record numbers that copies of our Finished have used."""
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
        return self.encode(records)

    def finish(self, *, repeats: int) -> None:
        """The handshake is over: send the flight at most ``repeats`` times more unasked."""
        self._repeats_left = repeats
        if repeats == 0:
            self.forget()

    def forget(self) -> None:
        """Nothing will be sent again."""
        self._records = ()
        self.deadline = math.inf

    @property
    def has_finished(self) -> bool:
        """Whether the flight ends in our encrypted Finished."""
        return any(record.epoch for record in self._records)

    def tick(self, protection: RecordProtection | None, *, now: float) -> list[bytes]:
        """The flight again because its time has come; the next time is later."""
        self._interval = min(2 * self._interval, MAX_INTERVAL)
        self._repeats_left -= 1
        datagrams = self._again(protection, now)
        if self._repeats_left <= 0:
            self.deadline = math.inf
        return datagrams

    def asked(self, protection: RecordProtection | None, *, now: float) -> list[bytes]:
        """The flight again because the peer repeats the one before; nothing if that is too soon."""
        if now - self._sent_at < MIN_SPACING:
            return []
        return self._again(protection, now)

    def _again(self, protection: RecordProtection | None, now: float) -> list[bytes]:
        self._sent_at = now
        if self.deadline < math.inf:
            self.deadline = now + self._interval
        return self.encode([self._renew(record, protection) for record in self._records])

    def _renew(self, record: Record, protection: RecordProtection | None) -> Record:
        if record.epoch == 0 or protection is None:
            return record
        self.renewed += 1
        return protection.renew(record, record.sequence + self.renewed)

    def _number(self, record: Record) -> Record:
        if record.epoch:
            return record
        self._next_sequence += 1
        return record.numbered(self._next_sequence - 1)
