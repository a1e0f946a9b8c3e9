"""Datagrams of sessions that are not here: of which we are the heir, and of which another is.

A relay sends them whose transceiver is gone, and a transceiver whose session went elsewhere. The
lead that a datagram has (its token, or its path) tells the session, and the registry who owns it.
Is that somebody who lives, the datagram is passed on to him; else we claim the session, restore
it from its checkpoint and serve it. So we do at once where its owner says that it is left to us.
The datagrams wait meanwhile, within the bounds of ``lookup``. What was passed on to us is never
passed on again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog
import trio

from edge.errors import Drop, LocalProtocolError
from edge.lookup import Lookups, Outcome
from edge.registry.heirs import able, next_heir
from edge.registry.leases import Leases
from edge.registry.protocol import RegistryUnavailable, TransceiverRecord
from edge.registry.sessions import Claim, Lead, Slot
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.custody import Custody
from edge.transceiver.mark import MARK, is_settled

TASKS: Final = 16
PER_SECOND: Final = 2_000.0
MAX_DATAGRAMS: Final = 32
"""Datagrams that may wait for one session: of media, 0.6 s."""
PLACE_SECONDS: Final = 1.0
"""How long a datagram is passed on without asking again where its session is."""
MAX_PLACES: Final = 10_000
FIRST_STORE_SECONDS: Final = 1.0

log = structlog.get_logger()

Revive = Callable[[Checkpoint, Claim], Awaitable[None]]
"""Restores a session and serves it; its custody has been told of the claim."""
PassOn = Callable[[bytes, TransceiverRecord], None]


class Peers(Protocol):
    """What is known of the other transceivers."""

    @property
    def transceivers(self) -> Iterable[TransceiverRecord]:
        """All that live."""

    def transceiver(self, slot: Slot) -> TransceiverRecord | None:
        """Find one that lives."""

    async def lives(self, slot: Slot) -> bool:
        """Whether one lives, as far as is known and as its host says."""

    def hint_stale(self) -> None:
        """Ask for an early refresh."""


class TakeOver:
    """Finds the sessions of stray datagrams; ``run`` does what must wait."""

    def __init__(
        self,
        custody: Custody,
        peers: Peers,
        *,
        revive: Revive,
        pass_on: PassOn,
        clock: Callable[[], float],
    ) -> None:
        self._custody = custody
        self._peers = peers
        self._revive = revive
        self._pass_on = pass_on
        lookups = partial(Lookups, per_second=PER_SECOND, clock=clock, max_datagrams=MAX_DATAGRAMS)
        self._lookups: Lookups[Lead] = lookups(self._resolve)
        self._left: Lookups[Claim] = lookups(self._take_up)
        self._places = Leases[Lead, Slot](clock)
        self._busy: dict[str, trio.Lock] = {}
        self._closed = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find sessions until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(TASKS):
                    nursery.start_soon(self._lookups.serve)
                    nursery.start_soon(self._left.serve)
                task_status.started()
        finally:
            self._lookups.clear()
            self._left.clear()

    def take(
        self,
        lead: Lead,
        datagram: bytes,
        retry: Callable[[float], None] | None,
        *,
        own: bool,
        now: float,
    ) -> Drop | None:
        """Take a datagram whose session is not here: pass it on, or keep it until it may be.

        ``retry`` handles it again, and is None when it has. What another transceiver passed on to
        us (not ``own``) goes no further.
        """
        record = self._place(lead)
        if record is None:
            return Drop.UNKNOWN_SESSION if retry is None else _hold(self._lookups, lead, retry, now)
        if not own:
            return Drop.LOOP
        self._pass_on(datagram, record)
        return None

    def take_up(
        self, left: Claim, lead: Lead, done: Callable[[float], None], *, now: float
    ) -> Drop | None:
        """Take up a session that its owner says to have claimed for us; ``lead`` leads to it.

        ``done`` is called when it speaks here, or when it is known that it can not.
        """
        self._places.remove(lead)
        return _hold(self._left, left, done, now)

    def close(self) -> None:
        """Take nothing over any more, as we leave; what is elsewhere is still passed on."""
        self._closed = True

    def note_place(self, lead: Lead, slot: Slot) -> None:
        """Note who has what this leads to."""
        self._places.put(lead, slot, PLACE_SECONDS)
        if len(self._places) > MAX_PLACES:
            self._places.drop_oldest()

    @asynccontextmanager
    async def moving(self, session: str) -> AsyncIterator[None]:
        """One at a time for each session: who takes it over, or hands it over."""
        lock = self._busy.setdefault(session, trio.Lock())
        if lock.locked():
            await lock.acquire()
        else:  # somebody is silent: he shall not wait for all that this loop has to do as well
            lock.acquire_nowait()
        try:
            yield
        finally:
            lock.release()
            if not lock.locked() and self._busy.get(session) is lock:
                del self._busy[session]

    def _place(self, lead: Lead) -> TransceiverRecord | None:
        """Find who has what this leads to, if he lives."""
        slot = self._places.get(lead)
        return None if slot is None else self._peers.transceiver(slot)

    async def _resolve(self, lead: Lead) -> Outcome:
        try:
            session = await self._custody.vault.find_session(lead)
            if session is None:
                return Outcome.ABSENT
            async with self.moving(session):
                return await self._find(session, lead)
        except RegistryUnavailable:
            return Outcome.WAITS

    async def _take_up(self, left: Claim) -> Outcome:
        custody = self._custody
        try:
            async with self.moving(left.session):
                if custody.keeper(left.session) is not None:
                    return Outcome.FOUND
                if self._closed or custody.has_ended(left):
                    return Outcome.ABSENT
                return await self._inherit(left, None)
        except RegistryUnavailable:
            return Outcome.WAITS

    async def _find(self, session: str, lead: Lead) -> Outcome:
        custody = self._custody
        if custody.keeper(session) is not None or self._place(lead) is not None:
            return Outcome.FOUND
        held, mark = await custody.vault.owners_of((session, MARK))
        if held is None or custody.has_ended(held):
            return Outcome.ABSENT
        if held.owner != custody.slot and await self._peers.lives(held.owner):
            self.note_place(lead, held.owner)
            self._peers.hint_stale()
            return Outcome.FOUND
        if self._closed:
            return Outcome.ABSENT
        if not is_settled(mark) and held.owner != custody.slot:  # who has it may not have told yet
            return Outcome.WAITS
        # What was claimed for us is claimed anew: we may have spoken under that claim before.
        return await self._inherit(held, lead)

    async def _inherit(self, former: Claim, lead: Lead | None) -> Outcome:
        """Claim a session, restore it, and write it down before it says a word."""
        wanted = former.next_of(self._custody.slot)
        held, checkpoint, unread = await self._custody.inherit(wanted, former.owner)
        try:
            if held == wanted and not unread:
                return await self._restore(checkpoint, wanted)
            if held == wanted:
                held = await self._leave_to_next(wanted)
        finally:
            self._custody.let_go(wanted)
        if held is None:
            return Outcome.ABSENT
        if lead is not None:
            self.note_place(lead, held.owner)
        return Outcome.FOUND

    async def _leave_to_next(self, claim: Claim) -> Claim | None:
        """Claim what another version of this program wrote for whoever may read it."""
        slots = able(self._peers.transceivers)
        slot = next_heir(claim.session.encode(), slots, self._custody.slot)
        return None if slot is None else await self._custody.vault.claim(claim.next_of(slot))

    async def _restore(self, checkpoint: Checkpoint | None, wanted: Claim) -> Outcome:
        if checkpoint is None:
            await self._custody.give_up(wanted)
            return Outcome.ABSENT
        try:
            await self._revive(checkpoint, wanted)
        except LocalProtocolError as error:
            log.warning("session lost", session=wanted.session, error=str(error))
            await self._custody.give_up(wanted)
            return Outcome.ABSENT
        keeper = self._custody.keeper(wanted.session)
        if keeper is not None:
            with trio.move_on_after(FIRST_STORE_SECONDS):
                await keeper.was_stored.wait()
        return Outcome.FOUND


Waiting = TypeVar("Waiting", bound=Hashable)


def _hold(
    lookups: Lookups[Waiting], waiting: Waiting, retry: Callable[[float], None], now: float
) -> Drop | None:
    drop = lookups.hold(waiting, retry, now=now)
    return Drop.UNKNOWN_SESSION if drop is Drop.UNKNOWN_FLOW else drop
