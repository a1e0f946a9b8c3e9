"""The DTLS 1.2 handshake, sans-IO: OpenSSL within our judgement; RFC 6347, RFC 5764, RFC 8827.

OpenSSL does the cryptography and the message state; flights, timers and the judgement of what may
reach OpenSSL are ours.

* Records are fed one by one. An epoch-0 alert is a rumour: anybody could have written it, so it
  ends the handshake only if no progress follows.
* A message_seq that we have answered already means that the peer repeats its flight: our answer
  was lost, and is sent again (see ``dtls_flight`` for how).
* The verify callback refuses a certificate that the SDP does not name, so that the peer learns of
  it at once; the check that guards the keys stands directly before their export.
* When it is done it leaves a ``DtlsSession``, and nothing of OpenSSL is needed any more. Of the
  encrypted records OpenSSL sees the peer's Finished alone; data and alerts wait for the session.
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
from edge.webrtc.dtls_flight import Flight, Renew
from edge.webrtc.dtls_outputs import (
    DtlsEstablished,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
    transmits,
)
from edge.webrtc.dtls_protection import (
    RecordReader,
    RecordWriter,
    Secrets,
    derive_keys,
)
from edge.webrtc.dtls_records import (
    ContentType,
    Record,
    decode_message_sequences,
    decode_records,
)
from edge.webrtc.dtls_session import CLOSE_NOTIFY, FATAL, DtlsSession
from edge.webrtc.keys import KEYING_LABEL, SrtpKeys, SrtpProfile
from edge.wire.fingerprint import Fingerprint

ALERT_GRACE: Final = 0.5
"""Seconds without progress after which a plaintext alert is believed."""
FINAL_REPEATS: Final = 2
"""Unasked copies of the flight that ends a handshake: its reader may have a 1 s timer."""
MAX_EARLY_RECORDS: Final = 16
"""Encrypted records taken before the keys are known; they have to be kept until then."""

_READ_BYTES: Final = 16_384  # longest record
_NO_CERTIFICATE: Final = "peer did not return a certificate"

Role = Literal["active", "passive"]
"""Our ``a=setup``: the active endpoint is the DTLS client (RFC 5763, section 5)."""


class Handshake:
    """One handshake. Once it is done, ``session`` is what goes on, first with ``early``."""

    def __init__(
        self,
        certificate: DtlsCertificate,
        *,
        role: Role,
        fingerprints: frozenset[Fingerprint],
        profiles: Sequence[SrtpProfile],
        mtu: int,
    ) -> None:
        self.state = DtlsState.NEW if role == "active" else DtlsState.HANDSHAKING
        self.drops: Counter[Drop] = Counter()
        self.session: DtlsSession | None = None
        self.flights = 0
        """How many different ones we have sent."""
        self.early: list[Record] = []
        self._role = role
        self._check = PeerCheck(fingerprints)
        self._connection = SSL.Connection(certificate.context(profiles), None)
        self._connection.set_app_data(self._check)
        self._connection.set_ciphertext_mtu(mtu)
        if role == "active":
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self._flight = Flight(mtu)
        self._records: tuple[RecordWriter, RecordReader] | None = None
        self._seen = -1  # highest message_seq of the peer
        self._answered = -1  # highest one that our last flight answers
        self._early_records = 0
        self._fed = False
        self._repeated = False
        self._alert: int | None = None
        self._alert_deadline = math.inf

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do."""
        return min(self._flight.deadline, self._alert_deadline)

    @property
    def flight(self) -> Flight:
        """Our last one."""
        return self._flight

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
        return outputs + self._process_fed(now)

    def tick(self, *, now: float) -> list[DtlsOutput]:
        """Do what is due at ``now``."""
        if now >= self._alert_deadline:
            return self._fail(EndReason.DTLS_FAILED, f"peer sent alert {self._alert}")
        if now >= self._flight.deadline:
            return transmits(self._flight.tick(self._renew, now=now))
        return []

    def close(self) -> list[DtlsOutput]:
        """End in silence: there is nobody yet to say goodbye to."""
        if self.state is not DtlsState.FAILED:
            self._end(DtlsState.CLOSED)
        return []

    # Records

    def _receive_record(self, record: Record, now: float) -> list[DtlsOutput]:
        match self.state:
            case DtlsState.HANDSHAKING if record.epoch == 0:
                return self._receive_plaintext(record, now)
            case DtlsState.HANDSHAKING:
                return self._receive_early(record, now)
            case DtlsState.ESTABLISHED:  # behind the last message, in the same datagram
                self.early.append(record)
                return []
            case DtlsState.NEW | DtlsState.CLOSED | DtlsState.FAILED:
                self.drops[Drop.NOT_READY] += 1
                return []
            case _:
                assert_never(self.state)

    def _receive_plaintext(self, record: Record, now: float) -> list[DtlsOutput]:
        match record.content_type:
            case ContentType.HANDSHAKE:
                sequences = decode_message_sequences(record.fragment)
                self._repeated |= min(sequences) <= self._answered
                self._seen = max(self._seen, *sequences)
                return self._feed(record)
            case ContentType.CHANGE_CIPHER_SPEC:
                return self._feed(record)
            case ContentType.ALERT:
                outputs = self._process_fed(now)
                self._note_alert(record.fragment, now)
                return outputs
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
        if record.content_type is not ContentType.HANDSHAKE:
            self.early.append(record)
            return []
        self._feed(record)
        return self._process_fed(now)  # it may be the last one of the handshake

    def _note_alert(self, fragment: bytes, now: float) -> None:
        if len(fragment) != 2:
            raise RemoteProtocolError("alert length is wrong")
        level, description = fragment
        if self._alert is None and (level == FATAL or description == CLOSE_NOTIFY):
            self._alert = description
            self._alert_deadline = now + ALERT_GRACE

    # Flights

    def _feed(self, record: Record) -> list[DtlsOutput]:
        """Have a record wait for ``_process_fed``: a step of OpenSSL costs 20 us, a flight one."""
        self._connection.bio_write(record.encode())
        self._fed = True
        return []

    def _process_fed(self, now: float) -> list[DtlsOutput]:
        if not self._fed:
            return []
        repeated, self._repeated, self._fed = self._repeated, False, False
        return self._advance(now) or (self._answer_again(now) if repeated else [])

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
            outputs = self._say_alert()
            return outputs + self._fail(self._blame(error), _reason(error))
        return self._send_flight(now) + self._establish()

    def _send_flight(self, now: float) -> list[DtlsOutput]:
        data = self._read_bio()
        if not data:
            return []
        self._answered = self._seen
        self.flights += 1
        self._forget_alert()
        records = decode_records(data)
        if records[-1].epoch and self._records is None:  # numbers never start again
            self._take_record_keys(records[-1])
        return transmits(self._flight.send(records, now=now))

    def _answer_again(self, now: float) -> list[DtlsOutput]:
        return transmits(self._flight.asked(self._renew, now=now))

    def _take_record_keys(self, finished: Record) -> None:
        client, server = derive_keys(self._secrets())
        ours, theirs = (client, server) if self._role == "active" else (server, client)
        self._records = RecordWriter.after(finished, ours), RecordReader(theirs)

    def _secrets(self) -> Secrets:
        connection = self._connection
        return Secrets(
            connection.get_cipher_name() or "",
            connection.master_key() or b"",
            connection.client_random() or b"",
            connection.server_random() or b"",
        )

    @property
    def _renew(self) -> Renew | None:
        """How copies of our Finished are made, once it has left."""
        return None if self._records is None else self._records[0].renew

    # The end

    def _establish(self) -> list[DtlsOutput]:
        assert self._records is not None  # our Finished has left
        self._forget_alert()
        self._flight.finish(repeats=0 if self._role == "active" else FINAL_REPEATS)
        session = DtlsSession(*self._records, self._flight)
        certificate = self._connection.get_peer_certificate()
        if certificate is None or not self._check.accepts(certificate):
            goodbye = session.close()
            return goodbye + self._fail(EndReason.FINGERPRINT_MISMATCH, "wrong certificate")
        profile = self._selected_profile()
        if profile is None:
            goodbye = session.close()
            return goodbye + self._fail(EndReason.DTLS_FAILED, "no common SRTP profile")
        self.state, self.session = DtlsState.ESTABLISHED, session
        return [DtlsEstablished(self._export_keys(profile))]

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

    def _say_alert(self) -> list[DtlsOutput]:
        data = self._read_bio()
        return transmits(self._flight.encode(decode_records(data))) if data else []

    def _read_bio(self) -> bytes:
        chunks: list[bytes] = []
        with suppress(SSL.WantReadError):
            while True:
                chunks.append(self._connection.bio_read(_READ_BYTES))
        return b"".join(chunks)


def _reason(error: SSL.Error) -> str:
    """The last reason string on OpenSSL's error queue."""
    queue = error.args[0] if error.args else None
    if isinstance(queue, list) and queue:
        return str(queue[-1][-1])
    return type(error).__name__
