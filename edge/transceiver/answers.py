"""What clients are told: SDP answers, and the fragment that answers an ICE restart.

Both name the relays that are near the client as our candidates; a transceiver has none of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge.config import AudioConfig, TransceiverConfig
from edge.geo import Candidates, Place, candidates, pick
from edge.registry.protocol import RelayRecord
from edge.transceiver.admission import Overloaded
from edge.transceiver.session import Session
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.ice import IceCredentials
from edge.wire.sdp import Negotiated, decode_offer, encode_answer, negotiate
from edge.wire.sdp_fragment import encode_fragment


class RelayView(Protocol):
    """The relays that an answer may name."""

    @property
    def relays(self) -> Sequence[RelayRecord]:
        """The living relays of all clusters."""

    def hint_stale(self) -> None:
        """Ask for an early refresh."""


@dataclass(frozen=True, slots=True)
class OpenedCall:
    """A session that waits for its client: its public id and the SDP answer."""

    call_id: str
    answer: str


@dataclass(frozen=True, slots=True)
class IceRestart:
    """What the client is told of a restart: an SDP fragment, and how many there were."""

    fragment: str = field(repr=False)
    generation: int


class Answers:
    """Answers clients of one transceiver."""

    def __init__(
        self,
        view: RelayView,
        certificate: DtlsCertificate,
        *,
        cluster: int,
        config: TransceiverConfig,
        audio: AudioConfig,
    ) -> None:
        self._view = view
        self._certificate = certificate
        self._cluster = cluster
        self._config = config
        self._audio = audio

    def negotiate(self, offer: bytes) -> Negotiated:
        """Choose from an offer what we can do; raises RemoteProtocolError."""
        return negotiate(
            decode_offer(offer),
            red=self._audio.red,
            nack=self._audio.nack,
            snap=self._config.snap,
            sped=self._config.sped,
        )

    def relays(self) -> Sequence[RelayRecord]:
        """What an answer may name now; raises Overloaded when no relay of ours is up."""
        relays = self._view.relays
        # What comes by way of other clusters' relays needs one of ours as well.
        if not any(relay.cluster == self._cluster for relay in relays):
            self._view.hint_stale()
            raise Overloaded(1.0, "no relay is up")
        return relays

    def answer(
        self,
        session: Session,
        negotiated: Negotiated,
        credentials: IceCredentials,
        relays: Sequence[RelayRecord],
        place: Place | None,
    ) -> OpenedCall:
        """Answer the offer that opens a session (RFC 8829, 5.3)."""
        best = self._candidates(session, relays, place)
        ssrc = session.peer.media.stream.ssrc
        answer = encode_answer(
            negotiated,
            ufrag=credentials.ufrag,
            password=credentials.password,
            fingerprint=self._certificate.fingerprint,
            candidates=best.udp,
            tcp=best.tcp,
            ssrc=ssrc,
            cname=session.call.session,
            session_id=ssrc,
            sctp_init=session.peer.local_sctp_init,
        )
        return OpenedCall(session.call.session, answer)

    def answer_restart(
        self,
        session: Session,
        credentials: IceCredentials,
        relays: Sequence[RelayRecord],
        place: Place | None,
    ) -> IceRestart:
        """Answer an ICE restart, which the session has just made (RFC 8840, section 9)."""
        best = self._candidates(session, relays, place)
        fragment = encode_fragment(
            credentials.ufrag,
            credentials.password,
            mid=session.mid,
            candidates=best.udp,
            tcp=best.tcp,
        )
        return IceRestart(fragment, session.peer.ice.restarts)

    def _candidates(
        self, session: Session, relays: Sequence[RelayRecord], place: Place | None
    ) -> Candidates:
        near = pick(relays, place, cluster=self._cluster, session=session.call.session)
        return candidates(near)
