"""A session's own ICE credentials; the ufrag is a token that tells relays where it is served."""

from __future__ import annotations

from base64 import b32encode
from typing import Final

from edge.registry.protocol import Slot
from edge.token import TokenSealer
from edge.transceiver.environment import Environment
from edge.webrtc.ice import IceCredentials

TOKEN_MARGIN: Final = 60
"""Seconds by which a token outlives the longest session: clocks of relays differ."""


class CredentialMaker:
    """Makes them for one transceiver, no two alike."""

    def __init__(
        self,
        sealer: TokenSealer,
        *,
        slot: Slot,
        cluster: int,
        environment: Environment,
        session_seconds: float,
    ) -> None:
        """``session_seconds``: how long a session may last."""
        self._sealer = sealer
        self._slot = slot
        self._cluster = cluster
        self._environment = environment
        self._seconds = session_seconds
        self._nonce = int.from_bytes(environment.entropy(4), "big")

    def make(self) -> IceCredentials:
        """Make the credentials of a session, or of its next ICE generation."""
        password = b32encode(self._environment.entropy(20)).decode()
        return IceCredentials(self._seal_token(), password)

    def _seal_token(self) -> str:
        self._nonce = (self._nonce + 1) & 0xFFFF_FFFF
        expiry = int(self._environment.unix() + self._seconds) + TOKEN_MARGIN
        return self._sealer.seal(self._slot, self._cluster, expiry, self._nonce)
