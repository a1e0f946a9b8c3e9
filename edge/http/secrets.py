"""Client secrets ``ek_...``: what a customer's server hands to its client instead of its API key.

A secret is the sealed record itself, so nothing is stored anywhere:

    ek_ base64url( version (1) | nonce (12) | AES-256-GCM( zlib( msgpack record ) ) + tag (16) )

with a key that is HKDF-SHA256 (RFC 5869) of the fleet secret: every transceiver opens what another
has sealed, and the session configuration in it is readable by none but them. The secret before a
rotation still opens and never seals. ``id``, which logs show, says nothing about the rest.
"""

from __future__ import annotations

import os
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.session_config import MAX_SESSION_BYTES

PREFIX: Final = "ek_"
MAX_SECRET_CHARACTERS: Final = 7_168
"""It travels in a header, for which proxies have 8 KB."""

_VERSION: Final = b"\x00"
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_NONCE_BYTES: Final = 12  # RFC 5116, 3.2
_LABEL: Final = b"edge client secrets v0"
_MAX_RECORD_BYTES: Final = MAX_SESSION_BYTES + 1_024


class ClientSecret(msgspec.Struct, frozen=True, kw_only=True):
    """What a client secret says."""

    id: str
    key_id: str
    """The id of the API key that it was made with."""
    expires: int
    """Unix time."""
    session: bytes = b""
    """The session configuration, a JSON object; empty: none."""

    def __repr__(self) -> str:
        return f"ClientSecret(id={self.id!r}, key_id={self.key_id!r}, expires={self.expires})"


class SecretSealer:
    """Makes and opens client secrets."""

    def __init__(
        self,
        secret: str,
        previous_secret: str = "",
        *,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        secrets = (secret, previous_secret) if previous_secret else (secret,)
        self._ciphers = [AESGCM(_derive(one)) for one in secrets]
        self._entropy = entropy

    def new_id(self) -> str:
        """Make the id of a secret."""
        return self._entropy(6).hex()

    def seal(self, secret: ClientSecret) -> str:
        """Write a secret. Raises LocalProtocolError when it would not fit into a header."""
        nonce = self._entropy(_NONCE_BYTES)
        body = zlib.compress(msgspec.msgpack.encode(secret), level=9)
        sealed = _VERSION + nonce + self._ciphers[0].encrypt(nonce, body, _VERSION)
        value = PREFIX + urlsafe_b64encode(sealed).decode().rstrip("=")
        if len(value) > MAX_SECRET_CHARACTERS:
            raise LocalProtocolError("the session configuration is too long for a client secret")
        return value

    def open(self, value: str, *, now: float) -> ClientSecret:
        """Read what ``seal`` wrote, at the unix time ``now``.

        Raises RemoteProtocolError: its drop is REPLAY for one that has expired, else MALFORMED or
        BAD_AUTH.
        """
        if not value.startswith(PREFIX) or len(value) > MAX_SECRET_CHARACTERS:
            raise RemoteProtocolError("not a client secret")
        secret = _decode(self._decrypt(_from_base64(value.removeprefix(PREFIX))))
        if secret.expires <= now:
            raise RemoteProtocolError("the client secret has expired", Drop.REPLAY)
        return secret

    def _decrypt(self, sealed: bytes) -> bytes:
        if sealed[:1] != _VERSION:
            raise RemoteProtocolError("a client secret of another version")
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, body, _VERSION)
            except (InvalidTag, ValueError):  # ValueError: the nonce is cut off
                continue
        raise RemoteProtocolError("a forged client secret", Drop.BAD_AUTH)


def _from_base64(text: str) -> bytes:
    if not _BASE64.fullmatch(text) or len(text) % 4 == 1:
        raise RemoteProtocolError("not base64")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _decode(body: bytes) -> ClientSecret:
    """Read a record that is authentic, so that a limit on its length is a matter of form."""
    try:
        record = zlib.decompressobj().decompress(body, _MAX_RECORD_BYTES)
        return msgspec.msgpack.decode(record, type=ClientSecret)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError):
        raise RemoteProtocolError("a client secret of another shape") from None


def _derive(secret: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_LABEL).derive(secret.encode())
