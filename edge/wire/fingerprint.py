"""A certificate's fingerprint as SDP writes it (RFC 8122, section 5)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``algorithm`` in lower case (``sha-256``); ``value`` as upper-case hex pairs with colons."""

    algorithm: str
    value: str
