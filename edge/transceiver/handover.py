"""A planned hand-over: every session of a transceiver that leaves goes to its heir.

Each is frozen, written down exactly, claimed for its heir, and given to him at its relays; what
comes here meanwhile waits, and what comes later is passed on. Its client is told nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog
import trio

from edge.errors import EndReason
from edge.registry.heirs import heir
from edge.registry.protocol import RegistryUnavailable, TransceiverRecord
from edge.registry.sessions import Claim, Slot
from edge.transceiver.custody import Custody
from edge.transceiver.keeper import Keeper
from edge.transceiver.session import Session
from edge.transceiver.takeover import TakeOver
from edge.transceiver.vault import leads
from edge.transceiver.voice import SILENT_ENDS

AT_ONCE: Final = 8
"""Sessions that move at the same time; each is silent for a moment."""
LOOK_SECONDS: Final = 0.02
LINGER_SECONDS: Final = 0.2
"""For how long we still pass on what comes, when the last session has gone."""

log = structlog.get_logger()


class Living(Protocol):
    """Who else is there."""

    @property
    def transceivers(self) -> Iterable[TransceiverRecord]:
        """All that live."""


class Owner(Protocol):
    """The service whose sessions go."""

    def withdraw(self, session: Session) -> None:
        """Take no more datagrams for a session; they are stray from now on."""

    def give(self, session: Session, record: TransceiverRecord) -> None:
        """Tell the relays of a session, and its heir, that it is his."""


class HandOver:
    """Hands sessions over."""

    def __init__(self, custody: Custody, takeover: TakeOver, fleet: Living, owner: Owner) -> None:
        self._custody = custody
        self._takeover = takeover
        self._fleet = fleet
        self._owner = owner
        self._moved = 0

    async def run(self, sessions: Callable[[], Iterable[Session]]) -> None:
        """Hand over all sessions, as they come to be connected; returns when none is left.

        Also when nobody is there who could take them. What comes from others that leave as well
        goes on, until we have nothing more.
        """
        try:
            moved = -1
            while moved != self._moved:
                moved = self._moved
                await self._move_all(sessions)
                if moved != self._moved:
                    await trio.sleep(LINGER_SECONDS)
        finally:
            self._takeover.close()

    async def _move_all(self, sessions: Callable[[], Iterable[Session]]) -> None:
        limit = trio.CapacityLimiter(AT_ONCE)
        while self._able() and (left := [one for one in sessions() if one.reason is None]):
            async with trio.open_nursery() as nursery:
                for session in left:
                    nursery.start_soon(self._try, session, limit)
            await trio.sleep(LOOK_SECONDS)

    async def _try(self, session: Session, limit: trio.CapacityLimiter) -> None:
        name = session.call.session
        async with limit, self._takeover.moving(name):
            keeper = self._custody.keeper(name)
            record = heir(name, self._able())
            if keeper is None or record is None or keeper.session.reason is not None:
                return
            try:
                if await self._custody.may_move(keeper):
                    await self._move(keeper, record)
            except Exception:
                log.exception("bug in a hand-over", session=name)
                session.end(EndReason.INTERNAL_ERROR)

    def _able(self) -> list[TransceiverRecord]:
        own = self._custody.slot
        return [
            each for each in self._fleet.transceivers if not (each.draining or each.slot == own)
        ]

    async def _move(self, keeper: Keeper, record: TransceiverRecord) -> None:
        """From here on the session says nothing under our claim, whatever becomes of it."""
        session = keeper.session
        self._owner.withdraw(session)
        checkpoint = await self._custody.store_exact(keeper)
        if checkpoint is None or session.reason is not None:
            log.warning("hand-over failed", session=session.call.session)
            session.end(EndReason.FENCED)
            return
        owner = await self._claim_for(keeper.claim, record.slot)
        if session.reason not in (None, *SILENT_ENDS):  # it was hung up meanwhile
            await self._custody.vault.forget(keeper.claim.next_of(record.slot))
            return
        for lead in leads(checkpoint):
            self._takeover.note_place(lead, owner)
        self._owner.give(session, record)
        self._moved += 1
        session.end(EndReason.MOVED)

    async def _claim_for(self, claim: Claim, slot: Slot) -> Slot:
        """Claim a session for its heir; returns who holds it."""
        try:
            held = await self._custody.vault.claim(claim.next_of(slot))
        except RegistryUnavailable:
            return slot  # whose claim it will be all the same, when he asks
        return slot if held is None else held.owner
