"""A connected peer as a snapshot, and what its client sends: for tests of what is lent.

All times are whole 1/1024 s, which floats add exactly, so that a jitter is the same in every hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from edge.address import Address
from edge.webrtc.ice_credentials import IceCredentials
from edge.webrtc.ice_paths import PathState
from edge.webrtc.ice_snapshot import IceSnapshot
from edge.webrtc.keys import SrtpProfile
from edge.webrtc.media import Media
from edge.webrtc.offload import Hear, Heard, Incoming, Outgoing, Received, RtpKeys, Sent
from edge.webrtc.peer import Peer, PeerSnapshot
from edge.webrtc.srtp import (
    SourceSnapshot,
    SrtpReceiverSnapshot,
    SrtpSender,
    SrtpSenderSnapshot,
    rtp_session_keys,
)
from edge.webrtc.streams import SendStream
from edge.wire.rtp import build_header
from edge.wire.spp import Path, encode_path

CLIENT: Final[Address] = "198.51.100.7", 40_000
PATH: Final = encode_path(CLIENT, ("192.0.2.1", 3478))
OTHER_PATH: Final = encode_path(("198.51.100.7", 40_001), ("192.0.2.1", 3478))
NTP_OFFSET: Final = 1_800_000_000.0
OURS: Final = 0x0EDCE001
REMOTE: Final = 0xC11E7701
AUDIO: Final = 111
RATE: Final = 48_000
TICK: Final = 1 / 1024


def _keys(profile: SrtpProfile, first: int) -> tuple[bytes, bytes]:
    material = bytes(range(first, first + profile.key_bytes + profile.salt_bytes))
    return material[: profile.key_bytes], material[profile.key_bytes :]


def make_snapshot(
    profile: SrtpProfile,
    *,
    heard: int = 1_000,
    next_index: int = 2_000,
    proven: bool = True,
    nack: bool = False,
    mid: str = "0",
) -> PeerSnapshot:
    """A peer that has heard up to the index ``heard`` of REMOTE on PATH, which it has selected."""
    return PeerSnapshot(
        written=NTP_OFFSET,
        ice=_ice(proven),
        sender=SrtpSenderSnapshot(profile, *_keys(profile, 0), ((OURS, next_index - 1),), 7),
        receiver=SrtpReceiverSnapshot(
            profile,
            *_keys(profile, 100),
            (SourceSnapshot(REMOTE, heard, (1).to_bytes(128, "big")),),
            (),
        ),
        media=_media(heard, next_index, nack, mid).snapshot(),
    )


def _ice(proven: bool) -> IceSnapshot:
    path = PathState(heard=0.0, priority=1, nominated=True, proven=proven, budget=10_000)
    return IceSnapshot(
        local=IceCredentials("local", "password" * 3),
        remote=IceCredentials("remote", "password" * 3),
        tie_breaker=1,
        consent_timeout=30.0,
        max_paths=8,
        consent_until=30.0,
        established=True,
        ended=False,
        selected=PATH,
        paths=((PATH, path), (OTHER_PATH, path)),
        early_checks=(),
    )


def _media(heard: int, next_index: int, nack: bool, mid: str) -> Media:
    stream = SendStream(
        OURS, AUDIO, RATE, first_index=0, first_timestamp=0xFFFFFF00, mid_extension=(4, mid)
    )
    stream.next_index, stream.last_sent = next_index, next_index - 1
    media = Media(stream, cname="cname", now=0.0, ntp_offset=NTP_OFFSET, nack=nack)
    media.receive_rtp(heard, 0, AUDIO, REMOTE, 80, now=0.0)
    return media


def restore(snapshot: PeerSnapshot) -> Peer:
    """Take the snapshot up at 0.0."""
    return Peer.restore(snapshot, entropy=bytes, now=0.0)


class Client:
    """Seals what the client sends; ``index`` is of its next packet."""

    def __init__(self, profile: SrtpProfile, *, index: int = 1_001) -> None:
        self.index = index
        self.srtp = SrtpSender(profile, *_keys(profile, 100))

    def packet(
        self,
        payload: bytes,
        *,
        timestamp: int | None = None,
        payload_type: int = AUDIO,
        marker: bool = False,
        ssrc: int = REMOTE,
        extension: bytes = b"",
    ) -> bytes:
        """Seal the next packet."""
        index, self.index = self.index, self.index + 1
        when = index * 960 if timestamp is None else timestamp
        header = build_header(
            payload_type, marker, index & 0xFFFF, when & 0xFFFFFFFF, ssrc, extension
        )
        return self.srtp.protect_rtp(header, payload, index=index)

    def raw(self, first: int, rest: bytes, payload: bytes) -> bytes:
        """Seal the next packet with another first byte, and this behind its fixed header."""
        index, self.index = self.index, self.index + 1
        header = build_header(AUDIO, False, index & 0xFFFF, index * 960 & 0xFFFFFFFF, REMOTE, b"")
        return self.srtp.protect_rtp(bytes((first,)) + header[1:] + rest, payload, index=index)


# What is lent, without a peer.

GCM: Final = SrtpProfile.AEAD_AES_128_GCM
KEYS: Final = rtp_session_keys(GCM, bytes(16), bytes(12))
HEADER: Final = build_header(AUDIO, False, 0, 0, OURS)


def incoming(next_index: int = 1_001) -> Incoming:
    """What a ``Client`` sends, from an index on."""
    return Incoming(REMOTE, AUDIO, next_index, 48_000.0, -1, 0.0, 0.0)


def outgoing(*, header: bytes = HEADER, next_index: int = 7, limit: int = 2**48) -> Outgoing:
    """Our stream."""
    return Outgoing(header, OURS, 0, next_index, limit)


def refuse(payload: bytes, index: int, timestamp: int, now: float) -> None:
    """Hear nothing."""
    raise AssertionError("a plane calls nobody")


def client_keys() -> tuple[bytes, bytes, bytes]:
    """What opens the packets of a ``Client``."""
    return rtp_session_keys(GCM, *_keys(GCM, 100))


def lent_keys() -> RtpKeys:
    """Both directions' keys."""
    return RtpKeys(receive=client_keys(), send=KEYS)


@dataclass
class FakeOffload:
    """``RtpOffload`` that opens and seals nothing: a test says what it has done."""

    incoming: Incoming | None = None
    outgoing: Outgoing | None = None
    place: tuple[Path, bytes] | None = None
    recalls: int = 0
    lends: int = 0
    closed: int = 0
    paths: set[Path] = field(default_factory=set)
    """That were ever lent to it."""
    done: tuple[Received | None, Sent | None] = field(default=(None, None))

    def lend(
        self, path: Path, endpoint: bytes, incoming: Incoming | None, outgoing: Outgoing | None
    ) -> None:
        """Note what is lent."""
        self.place, self.incoming, self.outgoing = (path, endpoint), incoming, outgoing
        self.lends += 1
        self.paths.add(path)
        self.done = (
            incoming and (incoming.next_index, 0, incoming.timestamp, incoming.jitter, 0.0),
            outgoing and (outgoing.next_index, 0, 0, 0, 0.0),
        )

    def recall(self) -> tuple[Received | None, Sent | None]:
        """Tell what a test says has been done."""
        self.recalls += 1
        done, self.done = self.done, (None, None)
        self.place = self.incoming = self.outgoing = None
        return done

    def send(self, payload: bytes, timestamp: int, marker: bool, now: float) -> bool:
        """Leave it to the peer."""
        return False

    def close(self) -> None:
        """Note it."""
        self.closed += 1

    def hears(self, packets: int, *, octets: int, now: float) -> None:
        """Have opened so many."""
        assert self.incoming is not None
        index = self.incoming.next_index + packets
        self.done = (index, octets, 5 * 960, 2.5, now), self.done[1]

    def sends(self, packets: int, *, octets: int, now: float) -> None:
        """Have sent so many."""
        assert self.outgoing is not None
        index = self.outgoing.next_index + packets
        self.done = self.done[0], (index, packets, octets, 4_711, now)


@dataclass
class FakePlane:
    """``MediaOffload`` of such ones."""

    heard: Sequence[Heard] = ()
    rested: float = 0.0
    streams: list[FakeOffload] = field(default_factory=list)

    def open_stream(self, keys: RtpKeys, hear: Hear) -> FakeOffload:
        """Make one."""
        self.streams.append(FakeOffload())
        return self.streams[-1]

    def endpoint(self, relay: Address) -> bytes:
        """Any name that is the relay's alone."""
        return repr(relay).encode()
