"""The registry of one process: plain dictionaries with leases.

Nothing here waits; the ``async`` methods are checkpoints like any other registry's. A watcher is
called at once, synchronously, with every change, so that a ``Directory`` is never behind.

Several clusters in one process (a simulation, a test) have a registry each over the same relays,
as they would in one Redis: ``beside`` makes the next one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

import trio

from edge.address import Address
from edge.errors import Drop
from edge.registry.leases import Leases
from edge.registry.memory_sessions import MemorySessions
from edge.registry.protocol import (
    MAX_SLOT,
    FlowRecord,
    RegistryStatistics,
    RelayRecord,
    Slot,
    TransceiverRecord,
)

MAX_FLOWS: Final = 100_000
MAX_CLAIMS: Final = 100_000

Watcher: TypeAlias = Callable[[Sequence[TransceiverRecord], Sequence[RelayRecord]], None]


class MemoryRegistry:
    """A ``Registry`` for the embedded default and for tests. ``clock`` is monotonic seconds.

    ``relay_lease_seconds`` is ``lease_seconds`` where it is None.
    """

    def __init__(
        self,
        *,
        cluster: int = 0,
        lease_seconds: float = 3.0,
        relay_lease_seconds: float | None = None,
        max_flows: int = MAX_FLOWS,
        clock: Callable[[], float] = trio.current_time,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.drops: Counter[Drop] = Counter()
        self._cluster = cluster
        self._lease_seconds = lease_seconds
        self._relay_lease = lease_seconds if relay_lease_seconds is None else relay_lease_seconds
        self._max_flows = max_flows
        self._clock = clock
        self._entropy = entropy
        self._transceivers: Leases[Slot, TransceiverRecord] = Leases(clock)
        self._relays: Leases[tuple[int, str], RelayRecord] = Leases(clock)
        self._sharers = [self]
        self._flows: Leases[tuple[Address, Address], FlowRecord] = Leases(clock)
        self._claims: Leases[str, bool] = Leases(clock)
        self.sessions = MemorySessions(clock, self.drops)
        self._watchers: list[Watcher] = []
        # A random start, so that an earlier process's tokens name nobody.
        self._last_slot = int.from_bytes(entropy(3), "big") % MAX_SLOT
        self._operations = 0

    def beside(self, cluster: int) -> MemoryRegistry:
        """Make the registry of another cluster, which sees the same relays."""
        other = MemoryRegistry(
            cluster=cluster,
            lease_seconds=self._lease_seconds,
            relay_lease_seconds=self._relay_lease,
            max_flows=self._max_flows,
            clock=self._clock,
            entropy=self._entropy,
        )
        other._relays, other._sharers = self._relays, self._sharers
        self._sharers.append(other)
        return other

    async def claim_slot(self) -> Slot:
        """Take the next slot; after 2**24 - 1 comes 1, and the living are passed over."""
        await self._checkpoint()
        while True:
            self._last_slot = self._last_slot % MAX_SLOT + 1
            slot = Slot(self._last_slot)
            if self._transceivers.get(slot) is None:
                return slot

    async def put_transceiver(self, record: TransceiverRecord) -> None:
        """Write or renew a transceiver."""
        await self._checkpoint()
        self._transceivers.put(record.slot, record, self._lease_seconds)
        self._tell()

    async def remove_transceiver(self, slot: Slot) -> None:
        """Take a transceiver out."""
        await self._checkpoint()
        self._transceivers.remove(slot)
        self._tell()

    async def transceivers(self) -> Sequence[TransceiverRecord]:
        """All with a lease."""
        await self._checkpoint()
        return self._transceivers.living()

    async def put_relay(self, record: RelayRecord) -> None:
        """Write or renew a relay."""
        await self._checkpoint()
        self._relays.put((record.cluster, record.name), record, self._relay_lease)
        self._tell_sharers()

    async def remove_relay(self, name: str) -> None:
        """Take a relay of this cluster out."""
        await self._checkpoint()
        self._relays.remove((self._cluster, name))
        self._tell_sharers()

    async def relays(self) -> Sequence[RelayRecord]:
        """All with a lease, of every cluster."""
        await self._checkpoint()
        return self._relays.living()

    async def claim_once(self, name: str, seconds: float) -> bool:
        """Claim a name, unless somebody has; the oldest claim goes when there are too many."""
        await self._checkpoint()
        if self._claims.get(name):
            return False
        self._claims.put(name, True, seconds)
        if len(self._claims) > MAX_CLAIMS:
            self._claims.drop_oldest()
            self.drops[Drop.TABLE_FULL] += 1
        return True

    async def release_claim(self, name: str) -> None:
        """Give a claim back."""
        await self._checkpoint()
        self._claims.remove(name)

    def save_flow(self, record: FlowRecord, *, seconds: float) -> None:
        """Write a flow; the oldest goes when there are too many."""
        self._flows.put((record.public, record.client), record, seconds)
        if len(self._flows) > self._max_flows:
            self._flows.drop_oldest()
            self.drops[Drop.TABLE_FULL] += 1

    def remove_flow(self, public: Address, client: Address) -> None:
        """Take a flow out."""
        self._flows.remove((public, client))

    async def find_flow(self, public: Address, client: Address) -> FlowRecord | None:
        """Look a flow up."""
        await self._checkpoint()
        return self._flows.get((public, client))

    @contextmanager
    def watch(self, changed: Watcher) -> Iterator[None]:
        """Call ``changed(transceivers, relays)`` now and at every change."""
        self._watchers.append(changed)
        try:
            changed(self._transceivers.living(), self._relays.living())
            yield
        finally:
            self._watchers.remove(changed)

    def statistics(self) -> RegistryStatistics:
        """Count."""
        return RegistryStatistics(
            up=True,
            operations=self._operations,
            failures=0,
            waiting_writes=0,
            drops=self.drops.copy(),
        )

    async def _checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()
        self._operations += 1

    def _tell_sharers(self) -> None:
        for each in self._sharers:
            each._tell()

    def _tell(self) -> None:
        transceivers, relays = self._transceivers.living(), self._relays.living()
        for changed in list(self._watchers):
            changed(transceivers, relays)
