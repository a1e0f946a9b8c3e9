"""A transceiver's way to its registry, which a test may cut."""

from __future__ import annotations

from collections.abc import Sequence

from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import RegistryUnavailable, Slot, TransceiverRecord
from edge.registry.sessions import Claim, Lead, SessionBook, StoredCheckpoint, StoreOutcome


class Severed:
    """The registry as one process sees it: while ``cut``, nothing comes through."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self.cut = False
        self._registry = registry
        self._book: SessionBook = registry.sessions

    async def put_transceiver(self, record: TransceiverRecord) -> None:
        self._check()
        await self._registry.put_transceiver(record)

    async def remove_transceiver(self, slot: Slot) -> None:
        self._check()
        await self._registry.remove_transceiver(slot)

    async def claim(self, wanted: Claim, *, anew: bool = False) -> Claim | None:
        self._check()
        return await self._book.claim(wanted, anew=anew)

    async def owner_of(self, session: str) -> Claim | None:
        self._check()
        return await self._book.owner_of(session)

    async def owners_of(self, sessions: Sequence[str]) -> Sequence[Claim | None]:
        self._check()
        return await self._book.owners_of(sessions)

    async def store(self, claim: Claim, serial: int, sealed: bytes) -> StoreOutcome:
        self._check()
        return await self._book.store(claim, serial, sealed)

    async def load(self, claim: Claim) -> StoredCheckpoint | None:
        self._check()
        return await self._book.load(claim)

    async def forget(self, claim: Claim) -> None:
        self._check()
        await self._book.forget(claim)

    def save_leads(self, session: str, leads: Sequence[Lead]) -> None:
        if not self.cut:
            self._book.save_leads(session, leads)

    async def find_session(self, lead: Lead) -> str | None:
        self._check()
        return await self._book.find_session(lead)

    def _check(self) -> None:
        if self.cut:
            raise RegistryUnavailable
