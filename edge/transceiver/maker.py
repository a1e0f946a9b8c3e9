"""Makes a session out of what was negotiated: its peer, channels and dialect, and itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.backends.protocol import (
    AnswersSession,
    AudioFormat,
    Backend,
    Call,
    CallQuality,
    EchoesMessages,
    Resumed,
)
from edge.config import AudioConfig, TransceiverConfig
from edge.registry.sessions import Claim
from edge.session_config import decode_session
from edge.transceiver.admission import Opener
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.dialect import Dialect
from edge.transceiver.leash import SessionLimits
from edge.transceiver.playout import Pacer
from edge.transceiver.session import SendFramed, Session
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.channels import Channels
from edge.webrtc.dtls import Dtls
from edge.webrtc.ice import IceCredentials, IceLite
from edge.webrtc.media import Media
from edge.webrtc.offload import MediaOffload
from edge.webrtc.peer import Peer
from edge.webrtc.reserve import OWNER_USES
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_state import SctpConfig
from edge.webrtc.sped import Sped
from edge.webrtc.streams import SendStream
from edge.wire.sdp import Negotiated


@dataclass(frozen=True, slots=True)
class Environment:
    """Time and randomness, injected: a monotonic and a Unix clock in seconds, random bytes."""

    clock: Callable[[], float]
    unix: Callable[[], float]
    entropy: Callable[[int], bytes]


class SessionMaker:
    """What all sessions of a transceiver have in common."""

    def __init__(
        self,
        *,
        backend: Backend,
        certificate: DtlsCertificate,
        config: TransceiverConfig,
        audio: AudioConfig,
        environment: Environment,
        pacer: Pacer,
        send: SendFramed,
        offload: MediaOffload | None,
        kept: bool,
        observe_setup: Callable[[float], None],
        observe_quality: Callable[[CallQuality], None],
    ) -> None:
        """``kept``: sessions are written down, and acknowledge messages only when they were."""
        self._backend = backend
        self._certificate = certificate
        self._config = config
        self._audio = audio
        self._environment = environment
        self._pacer = pacer
        self._send = send
        self._offload = offload
        self._kept = kept
        self._observe_setup = observe_setup
        self._observe_quality = observe_quality

    def make(
        self,
        call: Call,
        codec: AudioFormat,
        negotiated: Negotiated,
        credentials: IceCredentials,
        opener: Opener,
    ) -> tuple[Session, int]:
        """Make the session of a call, and return it with the SSRC that it will send."""
        now = self._environment.clock()
        entropy = self._environment.entropy
        ssrc = int.from_bytes(entropy(4), "big") or 1
        ice = IceLite(
            credentials,
            IceCredentials(negotiated.remote_ice.ufrag, negotiated.remote_ice.password),
            tie_breaker=int.from_bytes(entropy(8), "big"),
            entropy=entropy,
            now=now,
            consent_timeout=self._config.consent_timeout_seconds,
            defers=bool(negotiated.sped),
        )
        mid_extension = (
            None if negotiated.mid_extension is None else (negotiated.mid_extension, negotiated.mid)
        )
        stream = SendStream(
            ssrc,
            negotiated.audio.payload_type,
            negotiated.audio.clock_rate,
            # Half of the number space is left before the first roll-over (RFC 3711, 3.3.1).
            first_index=int.from_bytes(entropy(2), "big") >> 1,
            first_timestamp=int.from_bytes(entropy(4), "big"),
            mid_extension=mid_extension,
        )
        peer = Peer(
            ice=ice,
            dtls=Dtls(
                self._certificate, role=negotiated.dtls_role, fingerprints=negotiated.fingerprints
            ),
            media=Media(
                stream,
                cname=call.session,
                ntp_offset=self._environment.unix() - now,
                now=now,
                red_payload_type=None if negotiated.red is None else negotiated.red.payload_type,
                nack=negotiated.nack,
            ),
            channels=self._make_channels(negotiated),
            sctp_init=None if negotiated.channels is None else negotiated.channels.sctp.init,
            sped=Sped() if negotiated.sped else None,
        )
        return self._make_session(call, peer, codec, negotiated.mid, negotiated.sends, opener), ssrc

    def remake(self, checkpoint: Checkpoint, claim: Claim) -> Session:
        """Make a session that another process wrote down; it goes on under this claim."""
        now, unix = self._environment.clock(), self._environment.unix()
        terms, positions = checkpoint.terms, checkpoint.positions
        resumed = Resumed(
            epoch=claim.epoch,
            played=positions.played,
            heard=positions.heard,
            exact=checkpoint.exact,
            token=checkpoint.resume,
        )
        call = Call(claim.session, terms.wanted, checkpoint.session_config, resumed)
        peer = Peer.restore(
            checkpoint.peer,
            entropy=self._environment.entropy,
            now=now,
            skip=checkpoint.reserve,
            age=max(0.0, unix - checkpoint.written),
        )
        session = self._make_session(
            call, peer, terms.codec, terms.mid, terms.sends, checkpoint.opener
        )
        session.go_on(
            opened=checkpoint.opened - unix + now,
            connected=checkpoint.connected - unix + now,
            timestamp=positions.timestamp,
        )
        session.relays.update(checkpoint.relays)
        session.tokens.update(checkpoint.tokens)
        return session

    def _make_session(
        self, call: Call, peer: Peer, codec: AudioFormat, mid: str, sends: bool, opener: Opener
    ) -> Session:
        return Session(
            call,
            peer,
            self._backend,
            self._pacer,
            self._send,
            codec=codec,
            audio=self._audio,
            clock=self._environment.clock,
            limits=SessionLimits(
                setup_seconds=self._config.setup_timeout_seconds,
                session_seconds=self._config.max_session_seconds,
                idle_seconds=self._config.max_idle_seconds,
                playout_seconds=self._config.playout_queue_seconds,
            ),
            dialect=self._make_dialect(call),
            opener=opener,
            mid=mid,
            sends=sends,
            echo_messages=_echoes(self._backend),
            offload=self._offload,
            observe_setup=self._observe_setup,
            observe_quality=self._observe_quality,
        )

    def _make_channels(self, negotiated: Negotiated) -> Channels | None:
        if negotiated.channels is None:
            return None
        sctp = negotiated.channels.sctp
        return Channels(
            Association(entropy=self._environment.entropy, config=self._sctp_config(sctp.port)),
            dtls_client=negotiated.dtls_role == "active",
            remote_max_message_size=sctp.max_message_bytes,
        )

    def _sctp_config(self, remote_port: int) -> SctpConfig:
        if not self._kept:
            return SctpConfig(remote_port=remote_port)
        return SctpConfig(remote_port=remote_port, hold_acks=True, reserve=OWNER_USES.tsn)

    def _make_dialect(self, call: Call) -> Dialect:
        backend = self._backend
        return Dialect(
            call.session,
            decode_session(call.session_config) if call.session_config else {},
            backend_answers=isinstance(backend, AnswersSession) and backend.answers_session,
        )


def _echoes(backend: Backend) -> bool:
    return isinstance(backend, EchoesMessages) and backend.echoes_messages
