"""ICE credentials, and the restart that replaces them (RFC 8445, 9).

The client brings new credentials over signaling and gets new ones of ours. Until the client has
used the new ones, the former count as before; ``FORMER_LIFETIME`` after the first valid check with
the new they are gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import msgspec

from edge.wire.stun_peek import peek_username

FORMER_LIFETIME: Final = 5.0  # seconds, for what is still under way after a restart


@dataclass(frozen=True, slots=True)
class IceCredentials:
    """One side's ``a=ice-ufrag`` and ``a=ice-pwd``."""

    ufrag: str = field(repr=False)
    password: str = field(repr=False)


class Credentials(msgspec.Struct, frozen=True):
    """Both sides' credentials of one generation; a restart begins the next one."""

    local: IceCredentials
    remote: IceCredentials

    @property
    def username(self) -> str:
        """Of the client's checks (RFC 8445, 7.2.2)."""
        return f"{self.local.ufrag}:{self.remote.ufrag}"

    def __repr__(self) -> str:
        return "Credentials()"


class Generations:
    """The current credentials, and the former as long as they count."""

    def __init__(self, current: Credentials) -> None:
        self.current = current
        self.used = False
        """The client has used the current ones."""
        self.former: Credentials | None = None
        self.former_until = math.inf
        self.restarts = 0

    @property
    def ufrags(self) -> tuple[str, ...]:
        """Our ufrags that count now, the current one first."""
        return tuple(one.local.ufrag for one in (self.current, self.former) if one is not None)

    def restart(self, following: Credentials) -> None:
        """Begin a new generation."""
        if self.used:
            self.former, self.former_until = self.current, math.inf
        self.current, self.used = following, False
        self.restarts += 1

    def of(self, datagram: bytes, now: float) -> Credentials:
        """Which generation a check is of; nothing is proven by that yet."""
        former = self.former
        if former is None or now >= self.former_until:
            return self.current
        return former if peek_username(datagram) == former.username else self.current

    def use(self, credentials: Credentials, now: float) -> None:
        """Note a valid check: where it used the current ones, the former go soon."""
        if credentials is self.current and not self.used:
            self.used = True
            self.former_until = now + FORMER_LIFETIME if self.former else math.inf

    def expire(self, now: float) -> None:
        """Forget the former when their time is over."""
        if now >= self.former_until:
            self.former, self.former_until = None, math.inf
