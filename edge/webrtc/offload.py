"""Lending a peer's media to a faster hand, and taking it back.

While it is lent, an ``RtpOffload`` opens and seals the packets that are as usual: the next in order
from a source that is known, on the path that is in use, with what is left of the reserve. Whatever
else happens (a gap, a check, a report, a look at the statistics) first takes it back: the offload
stops and tells how far it has come, and the peer goes on from there as if it had done it all. So
every rule stands in the peer alone, and a peer works the same without any offload.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edge.address import Address
from edge.webrtc.ice_paths import PathState
from edge.webrtc.media import Media
from edge.webrtc.srtp import SrtpReceiver, SrtpSender
from edge.wire.spp import Path

SessionKeys = tuple[bytes, bytes, bytes]
"""Cipher key, salt and authentication key of one direction; the last is empty with AES-GCM."""


@dataclass(frozen=True, slots=True, repr=False)
class RtpKeys:
    """What opens and what seals SRTP packets; RTCP's keys are never lent."""

    receive: SessionKeys
    send: SessionKeys


class Incoming(NamedTuple):
    """What opens the next packet of a source, and its reception statistics (RFC 3550, A.8)."""

    ssrc: int
    payload_type: int
    next_index: int
    clock_rate: float
    timestamp: int
    """Of the last packet; -1: none."""
    jitter: float
    """In units of the clock."""
    heard_at: float


class Outgoing(NamedTuple):
    """What seals the next packets of our stream, as long as the index is below ``limit``."""

    header: bytes
    """Of a packet with sequence number and timestamp 0 and no marker."""
    ssrc: int
    first_timestamp: int
    next_index: int
    limit: int


Received = tuple[int, int, int, float, float]
"""How far the receiving side has come: next index, octets of payload, and of the last packet the
timestamp, the jitter and when it came."""
Sent = tuple[int, int, int, int, float]
"""How far the sending side has come: next index, packets, octets of payload, and of the last packet
the RTP timestamp and when it was sent."""

Hear = Callable[[bytes, int, int, float], None]
"""``(payload, index, timestamp, now)``: takes an authentic packet of the stream's codec."""
Heard = tuple[Hear, bytes, int, int]
"""A packet that an offload has opened, and who is to hear it."""


class RtpOffload(Protocol):
    """One session's place in an offload."""

    def lend(
        self, path: Path, endpoint: bytes, incoming: Incoming | None, outgoing: Outgoing | None
    ) -> None:
        """Take over one or both directions between ``path`` and the relay at ``endpoint``."""

    def recall(self) -> tuple[Received | None, Sent | None]:
        """Stop, and tell what was done in each direction that was lent."""

    def send(self, payload: bytes, timestamp: int, marker: bool, now: float) -> bool:
        """Send a frame; False, and nothing has happened, when that is not lent."""

    def close(self) -> None:
        """Stop for good."""


class MediaOffload(Protocol):
    """An offload beside a socket."""

    heard: Sequence[Heard]
    """What came with the last batch, in order."""
    rested: float
    """Seconds that the socket has slept on the loop's time, in all."""

    def open_stream(self, keys: RtpKeys, hear: Hear) -> RtpOffload:
        """Make a session's place in it; to be closed."""

    def endpoint(self, relay: Address) -> bytes:
        """What ``RtpOffload.lend`` calls a relay."""


@dataclass(frozen=True, slots=True)
class Loan:
    """What is lent now, and all it takes to lend it again."""

    offload: RtpOffload
    path: Path
    endpoint: bytes
    sends: bool
    ssrc: int | None

    def lend(self, media: Media, receiver: SrtpReceiver, *, limited: bool) -> None:
        """Hand over the present state; ``limited`` keeps the sending side."""
        incoming = None if self.ssrc is None else _incoming(media, receiver, self.ssrc)
        outgoing = Outgoing(*media.stream.lease()) if self.sends and not limited else None
        self.offload.lend(self.path, self.endpoint, incoming, outgoing)

    def take_back(
        self,
        media: Media,
        receiver: SrtpReceiver,
        sender: SrtpSender,
        state: PathState | None,
    ) -> None:
        """Make the state what it would be if the peer had done the work."""
        received, sent = self.offload.recall()
        if received is not None and self.ssrc is not None:
            next_index, *_, heard_at = received
            log = media.logs[self.ssrc]
            if log.advance(*received[:4], time=heard_at + media.ntp_offset):
                receiver.advance(self.ssrc, next_index)
                if state is not None:
                    state.heard = max(state.heard, heard_at)
        if sent is not None:
            next_index, packets, *_, sent_at = sent
            media.stream.advance(*sent[:4])
            sender.advance(media.stream.ssrc, next_index - 1)
            if packets:
                media.sent_at = sent_at + media.ntp_offset


def _incoming(media: Media, receiver: SrtpReceiver, ssrc: int) -> Incoming | None:
    """None where the next packet is not sure to be as usual."""
    log, index = media.logs.get(ssrc), receiver.next_index(ssrc)
    if log is None or index != log.highest + 1:
        return None
    return Incoming(
        ssrc,
        media.stream.payload_type,
        index,
        float(log.clock_rate),
        -1 if log.last_timestamp is None else log.last_timestamp,
        log.jitter,
        log.heard_at - media.ntp_offset,
    )
