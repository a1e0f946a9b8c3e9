"""A planned hand-over: every session of a transceiver that leaves goes to its heir.

Each is frozen, written down exactly and claimed for its heir, who is told so, and given to him at
its relays; what comes here meanwhile waits, and what comes later is passed on. Its client is told
nothing. An heir gets one at a time: the next one goes when he says that he has taken the last up,
or a moment later, so each is silent for its own time only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog
import trio

from edge.errors import EndReason
from edge.registry.heirs import heir
from edge.registry.protocol import TransceiverRecord
from edge.registry.sessions import Claim, Slot
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.custody import Custody
from edge.transceiver.keeper import Keeper
from edge.transceiver.session import Session
from edge.transceiver.takeover import TakeOver
from edge.transceiver.vault import leads
from edge.transceiver.voice import SILENT_ENDS

AT_ONCE: Final = 8
"""Sessions that are about to move."""
TURN_SECONDS: Final = 0.05
"""How long an heir is left alone with one session: on a busy host each takes longer, and all have
to go. Two at once wait for each other's share of his CPU."""
TAKEN_SECONDS: Final = 0.25
"""How long we wait at most for an heir to say that he has taken a session up."""
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

    def give(self, session: Session, record: TransceiverRecord, *, epoch: int) -> None:
        """Tell a session's heir, for whom it was claimed, and its relays that it is his."""


class HandOver:
    """Hands sessions over."""

    def __init__(self, custody: Custody, takeover: TakeOver, fleet: Living, owner: Owner) -> None:
        self._custody = custody
        self._takeover = takeover
        self._fleet = fleet
        self._owner = owner
        self._moved = 0
        self._turns = defaultdict[Slot, trio.Semaphore](lambda: trio.Semaphore(1))
        self._taken: dict[str, trio.Event] = {}
        """Of sessions that move, and of which no heir has said yet that he has them."""

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

    def finds(self, session: Session) -> bool:
        """Whether an heir would find a session that ends here without a word, as after a crash."""
        return bool(self._able()) and self._custody.is_stored(session.call.session)

    def note_taken(self, session: str) -> None:
        """An heir says that he has taken a session up, or can not."""
        if session in self._taken:
            self._taken[session].set()

    async def _move_all(self, sessions: Callable[[], Iterable[Session]]) -> None:
        limit = trio.CapacityLimiter(AT_ONCE)
        while self._able() and (left := [one for one in sessions() if one.reason is None]):
            async with trio.open_nursery() as nursery:
                for session in left:
                    nursery.start_soon(self._try, session, limit)
            await trio.sleep(LOOK_SECONDS)

    async def _try(self, session: Session, limit: trio.CapacityLimiter) -> None:
        name = session.call.session
        async with limit:
            able = self._able()
            slot = heir(name.encode(), able)
            if slot is None:
                return
            await self._turns[slot].acquire()
            async with trio.open_nursery() as nursery:
                taken = self._taken[name] = trio.Event()
                nursery.start_soon(_end_turn, self._turns[slot], taken)
                await self._try_heir(session, able[slot], taken)

    async def _try_heir(
        self, session: Session, record: TransceiverRecord, taken: trio.Event
    ) -> None:
        name = session.call.session
        try:
            if await self._hand_over(name, record):
                with trio.move_on_after(TAKEN_SECONDS):
                    await taken.wait()
        except Exception:
            log.exception("bug in a hand-over", session=name)
            session.end(EndReason.INTERNAL_ERROR)
        finally:
            taken.set()
            del self._taken[name]

    def _able(self) -> dict[Slot, TransceiverRecord]:
        own = self._custody.slot
        others = (one for one in self._fleet.transceivers if one.slot != own)
        return {one.slot: one for one in others if not one.draining}

    async def _hand_over(self, name: str, record: TransceiverRecord) -> bool:
        """Hand a session over, if it is ours and can be; nobody else moves it meanwhile."""
        async with self._takeover.moving(name):
            keeper = self._custody.keeper(name)
            if keeper is None or keeper.session.reason is not None:
                return False
            return await self._custody.may_move(keeper) and await self._move(keeper, record)

    async def _move(self, keeper: Keeper, record: TransceiverRecord) -> bool:
        """From here on the session says nothing under our claim, whatever becomes of it."""
        session, slot = keeper.session, record.slot
        self._owner.withdraw(session)
        checkpoint = await self._custody.hand_over(keeper, slot)
        given = keeper.claim.next_of(slot)
        if session.reason not in (None, *SILENT_ENDS):  # it was hung up meanwhile
            self._custody.forget(given)
            return False
        if checkpoint is None:
            log.warning("hand-over failed", session=session.call.session)
            session.end(EndReason.FENCED)
            return False
        self._give(session, checkpoint, given, record)
        return True

    def _give(
        self, session: Session, checkpoint: Checkpoint, given: Claim, record: TransceiverRecord
    ) -> None:
        for lead in leads(checkpoint):
            self._takeover.note_place(lead, record.slot)
        self._owner.give(session, record, epoch=given.epoch)
        self._moved += 1
        session.end(EndReason.MOVED)


async def _end_turn(turn: trio.Semaphore, taken: trio.Event) -> None:
    try:
        with trio.move_on_after(TURN_SECONDS):
            await taken.wait()
    finally:
        turn.release()
