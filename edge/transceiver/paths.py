"""Which session a client's path leads to.

A path belongs to the session whose check on it was valid. A second session may claim it with a
valid check of its own: the client's port was used again for a new call, or somebody with a call of
his own forges another client's address. The two can not be told apart at first, so, as in the
relay (``routing``), the younger claim stands beside the owner's: what comes in goes to both, and
each session's cryptography takes what is meant for it. The challenger inherits the path when
the owner has heard nothing authentic on it for ``OWNER_QUIET`` seconds, or ends.
"""

from __future__ import annotations

from typing import Final

from edge.address import Address
from edge.routing import OWNER_QUIET
from edge.transceiver.session import Session
from edge.wire.spp import Path

MAX_PATHS: Final = 16
"""Paths a session may hold; twice what ICE keeps, so that pruning is rare."""


class PathTable:
    """The paths of all sessions. A session's ``relays`` names the same paths, one for one."""

    def __init__(self) -> None:
        self._owners: dict[Path, Session] = {}
        self._challengers: dict[Path, Session] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def owner(self, path: Path) -> Session | None:
        """The session that a path belongs to."""
        return self._owners.get(path)

    def challenger(self, path: Path) -> Session | None:
        """The session that claims somebody else's path."""
        return self._challengers.get(path) if self._challengers else None

    def claim(self, path: Path, session: Session, *, now: float) -> list[tuple[Path, Address]]:
        """Note that ``session`` had a valid check on ``path``.

        Returns the paths, each with its relay, that nobody has now because the session has
        too many.
        """
        owner = self._owners.setdefault(path, session)
        if owner is not session:
            self._displace_challenger(path, session)
            if now - owner.peer.heard_at(path) <= OWNER_QUIET:
                self._challengers[path] = session
            else:
                del owner.relays[path]
                self._owners[path] = session
        if len(session.relays) <= MAX_PATHS:
            return []
        known = session.peer.ice.paths
        forgotten = [each for each in session.relays.items() if not known.knows(each[0])]
        return [(old, relay) for old, relay in forgotten if self.release(old, session)]

    def release(self, path: Path, session: Session) -> bool:
        """Take a path from a session; True when nobody has it now."""
        session.relays.pop(path, None)
        heir = self._challengers.pop(path, None)
        if self._owners.get(path) is not session:
            if heir is not None and heir is not session:
                self._challengers[path] = heir
            return False
        if heir is None:
            del self._owners[path]
            return True
        self._owners[path] = heir
        return False

    def _displace_challenger(self, path: Path, session: Session) -> None:
        former = self._challengers.pop(path, None)
        if former is not None and former is not session:
            del former.relays[path]
