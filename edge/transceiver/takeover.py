"""Datagrams of sessions that are not here: of which we are the heir, and of which another is.

A relay sends them whose transceiver is gone, and a transceiver whose session went elsewhere. The
lead that a datagram has (its token, or its path) tells the session, and the registry who owns it.
Is that somebody who lives, the datagram is passed on to him; else we claim the session, restore
it from its checkpoint and serve it. The datagrams wait meanwhile, within the bounds of ``lookup``.
What was passed on to us is never passed on again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog
import trio

from edge.errors import Drop, LocalProtocolError
from edge.lookup import Lookups, Outcome
from edge.registry.leases import Leases
from edge.registry.protocol import RegistryUnavailable, TransceiverRecord
from edge.registry.sessions import Claim, Lead, Slot
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.custody import Custody
from edge.wire.spp import split

TASKS: Final = 16
PER_SECOND: Final = 2_000.0
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
        self._lookups = Lookups(self._resolve, per_second=PER_SECOND, clock=clock)
        self._places = Leases[Lead, Slot](clock)
        self._busy: dict[str, trio.Lock] = {}
        self._closed = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find sessions until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(TASKS):
                    nursery.start_soon(self._lookups.serve)
                task_status.started()
        finally:
            self._lookups.clear()

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
        if not own and retry is not None and not split(datagram)[1]:  # it is ours, says its owner
            self._places.remove(lead)
        record = self._place(lead)
        if record is None:
            return Drop.UNKNOWN_SESSION if retry is None else self._hold(lead, retry, now)
        if not own:
            return Drop.LOOP
        self._pass_on(datagram, record)
        return None

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
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._busy.pop(session, None)

    def _place(self, lead: Lead) -> TransceiverRecord | None:
        """Find who has what this leads to, if he lives."""
        slot = self._places.get(lead)
        return None if slot is None else self._peers.transceiver(slot)

    def _hold(self, lead: Lead, retry: Callable[[float], None], now: float) -> Drop | None:
        drop = self._lookups.hold(lead, retry, now=now)
        return Drop.UNKNOWN_SESSION if drop is Drop.UNKNOWN_FLOW else drop

    async def _resolve(self, lead: Lead) -> Outcome:
        try:
            session = await self._custody.vault.find_session(lead)
            if session is None:
                return Outcome.ABSENT
            async with self.moving(session):
                return await self._find(session, lead)
        except RegistryUnavailable:
            return Outcome.WAITS

    async def _find(self, session: str, lead: Lead) -> Outcome:
        custody = self._custody
        if custody.keeper(session) is not None or self._place(lead) is not None:
            return Outcome.FOUND
        held = await custody.vault.owner_of(session)
        if held is None or custody.has_ended(held):
            return Outcome.ABSENT
        if held.owner != custody.slot and await self._peers.lives(held.owner):
            self.note_place(lead, held.owner)
            self._peers.hint_stale()
            return Outcome.FOUND
        if self._closed:
            return Outcome.ABSENT
        # What was claimed for us is claimed anew: we may have spoken under that claim before.
        return await self._inherit(held.next_of(custody.slot), lead)

    async def _inherit(self, wanted: Claim, lead: Lead) -> Outcome:
        """Claim a session, restore it, and write it down before it says a word."""
        held = await self._custody.claim(wanted)
        if held is None:
            return Outcome.ABSENT
        if held != wanted:
            self.note_place(lead, held.owner)
            return Outcome.FOUND
        try:
            return await self._restore(wanted)
        finally:
            self._custody.let_go(wanted)

    async def _restore(self, wanted: Claim) -> Outcome:
        checkpoint = await self._custody.vault.load(wanted)
        if not self._custody.holds(wanted):  # we stood still meanwhile
            return Outcome.WAITS
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
