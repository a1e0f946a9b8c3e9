"""A sans-IO DTLS 1.2 endpoint that exports SRTP keys; RFC 6347, RFC 5764, RFC 8827.

OpenSSL does the cryptography and the message state; flights, timers and the judgement of what may
reach OpenSSL are ours.

* Records are fed one by one. During the handshake an epoch-0 alert is a rumour: anybody could
  have written it, so it ends the handshake only if no progress follows. After the handshake
  only epoch-1 data and alerts reach OpenSSL; hence a renegotiation has no way in, and plaintext
  changes nothing.
* A message_seq that we have answered already means that the peer repeats its flight: our answer
  was lost, and is sent again (see ``dtls_flight`` for how).
* The verify callback refuses a certificate that the SDP does not name, so that the peer learns of
  it at once; the check that guards the keys stands directly before their export.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal, assert_never

from OpenSSL import SSL

from edge.errors import Drop, EndReason, LocalProtocolError, RemoteProtocolError
from edge.webrtc.certificate import DtlsCertificate, PeerCheck
from edge.webrtc.dtls_flight import Flight
from edge.webrtc.dtls_outputs import (
    DtlsClosed,
    DtlsData,
    DtlsEstablished,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
    DtlsTransmit,
)
from edge.webrtc.dtls_protection import PROTECTION_BYTES, RecordProtection, Secrets
from edge.webrtc.dtls_records import (
    RECORD_HEADER_BYTES,
    ContentType,
    Record,
    decode_message_sequences,
    decode_records,
)
from edge.webrtc.keys import KEYING_LABEL, SrtpKeys, SrtpProfile
from edge.wire.fingerprint import Fingerprint

__all__ = [
    "Dtls",
    "DtlsCertificate",
    "DtlsClosed",
    "DtlsData",
    "DtlsEstablished",
    "DtlsFailed",
    "DtlsOutput",
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
ALERT_GRACE: Final = 0.5
"""Seconds without progress after which a plaintext alert is believed."""
FINAL_REPEATS: Final = 2
"""Unasked copies of the flight that ends a handshake: its reader may have a 1 s timer."""
MAX_EARLY_RECORDS: Final = 16
"""Encrypted records taken before the keys are known; OpenSSL has to keep them until then."""

_READ_BYTES: Final = 16_384  # longest record
_NO_CERTIFICATE: Final = "peer did not return a certificate"
_FATAL: Final = 2
_CLOSE_NOTIFY: Final = 0

Role = Literal["active", "passive"]
"""Our ``a=setup``: the active endpoint is the DTLS client (RFC 5763, section 5)."""


class Dtls:
    """One association. ``fingerprints`` are those of the peer's SDP, ``role`` is our own."""

    def __init__(
        self,
        certificate: DtlsCertificate,
        *,
        role: Role,
        fingerprints: frozenset[Fingerprint],
        profiles: Sequence[SrtpProfile] = DEFAULT_PROFILES,
        mtu: int = DEFAULT_MTU,
    ) -> None:
        self.state = DtlsState.NEW if role == "active" else DtlsState.HANDSHAKING
        self.drops: Counter[Drop] = Counter()
        self._role = role
        self._mtu = mtu
        self._check = PeerCheck(fingerprints)
        self._connection = SSL.Connection(certificate.context(profiles), None)
        self._connection.set_app_data(self._check)
        self._connection.set_ciphertext_mtu(mtu)
        if role == "active":
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self._flight = Flight(mtu)
        self._protection: RecordProtection | None = None
        self._seen = -1  # highest message_seq of the peer
        self._answered = -1  # highest one that our last flight answers
        self._early_records = 0
        self._alert: int | None = None
        self._alert_deadline = math.inf

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do."""
        return min(self._flight.deadline, self._alert_deadline)

    def start(self, *, now: float) -> list[DtlsOutput]:
        """Send the ClientHello if our role is active; a passive machine listens from the first."""
        if self._role == "passive":
            return []
        if self.state is not DtlsState.NEW:
            raise LocalProtocolError("DTLS was started already")
        self.state = DtlsState.HANDSHAKING
        return self._advance(now)

    def receive(self, datagram: bytes, *, now: float) -> list[DtlsOutput]:
        """Take one datagram of the peer; whatever it holds, nothing is raised."""
        outputs: list[DtlsOutput] = []
        self._discard_own_repetition()
        try:
            for record in decode_records(datagram):
                outputs += self._receive_record(record, now)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
        return outputs

    def tick(self, *, now: float) -> list[DtlsOutput]:
        """Do what is due at ``now``."""
        if now >= self._alert_deadline:
            return self._fail(EndReason.DTLS_FAILED, f"peer sent alert {self._alert}")
        if now >= self._flight.deadline:
            return _transmits(self._flight.tick(self._protect_copies(), now=now))
        return []

    def send(self, data: bytes) -> list[DtlsOutput]:
        """Application data in one record; LocalProtocolError if it does not fit the MTU."""
        if self.state is not DtlsState.ESTABLISHED:
            raise LocalProtocolError("DTLS is not established")
        if not 0 < len(data) <= self._mtu - RECORD_HEADER_BYTES - PROTECTION_BYTES:
            raise LocalProtocolError("data is empty or too long for one DTLS record")
        self._connection.send(data)
        return self._drain()

    def close(self) -> list[DtlsOutput]:
        """Say goodbye with close_notify, as far as there is somebody to say it to."""
        if self.state in (DtlsState.CLOSED, DtlsState.FAILED):
            return []
        outputs = self._shut_down() if self.state is DtlsState.ESTABLISHED else []
        self._end(DtlsState.CLOSED)
        return outputs

    # Records in

    def _receive_record(self, record: Record, now: float) -> list[DtlsOutput]:
        match self.state:
            case DtlsState.HANDSHAKING if record.epoch == 0:
                return self._receive_plaintext(record, now)
            case DtlsState.HANDSHAKING:
                return self._receive_early(record, now)
            case DtlsState.ESTABLISHED:
                return self._receive_established(record, now)
            case DtlsState.NEW | DtlsState.CLOSED | DtlsState.FAILED:
                self.drops[Drop.NOT_READY] += 1
                return []
            case _:
                assert_never(self.state)

    def _receive_plaintext(self, record: Record, now: float) -> list[DtlsOutput]:
        match record.content_type:
            case ContentType.HANDSHAKE:
                sequences = decode_message_sequences(record.fragment)
                repeated = min(sequences) <= self._answered
                self._seen = max(self._seen, *sequences)
                outputs = self._feed(record, now)
                return outputs or (self._answer_again(now) if repeated else [])
            case ContentType.CHANGE_CIPHER_SPEC:
                return self._feed(record, now)
            case ContentType.ALERT:
                return self._note_alert(record.fragment, now)
            case ContentType.APPLICATION_DATA:
                raise RemoteProtocolError("plaintext application data")
            case _:
                assert_never(record.content_type)

    def _receive_early(self, record: Record, now: float) -> list[DtlsOutput]:
        if record.epoch > 1:
            raise RemoteProtocolError("DTLS epoch is unknown")
        if self._early_records == MAX_EARLY_RECORDS:
            raise RemoteProtocolError("too many early DTLS records", Drop.TABLE_FULL)
        self._early_records += 1
        return self._feed(record, now)

    def _receive_established(self, record: Record, now: float) -> list[DtlsOutput]:
        is_data = record.content_type in (ContentType.APPLICATION_DATA, ContentType.ALERT)
        if is_data and record.epoch == 1:
            self._connection.bio_write(record.encode())
            outputs = self._read()
            self.drops[Drop.BAD_AUTH] += not outputs
            return outputs
        if is_data:
            raise RemoteProtocolError("DTLS epoch is wrong", Drop.BAD_AUTH)
        self.drops[Drop.REPLAY] += 1
        return self._answer_again(now)

    def _note_alert(self, fragment: bytes, now: float) -> list[DtlsOutput]:
        if len(fragment) != 2:
            raise RemoteProtocolError("alert length is wrong")
        level, description = fragment
        if self._alert is None and (level == _FATAL or description == _CLOSE_NOTIFY):
            self._alert = description
            self._alert_deadline = now + ALERT_GRACE
        return []

    # The handshake

    def _feed(self, record: Record, now: float) -> list[DtlsOutput]:
        self._connection.bio_write(record.encode())
        return self._advance(now)

    def _discard_own_repetition(self) -> None:
        # OpenSSL repeats a flight by itself when it is entered a second of real time after it
        # was sent. Ours are long on their way by then, and would be taken for a new flight.
        if self._connection.DTLSv1_get_timeout() == 0:
            self._connection.DTLSv1_handle_timeout()
            self._read_bio()

    def _advance(self, now: float) -> list[DtlsOutput]:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return self._send_flight(now)
        except SSL.Error as error:
            outputs = self._drain()  # OpenSSL's alert
            return outputs + self._fail(self._blame(error), _reason(error))
        return self._send_flight(now) + self._establish()

    def _send_flight(self, now: float) -> list[DtlsOutput]:
        data = self._read_bio()
        if not data:
            return []
        self._answered = self._seen
        self._forget_alert()
        return _transmits(self._flight.send(decode_records(data), now=now))

    def _answer_again(self, now: float) -> list[DtlsOutput]:
        return _transmits(self._flight.asked(self._protect_copies(), now=now))

    def _protect_copies(self) -> RecordProtection | None:
        if self._role == "passive" or not self._flight.has_finished:
            return None
        if self._protection is None:
            self._protection = RecordProtection(self._secrets())
        return self._protection

    def _secrets(self) -> Secrets:
        connection = self._connection
        return Secrets(
            connection.get_cipher_name() or "",
            connection.master_key() or b"",
            connection.client_random() or b"",
            connection.server_random() or b"",
        )

    def _establish(self) -> list[DtlsOutput]:
        self.state = DtlsState.ESTABLISHED
        self._forget_alert()
        self._flight.finish(repeats=0 if self._role == "active" else FINAL_REPEATS)
        self._skip_used_numbers()
        certificate = self._connection.get_peer_certificate()
        if certificate is None or not self._check.accepts(certificate):
            outputs = self._shut_down()
            return outputs + self._fail(EndReason.FINGERPRINT_MISMATCH, "wrong certificate")
        profile = self._selected_profile()
        if profile is None:
            outputs = self._shut_down()
            return outputs + self._fail(EndReason.DTLS_FAILED, "no common SRTP profile")
        return [DtlsEstablished(self._export_keys(profile)), *self._read()]

    def _skip_used_numbers(self) -> None:
        # Copies of our Finished took epoch-1 record numbers that OpenSSL believes to be free;
        # the peer would discard what comes under them again.
        for _ in range(self._flight.renewed):
            self._connection.send(b"\0")
        self._read_bio()

    def _selected_profile(self) -> SrtpProfile | None:
        name = self._connection.get_selected_srtp_profile().decode("ascii")
        return next((p for p in SrtpProfile if p.openssl_name == name), None)

    def _export_keys(self, profile: SrtpProfile) -> SrtpKeys:
        """RFC 5764, section 4.2: both keys, then both salts, the client's first."""
        key, salt = profile.key_bytes, profile.salt_bytes
        block = self._connection.export_keying_material(KEYING_LABEL, 2 * (key + salt))
        salts = block[2 * key :]
        client = block[:key], salts[:salt]
        server = block[key : 2 * key], salts[salt:]
        local, remote = (client, server) if self._role == "active" else (server, client)
        return SrtpKeys(profile, *local, *remote)

    # After the handshake, and the end

    def _read(self) -> list[DtlsOutput]:
        outputs: list[DtlsOutput] = []
        while True:
            try:
                outputs.append(DtlsData(self._connection.recv(_READ_BYTES)))
            except SSL.WantReadError:
                return outputs
            except SSL.ZeroReturnError:
                outputs += self._shut_down()
                self._end(DtlsState.CLOSED)
                return [*outputs, DtlsClosed()]
            except SSL.Error as error:
                outputs += self._drain()
                return outputs + self._fail(EndReason.DTLS_FAILED, _reason(error))

    def _shut_down(self) -> list[DtlsOutput]:
        self._connection.shutdown()
        return self._drain()

    def _fail(self, reason: EndReason, detail: str) -> list[DtlsOutput]:
        self._end(DtlsState.FAILED)
        return [DtlsFailed(reason, detail)]

    def _end(self, state: DtlsState) -> None:
        self.state = state
        self._flight.forget()
        self._forget_alert()

    def _forget_alert(self) -> None:
        self._alert = None
        self._alert_deadline = math.inf

    def _blame(self, error: SSL.Error) -> EndReason:
        if self._check.refused or _reason(error) == _NO_CERTIFICATE:
            return EndReason.FINGERPRINT_MISMATCH
        return EndReason.DTLS_FAILED

    def _drain(self) -> list[DtlsOutput]:
        data = self._read_bio()
        return _transmits(self._flight.encode(decode_records(data))) if data else []

    def _read_bio(self) -> bytes:
        chunks: list[bytes] = []
        with suppress(SSL.WantReadError):
            while True:
                chunks.append(self._connection.bio_read(_READ_BYTES))
        return b"".join(chunks)


def _transmits(datagrams: list[bytes]) -> list[DtlsOutput]:
    return [DtlsTransmit(datagram) for datagram in datagrams]


def _reason(error: SSL.Error) -> str:
    """The last reason string on OpenSSL's error queue."""
    queue = error.args[0] if error.args else None
    if isinstance(queue, list) and queue:
        return str(queue[-1][-1])
    return type(error).__name__
