"""The claim book of one process: see ``sessions`` for its rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import trio

from edge.errors import Drop
from edge.registry.leases import Leases
from edge.registry.sessions import (
    MAX_CHECKPOINT_BYTES,
    MAX_LEADS,
    MAX_SESSIONS,
    SESSION_SECONDS,
    Claim,
    Inheritance,
    Lead,
    Slot,
    StoredCheckpoint,
    StoreOutcome,
    check_claim,
    check_serial,
    grants,
    inherits,
    refusal,
)

_MAX_SAVED_LEADS: Final = 4 * MAX_SESSIONS
"""A session has a token and one or two paths, most of the time."""


class _Entry(NamedTuple):
    held: Claim
    stored: StoredCheckpoint | None


class MemorySessions:
    """A ``SessionBook`` of plain dictionaries; over ``max_sessions`` the oldest goes."""

    def __init__(
        self,
        clock: Callable[[], float],
        drops: Counter[Drop],
        *,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        self._drops = drops
        self._max_sessions = max_sessions
        self._entries: Leases[str, _Entry] = Leases(clock)
        self._leads: Leases[Lead, str] = Leases(clock)

    async def claim(self, wanted: Claim, *, anew: bool = False) -> Claim | None:
        """Claim a session; see ``SessionBook``."""
        check_claim(wanted)
        await trio.lowlevel.checkpoint()
        entry = self._entries.get(wanted.session)
        held, stored = entry or (None, None)
        if not grants(held, wanted, anew=anew):
            return held
        self._put(_Entry(wanted, None if anew and held != wanted else stored))
        return wanted

    async def owner_of(self, session: str) -> Claim | None:
        """Tell who holds a session."""
        (held,) = await self.owners_of((session,))
        return held

    async def owners_of(self, sessions: Sequence[str]) -> Sequence[Claim | None]:
        """Tell who holds each of these sessions."""
        await trio.lowlevel.checkpoint()
        return [self._held(session) for session in sessions]

    async def store(self, claim: Claim, serial: int, sealed: bytes) -> StoreOutcome:
        """Store a checkpoint; see ``SessionBook``."""
        check_serial(serial)
        await trio.lowlevel.checkpoint()
        return self._store(StoredCheckpoint(claim=claim, serial=serial, sealed=sealed), claim)

    async def hand_over(self, claim: Claim, serial: int, sealed: bytes, heir: Slot) -> StoreOutcome:
        """Store a checkpoint and claim the next epoch for an heir; see ``SessionBook``."""
        given = claim.next_of(heir)
        check_claim(given)
        check_serial(serial)
        await trio.lowlevel.checkpoint()
        held, stored = self._entries.get(claim.session) or (None, None)
        if held == given and stored is not None and stored.claim == claim:
            return StoreOutcome.STORED
        return self._store(StoredCheckpoint(claim=claim, serial=serial, sealed=sealed), given)

    async def inherit(self, wanted: Claim, former: Slot) -> Inheritance:
        """Claim a session, and load its newest checkpoint; see ``SessionBook``."""
        check_claim(wanted)
        await trio.lowlevel.checkpoint()
        held, stored = self._entries.get(wanted.session) or (None, None)
        if not inherits(held, wanted, former):
            return Inheritance(held, None)
        self._put(_Entry(wanted, stored))
        return Inheritance(wanted, stored)

    async def forget(self, claim: Claim) -> None:
        """Take a session out, unless it is another's."""
        await trio.lowlevel.checkpoint()
        if self._held(claim.session) == claim:
            self._entries.remove(claim.session)

    def save_leads(self, session: str, leads: Sequence[Lead]) -> None:
        """Note what leads to a session; the oldest goes when there are too many."""
        for lead in leads[:MAX_LEADS]:
            self._leads.put(lead, session, SESSION_SECONDS)
        dropped = max(len(leads) - MAX_LEADS, 0)
        while len(self._leads) > _MAX_SAVED_LEADS:
            self._leads.drop_oldest()
            dropped += 1
        if dropped:
            self._drops[Drop.TABLE_FULL] += dropped

    async def find_session(self, lead: Lead) -> str | None:
        """Find a session by what leads to it."""
        await trio.lowlevel.checkpoint()
        return self._leads.get(lead)

    def empty(self) -> None:
        """Forget all, as a store may at any time."""
        for entry in self._entries.living():
            self._entries.remove(entry.held.session)

    def _store(self, new: StoredCheckpoint, then: Claim) -> StoreOutcome:
        """Store a checkpoint; ``then`` is what is held afterwards."""
        if len(new.sealed) > MAX_CHECKPOINT_BYTES:
            self._drops[Drop.TOO_LONG] += 1
            return StoreOutcome.TOO_LONG
        held, stored = self._entries.get(new.claim.session) or (None, None)
        refused = refusal(held, new.claim)
        if refused is not None:
            return refused
        if stored is not None and stored.claim == new.claim and stored.serial > new.serial:
            return StoreOutcome.SUPERSEDED
        self._put(_Entry(then, new))
        return StoreOutcome.STORED

    def _held(self, session: str) -> Claim | None:
        entry = self._entries.get(session)
        return None if entry is None else entry.held

    def _put(self, entry: _Entry) -> None:
        self._entries.put(entry.held.session, entry, SESSION_SECONDS)
        if len(self._entries) > self._max_sessions:
            self._entries.drop_oldest()
            self._drops[Drop.TABLE_FULL] += 1
