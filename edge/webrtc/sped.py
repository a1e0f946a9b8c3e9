"""DTLS inside of STUN checks and answers (SPED, draft-hancke-webrtc-sped), a lite agent's side.

A check may carry one datagram of the client's DTLS, its answer one of ours, and each side lists the
CRC-32s of what has come. As a lite agent we send no checks, so that a flight of ours leaves in one
of two ways, never in both at once: in the answer to the check that brought what it answers, or, if
that came as a plain datagram, as a plain datagram too. From then on each answer carries the next
datagram of the flight that is not acknowledged. Such a copy needs no datagram of its own and puts
off the plain repetition, which comes when there are no checks to answer, or none that carry.

What a check carries reaches DTLS only behind MESSAGE-INTEGRITY, and once: a list of four tells what
has come. The first check without either attribute ends it for good, and DTLS goes on by plain
datagrams alone, with the same flights and timers: nothing here has to be undone.

When the handshake is done what arrives is acknowledged still, until the client has nothing more to
repeat. No part of that is needed for the call, so nothing of it is written down.
"""

from __future__ import annotations

from binascii import crc32
from collections import deque
from typing import Final

from edge.webrtc.dtls import Dtls, DtlsOutput, DtlsState, DtlsTransmit
from edge.wire.demux import Kind, classify
from edge.wire.stun import MAX_ACKNOWLEDGED, CarriedDtls

ENVELOPE_BYTES: Final = 103
"""Of an answer around what it carries: an IPv6 address, four CRC-32s and padding."""
MAX_CARRIED_BYTES: Final = 1_200 - ENVELOPE_BYTES
"""A longer datagram of ours goes as it is: an answer keeps to DTLS' own limit."""


class Sped:
    """What of the handshake travels inside of STUN; ``over`` from the end on, which is final."""

    def __init__(self) -> None:
        self.over = False
        self._received: deque[int] = deque(maxlen=MAX_ACKNOWLEDGED)
        self._acknowledged: tuple[int, ...] = ()
        self._turn = 0

    def note(self, datagram: bytes, dtls: Dtls) -> None:
        """Acknowledge a datagram of the handshake that comes as it is; before DTLS takes it."""
        if not self.over and dtls.state is DtlsState.HANDSHAKING:
            self._is_new(datagram)

    def exchange(
        self,
        carried: CarriedDtls | None,
        dtls: Dtls,
        outputs: list[DtlsOutput],
        *,
        room: int,
        now: float,
    ) -> tuple[CarriedDtls | None, list[DtlsOutput]]:
        """Take what a valid check carries; give what its answer shall, in ``room`` bytes at most.

        ``outputs`` are what DTLS wants to be done before; they return with those that the check
        brings about, less what the answer carries.
        """
        outputs = outputs + self._take(carried, dtls, now)
        if self.over:
            return None, outputs
        answer = self._give(dtls, room)
        if answer.data:
            dtls.flight_carried(now=now)
            outputs = [output for output in outputs if output != DtlsTransmit(answer.data)]
        return answer, outputs

    def _take(self, carried: CarriedDtls | None, dtls: Dtls, now: float) -> list[DtlsOutput]:
        self._acknowledged = () if carried is None else carried.acknowledged
        data = None if carried is None else carried.data
        done = dtls.state is not DtlsState.HANDSHAKING
        if carried is None or (done and data is None and not self._pending(dtls)):
            self.over = True
        if not data or classify(data) is not Kind.DTLS or not self._is_new(data) or done:
            return []
        return dtls.receive(data, now=now)

    def _give(self, dtls: Dtls, room: int) -> CarriedDtls:
        limit = min(room - ENVELOPE_BYTES, MAX_CARRIED_BYTES)
        fitting = [datagram for datagram in self._pending(dtls) if len(datagram) <= limit]
        acknowledged = tuple(self._received)
        if fitting:
            chosen = fitting[self._turn % len(fitting)]
            self._turn += 1
            return CarriedDtls(chosen, acknowledged)
        # An empty one says that we take part and may have more to say.
        more = dtls.state is DtlsState.HANDSHAKING
        return CarriedDtls(b"" if more else None, acknowledged)

    def _pending(self, dtls: Dtls) -> list[bytes]:
        """Our last flight, less what is acknowledged."""
        return [each for each in dtls.flight if crc32(each) not in self._acknowledged]

    def _is_new(self, datagram: bytes) -> bool:
        checksum = crc32(datagram)
        if checksum in self._received:
            return False
        self._received.append(checksum)
        return True
