"""Makes a session's WebRTC side: out of what was negotiated, or as another process left it."""

from __future__ import annotations

from edge.config import TransceiverConfig
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.environment import Environment
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.channels import Channels
from edge.webrtc.dtls import Dtls
from edge.webrtc.ice import IceCredentials, IceLite
from edge.webrtc.media import Media
from edge.webrtc.peer import Peer
from edge.webrtc.reserve import OWNER_USES
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_state import SctpConfig
from edge.webrtc.sped import Sped
from edge.webrtc.streams import SendStream
from edge.wire.sdp import Negotiated


class PeerMaker:
    """Makes the peers of one transceiver."""

    def __init__(
        self,
        certificate: DtlsCertificate,
        *,
        config: TransceiverConfig,
        environment: Environment,
        kept: bool,
    ) -> None:
        """``kept``: data channels acknowledge messages only when the session is written down."""
        self._certificate = certificate
        self._config = config
        self._environment = environment
        self._kept = kept

    def make(self, negotiated: Negotiated, credentials: IceCredentials, cname: str) -> Peer:
        """Make the peer of a new session, with our ICE credentials and RTCP name."""
        now = self._environment.clock()
        stream = self._make_stream(negotiated)
        return Peer(
            ice=self._make_ice(negotiated, credentials, now),
            dtls=Dtls(
                self._certificate, role=negotiated.dtls_role, fingerprints=negotiated.fingerprints
            ),
            media=self._make_media(negotiated, stream, cname, now),
            channels=self._make_channels(negotiated),
            sctp_init=None if negotiated.channels is None else negotiated.channels.sctp.init,
            sped=Sped() if negotiated.sped else None,
        )

    def restore(self, checkpoint: Checkpoint) -> Peer:
        """Make the peer of a checkpoint, beyond all numbers that it may have used since."""
        return Peer.restore(
            checkpoint.peer,
            entropy=self._environment.entropy,
            now=self._environment.clock(),
            skip=checkpoint.reserve,
            age=max(0.0, self._environment.unix() - checkpoint.written),
        )

    def _random(self, size: int) -> int:
        return int.from_bytes(self._environment.entropy(size), "big")

    def _make_stream(self, negotiated: Negotiated) -> SendStream:
        extension = negotiated.mid_extension
        return SendStream(
            self._random(4) or 1,
            negotiated.audio.payload_type,
            negotiated.audio.clock_rate,
            # Half of the number space is left before the first roll-over (RFC 3711, 3.3.1).
            first_index=self._random(2) >> 1,
            first_timestamp=self._random(4),
            mid_extension=None if extension is None else (extension, negotiated.mid),
        )

    def _make_ice(self, negotiated: Negotiated, credentials: IceCredentials, now: float) -> IceLite:
        remote = negotiated.remote_ice
        return IceLite(
            credentials,
            IceCredentials(remote.ufrag, remote.password),
            tie_breaker=self._random(8),
            entropy=self._environment.entropy,
            now=now,
            consent_timeout=self._config.consent_timeout_seconds,
            defers=bool(negotiated.sped),
        )

    def _make_media(
        self, negotiated: Negotiated, stream: SendStream, cname: str, now: float
    ) -> Media:
        return Media(
            stream,
            cname=cname,
            ntp_offset=self._environment.unix() - now,
            now=now,
            red_payload_type=None if negotiated.red is None else negotiated.red.payload_type,
            nack=negotiated.nack,
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
        return SctpConfig(
            remote_port=remote_port, hold_acks=True, hold_messages=True, reserve=OWNER_USES.tsn
        )
