"""One WebRTC endpoint as a single machine: ICE, DTLS, SRTP and media behind one deadline.

A datagram goes to exactly one of them by its first byte (RFC 7983). Nothing but a STUN check is
looked at from an address that has not passed one, so a stranger can disturb neither the handshake
nor the media. DTLS starts on the first authenticated check, without waiting for a nomination;
its keys exist only after the client's certificate matched the offer (RFC 5763, section 5).

Everything that leaves goes to ICE's selected path and, until that path is proven, is held to three
times the bytes that came from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import assert_never

import msgspec

from edge.errors import Drop, EndReason, LocalProtocolError, RemoteProtocolError
from edge.webrtc.dtls import Dtls
from edge.webrtc.dtls_outputs import (
    DtlsClosed,
    DtlsData,
    DtlsEstablished,
    DtlsFailed,
    DtlsOutput,
    DtlsTransmit,
)
from edge.webrtc.ice import AMPLIFICATION_LIMIT, IceLite, IceSnapshot, PathState
from edge.webrtc.keys import SrtpKeys
from edge.webrtc.media import Media, MediaSnapshot, MediaStatistics
from edge.webrtc.outputs import (
    AudioReceived,
    Connected,
    Ended,
    PathSelected,
    PeerOutput,
    RoundTripMeasured,
    Transmit,
)
from edge.webrtc.srtp import SrtpReceiver, SrtpReceiverSnapshot, SrtpSender, SrtpSenderSnapshot
from edge.wire.demux import Kind, classify
from edge.wire.red import decode_red
from edge.wire.rtcp import decode_rtcp
from edge.wire.spp import Path


class PeerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A connected peer written down; times are relative to the moment of writing."""

    ice: IceSnapshot
    sender: SrtpSenderSnapshot
    receiver: SrtpReceiverSnapshot
    media: MediaSnapshot


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """What a peer has done so far."""

    connected: bool
    media: MediaStatistics
    drops: Counter[Drop]


class Peer:
    """The answering endpoint of one session.

    Inputs are ``receive``, ``send_audio``, ``tick`` and ``close``; each returns what to do now.
    After an ``Ended`` output every input returns nothing.
    """

    def __init__(self, *, ice: IceLite, dtls: Dtls | None, media: Media) -> None:
        self.ice = ice
        self.media = media
        self.ended = False
        self._dtls = dtls
        self._dtls_started = False
        self._dtls_path: Path | None = None
        self._dtls_paths = 0
        """How often our DTLS datagrams took another path than the one before."""
        self._sender: SrtpSender | None = None
        self._receiver: SrtpReceiver | None = None
        self._drops: Counter[Drop] = Counter()

    @property
    def connected(self) -> bool:
        """True while media can flow: the handshake is done and nothing has ended the peer."""
        return self._sender is not None and not self.ended

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next; ``math.inf`` when nothing is pending."""
        if self.ended:
            return inf
        dtls = self._dtls.deadline if self._dtls is not None else inf
        media = self.media.deadline if self._sender is not None else inf
        return min(self.ice.deadline, dtls, media)

    def receive(self, datagram: bytes, path: Path, *, now: float) -> list[PeerOutput]:
        """Take one datagram that came on ``path``; never raises for what it holds."""
        if self.ended:
            return []
        kind = classify(datagram)
        if kind is Kind.STUN:
            return self._receive_stun(datagram, path, now)
        if kind is Kind.RTP:
            audio = self.receive_rtp(datagram, path, now=now)
            return [] if audio is None else [audio]
        if not self.ice.knows(path):
            self._drops[Drop.UNKNOWN_PATH] += 1
            return []
        self.ice.heard(path, len(datagram), authenticated=False, now=now)
        try:
            match kind:
                case Kind.RTCP:
                    return self._receive_rtcp(datagram, path, now)
                case Kind.DTLS:
                    return self._receive_dtls(datagram, now)
                case Kind.UNKNOWN:
                    self._drops[Drop.UNKNOWN_KIND] += 1
                    return []
                case _:
                    assert_never(kind)
        except RemoteProtocolError as error:
            self._drops[error.drop] += 1
            return []

    def receive_rtp(self, datagram: bytes, path: Path, *, now: float) -> AudioReceived | None:
        """Take one datagram that ``is_rtp``: ``receive`` without its list, for the hot path."""
        if self.ended:
            return None
        state = self.ice.state(path)
        if state is None:
            self._drops[Drop.UNKNOWN_PATH] += 1
            return None
        state.budget += AMPLIFICATION_LIMIT * len(datagram)
        try:
            return self._open_rtp(datagram, state, now)
        except RemoteProtocolError as error:
            self._drops[error.drop] += 1
            return None

    def send_audio(
        self, payload: bytes, *, timestamp: int, marker: bool, now: float
    ) -> Transmit | None:
        """Send one frame; None when there is no path or its budget is spent.

        ``timestamp`` counts from the start of the media (see ``Media.media_time``). Raises
        LocalProtocolError before the peer is connected.
        """
        if self._sender is None:
            raise LocalProtocolError("no media before the DTLS handshake has finished")
        path = self.ice.selected
        if path is None or self.ended:
            return None
        header, index = self.media.send_rtp(len(payload), timestamp, marker, now=now)
        packet = self._sender.protect_rtp(header, payload, index=index)
        return Transmit(path, packet) if self.ice.allow(path, len(packet)) else None

    def tick(self, *, now: float) -> list[PeerOutput]:
        """Do what is due at ``now``: retransmissions, consent, reports."""
        if self.ended:
            return []
        outputs = self._follow_ice(self.ice.tick(now=now), now)
        if self._dtls is not None and now >= self._dtls.deadline:
            outputs += self._follow_dtls(self._dtls.tick(now=now), now)
        if self._sender is not None and now >= self.media.deadline:
            outputs += self._transmit(self._sender.protect_rtcp(self.media.report(now=now)))
        return outputs

    def close(self, *, now: float) -> list[PeerOutput]:
        """Say goodbye (RTCP BYE, DTLS close_notify) and end; what is returned is the last."""
        if self.ended:
            return []
        outputs: list[PeerOutput] = []
        if self._sender is not None:
            outputs += self._transmit(self._sender.protect_rtcp(self.media.bye(now=now)))
        if self._dtls is not None and self._dtls_started:
            outputs += self._follow_dtls(self._dtls.close(), now)
        self.ended = True
        return outputs

    def statistics(self) -> PeerStatistics:
        """Counters of every part, drops summed."""
        drops = self._drops + self.ice.drops
        if self._dtls is not None:
            drops += self._dtls.drops
        return PeerStatistics(self.connected, self.media.statistics(), drops)

    def snapshot(self, *, now: float) -> PeerSnapshot:
        """Write a connected peer down. The original must not send afterwards.

        Raises LocalProtocolError while there are no SRTP keys.
        """
        if self._sender is None or self._receiver is None:
            raise LocalProtocolError("only a connected peer can be written down")
        return PeerSnapshot(
            ice=self.ice.snapshot(now=now),
            sender=self._sender.snapshot(),
            receiver=self._receiver.snapshot(),
            media=self.media.snapshot(),
        )

    @classmethod
    def restore(
        cls,
        snapshot: PeerSnapshot,
        *,
        entropy: Callable[[int], bytes],
        ntp_offset: float,
        now: float,
        skip: int = 0,
    ) -> Peer:
        """Go on from a snapshot; ``skip`` jumps the SRTP and SRTCP indices past a reserve.

        ``skip`` must exceed what the original may have sent since, and be 0 only after a planned
        hand-over. DTLS records are not read or written by a restored peer.
        """
        peer = cls(
            ice=IceLite.restore(snapshot.ice, entropy=entropy, now=now),
            dtls=None,
            media=Media.restore(snapshot.media, ntp_offset=ntp_offset, now=now, skip=skip),
        )
        peer._sender = SrtpSender.restore(snapshot.sender, skip=skip, rtp_skip=skip)
        peer._receiver = SrtpReceiver.restore(snapshot.receiver)
        return peer

    def _receive_stun(self, datagram: bytes, path: Path, now: float) -> list[PeerOutput]:
        return self._follow_ice(self.ice.receive(datagram, path, now=now), now)

    def _open_rtp(self, datagram: bytes, state: PathState, now: float) -> AudioReceived:
        if self._receiver is None:
            raise RemoteProtocolError("media before the handshake", Drop.NOT_READY)
        payload, index, second, timestamp, ssrc = self._receiver.unprotect_media(datagram)
        state.heard = now
        media, payload_type, marker = self.media, second & 0x7F, second > 0x7F
        media.receive_rtp(index, timestamp, payload_type, ssrc, len(payload), now=now)
        if payload_type != media.stream.payload_type:
            return self._read_red(payload, index, timestamp, marker, payload_type)
        return AudioReceived(payload, index, timestamp, marker)

    def _read_red(
        self, payload: bytes, index: int, timestamp: int, marker: bool, payload_type: int
    ) -> AudioReceived:
        if payload_type != self.media.red_payload_type:
            raise RemoteProtocolError("payload type not negotiated", Drop.UNEXPECTED_PAYLOAD)
        *redundant, primary = decode_red(payload)
        if any(
            block.payload_type != self.media.stream.payload_type for block in (primary, *redundant)
        ):
            raise RemoteProtocolError("RED of another codec", Drop.UNEXPECTED_PAYLOAD)
        return AudioReceived(primary.payload, index, timestamp, marker, tuple(redundant))

    def _receive_rtcp(self, datagram: bytes, path: Path, now: float) -> list[PeerOutput]:
        if self._receiver is None:
            raise RemoteProtocolError("RTCP before the handshake", Drop.NOT_READY)
        # A BYE ends a source, not the session: browsers send one when a track is replaced.
        packet = self._receiver.unprotect_rtcp(datagram)
        self.ice.heard(path, 0, now=now)
        round_trip = self.media.receive_rtcp(decode_rtcp(packet), now=now)
        return [] if round_trip is None else [RoundTripMeasured(round_trip)]

    def _receive_dtls(self, datagram: bytes, now: float) -> list[PeerOutput]:
        if self._dtls is None:
            raise RemoteProtocolError("no DTLS after a restore", Drop.NOT_READY)
        return self._follow_dtls(self._dtls.receive(datagram, now=now), now)

    def _follow_ice(
        self, outputs: list[Transmit | PathSelected | Ended], now: float
    ) -> list[PeerOutput]:
        followed: list[PeerOutput] = []
        for output in outputs:
            followed.append(output)
            match output:
                case PathSelected():
                    if self._dtls is not None and not self._dtls_started:
                        self._dtls_started = True
                        followed += self._follow_dtls(self._dtls.start(now=now), now)
                case Ended():
                    self.ended = True
                case Transmit():
                    pass
                case _:
                    assert_never(output)
        return followed

    def _follow_dtls(self, outputs: list[DtlsOutput], now: float) -> list[PeerOutput]:
        followed: list[PeerOutput] = []
        for output in outputs:
            match output:
                case DtlsTransmit(data):
                    followed += self._transmit_dtls(data)
                case DtlsEstablished(keys):
                    self._take_keys(keys)
                    if self._dtls_path is not None and self._dtls_paths == 1:
                        # The peer's Finished depends on our flights, which were to be read there
                        # and nowhere else. Where it comes from proves nothing.
                        self.ice.prove(self._dtls_path)
                    followed += self.ice.establish(now=now)
                    followed.append(Connected())
                case DtlsData():
                    # Data channels are answered as rejected: nothing may speak here yet.
                    self._drops[Drop.UNEXPECTED_PAYLOAD] += 1
                case DtlsClosed():
                    self.ended = True
                    followed.append(Ended(EndReason.PEER_CLOSED))
                case DtlsFailed(reason):
                    self.ended = True
                    followed.append(Ended(reason))
                case _:
                    assert_never(output)
        return followed

    def _take_keys(self, keys: SrtpKeys) -> None:
        self._sender = SrtpSender(keys.profile, keys.local_key, keys.local_salt)
        self._receiver = SrtpReceiver(keys.profile, keys.remote_key, keys.remote_salt)

    def _transmit(self, data: bytes) -> list[PeerOutput]:
        path = self.ice.selected
        if path is None or not self._allow(path, data):
            return []
        return [Transmit(path, data)]

    def _transmit_dtls(self, data: bytes) -> list[PeerOutput]:
        if self.ice.selected != self._dtls_path:
            self._dtls_path = self.ice.selected
            self._dtls_paths += 1
        return self._transmit(data)

    def _allow(self, path: Path, data: bytes) -> bool:
        return self.ice.allow(path, len(data))
