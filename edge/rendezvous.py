"""Rendezvous hashing: everybody who knows the same candidates chooses the same one.

Each candidate has a weight for a key, and the heaviest is chosen; when it goes, only its keys
move, each to its own next heaviest (Thaler and Ravishankar, 1998).
"""

from __future__ import annotations

from hashlib import blake2b


def weigh(name: str, key: bytes) -> bytes:
    """The weight of the candidate ``name`` for a key; of a name the first 64 bytes count."""
    return blake2b(key, key=name.encode()[:64], digest_size=8).digest()
