"""A sans-IO DTLS 1.2 endpoint that exports SRTP keys; RFC 6347, RFC 5764, RFC 8827.

First a ``Handshake``, with OpenSSL; when that is done a ``DtlsSession``, with nothing but keys and
numbers, which can be written down and taken up elsewhere. OpenSSL's connection is gone by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from edge.errors import Drop, LocalProtocolError
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.dtls_handshake import Handshake, Role
from edge.webrtc.dtls_outputs import (
    DtlsClosed,
    DtlsData,
    DtlsEstablished,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
    DtlsTransmit,
)
from edge.webrtc.dtls_protection import PROTECTION_BYTES
from edge.webrtc.dtls_records import RECORD_HEADER_BYTES
from edge.webrtc.dtls_session import DtlsSession, DtlsSnapshot
from edge.webrtc.keys import SrtpProfile
from edge.wire.fingerprint import Fingerprint

__all__ = [
    "Dtls",
    "DtlsCertificate",
    "DtlsClosed",
    "DtlsData",
    "DtlsEstablished",
    "DtlsFailed",
    "DtlsOutput",
    "DtlsSnapshot",
    "DtlsState",
    "DtlsTransmit",
    "Role",
]

DEFAULT_PROFILES: Final = (
    SrtpProfile.AEAD_AES_128_GCM,
    SrtpProfile.AEAD_AES_256_GCM,
    SrtpProfile.AES128_CM_HMAC_SHA1_80,
)
DEFAULT_MTU: Final = 1200  # bytes of UDP payload


class Dtls:
    """One association. ``fingerprints`` are those of the peer's SDP, ``role`` is our own."""

    _machine: Handshake | DtlsSession

    def __init__(
        self,
        certificate: DtlsCertificate,
        *,
        role: Role,
        fingerprints: frozenset[Fingerprint],
        profiles: Sequence[SrtpProfile] = DEFAULT_PROFILES,
        mtu: int = DEFAULT_MTU,
    ) -> None:
        self._mtu = mtu
        self._machine = Handshake(
            certificate, role=role, fingerprints=fingerprints, profiles=profiles, mtu=mtu
        )

    @property
    def state(self) -> DtlsState:
        """Where the association is."""
        return self._machine.state

    @property
    def flights(self) -> int:
        """Flights sent so far, repetitions not counted; 0 once the handshake is done."""
        return self._machine.flights if isinstance(self._machine, Handshake) else 0

    @property
    def drops(self) -> Counter[Drop]:
        """What was not acceptable so far."""
        return self._machine.drops

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do."""
        return self._machine.deadline

    @property
    def flight(self) -> tuple[bytes, ...]:
        """Datagrams of our last flight, as they left: those the peer may lack still."""
        return self._machine.flight.datagrams

    def flight_carried(self, *, now: float) -> None:
        """A copy of ``flight`` left inside of something else: the next one is due later."""
        self._machine.flight.carried(now=now)

    def start(self, *, now: float) -> list[DtlsOutput]:
        """Send the ClientHello if our role is active; a passive machine listens from the first."""
        if not isinstance(self._machine, Handshake):
            raise LocalProtocolError("DTLS was started already")
        return self._machine.start(now=now)

    def receive(self, datagram: bytes, *, now: float) -> list[DtlsOutput]:
        """Take one datagram of the peer; whatever it holds, nothing is raised."""
        machine = self._machine
        outputs = machine.receive(datagram, now=now)
        if isinstance(machine, Handshake) and machine.session is not None:
            outputs += self._go_on(machine.session, machine, now)
        return outputs

    def tick(self, *, now: float) -> list[DtlsOutput]:
        """Do what is due at ``now``."""
        return self._machine.tick(now=now)

    def send(self, data: bytes) -> list[DtlsOutput]:
        """Application data in one record; LocalProtocolError if it does not fit the MTU.

        Nothing, and a counted drop, if the reserve is used up.
        """
        if not isinstance(self._machine, DtlsSession):
            raise LocalProtocolError("DTLS is not established")
        if not 0 < len(data) <= self._mtu - RECORD_HEADER_BYTES - PROTECTION_BYTES:
            raise LocalProtocolError("data is empty or too long for one DTLS record")
        return self._machine.send(data)

    def close(self) -> list[DtlsOutput]:
        """Say goodbye with close_notify, as far as there is somebody to say it to."""
        return self._machine.close()

    # Moving

    @property
    def next_sequence(self) -> int:
        """The number of the next record; LocalProtocolError before the handshake is done."""
        return self._established().next_sequence

    def reserve(self, records: int) -> None:
        """Allow this many more records: as many as a stored snapshot's heir will skip."""
        self._established().reserve(records)

    def snapshot(self) -> DtlsSnapshot:
        """Write an established association down. The original must not send afterwards."""
        return self._established().snapshot()

    @classmethod
    def restore(cls, snapshot: DtlsSnapshot, *, skip: int = 0) -> Dtls:
        """Go on from a snapshot after which at most ``skip`` records may have been written.

        ``skip`` is 0 only after a planned hand-over.
        """
        dtls = cls.__new__(cls)
        dtls._mtu = snapshot.flight.mtu
        dtls._machine = DtlsSession.restore(snapshot, skip=skip)
        return dtls

    def _established(self) -> DtlsSession:
        if not isinstance(self._machine, DtlsSession):
            raise LocalProtocolError("DTLS is not established")
        return self._machine

    def _go_on(self, session: DtlsSession, done: Handshake, now: float) -> list[DtlsOutput]:
        self._machine = session
        session.drops += done.drops
        return session.receive_records(tuple(done.early), now=now)
