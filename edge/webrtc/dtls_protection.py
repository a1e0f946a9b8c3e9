"""AES-GCM records of DTLS 1.2 without OpenSSL; RFC 5246 (6.3), 5288 (3), 6347 (4.1).

All state is plain integers and keys, so that one process can go on where another one was.

A GCM nonce must never serve twice. Its explicit half is the record number plus a constant, so
it is as unique as the number, which only rises. OpenSSL wrote our Finished under the same key and
counts upwards from a random start: the constant is the far side of the 64-bit circle from there,
where OpenSSL never comes. A writer that is restored from an old snapshot skips what may have been
written since, and one with a reserve writes nothing past it.

A reader restored from an old snapshot accepts once more what came since; that is the price of not
storing each number.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.webrtc.dtls_records import NUMBERS, VERSION, ContentType, Record
from edge.webrtc.srtp import REPLAY_WINDOW, ReplayWindow

EPOCH: Final = 1
"""The only protected one: there is no renegotiation."""
MAX_CONTENT_BYTES: Final = 16_384  # RFC 5246, section 6.2.1

_EXPLICIT_NONCE_BYTES: Final = 8
_FIXED_IV_BYTES: Final = 4
_TAG_BYTES: Final = 16
PROTECTION_BYTES: Final = _EXPLICIT_NONCE_BYTES + _TAG_BYTES
"""What protection adds to a record's fragment."""
_CIRCLE: Final = 1 << 64
_FAR_SIDE: Final = 1 << 63

_NONCE: Final = Struct("!Q")
_ADDITIONAL_DATA: Final = Struct("!QBHH")  # epoch and number, type, version, length


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a session's record keys follow from; ``suite`` is OpenSSL's name of it."""

    suite: str
    master_secret: bytes = field(repr=False)
    client_random: bytes = field(repr=False)
    server_random: bytes = field(repr=False)


class RecordKey(msgspec.Struct, frozen=True):
    """What protects one direction."""

    key: bytes
    fixed_iv: bytes

    def __repr__(self) -> str:
        return "RecordKey(...)"


def derive_keys(secrets: Secrets) -> tuple[RecordKey, RecordKey]:
    """The client's and the server's write key; RFC 5246, section 6.3, without MAC keys."""
    size, digest = (32, "sha384") if "AES256" in secrets.suite else (16, "sha256")
    seed = b"key expansion" + secrets.server_random + secrets.client_random
    block = _prf(digest, secrets.master_secret, seed, 2 * (size + _FIXED_IV_BYTES))
    ivs = block[2 * size :]
    return (
        RecordKey(block[:size], ivs[:_FIXED_IV_BYTES]),
        RecordKey(block[size : 2 * size], ivs[_FIXED_IV_BYTES:]),
    )


def _prf(digest: str, secret: bytes, seed: bytes, length: int) -> bytes:
    """P_hash of RFC 5246, section 5; ``seed`` is the label and its seed."""
    block, a = b"", seed
    while len(block) < length:
        a = hmac.digest(secret, a, digest)
        block += hmac.digest(secret, a + seed, digest)
    return block[:length]


class WriterSnapshot(msgspec.Struct, frozen=True):
    """What a writer needs to go on elsewhere. Holds a key: store it sealed."""

    key: RecordKey
    nonce: int
    """The explicit nonce of record number 0."""
    sequence: int
    """The next record number."""

    def __repr__(self) -> str:
        return f"WriterSnapshot(sequence={self.sequence}, ...)"


class RecordWriter:
    """Protects what we write, each record under the next number."""

    def __init__(self, key: RecordKey, *, nonce: int, sequence: int) -> None:
        self._key = key
        self._aead = AESGCM(key.key)
        self._nonce = nonce
        self.next_sequence = sequence
        self._limit = NUMBERS

    @classmethod
    def after(cls, finished: Record, key: RecordKey) -> RecordWriter:
        """Go on behind our Finished, which OpenSSL wrote as the first under this key."""
        (start,) = _NONCE.unpack_from(finished.fragment)
        return cls(key, nonce=(start + _FAR_SIDE) % _CIRCLE, sequence=finished.sequence + 1)

    @property
    def left(self) -> int:
        """Records that may be written before the reserve is used up."""
        return self._limit - self.next_sequence

    def reserve(self, records: int) -> None:
        """Allow this many more records: as many as a stored snapshot's heir will skip."""
        self._limit = min(self.next_sequence + records, NUMBERS)

    def write(self, content_type: ContentType, content: bytes) -> Record:
        """The next record; LocalProtocolError if there is no number ``left``."""
        sequence = self.next_sequence
        if sequence >= self._limit:
            raise LocalProtocolError("the reserved record numbers are used up")
        self.next_sequence = sequence + 1
        explicit = _NONCE.pack((self._nonce + sequence) % _CIRCLE)
        header = _additional_data(content_type, sequence, len(content))
        sealed = self._aead.encrypt(self._key.fixed_iv + explicit, content, header)
        return Record(content_type, VERSION, EPOCH, sequence, explicit + sealed)

    def renew(self, record: Record) -> Record:
        """The content of a record of ours under the next number; LocalProtocolError as above."""
        return self.write(record.content_type, _open(self._aead, self._key.fixed_iv, record))

    def snapshot(self) -> WriterSnapshot:
        """The whole state; a reserve is the owner's and does not travel."""
        return WriterSnapshot(self._key, self._nonce, self.next_sequence)

    @classmethod
    def restore(cls, snapshot: WriterSnapshot, *, skip: int = 0) -> RecordWriter:
        """Go on from a snapshot after which at most ``skip`` records may have been written."""
        if skip < 0:
            raise LocalProtocolError("a record number never goes back")
        return cls(snapshot.key, nonce=snapshot.nonce, sequence=snapshot.sequence + skip)


class ReaderSnapshot(msgspec.Struct, frozen=True):
    """What a reader needs to go on elsewhere. Holds a key: store it sealed."""

    key: RecordKey
    highest: int
    seen: bytes
    """The window's bit mask, big-endian, as it has over 64 bits."""

    def __repr__(self) -> str:
        return f"ReaderSnapshot(highest={self.highest}, ...)"


class RecordReader:
    """Opens what the peer writes, each record number once; RFC 6347, section 4.1.2.6."""

    def __init__(self, key: RecordKey, window: ReplayWindow | None = None) -> None:
        self._key = key
        self._aead = AESGCM(key.key)
        self._window = window or ReplayWindow()

    def open(self, record: Record) -> bytes:
        """The content; RemoteProtocolError unless authentic and new."""
        if record.epoch != EPOCH or record.version != VERSION:
            raise RemoteProtocolError("DTLS epoch or version is wrong", Drop.BAD_AUTH)
        if not 0 <= len(record.fragment) - PROTECTION_BYTES <= MAX_CONTENT_BYTES:
            raise RemoteProtocolError("DTLS record is too short or too long")
        if not self._window.accepts(record.sequence):
            raise RemoteProtocolError("record number seen already or too old", Drop.REPLAY)
        try:
            content = _open(self._aead, self._key.fixed_iv, record)
        except InvalidTag:
            raise RemoteProtocolError("DTLS record is not authentic", Drop.BAD_AUTH) from None
        self._window.add(record.sequence)
        return content

    def snapshot(self) -> ReaderSnapshot:
        """The whole state."""
        seen = self._window.seen.to_bytes(REPLAY_WINDOW // 8, "big")
        return ReaderSnapshot(self._key, self._window.highest, seen)

    @classmethod
    def restore(cls, snapshot: ReaderSnapshot) -> RecordReader:
        """Go on from a snapshot, however old."""
        seen = int.from_bytes(snapshot.seen, "big")
        return cls(snapshot.key, ReplayWindow(snapshot.highest, seen))


def _open(aead: AESGCM, fixed_iv: bytes, record: Record) -> bytes:
    fragment = record.fragment
    length = len(fragment) - PROTECTION_BYTES
    header = _additional_data(record.content_type, record.sequence, length)
    nonce = fixed_iv + fragment[:_EXPLICIT_NONCE_BYTES]
    return aead.decrypt(nonce, fragment[_EXPLICIT_NONCE_BYTES:], header)


def _additional_data(content_type: ContentType, sequence: int, length: int) -> bytes:
    return _ADDITIONAL_DATA.pack(EPOCH << 48 | sequence, content_type, VERSION, length)
