"""A session as one value, and that value as sealed bytes for whoever takes it over.

A sealed checkpoint is

    version (1) | key id (1) | nonce (12) | AES-256-GCM( msgpack Checkpoint ) with its tag (16)

and its associated data are these first two bytes, session, epoch, owner and serial number: under
any other claim it does not open. Every session has a key of its own, HMAC-SHA256(checkpoint key,
session), so that no random nonce meets another one's; the checkpoint key and its id are
HKDF-SHA256 (RFC 5869) of the fleet secret. The secret before a rotation still opens.

It holds all keys of a call. Nothing of it may stand in a log, and without a fleet secret there are
no checkpoints.
"""

from __future__ import annotations

import hmac
import math
import os
from collections import Counter
from collections.abc import Callable
from struct import Struct
from typing import Annotated, Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from edge.address import Address
from edge.backends.protocol import MAX_RESUME_BYTES, AudioFormat
from edge.errors import ConfigError, Drop, LocalProtocolError, RemoteProtocolError
from edge.registry.records import ALLOWED_SKEW, MIN_SECRET_CHARACTERS
from edge.registry.sessions import MAX_CHECKPOINT_BYTES, SESSION_SECONDS, Claim, StoredCheckpoint
from edge.session_config import MAX_SESSION_BYTES
from edge.transceiver.admission import Opener
from edge.transceiver.dialect import DialectSnapshot
from edge.webrtc.peer import PeerSnapshot
from edge.webrtc.reserve import NO_RESERVE, Reserve
from edge.wire.spp import Path

VERSION: Final = 0
"""Rises with every change that an older process must not pass over: it then leaves it alone."""
MAX_RELAYS: Final = 64
MAX_AGE: Final = SESSION_SECONDS + ALLOWED_SKEW  # seconds; an older one does not open

_NONCE_BYTES: Final = 12  # RFC 5116, 3.2
_TAG_BYTES: Final = 16
_HEAD: Final = Struct(">BB")
_BOUND: Final = Struct(">IIQ")  # epoch, owner, serial
_LABEL: Final = b"edge checkpoint v0"

Count = Annotated[int, Meta(ge=0)]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What was negotiated, apart from what the peer holds itself (payload types, RED, NACK)."""

    codec: AudioFormat
    """What the client speaks."""
    wanted: AudioFormat
    """What the backend speaks."""
    mid: Annotated[str, Meta(max_length=256)] = ""
    sends: bool = True
    """The client listens."""


class Positions(msgspec.Struct, frozen=True, kw_only=True):
    """How far the audio was, both ways, for who goes on with it."""

    played: Count = 0
    """Samples of the backend's that the client was sent, from the start of the session."""
    heard: Count = 0
    """Samples that the backend was given."""
    timestamp: Count = 0
    """Media time of the next frame to the client, in units of the codec's clock, unwrapped."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A session written down; the peer's times are relative, others unix seconds."""

    claim: Claim
    """Whose it was when this was written."""
    serial: Count
    """Which of this owner's it is."""
    written: float
    """When, by the registry's clock."""
    reserve: Reserve
    """What the next owner has to skip: nothing after a planned hand-over."""
    peer: PeerSnapshot
    terms: Terms
    positions: Positions
    relays: Annotated[tuple[tuple[Path, Address], ...], Meta(max_length=MAX_RELAYS)]
    """The relay (its internal address) that serves each path."""
    opened: float
    connected: float
    opener: Opener = Opener()
    session_config: Annotated[bytes, Meta(max_length=MAX_SESSION_BYTES)] | None = None
    resume: Annotated[bytes, Meta(max_length=MAX_RESUME_BYTES)] = b""
    """What the backend's stream is taken up by; its own."""
    dialect: DialectSnapshot = DialectSnapshot()
    """The session as its clients know it by now."""
    version: int = VERSION

    def __repr__(self) -> str:
        return f"Checkpoint({self.claim}, serial={self.serial})"

    @property
    def tokens(self) -> tuple[str, ...]:
        """The routing tokens that lead here: our ufrag, and after a restart the former one."""
        ice = self.peer.ice
        former = () if ice.former is None else (ice.former.local.ufrag,)
        return (ice.local.ufrag, *former)

    @property
    def exact(self) -> bool:
        """Whether its owner sent nothing any more: the heir goes on with the very next number."""
        return self.reserve == NO_RESERVE


class OtherVersion(RemoteProtocolError):
    """A checkpoint that another version of this program wrote: there may be who can read it."""


class _Key(NamedTuple):
    key: bytes
    key_id: int


class CheckpointKeys:
    """Seals checkpoints, and opens those of the current and the previous fleet secret."""

    def __init__(
        self,
        secret: str,
        previous_secret: str = "",
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Raises ConfigError for a secret that is too short."""
        self.drops: Counter[Drop] = Counter()
        """What was refused: BAD_AUTH, REPLAY (past its time) or MALFORMED."""
        secrets = (secret, previous_secret) if previous_secret else (secret,)
        if any(len(one) < MIN_SECRET_CHARACTERS for one in secrets):
            raise ConfigError(f"a fleet secret needs at least {MIN_SECRET_CHARACTERS} characters")
        self._keys = [_derive(one) for one in secrets]
        self._entropy = entropy

    def seal(self, checkpoint: Checkpoint) -> bytes:
        """Seal a checkpoint; LocalProtocolError for one that is too long to be stored."""
        claim, key = checkpoint.claim, self._keys[0]
        head, nonce = _HEAD.pack(VERSION, key.key_id), self._entropy(_NONCE_BYTES)
        plain = msgspec.msgpack.encode(checkpoint)
        if len(plain) + len(head) + _NONCE_BYTES + _TAG_BYTES > MAX_CHECKPOINT_BYTES:
            raise LocalProtocolError("the session is too large for a checkpoint")
        bound = _bind(head, claim, checkpoint.serial)
        return head + nonce + _cipher(key, claim).encrypt(nonce, plain, bound)

    def open(self, stored: StoredCheckpoint, *, now: float) -> Checkpoint:
        """Open what was stored; ``now`` is unix time by the registry's clock.

        Raises RemoteProtocolError, and counts its drop, for whatever is not acceptable.
        """
        try:
            return _read(self._decrypt(stored), stored, now)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            raise

    def _decrypt(self, stored: StoredCheckpoint) -> bytes:
        sealed, claim = stored.sealed, stored.claim
        if not _HEAD.size + _NONCE_BYTES + _TAG_BYTES < len(sealed) <= MAX_CHECKPOINT_BYTES:
            raise RemoteProtocolError("a checkpoint of a wrong length")
        version, key_id = _HEAD.unpack_from(sealed)
        if version != VERSION:
            raise OtherVersion("a checkpoint of another version")
        head, rest = sealed[: _HEAD.size], sealed[_HEAD.size :]
        nonce, body = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        for key in self._keys:
            if key.key_id == key_id:
                try:
                    bound = _bind(head, claim, stored.serial)
                    return _cipher(key, claim).decrypt(nonce, body, bound)
                except InvalidTag:
                    continue
        raise RemoteProtocolError("a forged or moved checkpoint", Drop.BAD_AUTH)


def _read(plain: bytes, stored: StoredCheckpoint, now: float) -> Checkpoint:
    try:
        checkpoint = _DECODER.decode(plain)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError("a checkpoint of another shape") from None
    if checkpoint.version != VERSION or not math.isfinite(checkpoint.written):
        raise RemoteProtocolError("a checkpoint of another version, or of no time")
    if (checkpoint.claim, checkpoint.serial) != (stored.claim, stored.serial):
        raise RemoteProtocolError("a checkpoint under another name", Drop.BAD_AUTH)
    if not -ALLOWED_SKEW <= now - checkpoint.written < MAX_AGE:
        raise RemoteProtocolError("an old checkpoint", Drop.REPLAY)
    return checkpoint


_DECODER: Final = msgspec.msgpack.Decoder(Checkpoint)


def _bind(head: bytes, claim: Claim, serial: int) -> bytes:
    bound = _BOUND.pack(claim.epoch, claim.owner, serial)
    return head + bound + claim.session.encode()


def _cipher(key: _Key, claim: Claim) -> AESGCM:
    return AESGCM(hmac.digest(key.key, claim.session.encode(), "sha256"))


def _derive(secret: str) -> _Key:
    material = HKDF(SHA256(), length=33, salt=None, info=_LABEL).derive(secret.encode())
    return _Key(material[:32], material[32])
