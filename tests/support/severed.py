"""A transceiver's way to its registry, which a test may cut, or stop somebody on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import RegistryUnavailable, Slot, TransceiverRecord
from edge.registry.sessions import Claim, Inheritance, Lead, SessionBook, StoreOutcome

Happens = Callable[[], Awaitable[None]]


class Severed:
    """The registry as one process sees it: while ``cut``, nothing comes through."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self.cut = False
        self.closed = False
        """Claims and checkpoints alone do not come through, as if that were so for everybody."""
        self.seconds = 0.0
        """How long an answer takes."""
        self.asked: Counter[str] = Counter()
        self.before: dict[str, Happens] = {}
        """What happens, once, on the way to a method of this name."""
        self.after: dict[str, Happens] = {}
        """The same on the way back."""
        self._registry = registry
        self._book: SessionBook = registry.sessions

    async def put_transceiver(self, record: TransceiverRecord) -> None:
        if "put_transceiver" in self.before:
            await self.before.pop("put_transceiver")()
        self._check()
        await self._registry.put_transceiver(record)

    async def remove_transceiver(self, slot: Slot) -> None:
        self._check()
        await self._registry.remove_transceiver(slot)

    async def claim(self, wanted: Claim, *, anew: bool = False) -> Claim | None:
        async with self._way("claim"):
            return await self._book.claim(wanted, anew=anew)

    async def owner_of(self, session: str) -> Claim | None:
        async with self._way("owner_of"):
            return await self._book.owner_of(session)

    async def owners_of(self, sessions: Sequence[str]) -> Sequence[Claim | None]:
        async with self._way("owners_of"):
            return await self._book.owners_of(sessions)

    async def store(self, claim: Claim, serial: int, sealed: bytes) -> StoreOutcome:
        async with self._way("store"):
            return await self._book.store(claim, serial, sealed)

    async def hand_over(self, claim: Claim, serial: int, sealed: bytes, heir: Slot) -> StoreOutcome:
        async with self._way("hand_over"):
            return await self._book.hand_over(claim, serial, sealed, heir)

    async def inherit(self, wanted: Claim, former: Slot) -> Inheritance:
        async with self._way("inherit"):
            return await self._book.inherit(wanted, former)

    async def forget(self, claim: Claim) -> None:
        async with self._way("forget"):
            await self._book.forget(claim)

    def save_leads(self, session: str, leads: Sequence[Lead]) -> None:
        if not (self.cut or self.closed):
            self._book.save_leads(session, leads)

    async def find_session(self, lead: Lead) -> str | None:
        async with self._way("find_session"):
            return await self._book.find_session(lead)

    @asynccontextmanager
    async def _way(self, name: str) -> AsyncIterator[None]:
        self.asked[name] += 1
        if name in self.before:
            await self.before.pop(name)()
        self._check()
        if self.closed:
            raise RegistryUnavailable
        await trio.sleep(self.seconds / 2)
        yield
        await trio.sleep(self.seconds / 2)
        if name in self.after:
            await self.after.pop(name)()

    def _check(self) -> None:
        if self.cut:
            raise RegistryUnavailable
