"""Registry records as sealed bytes: private, authentic, tied to their name, and of limited age.

A shared store may be read or written by others, so nothing in it is trusted. A sealed record is

    version (1) | nonce (12) | AES-256-GCM( msgpack [expires, record] ) with its tag (16)

where ``expires`` is unix time and ``record`` is nil for a tombstone: its owner took it out. Every
record name has a key of its own, HMAC-SHA256(fleet key, name): a record moved to another name does
not open, and a random nonce could only repeat among the writes of one name. The fleet key is
HKDF-SHA256 (RFC 5869) of the fleet secret. The secret before a rotation still opens records and is
never used to seal.
"""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge.address import Address, format_address
from edge.errors import ConfigError, Drop, RemoteProtocolError

VERSION: Final = b"\x00"
MAX_SEALED_BYTES: Final = 4_096
MIN_SECRET_CHARACTERS: Final = 32
ALLOWED_SKEW: Final = 2.0  # seconds; two readings of one clock, each late by at most a time-out

_NONCE_BYTES: Final = 12  # RFC 5116, 3.2
_TAG_BYTES: Final = 16
_SEAL_LABEL: Final = b"edge registry v0"
_NAME_LABEL: Final = b"edge registry v0 names"
_NIL: Final = b"\xc0"  # msgpack

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Lease(Generic[R]):
    """An opened record, or None for a tombstone, and the unix time at which it ends."""

    record: R | None
    expires: float


class RecordKeys:
    """Seals and opens records, and hides client addresses in the names of flows."""

    def __init__(
        self,
        secret: str,
        previous_secret: str = "",
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        secrets = (secret, previous_secret) if previous_secret else (secret,)
        if any(len(one) < MIN_SECRET_CHARACTERS for one in secrets):
            raise ConfigError(f"a fleet secret needs at least {MIN_SECRET_CHARACTERS} characters")
        self._seal_keys = [_derive(one, _SEAL_LABEL) for one in secrets]
        self._name_keys = [_derive(one, _NAME_LABEL) for one in secrets]
        self._entropy = entropy

    def flow_names(self, public: Address, client: Address) -> list[str]:
        """Name a flow without telling its addresses: by the current secret, then the previous."""
        return self._hide(f"{format_address(public)}|{format_address(client)}")

    def lead_names(self, lead: str) -> list[str]:
        """Name a routing token or a path, in the same way."""
        return self._hide(lead)

    def seal(self, name: str, record: msgspec.Struct | None, *, expires: float) -> bytes:
        """Seal a record, or a tombstone, under its full name."""
        nonce = self._entropy(_NONCE_BYTES)
        body = msgspec.msgpack.encode((expires, record))
        return VERSION + nonce + _cipher(self._seal_keys[0], name).encrypt(nonce, body, VERSION)

    def open(self, name: str, sealed: bytes, record_type: type[R], *, now: float) -> Lease[R]:
        """Open what ``seal`` made; raises RemoteProtocolError for whatever is not acceptable.

        The error's drop is MALFORMED (length, version, content), BAD_AUTH (forged, or moved from
        another name) or REPLAY (past its time). ``now`` is unix time.
        """
        if not _NONCE_BYTES + _TAG_BYTES < len(sealed) <= MAX_SEALED_BYTES:
            raise RemoteProtocolError("a registry record of a wrong length")
        if sealed[:1] != VERSION:
            raise RemoteProtocolError("a registry record of another version")
        lease = _decode(self._decrypt(name, sealed), record_type)
        if lease.expires + ALLOWED_SKEW <= now:
            raise RemoteProtocolError("an old registry record", Drop.REPLAY)
        return lease

    def _hide(self, plain: str) -> list[str]:
        return [hmac.digest(k, plain.encode(), "sha256")[:16].hex() for k in self._name_keys]

    def _decrypt(self, name: str, sealed: bytes) -> bytes:
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        for key in self._seal_keys:
            try:
                return _cipher(key, name).decrypt(nonce, body, VERSION)
            except InvalidTag:
                continue
        raise RemoteProtocolError("a forged registry record", Drop.BAD_AUTH)


def _decode(body: bytes, record_type: type[R]) -> Lease[R]:
    try:
        expires, raw = msgspec.msgpack.decode(body, type=tuple[float, msgspec.Raw])
        record = None if bytes(raw) == _NIL else msgspec.msgpack.decode(raw, type=record_type)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise RemoteProtocolError("a registry record of another shape") from None
    if not math.isfinite(expires):
        raise RemoteProtocolError("a registry record that never ends")
    return Lease(record, expires)


def _cipher(key: bytes, name: str) -> AESGCM:
    return AESGCM(hmac.digest(key, name.encode(), "sha256"))


def _derive(secret: str, label: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(secret.encode())
