"""Moving a connected peer: how far it has counted, how far it may, and all of it written down.

What a move is made of lies in the machines themselves; here is only what belongs together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from edge.errors import LocalProtocolError
from edge.webrtc.channel_outputs import ChannelsSnapshot
from edge.webrtc.channels import Channels
from edge.webrtc.dtls import Dtls, DtlsSnapshot
from edge.webrtc.ice import IceLite
from edge.webrtc.ice_snapshot import IceSnapshot
from edge.webrtc.media import Media, MediaSnapshot
from edge.webrtc.reserve import Reserve
from edge.webrtc.sctp_state import SctpConfig
from edge.webrtc.srtp import SrtpReceiver, SrtpReceiverSnapshot, SrtpSender, SrtpSenderSnapshot
from edge.webrtc.srtp_session import SrtpSession


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


class Parts(NamedTuple):
    """The machines of a peer; without SRTP it is not connected."""

    ice: IceLite
    media: Media
    dtls: Dtls | None
    channels: Channels | None
    srtp: SrtpSession | None


def used(peer: Parts) -> Reserve:
    """See ``Peer.used``."""
    srtp, dtls, channels = peer.srtp, peer.dtls, peer.channels
    return Reserve(
        rtp=peer.media.stream.next_index,
        rtcp=0 if srtp is None else srtp.sender.next_rtcp_index,
        dtls=0 if dtls is None or srtp is None else dtls.next_sequence,
        tsn=0 if channels is None else channels.association.used_tsns,
    )


def limit(peer: Parts, room: Reserve) -> None:
    """See ``Peer.limit``."""
    peer.media.stream.reserve(room.rtp)
    if peer.srtp is not None:
        peer.srtp.sender.reserve_rtcp(room.rtcp)
        if peer.dtls is not None:
            peer.dtls.reserve(room.dtls)
    if peer.channels is not None:
        peer.channels.association.limit(room.tsn)
        peer.channels.association.paused = not room.dtls


def write_down(peer: Parts, *, now: float) -> PeerSnapshot:
    """See ``Peer.snapshot``."""
    if peer.srtp is None:
        raise LocalProtocolError("only a connected peer can be written down")
    dtls, channels = peer.dtls, peer.channels
    return PeerSnapshot(
        written=now + peer.media.ntp_offset,
        ice=peer.ice.snapshot(now=now),
        sender=peer.srtp.sender.snapshot(),
        receiver=peer.srtp.receiver.snapshot(),
        media=peer.media.snapshot(),
        dtls=None if dtls is None else dtls.snapshot(),
        channels=None if channels is None else channels.snapshot(now=now),
        sctp=None if channels is None else channels.association.config,
    )


def restore(
    snapshot: PeerSnapshot,
    *,
    entropy: Callable[[int], bytes],
    now: float,
    age: float,
    skip: Reserve,
) -> Parts:
    """Go on from a snapshot that is ``age`` seconds old.

    ``skip`` jumps what counts the sent past a reserve: no less than what the original may have sent
    since, and nothing only after a planned hand-over. Raises LocalProtocolError where the client
    can not follow.

    Media and SCTP go on by the clock. Consent, and the silence of a path, do not: in the time in
    which nobody listened, nobody can have been heard.
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
    return Parts(
        ice=IceLite.restore(snapshot.ice, entropy=entropy, now=now),
        media=Media.restore(snapshot.media, ntp_offset=ntp_offset, now=now, skip=skip.rtp),
        dtls=None if snapshot.dtls is None else Dtls.restore(snapshot.dtls, skip=skip.dtls),
        channels=channels,
        srtp=SrtpSession(
            SrtpSender.restore(snapshot.sender, skip=skip.rtcp, rtp_skip=skip.rtp),
            SrtpReceiver.restore(snapshot.receiver),
        ),
    )
