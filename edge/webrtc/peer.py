"""One WebRTC endpoint as a single machine: ICE, DTLS, SRTP, media, channels behind one deadline.

A datagram goes to exactly one of them by its first byte (RFC 7983). Nothing but a STUN check is
looked at from an address that has not passed one, so a stranger can disturb neither the handshake
nor the media. ICE, DTLS and the data channels are the ``transport``, which brings the keys of SRTP.

Everything that leaves goes to ICE's selected path and, until that path is proven, is held to three
times the bytes that came from it. But the answer to a check goes where the check came from, also
with a flight of DTLS inside (``sped``).

What is usual may be lent to an offload (``offload``); every input takes it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import assert_never

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.webrtc import peer_moves
from edge.webrtc.channel_outputs import ChannelOpened, ChannelOutput
from edge.webrtc.channels import Channels
from edge.webrtc.dtls import Dtls
from edge.webrtc.dtls_outputs import DtlsEstablished
from edge.webrtc.ice import IceLite
from edge.webrtc.ice_paths import AMPLIFICATION_LIMIT
from edge.webrtc.media import Media, MediaStatistics
from edge.webrtc.offload import Loan, RtpKeys, RtpOffload
from edge.webrtc.outputs import AudioReceived, Ended, PeerOutput, RoundTripMeasured, Transmit
from edge.webrtc.peer_moves import Parts, PeerSnapshot
from edge.webrtc.reserve import NO_RESERVE, Reserve
from edge.webrtc.sped import Sped
from edge.webrtc.srtp_session import SrtpSession
from edge.webrtc.transport import Transport, TransportOutput
from edge.wire.demux import Kind, classify
from edge.wire.rtcp import decode_rtcp
from edge.wire.spp import Path

__all__ = ["Peer", "PeerSnapshot", "PeerStatistics"]


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """What a peer has done so far."""

    connected: bool
    media: MediaStatistics
    drops: Counter[Drop]


class Peer:
    """The answering endpoint of one session.

    Inputs are ``receive``, ``send_audio``, ``send_message``, ``tick`` and ``close``; each returns
    what to do now. After an ``Ended`` output every input returns nothing.
    """

    def __init__(
        self,
        *,
        ice: IceLite,
        dtls: Dtls | None,
        media: Media,
        channels: Channels | None = None,
        sctp_init: bytes | None = None,
        sped: Sped | None = None,
    ) -> None:
        """``sctp_init`` is the client's INIT chunk, where SNAP was negotiated by ours as well.

        With ``sped``, where that was negotiated, ``ice`` must defer its answers.
        """
        self.ice = ice
        self.media = media
        self._paths = ice.paths
        self.ended = False
        self.transport = Transport(
            ice=ice, dtls=dtls, channels=channels, sctp_init=sctp_init, sped=sped
        )
        self._srtp: SrtpSession | None = None
        self._loan: Loan | None = None
        self._serial = 0
        """Of the newest snapshot's association."""
        self._drops: Counter[Drop] = Counter()

    @property
    def connected(self) -> bool:
        """True while media can flow: the handshake is done and nothing has ended the peer."""
        return self._srtp is not None and not self.ended

    @property
    def local_sctp_init(self) -> bytes | None:
        """Our INIT chunk for SDP, where the client's is known; see ``Association.local_init``."""
        return self.transport.local_sctp_init

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next; ``math.inf`` when nothing is pending."""
        if self.ended:
            return inf
        return min(self.transport.deadline, inf if self._srtp is None else self.media.deadline)

    # Inputs.

    def receive(self, datagram: bytes, path: Path, *, now: float) -> list[PeerOutput]:
        """Take one datagram that came on ``path``; never raises for what it holds."""
        self.recall()
        if self.ended:
            return []
        kind = classify(datagram)
        if kind is Kind.STUN:
            return self._follow(self.transport.receive_stun(datagram, path, now=now))
        if kind is Kind.RTP:
            audio = self.receive_rtp(datagram, path, now=now)
            return [] if audio is None else [audio]
        if not self._paths.knows(path):
            self._drops[Drop.UNKNOWN_PATH] += 1
            return []
        self._paths.heard(path, len(datagram), authenticated=False, now=now)
        try:
            match kind:
                case Kind.RTCP:
                    return self._receive_rtcp(datagram, path, now)
                case Kind.DTLS:
                    return self._follow(self.transport.receive_dtls(datagram, now=now))
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
        if self._loan is not None:
            self.recall()
        if self.ended:
            return None
        state = self._paths.state(path)
        if state is None:
            self._drops[Drop.UNKNOWN_PATH] += 1
            return None
        state.budget += AMPLIFICATION_LIMIT * len(datagram)
        if self._srtp is None:
            self._drops[Drop.NOT_READY] += 1
            return None
        try:
            return self._srtp.open_rtp(datagram, self.media, state, now)
        except RemoteProtocolError as error:
            self._drops[error.drop] += 1
            return None

    def send_audio(
        self, payload: bytes, *, timestamp: int, marker: bool, now: float
    ) -> Transmit | None:
        """Send one frame; None when there is no path, or its budget or the reserve is spent.

        ``timestamp`` counts from the start of the media (see ``Media.media_time``). Raises
        LocalProtocolError before the peer is connected.
        """
        if self._srtp is None:
            raise LocalProtocolError("no media before the DTLS handshake has finished")
        if self._loan is not None:
            self.recall()
        path = self._paths.selected
        if path is None or self.ended:
            return None
        if self.media.stream.left <= 0:
            self._drops[Drop.RESERVE_USED] += 1
            return None
        header, index = self.media.send_rtp(len(payload), timestamp, marker, now=now)
        packet = self._srtp.sender.protect_rtp(header, payload, index=index)
        if self.media.resender is not None:
            self.media.resender.keep(index, packet, now=now)
        return Transmit(path, packet) if self._paths.allow(path, len(packet)) else None

    def send_message(self, channel: int, data: str | bytes, *, now: float) -> list[PeerOutput]:
        """Send a message on an open channel.

        Raises OutboxFull where its queue is full until ``ChannelDrained``, and LocalProtocolError
        for a channel that is not open or a message that the client does not take.
        """
        channels = self._take_channels()
        if channels is None:
            raise LocalProtocolError("there are no data channels")
        return self._carry(channels.send(channel, data, now=now), now)

    def close_channel(self, channel: int, *, now: float) -> list[PeerOutput]:
        """Close a channel when what is queued on it was sent."""
        channels = self._take_channels()
        return (
            [] if channels is None else self._carry(channels.close_channel(channel, now=now), now)
        )

    def tick(self, *, now: float) -> list[PeerOutput]:
        """Do what is due at ``now``: retransmissions, consent, reports."""
        self.recall()
        if self.ended:
            return []
        outputs = self._follow(self.transport.tick(now=now))
        if self._srtp is not None and now >= self.media.deadline:
            for compound in self.media.tick(now=now):
                outputs += self._send_rtcp(compound)
        return outputs

    def close(self, *, now: float) -> list[PeerOutput]:
        """Say goodbye (RTCP BYE, SCTP ABORT, DTLS close_notify) and end; there is no more.

        Not where another process goes on: ``leave``.
        """
        self.recall()
        if self.ended:
            return []
        outputs: list[PeerOutput] = []
        if self._srtp is not None:
            outputs += self._send_rtcp(self.media.bye(now=now))
        outputs += self._follow(self.transport.close(connected=self.connected, now=now))
        self.ended = True
        return outputs

    def leave(self) -> None:
        """End without a word: inputs return nothing. The state may still be written down."""
        self.recall()
        self.ended = True

    # The loan of the media.

    def rtp_keys(self) -> RtpKeys | None:
        """What an offload needs; None before the peer is connected."""
        return None if self._srtp is None else self._srtp.rtp_keys()

    def lend(self, offload: RtpOffload, path: Path, endpoint: bytes, *, sends: bool) -> None:
        """Have an offload do what is usual, until the next input, if there is anything usual.

        ``endpoint`` is the relay that serves the path; without ``sends`` nothing may leave.
        """
        self.recall()
        state = self._paths.state(path)
        if not self.connected or path != self._paths.selected or state is None or not state.proven:
            return
        self._lend(Loan(offload, path, endpoint, sends, self.media.heard_ssrc))

    def recall(self) -> None:
        """Take back what is lent."""
        loan, self._loan = self._loan, None
        if loan is not None and (srtp := self._srtp) is not None:
            loan.take_back(self.media, srtp.receiver, srtp.sender, self._paths.state(loan.path))

    def _lend(self, loan: Loan | None) -> None:
        self._loan = loan
        if loan is not None and self._srtp is not None:
            # Who may ask for packets again is served from here, where they are kept.
            loan.lend(self.media, self._srtp.receiver, limited=self.media.resender is not None)

    def _settle(self) -> None:
        """Bring all counters up to date; what is lent stays so."""
        loan = self._loan
        if loan is not None:
            self.recall()
            self._lend(loan)

    # How it goes.

    def heard_at(self, path: Path) -> float:
        """See ``IceLite.heard_at``."""
        self._settle()
        return self.ice.heard_at(path)

    def media_statistics(self) -> MediaStatistics:
        """How the media goes."""
        self._settle()
        return self.media.statistics()

    def statistics(self) -> PeerStatistics:
        """Counters of every part, drops summed."""
        self._settle()
        drops = self._drops + self.transport.drops
        return PeerStatistics(self.connected, self.media.statistics(), drops)

    # Moving.

    def used(self) -> Reserve:
        """The next number of each kind: how far a connected peer has counted."""
        self._settle()
        return peer_moves.used(self._parts())

    def limit(self, room: Reserve) -> None:
        """Allow a connected peer so many more numbers of each kind; at 0 nothing of it leaves.

        What SCTP would send waits until there is room; it is due at once then (``deadline``).
        """
        loan = self._loan
        self.recall()
        peer_moves.limit(self._parts(), room)
        self._lend(loan)

    def checkpoint_stored(self, *, now: float) -> list[PeerOutput]:
        """The newest snapshot is safe: send the acknowledgements that waited for that."""
        channels = self._take_channels()
        return [] if channels is None else self._carry(channels.stored(self._serial, now=now), now)

    def checkpoint_failed(self, *, now: float) -> list[PeerOutput]:
        """No snapshot could be stored: until one is, SCTP waits for none and has no limit."""
        channels = self._take_channels()
        return [] if channels is None else self._carry(channels.unstored(now=now), now)

    def reopened(self) -> list[ChannelOpened]:
        """The channels that are open in a restored peer, as they were told of before."""
        channels = self.transport.channels
        return [] if channels is None else channels.reopened()

    def snapshot(self, *, now: float) -> PeerSnapshot:
        """Write a connected peer down. An exact heir needs that the original sends no more.

        Raises LocalProtocolError while there are no SRTP keys, or when DTLS is over.
        """
        self.recall()
        snapshot = peer_moves.write_down(self._parts(), now=now)
        if snapshot.channels is not None:
            self._serial = snapshot.channels.association.serial
        return snapshot

    @classmethod
    def restore(
        cls,
        snapshot: PeerSnapshot,
        *,
        entropy: Callable[[int], bytes],
        now: float,
        age: float = 0.0,
        skip: Reserve = NO_RESERVE,
    ) -> Peer:
        """Go on as ``peer_moves.restore`` tells; look at ``deadline`` right away."""
        parts = peer_moves.restore(snapshot, entropy=entropy, now=now, age=age, skip=skip)
        peer = cls(ice=parts.ice, dtls=parts.dtls, media=parts.media, channels=parts.channels)
        peer._srtp = parts.srtp
        return peer

    def _parts(self) -> Parts:
        below = self.transport
        return Parts(self.ice, self.media, below.dtls, below.channels, self._srtp)

    # Helpers.

    def _receive_rtcp(self, datagram: bytes, path: Path, now: float) -> list[PeerOutput]:
        if self._srtp is None:
            raise RemoteProtocolError("RTCP before the handshake", Drop.NOT_READY)
        # A BYE ends a source, not the session: browsers send one when a track is replaced.
        plain = self._srtp.receiver.unprotect_rtcp(datagram)
        self._paths.heard(path, 0, now=now)
        packets = decode_rtcp(plain)
        round_trip = self.media.receive_rtcp(packets, now=now)
        outputs: list[PeerOutput] = []
        if round_trip is not None:
            outputs.append(RoundTripMeasured(round_trip))
        for again in self.media.answer_nacks(packets, now=now):
            outputs += self.ice.transmit(again)
        return outputs

    def _send_rtcp(self, compound: bytes) -> list[PeerOutput]:
        if self._srtp is None or self._srtp.sender.rtcp_left <= 0:
            self._drops[Drop.RESERVE_USED] += 1
            return []
        return [*self.ice.transmit(self._srtp.sender.protect_rtcp(compound))]

    def _take_channels(self) -> Channels | None:
        """The channels, for an input; None where there are none, or no more."""
        channels = None if self.ended else self.transport.channels
        if channels is not None:
            self.recall()
        return channels

    def _carry(self, outputs: list[ChannelOutput], now: float) -> list[PeerOutput]:
        return self._follow(self.transport.carry(outputs, now=now))

    def _follow(self, outputs: list[TransportOutput]) -> list[PeerOutput]:
        """Take the keys out of what the transport hands back, and note an end."""
        followed: list[PeerOutput] = []
        for output in outputs:
            if isinstance(output, DtlsEstablished):
                self._srtp = SrtpSession.from_keys(output.keys)
            else:
                self.ended = self.ended or isinstance(output, Ended)
                followed.append(output)
        return followed
