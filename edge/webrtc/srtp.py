"""SRTP and SRTCP: RFC 3711 (AES-CM with HMAC-SHA1-80) and RFC 7714 (AES-GCM).

Both profiles make a packet's keystream from the SSRC and a packet index, so **no pair of them may
ever be used twice** under one key. For RTP the index has 48 bits: the roll-over counter above the
sequence number. The sender takes whole indexes and refuses any that does not rise; the receiver
estimates the roll-over counter (RFC 3711, 3.3.1) and remembers the last 1,024 indexes of each
source. SRTCP carries its 31-bit index in the packet.

All state is plain integers, so a context can be written down and taken up in another process. A
sender that is restored from an old snapshot must skip what may have been sent since. A receiver
so restored may be up to one roll-over behind: until a source is heard again, a packet that fails
is tried once more with the next roll-over counter. (The one before needs no trial: the snapshot's
index was authentic, and anything a roll-over below it is a replay.) Packets between the snapshot
and the restart can be replayed to it once; that is the price of not storing each index.

Session keys are derived once (RFC 3711, 4.3; key derivation rate 0), there is no MKI, and an
SRTCP packet that is not encrypted is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from struct import Struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.hmac import HMAC

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.webrtc.keys import SrtpProfile
from edge.wire.rtp import header_length, strip_padding

MAX_INDEX: Final = 2**48 - 1  # packets under one key; RFC 3711, 9.2
MAX_RTCP_INDEX: Final = 2**31 - 1
REPLAY_WINDOW: Final = 1024  # indexes; RFC 3711, 3.3.2 asks for at least 64
MAX_SOURCES: Final = 32

_RTCP_HEADER_BYTES: Final = 8  # common header and sender's SSRC, never encrypted
_ENCRYPTED: Final = 1 << 31  # the E flag above an SRTCP index

# Key derivation labels; RFC 3711, 4.3.1 and 4.3.2.
_RTP_KEY, _RTP_AUTH, _RTP_SALT, _RTCP_KEY, _RTCP_AUTH, _RTCP_SALT = range(6)

_RTP_HEADER: Final = Struct(">BBHII")
_RTP_IDS: Final = Struct(">2xH4xI")  # sequence number, SSRC
_RTCP_SSRC: Final = Struct(">4xI")
_WORD: Final = Struct(">I")


def derive(key: bytes, salt: bytes, label: int, size: int) -> bytes:
    """A session key of ``size`` bytes; RFC 3711, 4.3.3 (and RFC 6188 for a 256-bit key)."""
    return _derivation(key, salt)(label, size)


def _derivation(key: bytes, salt: bytes) -> Callable[[int, int], bytes]:
    """``derive`` for one master key: AES-CM over zeros is AES of the counter, by one cipher."""
    encrypt = Cipher(AES(key), ECB()).encryptor().update
    seed = int.from_bytes(salt.ljust(14, b"\0"), "big")

    def session(label: int, size: int) -> bytes:
        first = (seed ^ label << 48) << 16
        blocks = range(first, first + -(-size // 16))
        return encrypt(b"".join(block.to_bytes(16, "big") for block in blocks))[:size]

    return session


class AeadGcm:
    """RFC 7714: the header is associated data; the SRTCP index stands after the tag.

    One session key of one direction, for RTP or for RTCP. ``index_end`` is where the SRTCP index
    word ends, counted back from the end of the packet.
    """

    tag_bytes: Final = 16
    index_end: Final = 0

    def __init__(self, key: bytes, salt: bytes) -> None:
        cipher = AESGCM(key)
        self._encrypt, self._decrypt = cipher.encrypt, cipher.decrypt
        self._salt = int.from_bytes(salt, "big")

    def _iv(self, ssrc: int, index: int) -> bytes:
        return ((ssrc << 48 | index) ^ self._salt).to_bytes(12, "big")  # RFC 7714, 8.1 and 9.1

    def seal_rtp(self, header: bytes, payload: bytes, ssrc: int, index: int) -> bytes:
        """One SRTP packet."""
        iv = ((ssrc << 48 | index) ^ self._salt).to_bytes(12, "big")
        return header + self._encrypt(iv, payload, header)

    def open_rtp(self, packet: bytes, offset: int, ssrc: int, index: int) -> bytes | None:
        """What follows the ``offset`` bytes of header, in plain; None if not authentic."""
        iv = ((ssrc << 48 | index) ^ self._salt).to_bytes(12, "big")
        try:
            return self._decrypt(iv, packet[offset:], packet[:offset])
        except InvalidTag:
            return None

    def seal_rtcp(self, compound: bytes, ssrc: int, index: int) -> bytes:
        """One SRTCP packet."""
        header, word = compound[:_RTCP_HEADER_BYTES], _WORD.pack(_ENCRYPTED | index)
        body = compound[_RTCP_HEADER_BYTES:]
        return header + self._encrypt(self._iv(ssrc, index), body, header + word) + word

    def open_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes | None:
        """The RTCP compound; None if not authentic."""
        header, body, word = packet[:_RTCP_HEADER_BYTES], packet[8:-4], packet[-4:]
        try:
            return header + self._decrypt(self._iv(ssrc, index), body, header + word)
        except InvalidTag:
            return None


class CounterModeHmac:
    """RFC 3711, 4.1.1 and 4.2.1: AES in counter mode, then HMAC-SHA1 cut to 80 bits.

    The cipher and the keyed HMAC are made once: a nonce reset and a copy cost a third of new ones.
    """

    tag_bytes: Final = 10
    index_end: Final = 10

    def __init__(self, key: bytes, salt: bytes, authentication_key: bytes) -> None:
        self._cipher = Cipher(AES(key), CTR(bytes(16))).encryptor()
        self._salt = int.from_bytes(salt, "big") << 16
        self._hmac = HMAC(authentication_key, SHA1())

    def _crypt(self, data: bytes, ssrc: int, index: int) -> bytes:
        counter = (ssrc << 64 | index << 16) ^ self._salt
        self._cipher.reset_nonce(counter.to_bytes(16, "big"))
        return self._cipher.update(data)

    def _tag(self, authenticated: bytes) -> bytes:
        mac = self._hmac.copy()
        mac.update(authenticated)
        return mac.finalize()[:10]

    def seal_rtp(self, header: bytes, payload: bytes, ssrc: int, index: int) -> bytes:
        """One SRTP packet."""
        sealed = header + self._crypt(payload, ssrc, index)
        return sealed + self._tag(sealed + _WORD.pack(index >> 16))

    def open_rtp(self, packet: bytes, offset: int, ssrc: int, index: int) -> bytes | None:
        """What follows the ``offset`` bytes of header, in plain; None if not authentic."""
        sealed = packet[:-10]
        if not compare_digest(self._tag(sealed + _WORD.pack(index >> 16)), packet[-10:]):
            return None
        return self._crypt(sealed[offset:], ssrc, index)

    def seal_rtcp(self, compound: bytes, ssrc: int, index: int) -> bytes:
        """One SRTCP packet."""
        body = self._crypt(compound[_RTCP_HEADER_BYTES:], ssrc, index)
        sealed = compound[:_RTCP_HEADER_BYTES] + body + _WORD.pack(_ENCRYPTED | index)
        return sealed + self._tag(sealed)

    def open_rtcp(self, packet: bytes, ssrc: int, index: int) -> bytes | None:
        """The RTCP compound; None if not authentic."""
        sealed = packet[:-10]
        if not compare_digest(self._tag(sealed), packet[-10:]):
            return None
        return sealed[:_RTCP_HEADER_BYTES] + self._crypt(sealed[8:-4], ssrc, index)


Transform = AeadGcm | CounterModeHmac


def rtp_session_keys(profile: SrtpProfile, key: bytes, salt: bytes) -> tuple[bytes, bytes, bytes]:
    """Cipher key, salt and authentication key of RTP under a master key; GCM has no third."""
    counter_mode = profile is SrtpProfile.AES128_CM_HMAC_SHA1_80
    return (
        derive(key, salt, _RTP_KEY, len(key)),
        derive(key, salt, _RTP_SALT, len(salt)),
        derive(key, salt, _RTP_AUTH, 20) if counter_mode else b"",
    )


def _transforms(profile: SrtpProfile, key: bytes, salt: bytes) -> tuple[Transform, Transform]:
    """The transforms of RTP and of RTCP under one master key."""
    if len(key) != profile.key_bytes or len(salt) != profile.salt_bytes:
        raise LocalProtocolError("the master key or salt does not fit the SRTP profile")

    session = _derivation(key, salt)
    rtp = session(_RTP_KEY, len(key)), session(_RTP_SALT, len(salt))
    rtcp = session(_RTCP_KEY, len(key)), session(_RTCP_SALT, len(salt))
    if profile is SrtpProfile.AES128_CM_HMAC_SHA1_80:
        return (
            CounterModeHmac(*rtp, session(_RTP_AUTH, 20)),
            CounterModeHmac(*rtcp, session(_RTCP_AUTH, 20)),
        )
    return AeadGcm(*rtp), AeadGcm(*rtcp)


class ReplayWindow:
    """The highest index seen and a bit for each of the ``REPLAY_WINDOW`` up to it."""

    __slots__ = ("highest", "seen")

    def __init__(self, highest: int = -1, seen: int = 0) -> None:
        self.highest = highest
        self.seen = seen

    def estimate(self, sequence: int) -> int:
        """The index nearest to the highest that ends in these 16 bits; may be negative."""
        return self.highest - 0x8000 + ((sequence - self.highest + 0x8000) & 0xFFFF)

    def accepts(self, index: int) -> bool:
        """Whether this index is neither seen, nor too old, nor impossible."""
        behind = self.highest - index
        if behind < 0:
            return index <= MAX_INDEX
        return behind < REPLAY_WINDOW and index >= 0 and not self.seen >> behind & 1

    def add(self, index: int) -> None:
        """Mark an accepted index; only for packets that are authentic."""
        ahead = index - self.highest
        if ahead <= 0:
            self.seen |= 1 << -ahead
            return
        self.seen = (self.seen << ahead | 1) & _WINDOW_MASK if ahead < REPLAY_WINDOW else 1
        self.highest = index


_WINDOW_MASK: Final = (1 << REPLAY_WINDOW) - 1


class SrtpSenderSnapshot(msgspec.Struct, frozen=True):
    """What a sender needs to go on elsewhere. Holds keys: store it sealed."""

    profile: SrtpProfile
    key: bytes
    salt: bytes
    highest: tuple[tuple[int, int], ...]
    """SSRC and highest index sent."""
    rtcp_index: int
    """The next one."""

    def __repr__(self) -> str:
        return f"SrtpSenderSnapshot({self.profile.name}, ...)"


class SrtpSender:
    """Protects what we send under one master key."""

    def __init__(self, profile: SrtpProfile, key: bytes, salt: bytes) -> None:
        self._master = profile, key, salt
        self._rtp, self._rtcp = _transforms(profile, key, salt)
        self._highest: dict[int, int] = {}
        self._rtcp_limit = MAX_RTCP_INDEX + 1
        self.next_rtcp_index = 0

    def protect_rtp(self, header: bytes, payload: bytes, *, index: int) -> bytes:
        """One SRTP packet under a 48-bit index whose low half is the header's sequence number.

        Raises LocalProtocolError for an index that does not rise within its SSRC.
        """
        sequence, ssrc = _RTP_IDS.unpack_from(header)
        if index & 0xFFFF != sequence or not self._highest.get(ssrc, -1) < index <= MAX_INDEX:
            raise LocalProtocolError("SRTP index used already, exhausted or not the sequence's")
        self._highest[ssrc] = index
        return self._rtp.seal_rtp(header, payload, ssrc, index)

    def session_keys(self) -> tuple[bytes, bytes, bytes]:
        """See ``rtp_session_keys``."""
        return rtp_session_keys(*self._master)

    def advance(self, ssrc: int, index: int) -> None:
        """Note that the indexes up to this one were used by somebody else."""
        self._highest[ssrc] = max(self._highest.get(ssrc, -1), index)

    @property
    def rtcp_left(self) -> int:
        """SRTCP packets that may be sent before the reserve is used up, or all 2^31 indexes."""
        return self._rtcp_limit - self.next_rtcp_index

    def reserve_rtcp(self, packets: int) -> None:
        """Allow this many more SRTCP packets: as many as a stored snapshot's heir will skip."""
        self._rtcp_limit = min(self.next_rtcp_index + packets, MAX_RTCP_INDEX + 1)

    def protect_rtcp(self, compound: bytes) -> bytes:
        """One SRTCP packet; LocalProtocolError where no index is ``rtcp_left``."""
        index = self.next_rtcp_index
        if index >= self._rtcp_limit:
            raise LocalProtocolError("SRTCP index exhausted, or the reserve is used up")
        self.next_rtcp_index = index + 1
        (ssrc,) = _RTCP_SSRC.unpack_from(compound)
        return self._rtcp.seal_rtcp(compound, ssrc, index)

    def snapshot(self) -> SrtpSenderSnapshot:
        """The whole state."""
        return SrtpSenderSnapshot(*self._master, tuple(self._highest.items()), self.next_rtcp_index)

    @classmethod
    def restore(
        cls, snapshot: SrtpSenderSnapshot, *, skip: int = 0, rtp_skip: int = 0
    ) -> SrtpSender:
        """Go on from a snapshot after which at most ``skip`` SRTCP packets may have been sent.

        With ``rtp_skip`` the next so many RTP indexes of each SSRC are refused as well.
        """
        if skip < 0 or rtp_skip < 0:
            raise LocalProtocolError("an index never goes back")
        sender = cls(snapshot.profile, snapshot.key, snapshot.salt)
        sender._highest = {ssrc: index + rtp_skip for ssrc, index in snapshot.highest}
        sender.next_rtcp_index = snapshot.rtcp_index + skip
        return sender


class SourceSnapshot(msgspec.Struct, frozen=True):
    """One replay window; ``seen`` is its bit mask, big-endian, as it has over 64 bits."""

    ssrc: int
    highest: int
    seen: bytes


class SrtpReceiverSnapshot(msgspec.Struct, frozen=True):
    """What a receiver needs to go on elsewhere. Holds keys: store it sealed."""

    profile: SrtpProfile
    key: bytes
    salt: bytes
    rtp: tuple[SourceSnapshot, ...]
    rtcp: tuple[SourceSnapshot, ...]

    def __repr__(self) -> str:
        return f"SrtpReceiverSnapshot({self.profile.name}, ...)"


class SrtpReceiver:
    """Opens what the peer sends under one master key.

    At most ``max_sources`` SSRCs are known for RTP and for RTCP. None is ever forgotten, because
    with its window the protection against replay would go; a further one is refused.
    """

    def __init__(
        self, profile: SrtpProfile, key: bytes, salt: bytes, *, max_sources: int = MAX_SOURCES
    ) -> None:
        self._master = profile, key, salt
        self._max_sources = max_sources
        self._rtp_transform, self._rtcp_transform = _transforms(profile, key, salt)
        self._rtp: dict[int, ReplayWindow] = {}
        self._rtcp: dict[int, ReplayWindow] = {}
        self._unconfirmed: set[int] = set()

    def unprotect_rtp(self, packet: bytes) -> tuple[bytes, int]:
        """The RTP packet in plain and its 48-bit index.

        RemoteProtocolError with drop REPLAY, BAD_AUTH, MALFORMED or TABLE_FULL.
        """
        offset = header_length(packet)
        if len(packet) < offset + self._rtp_transform.tag_bytes:
            raise RemoteProtocolError("SRTP packet without its tag")
        sequence, ssrc = _RTP_IDS.unpack_from(packet)
        payload, index = self._open_rtp(packet, offset, sequence, ssrc)
        return packet[:offset] + payload, index

    def unprotect_media(self, packet: bytes) -> tuple[bytes, int, int, int, int]:
        """A packet's payload without padding, its index, second byte, timestamp and SSRC.

        The second byte holds marker and payload type. This is ``unprotect_rtp`` for the hot path:
        the header is read once, and what is usual is done in place. Raises as it does.
        """
        transform = self._rtp_transform
        size = len(packet) - transform.tag_bytes
        if size < 12:
            raise RemoteProtocolError("SRTP packet is cut short")
        first, second, sequence, timestamp, ssrc = _RTP_HEADER.unpack_from(packet)
        if first == 0x90:  # one extension block, as browsers send
            offset = 16 + 4 * (packet[14] << 8 | packet[15])
        else:
            offset = 12 if first == 0x80 else header_length(packet)
        if size < offset:
            raise RemoteProtocolError("SRTP packet without its tag")
        window = self._rtp.get(ssrc)
        index = -1 if window is None else window.highest + 1
        if window is None or sequence != index & 0xFFFF or index > MAX_INDEX or self._unconfirmed:
            payload, index = self._open_rtp(packet, offset, sequence, ssrc)
        else:  # the next one of a source that is known
            opened = transform.open_rtp(packet, offset, ssrc, index)
            if opened is None:
                raise _refused(accepted=True)
            payload = opened
            window.seen = (window.seen << 1 | 1) & _WINDOW_MASK
            window.highest = index
        if first & 0x20:
            payload = strip_padding(payload)
        return payload, index, second, timestamp, ssrc

    def _open_rtp(self, packet: bytes, offset: int, sequence: int, ssrc: int) -> tuple[bytes, int]:
        transform = self._rtp_transform
        window = self._rtp.get(ssrc)
        if window is None:
            window, index = self._new_window(self._rtp), sequence
        else:
            index = window.estimate(sequence)
        accepted = window.accepts(index)
        payload = transform.open_rtp(packet, offset, ssrc, index) if accepted else None
        if payload is None and ssrc in self._unconfirmed and window.accepts(index + 0x10000):
            index += 0x10000
            payload = transform.open_rtp(packet, offset, ssrc, index)
        if payload is None:
            raise _refused(accepted)
        window.add(index)
        self._rtp[ssrc] = window
        self._unconfirmed.discard(ssrc)
        return payload, index

    def session_keys(self) -> tuple[bytes, bytes, bytes]:
        """See ``rtp_session_keys``."""
        return rtp_session_keys(*self._master)

    def next_index(self, ssrc: int) -> int | None:
        """The index that follows the highest of a source; None if its roll-over is not sure."""
        window = self._rtp.get(ssrc)
        if window is None or self._unconfirmed or window.highest >= MAX_INDEX:
            return None
        return window.highest + 1

    def advance(self, ssrc: int, next_index: int) -> None:
        """Note that somebody else has opened every packet before ``next_index``."""
        window = self._rtp[ssrc]
        packets = next_index - 1 - window.highest
        window.seen = (window.seen << packets | (1 << packets) - 1) & _WINDOW_MASK
        window.highest += packets

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        """The RTCP compound in plain; RemoteProtocolError as for RTP."""
        transform = self._rtcp_transform
        if len(packet) < _RTCP_HEADER_BYTES + 4 + transform.tag_bytes or packet[0] >> 6 != 2:
            raise RemoteProtocolError("SRTCP packet is cut short or of another version")
        (word,) = _WORD.unpack_from(packet, len(packet) - transform.index_end - 4)
        if not word & _ENCRYPTED:
            raise RemoteProtocolError("SRTCP packet is not encrypted")
        (ssrc,) = _RTCP_SSRC.unpack_from(packet)
        index = word ^ _ENCRYPTED
        window = self._rtcp.get(ssrc) or self._new_window(self._rtcp)
        accepted = window.accepts(index)
        plain = transform.open_rtcp(packet, ssrc, index) if accepted else None
        if plain is None:
            raise _refused(accepted)
        window.add(index)
        self._rtcp[ssrc] = window
        return plain

    def _new_window(self, table: dict[int, ReplayWindow]) -> ReplayWindow:
        if len(table) >= self._max_sources:
            raise RemoteProtocolError("too many SSRCs", Drop.TABLE_FULL)
        return ReplayWindow()

    def snapshot(self) -> SrtpReceiverSnapshot:
        """The whole state."""
        return SrtpReceiverSnapshot(*self._master, _save(self._rtp), _save(self._rtcp))

    @classmethod
    def restore(
        cls, snapshot: SrtpReceiverSnapshot, *, max_sources: int = MAX_SOURCES
    ) -> SrtpReceiver:
        """Go on from a snapshot that is less than one roll-over (65,536 packets) old."""
        receiver = cls(snapshot.profile, snapshot.key, snapshot.salt, max_sources=max_sources)
        receiver._rtp = _load(snapshot.rtp)
        receiver._rtcp = _load(snapshot.rtcp)
        receiver._unconfirmed = set(receiver._rtp)
        return receiver


def _refused(accepted: bool) -> RemoteProtocolError:
    if accepted:
        return RemoteProtocolError("not authentic", Drop.BAD_AUTH)
    return RemoteProtocolError("index seen already or too old", Drop.REPLAY)


def _save(table: dict[int, ReplayWindow]) -> tuple[SourceSnapshot, ...]:
    return tuple(
        SourceSnapshot(ssrc, window.highest, window.seen.to_bytes(REPLAY_WINDOW // 8, "big"))
        for ssrc, window in table.items()
    )


def _load(sources: tuple[SourceSnapshot, ...]) -> dict[int, ReplayWindow]:
    return {
        source.ssrc: ReplayWindow(source.highest, int.from_bytes(source.seen, "big"))
        for source in sources
    }
