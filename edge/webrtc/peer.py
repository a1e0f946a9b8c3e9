"""One WebRTC endpoint as a single machine: ICE, DTLS, SRTP, media, channels behind one deadline.

A datagram goes to exactly one of them by its first byte (RFC 7983). Nothing but a STUN check is
looked at from an address that has not passed one, so a stranger can disturb neither the handshake
nor the media. DTLS starts on the first authenticated check, without waiting for a nomination;
its keys exist only after the client's certificate matched the offer (RFC 5763, section 5).
SCTP with its data channels is what DTLS carries from then on.

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

import msgspec

from edge.errors import Drop, EndReason, LocalProtocolError, RemoteProtocolError
from edge.webrtc.channel_outputs import (
    AssociationFailed,
    ChannelClosed,
    ChannelDrained,
    ChannelMessage,
    ChannelOpened,
    ChannelOutput,
    ChannelsSnapshot,
)
from edge.webrtc.channels import Channels
from edge.webrtc.dtls import Dtls, DtlsSnapshot
from edge.webrtc.dtls_outputs import (
    DtlsClosed,
    DtlsData,
    DtlsEstablished,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
    DtlsTransmit,
)
from edge.webrtc.ice import (
    AMPLIFICATION_LIMIT,
    Check,
    IceLite,
    IceOutput,
    IceSnapshot,
    PathState,
)
from edge.webrtc.keys import SrtpKeys
from edge.webrtc.media import Media, MediaSnapshot, MediaStatistics
from edge.webrtc.offload import Loan, RtpKeys, RtpOffload
from edge.webrtc.outputs import (
    AudioReceived,
    Connected,
    Ended,
    PathSelected,
    PeerOutput,
    RoundTripMeasured,
    Transmit,
)
from edge.webrtc.reserve import NO_RESERVE, Reserve
from edge.webrtc.sctp_outputs import (
    CheckpointWanted,
    SctpEstablished,
    SctpRestarted,
    SctpTransmit,
)
from edge.webrtc.sctp_state import SctpConfig
from edge.webrtc.sped import Sped
from edge.webrtc.srtp import SrtpReceiver, SrtpReceiverSnapshot, SrtpSender, SrtpSenderSnapshot
from edge.wire.demux import Kind, classify
from edge.wire.red import decode_red
from edge.wire.rtcp import decode_rtcp
from edge.wire.spp import Path


class PeerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A connected peer written down; times are relative to the moment of writing.

    Those of the media are Unix seconds by a clock of the session's own, which goes on with it.
    """

    written: float
    """When, by that clock."""
    ice: IceSnapshot
    sender: SrtpSenderSnapshot
    receiver: SrtpReceiverSnapshot
    media: MediaSnapshot
    dtls: DtlsSnapshot | None = None
    channels: ChannelsSnapshot | None = None
    sctp: SctpConfig | None = None
    """The limits of the channels' association; None where there are none."""


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
        self.ended = False
        self._dtls = dtls
        self._channels = channels
        self._sctp_init = sctp_init
        self._sped = sped
        self._dtls_started = False
        self._dtls_path: Path | None = None
        self._dtls_paths = 0
        """How often our DTLS datagrams took another path than the one before."""
        self._sender: SrtpSender | None = None
        self._receiver: SrtpReceiver | None = None
        self._loan: Loan | None = None
        self._serial = 0
        """Of the newest snapshot's association."""
        self._drops: Counter[Drop] = Counter()

    @property
    def connected(self) -> bool:
        """True while media can flow: the handshake is done and nothing has ended the peer."""
        return self._sender is not None and not self.ended

    @property
    def local_sctp_init(self) -> bytes | None:
        """Our INIT chunk for SDP, where the client's is known; see ``Association.local_init``."""
        if self._channels is None or self._sctp_init is None:
            return None
        return self._channels.association.local_init()

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next; ``math.inf`` when nothing is pending."""
        if self.ended:
            return inf
        dtls = self._dtls.deadline if self._dtls is not None else inf
        media = self.media.deadline if self._sender is not None else inf
        channels = self._channels.deadline if self._channels is not None else inf
        return min(self.ice.deadline, dtls, media, channels)

    def receive(self, datagram: bytes, path: Path, *, now: float) -> list[PeerOutput]:
        """Take one datagram that came on ``path``; never raises for what it holds."""
        self.recall()
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
        self.recall()
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
        """Send one frame; None when there is no path, or its budget or the reserve is spent.

        ``timestamp`` counts from the start of the media (see ``Media.media_time``). Raises
        LocalProtocolError before the peer is connected.
        """
        if self._sender is None:
            raise LocalProtocolError("no media before the DTLS handshake has finished")
        self.recall()
        path = self.ice.selected
        if path is None or self.ended:
            return None
        if self.media.stream.left <= 0:
            self._drops[Drop.RESERVE_USED] += 1
            return None
        header, index = self.media.send_rtp(len(payload), timestamp, marker, now=now)
        packet = self._sender.protect_rtp(header, payload, index=index)
        if self.media.resender is not None:
            self.media.resender.keep(index, packet, now=now)
        return Transmit(path, packet) if self.ice.allow(path, len(packet)) else None

    def send_message(self, channel: int, data: str | bytes, *, now: float) -> list[PeerOutput]:
        """Send a message on an open channel.

        Raises OutboxFull where its queue is full until ``ChannelDrained``, and LocalProtocolError
        for a channel that is not open or a message that the client does not take.
        """
        if self._channels is None or self.ended:
            raise LocalProtocolError("there are no data channels")
        self.recall()
        return self._follow_channels(self._channels.send(channel, data, now=now), now)

    def close_channel(self, channel: int, *, now: float) -> list[PeerOutput]:
        """Close a channel when what is queued on it was sent."""
        if self._channels is None or self.ended:
            return []
        self.recall()
        return self._follow_channels(self._channels.close_channel(channel, now=now), now)

    def tick(self, *, now: float) -> list[PeerOutput]:
        """Do what is due at ``now``: retransmissions, consent, reports."""
        self.recall()
        if self.ended:
            return []
        outputs = self._follow_ice(self.ice.tick(now=now), now)
        if self._dtls is not None and now >= self._dtls.deadline:
            outputs += self._follow_dtls(self._dtls.tick(now=now), now)
        if self._channels is not None and now >= self._channels.deadline:
            outputs += self._follow_channels(self._channels.tick(now=now), now)
        if self._sender is not None and now >= self.media.deadline:
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
        if self._sender is not None:
            outputs += self._send_rtcp(self.media.bye(now=now))
        if self._channels is not None and self.connected:
            outputs += self._follow_channels(self._channels.close(), now)
        if self._dtls is not None and self._dtls_started:
            outputs += self._follow_dtls(self._dtls.close(), now)
        self.ended = True
        return outputs

    def leave(self) -> None:
        """End without a word: inputs return nothing. The state may still be written down."""
        self.recall()
        self.ended = True

    def rtp_keys(self) -> RtpKeys | None:
        """What an offload needs; None before the peer is connected."""
        if self._sender is None or self._receiver is None:
            return None
        return RtpKeys(receive=self._receiver.session_keys(), send=self._sender.session_keys())

    def lend(self, offload: RtpOffload, path: Path, endpoint: bytes, *, sends: bool) -> None:
        """Have an offload do what is usual, until the next input, if there is anything usual.

        ``endpoint`` is the relay that serves the path; without ``sends`` nothing may leave.
        """
        self.recall()
        state = self.ice.state(path)
        if not self.connected or path != self.ice.selected or state is None or not state.proven:
            return
        self._loan = Loan(offload, path, endpoint, sends, self.media.heard_ssrc)
        self._lend_again()

    def recall(self) -> None:
        """Take back what is lent."""
        loan, self._loan = self._loan, None
        if loan is not None and self._receiver is not None and self._sender is not None:
            state = self.ice.state(loan.path)
            loan.take_back(self.media, self._receiver, self._sender, state)

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
        drops = self._drops + self.ice.drops
        if self._dtls is not None:
            drops += self._dtls.drops
        if self._channels is not None:
            drops += self._channels.drops
        return PeerStatistics(self.connected, self.media.statistics(), drops)

    def used(self) -> Reserve:
        """The next number of each kind: how far a connected peer has counted."""
        self._settle()
        return Reserve(
            rtp=self.media.stream.next_index,
            rtcp=0 if self._sender is None else self._sender.next_rtcp_index,
            dtls=0 if self._dtls is None or self._sender is None else self._dtls.next_sequence,
            tsn=0 if self._channels is None else self._channels.association.used_tsns,
        )

    def limit(self, room: Reserve) -> None:
        """Allow a connected peer so many more numbers of each kind; at 0 nothing of it leaves.

        What SCTP would send waits until there is room; it is due at once then (``deadline``).
        """
        loan = self._loan
        self.recall()
        self.media.stream.reserve(room.rtp)
        if self._sender is not None:
            self._sender.reserve_rtcp(room.rtcp)
        if self._dtls is not None and self._sender is not None:
            self._dtls.reserve(room.dtls)
        if self._channels is not None:
            self._channels.association.limit(room.tsn)
            self._channels.association.paused = not room.dtls
        self._loan = loan
        self._lend_again()

    def checkpoint_stored(self, *, now: float) -> list[PeerOutput]:
        """The newest snapshot is safe: send the acknowledgements that waited for that."""
        if self._channels is None or self.ended:
            return []
        self.recall()
        return self._follow_channels(self._channels.stored(self._serial, now=now), now)

    def checkpoint_failed(self, *, now: float) -> list[PeerOutput]:
        """No snapshot could be stored: until one is, SCTP waits for none and has no limit."""
        if self._channels is None or self.ended:
            return []
        self.recall()
        return self._follow_channels(self._channels.unstored(now=now), now)

    def reopened(self) -> list[ChannelOpened]:
        """The channels that are open in a restored peer, as they were told of before."""
        return [] if self._channels is None else self._channels.reopened()

    def snapshot(self, *, now: float) -> PeerSnapshot:
        """Write a connected peer down. An exact heir needs that the original sends no more.

        Raises LocalProtocolError while there are no SRTP keys, or when DTLS is over.
        """
        self.recall()
        if self._sender is None or self._receiver is None:
            raise LocalProtocolError("only a connected peer can be written down")
        channels = None if self._channels is None else self._channels.snapshot(now=now)
        self._serial = 0 if channels is None else channels.association.serial
        return PeerSnapshot(
            written=now + self.media.ntp_offset,
            ice=self.ice.snapshot(now=now),
            sender=self._sender.snapshot(),
            receiver=self._receiver.snapshot(),
            media=self.media.snapshot(),
            dtls=None if self._dtls is None else self._dtls.snapshot(),
            channels=channels,
            sctp=None if self._channels is None else self._channels.association.config,
        )

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
        """Go on from a snapshot that is ``age`` seconds old; look at ``deadline`` right away.

        ``skip`` jumps what counts the sent past a reserve: no less than what the original may have
        sent since, and nothing only after a planned hand-over. Raises LocalProtocolError where the
        client can not follow.

        Media and SCTP go on by the clock. Consent, and the silence of a path, do not: in the time
        in which nobody listened, nobody can have been heard.
        """
        channels = None
        if snapshot.channels is not None and snapshot.sctp is not None:
            channels = Channels.restore(
                snapshot.channels,
                entropy=entropy,
                config=snapshot.sctp,
                now=now,
                age=age,
                skip=skip.tsn,
            )
        ntp_offset = snapshot.written + age - now
        peer = cls(
            ice=IceLite.restore(snapshot.ice, entropy=entropy, now=now),
            dtls=None if snapshot.dtls is None else Dtls.restore(snapshot.dtls, skip=skip.dtls),
            media=Media.restore(snapshot.media, ntp_offset=ntp_offset, now=now, skip=skip.rtp),
            channels=channels,
        )
        peer._dtls_started = peer._dtls is not None
        peer._sender = SrtpSender.restore(snapshot.sender, skip=skip.rtcp, rtp_skip=skip.rtp)
        peer._receiver = SrtpReceiver.restore(snapshot.receiver)
        return peer

    def _settle(self) -> None:
        """Bring all counters up to date; what is lent stays so."""
        loan = self._loan
        if loan is not None:
            self.recall()
            self._loan = loan
            self._lend_again()

    def _lend_again(self) -> None:
        if self._loan is not None and self._receiver is not None:
            # Who may ask for packets again is served from here, where they are kept.
            limited = self.media.resender is not None
            self._loan.lend(self.media, self._receiver, limited=limited)

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
        plain = self._receiver.unprotect_rtcp(datagram)
        self.ice.heard(path, 0, now=now)
        packets = decode_rtcp(plain)
        round_trip = self.media.receive_rtcp(packets, now=now)
        outputs: list[PeerOutput] = []
        if round_trip is not None:
            outputs.append(RoundTripMeasured(round_trip))
        for again in self.media.answer_nacks(packets, now=now):
            outputs += self._transmit(again)
        return outputs

    def _receive_dtls(self, datagram: bytes, now: float) -> list[PeerOutput]:
        if self._dtls is None:
            raise RemoteProtocolError("there is no DTLS", Drop.NOT_READY)
        if self._sped is not None:
            self._sped.note(datagram, self._dtls)
        return self._follow_dtls(self._dtls.receive(datagram, now=now), now)

    def _follow_ice(self, outputs: list[IceOutput], now: float) -> list[PeerOutput]:
        followed: list[PeerOutput] = []
        for output in outputs:
            match output:
                case Check():
                    followed += self._answer(output, now)
                case PathSelected():
                    followed += [output, *self._follow_dtls(self._start_dtls(now), now)]
                case Ended():
                    self.ended = True
                    followed.append(output)
                case Transmit():
                    followed.append(output)
                case _:
                    assert_never(output)
        return followed

    def _start_dtls(self, now: float) -> list[DtlsOutput]:
        if self._dtls is None or self._dtls_started:
            return []
        self._dtls_started = True
        return self._dtls.start(now=now)

    def _answer(self, check: Check, now: float) -> list[PeerOutput]:
        """Hand DTLS what the check carries, and have the answer carry our flight."""
        if self._sped is None or self._sped.over or self._dtls is None:
            return [self.ice.answer(check)]
        outputs = self._start_dtls(now)
        room = self.ice.room(check.path)
        answer, more = self._sped.exchange(check.carried, self._dtls, outputs, room=room, now=now)
        if answer is not None and answer.data:
            self._note_dtls_path(check.path)
        return [self.ice.answer(check, answer), *self._follow_dtls(more, now)]

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
                    followed += self._follow_ice(self.ice.establish(now=now), now)
                    followed.append(Connected())
                    followed += self._start_channels(now)
                case DtlsData(data):
                    followed += self._receive_sctp(data, now)
                case DtlsClosed():
                    self.ended = True
                    followed.append(Ended(EndReason.PEER_CLOSED))
                case DtlsFailed(reason):
                    self.ended = True
                    followed.append(Ended(reason))
                case _:
                    assert_never(output)
        return followed

    def _start_channels(self, now: float) -> list[PeerOutput]:
        if self._channels is None:
            return []
        if self._sctp_init is None:
            return self._follow_channels(self._channels.connect(now=now), now)
        return self._follow_channels(self._channels.start_with(self._sctp_init, now=now), now)

    def _receive_sctp(self, packet: bytes, now: float) -> list[PeerOutput]:
        if self._channels is None:  # and nothing else may speak over DTLS
            self._drops[Drop.UNEXPECTED_PAYLOAD] += 1
            return []
        return self._follow_channels(self._channels.receive(packet, now=now), now)

    def _follow_channels(self, outputs: list[ChannelOutput], now: float) -> list[PeerOutput]:
        """What leaves comes first: an answer to what is told must not overtake it."""
        sent: list[PeerOutput] = []
        told: list[PeerOutput] = []
        for output in outputs:
            match output:
                case SctpTransmit(data):
                    sent += self._send_sctp(data, now)
                case ChannelOpened() | ChannelMessage() | ChannelDrained() | ChannelClosed():
                    told.append(output)
                case CheckpointWanted():
                    told.append(output)
                case SctpEstablished() | SctpRestarted() | AssociationFailed():
                    pass  # the channels tell what matters of it; a call may go on without any
                case _:
                    assert_never(output)
        return sent + told

    def _send_sctp(self, packet: bytes, now: float) -> list[PeerOutput]:
        if self._dtls is None or self._dtls.state is not DtlsState.ESTABLISHED:
            self._drops[Drop.NOT_READY] += 1
            return []
        return self._follow_dtls(self._dtls.send(packet), now)

    def _send_rtcp(self, compound: bytes) -> list[PeerOutput]:
        if self._sender is None or self._sender.rtcp_left <= 0:
            self._drops[Drop.RESERVE_USED] += 1
            return []
        return self._transmit(self._sender.protect_rtcp(compound))

    def _take_keys(self, keys: SrtpKeys) -> None:
        self._sender = SrtpSender(keys.profile, keys.local_key, keys.local_salt)
        self._receiver = SrtpReceiver(keys.profile, keys.remote_key, keys.remote_salt)

    def _transmit(self, data: bytes) -> list[PeerOutput]:
        path = self.ice.selected
        if path is None or not self._allow(path, data):
            return []
        return [Transmit(path, data)]

    def _transmit_dtls(self, data: bytes) -> list[PeerOutput]:
        self._note_dtls_path(self.ice.selected)
        return self._transmit(data)

    def _note_dtls_path(self, path: Path | None) -> None:
        if path != self._dtls_path:
            self._dtls_path = path
            self._dtls_paths += 1

    def _allow(self, path: Path, data: bytes) -> bool:
        return self.ice.allow(path, len(data))
