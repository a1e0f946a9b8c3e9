"""AES-GCM protection of DTLS 1.2 records outside OpenSSL; RFC 5246 (6.3), 5288 (3), 6347 (4.1.2).

OpenSSL encrypts our records. The one thing it cannot do in time is to send our Finished again
under a fresh record number: a server whose last flight was lost answers only such a copy, because
an equal record number is a replay to it. So the copies are made here from the same keys.

A GCM nonce must never serve twice. OpenSSL counts the explicit half of its nonces upwards from a
random start, so our copies take theirs from the far side of the 64-bit circle.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge.webrtc.dtls_records import Record

_EXPLICIT_NONCE_BYTES: Final = 8
_FIXED_IV_BYTES: Final = 4
_TAG_BYTES: Final = 16
PROTECTION_BYTES: Final = _EXPLICIT_NONCE_BYTES + _TAG_BYTES
"""What protection adds to a record's fragment."""
_FAR_SIDE: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a session's record keys follow from; ``suite`` is OpenSSL's name of it."""

    suite: str
    master_secret: bytes = field(repr=False)
    client_random: bytes = field(repr=False)
    server_random: bytes = field(repr=False)


class RecordProtection:
    """The keys of what the client writes."""

    def __init__(self, secrets: Secrets) -> None:
        key_bytes, digest = (32, "sha384") if "AES256" in secrets.suite else (16, "sha256")
        seed = b"key expansion" + secrets.server_random + secrets.client_random
        block = _prf(digest, secrets.master_secret, seed, 2 * key_bytes + _FIXED_IV_BYTES)
        self._aead = AESGCM(block[:key_bytes])
        self._fixed_iv = block[2 * key_bytes :]

    def renew(self, record: Record, sequence: int) -> Record:
        """The same content under another record number and another nonce."""
        explicit = record.fragment[:_EXPLICIT_NONCE_BYTES]
        sealed = record.fragment[_EXPLICIT_NONCE_BYTES:]
        content = self._aead.decrypt(self._fixed_iv + explicit, sealed, _additional_data(record))
        renewed = record.numbered(sequence)
        start = int.from_bytes(explicit, "big")
        fresh = ((start + _FAR_SIDE + sequence) % (1 << 64)).to_bytes(_EXPLICIT_NONCE_BYTES, "big")
        sealed = self._aead.encrypt(self._fixed_iv + fresh, content, _additional_data(renewed))
        return replace(renewed, fragment=fresh + sealed)


def _additional_data(record: Record) -> bytes:
    length = len(record.fragment) - PROTECTION_BYTES
    return (
        record.epoch.to_bytes(2, "big")
        + record.sequence.to_bytes(6, "big")
        + bytes([record.content_type])
        + record.version.to_bytes(2, "big")
        + length.to_bytes(2, "big")
    )


def _prf(digest: str, secret: bytes, seed: bytes, length: int) -> bytes:
    """P_hash of RFC 5246, section 5; ``seed`` is the label and its seed."""
    block, a = b"", seed
    while len(block) < length:
        a = hmac.digest(secret, a, digest)
        block += hmac.digest(secret, a + seed, digest)
    return block[:length]
