"""Makes sessions: out of what was negotiated, or of what another process wrote down."""

from __future__ import annotations

from edge.backends.protocol import AnswersSession, AudioFormat, Call, EchoesMessages, Resumed
from edge.registry.sessions import Claim
from edge.session_config import decode_session
from edge.transceiver.admission import Opener
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.dialect import Dialect, DialectSnapshot
from edge.transceiver.environment import Environment
from edge.transceiver.peers import PeerMaker
from edge.transceiver.session import Session
from edge.transceiver.surroundings import Surroundings
from edge.webrtc.ice import IceCredentials
from edge.webrtc.peer import Peer
from edge.wire.sdp import Negotiated


class SessionMaker:
    """Makes the sessions of one transceiver."""

    def __init__(
        self, peers: PeerMaker, surroundings: Surroundings, environment: Environment
    ) -> None:
        self._peers = peers
        self._surroundings = surroundings
        self._environment = environment

    def make(
        self,
        call_id: str,
        negotiated: Negotiated,
        credentials: IceCredentials,
        opener: Opener,
        session_config: bytes | None,
    ) -> Session:
        """Make the session of a new call; ``session_config`` is the client's, a JSON object."""
        codec = AudioFormat(negotiated.audio.name, negotiated.audio.clock_rate)
        call = Call(call_id, self._surroundings.backend.wants(codec), session_config)
        peer = self._peers.make(negotiated, credentials, call_id)
        session = self._make(call, peer, codec, negotiated.mid, negotiated.sends, opener)
        session.tokens.add(credentials.ufrag)
        return session

    def remake(self, checkpoint: Checkpoint, claim: Claim) -> Session:
        """Make a session that another process wrote down; it goes on under this claim."""
        terms = checkpoint.terms
        call = Call(
            claim.session, terms.wanted, checkpoint.session_config, _resumed(checkpoint, claim)
        )
        peer = self._peers.restore(checkpoint)
        session = self._make(
            call,
            peer,
            terms.codec,
            terms.mid,
            terms.sends,
            checkpoint.opener,
            dialect=checkpoint.dialect,
        )
        ahead = self._environment.clock() - self._environment.unix()
        session.go_on(
            opened=checkpoint.opened + ahead,
            connected=checkpoint.connected + ahead,
            timestamp=checkpoint.positions.timestamp,
        )
        session.relays.update(checkpoint.relays)
        session.tokens.update(checkpoint.tokens)
        return session

    def _make(
        self,
        call: Call,
        peer: Peer,
        codec: AudioFormat,
        mid: str,
        sends: bool,
        opener: Opener,
        *,
        dialect: DialectSnapshot = DialectSnapshot(),  # noqa: B008
    ) -> Session:
        backend = self._surroundings.backend
        return Session(
            call,
            peer,
            self._surroundings,
            codec=codec,
            dialect=self._make_dialect(call, dialect),
            opener=opener,
            mid=mid,
            sends=sends,
            echo_messages=isinstance(backend, EchoesMessages) and backend.echoes_messages,
        )

    def _make_dialect(self, call: Call, snapshot: DialectSnapshot) -> Dialect:
        backend = self._surroundings.backend
        dialect = Dialect(
            call.session,
            decode_session(call.session_config) if call.session_config else {},
            backend_answers=isinstance(backend, AnswersSession) and backend.answers_session,
        )
        dialect.load(snapshot)
        return dialect


def _resumed(checkpoint: Checkpoint, claim: Claim) -> Resumed:
    return Resumed(
        epoch=claim.epoch,
        played=checkpoint.positions.played,
        heard=checkpoint.positions.heard,
        exact=checkpoint.exact,
        token=checkpoint.resume,
    )
