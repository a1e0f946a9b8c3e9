"""Which sessions are here, and how each is found: by its id, by a check's token, by a path."""

from __future__ import annotations

from collections import Counter

from edge.transceiver.paths import PathTable
from edge.transceiver.session import Session


class Roster:
    """The sessions of a transceiver, from their opening until they have said goodbye."""

    def __init__(self) -> None:
        self.by_call: dict[str, Session] = {}
        """By the public id."""
        self.by_token: dict[str, Session] = {}
        """By what the client's checks are addressed to: two in a moment after an ICE restart."""
        self.paths = PathTable()
        self.per_key: Counter[str] = Counter()
        """How many sessions each API key has open, by the key's id."""

    def __len__(self) -> int:
        return len(self.by_call)

    def enter(self, session: Session) -> None:
        """Take up a session, with the tokens it has."""
        for token in session.tokens:
            self.by_token[token] = session
        self.by_call[session.call.session] = session
        self.per_key[session.opener.key_id] += 1

    def readdress(self, session: Session, tokens: set[str]) -> None:
        """Have a session found by these tokens alone: its ICE has restarted."""
        for token in session.tokens - tokens:
            del self.by_token[token]
        for token in tokens - session.tokens:
            self.by_token[token] = session
        session.tokens = tokens

    def withdraw(self, session: Session) -> None:
        """Find a session by its id alone; it goes on knowing its relays."""
        for token in session.tokens:
            self.by_token.pop(token, None)
        for path, relay in tuple(session.relays.items()):
            self.paths.release(path, session)
            session.relays[path] = relay

    def leave(self, session: Session) -> None:
        """Take out a session that has ended, but for its paths; it may be back already."""
        for token in session.tokens:
            if self.by_token.get(token) is session:
                del self.by_token[token]
        if self.by_call.get(session.call.session) is session:
            del self.by_call[session.call.session]
            self._uncount(session.opener.key_id)

    def _uncount(self, key: str) -> None:
        self.per_key[key] -= 1
        if not self.per_key[key]:
            del self.per_key[key]
