"""SRTP protection profiles and the keys that a DTLS handshake exports for them (RFC 5764)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final


class SrtpProfile(Enum):
    """The profiles we negotiate; the value is the IANA number of RFC 5764 and RFC 7714."""

    AES128_CM_HMAC_SHA1_80 = 0x0001
    AEAD_AES_128_GCM = 0x0007
    AEAD_AES_256_GCM = 0x0008

    @property
    def openssl_name(self) -> str:
        """The name OpenSSL knows this profile by."""
        return _OPENSSL_NAMES[self]

    @property
    def key_bytes(self) -> int:
        """Length of the master key."""
        return 32 if self is SrtpProfile.AEAD_AES_256_GCM else 16

    @property
    def salt_bytes(self) -> int:
        """Length of the master salt."""
        return 14 if self is SrtpProfile.AES128_CM_HMAC_SHA1_80 else 12


_OPENSSL_NAMES: Final = {
    SrtpProfile.AES128_CM_HMAC_SHA1_80: "SRTP_AES128_CM_SHA1_80",
    SrtpProfile.AEAD_AES_128_GCM: "SRTP_AEAD_AES_128_GCM",
    SrtpProfile.AEAD_AES_256_GCM: "SRTP_AEAD_AES_256_GCM",
}

KEYING_LABEL: Final = b"EXTRACTOR-dtls_srtp"
"""Exporter label; RFC 5764, section 4.2."""


@dataclass(frozen=True, slots=True)
class SrtpKeys:
    """Master keys and salts of both directions; ``local`` protects what we send."""

    profile: SrtpProfile
    local_key: bytes = field(repr=False)
    local_salt: bytes = field(repr=False)
    remote_key: bytes = field(repr=False)
    remote_salt: bytes = field(repr=False)
