"""The routing token: the server's ICE ufrag, and all that a relay needs to place a new client.

One char of version and key id, then one AES-128 block in the ice-char alphabet, which is that of
base64 (RFC 8839, section 5.4; RFC 4648, section 4). A single block is a permutation, so whoever
lacks the key can neither read a token nor make one: whatever is changed, the 24 zero bits do not
come back out. This is the single-pass mode of QUIC-LB (draft-ietf-quic-load-balancers), with the
zero bits added. The layout and test vectors are in docs/token.md.
"""

from __future__ import annotations

import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError

TOKEN_CHARS: Final = 23
KEY_LABEL: Final = b"edge token v0"

_ICE_CHARS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_LAST_CHARS: Final = frozenset("AQgw")  # the four spare bits after 128 are zero
_PLAINTEXT: Final = struct.Struct(">BHHII3s")  # slot 3, cluster 2, expiry 4, nonce 4, zero 3
_ZERO: Final = bytes(3)


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. ``expiry`` is in whole unix seconds."""

    slot: int
    cluster: int
    expiry: int
    nonce: int


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One sealing key; ``key_id`` (0 to 7) follows from the secret as well."""

    key: bytes = field(repr=False)
    key_id: int

    @classmethod
    def derive(cls, secret: str) -> TokenKey:
        """Make the key for a fleet secret: HKDF-SHA256 without salt (RFC 5869)."""
        material = HKDF(SHA256(), length=17, salt=None, info=KEY_LABEL).derive(secret.encode())
        return cls(material[:16], material[16] & 7)


class TokenSealer:
    """Seals tokens with the current key; opens those of the current and the previous one."""

    def __init__(self, current: TokenKey, previous: TokenKey | None = None) -> None:
        self._encrypt = Cipher(AES(current.key), ECB()).encryptor().update
        self._prefix = _ICE_CHARS[current.key_id]  # version 0 is the three high bits
        self._decrypt: dict[str, tuple[Callable[[bytes], bytes], ...]] = {}
        for key in (current,) if previous is None else (current, previous):
            prefix = _ICE_CHARS[key.key_id]
            decrypt = Cipher(AES(key.key), ECB()).decryptor().update
            # Two keys may share an id; then both are tried.
            self._decrypt[prefix] = (*self._decrypt.get(prefix, ()), decrypt)

    def seal(self, slot: int, cluster: int, expiry: int, nonce: int) -> str:
        """Make a token; raises LocalProtocolError when a value does not fit its field."""
        try:
            block = _PLAINTEXT.pack(slot >> 16, slot & 0xFFFF, cluster, expiry, nonce, _ZERO)
        except struct.error as error:
            raise LocalProtocolError("a token field is out of range") from error
        return self._prefix + b2a_base64(self._encrypt(block), newline=False).decode()[:-2]

    def open(self, token: str, *, unix_now: float) -> Token:
        """Read a token that is authentic and not expired.

        Raises RemoteProtocolError with ``Drop.BAD_TOKEN`` for anything else.
        """
        if len(token) != TOKEN_CHARS or token[-1] not in _LAST_CHARS:
            raise _bad_token("not a token")
        try:
            sealed = a2b_base64(token[1:] + "==", strict_mode=True)
        except ValueError:
            raise _bad_token("not a token") from None
        for decrypt in self._decrypt.get(token[0], ()):
            high, low, cluster, expiry, nonce, zero = _PLAINTEXT.unpack(decrypt(sealed))
            if zero == _ZERO:
                if expiry <= unix_now:
                    raise _bad_token("expired token")
                return Token(high << 16 | low, cluster, expiry, nonce)
        raise _bad_token("forged token, or sealed with an unknown key")


def _bad_token(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, Drop.BAD_TOKEN)
