"""Who is alive, as one process sees it: a cached view for synchronous questions.

A packet can not wait for a registry, so a ``Directory`` asks it now and then and answers from
memory. It asks again at the very end of a lease that was not renewed, if the registry can foresee
that. When the registry can not be asked, the last view stays: whoever was known stays routable.
After such an outage the registry may have lost its records, which come back with their owners'
next heartbeats; so nobody is taken out of the view for one lease, and for ``lease_seconds`` nobody
who has not been seen since. An answer that was long in coming proves little too: while the registry
stood still nobody could renew a lease.

Of two transceivers at one address only the newer slot counts: the older process is gone, and what
is meant for it must not reach its successor.

Relays of every cluster are known, so that calls and datagrams can be sent by way of them; what they
send counts for other relays alone, never for a transceiver.
"""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

import structlog
import trio

from edge.address import Address
from edge.registry.lease import LEASE_SECONDS
from edge.registry.memory import Watcher
from edge.registry.protocol import (
    MAX_SLOT,
    Registry,
    RegistryUnavailable,
    RelayRecord,
    Slot,
    TransceiverRecord,
)

HINT_SECONDS: Final = 0.02
"""The shortest time between two refreshes."""
REFUSED_SECONDS: Final = 2.0
"""How long a transceiver is taken for gone whose host says that nobody listens there."""
LATE_SECONDS: Final = 0.15
"""How long a refresh may take to prove that somebody is gone: less than a lease and its renewal."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DirectoryStatistics:
    """Counts since the start, and the size of the view."""

    transceivers: int
    relays: int
    refreshes: int
    failures: int
    """Refreshes that found the registry unavailable."""
    stale: bool
    """The last refresh failed: the view is an old one."""


@runtime_checkable
class _Watchable(Protocol):
    def watch(self, changed: Watcher) -> AbstractContextManager[None]: ...


@runtime_checkable
class _Foresees(Protocol):
    def next_end(self) -> float: ...


RelayKey: TypeAlias = tuple[int, str]
"""A relay's cluster and name."""

IsRefused: TypeAlias = Callable[[Address], Awaitable[bool]]


class Directory:
    """A cluster's view of the living transceivers and relays; ``run`` keeps it fresh."""

    def __init__(
        self,
        registry: Registry,
        *,
        cluster: int = 0,
        interval_seconds: float = 0.25,
        lease_seconds: float = 3.0,
        transceiver_seconds: float = LEASE_SECONDS,
        is_refused: IsRefused | None = None,
    ) -> None:
        """``is_refused`` asks a host whether a transceiver still listens there.

        ``transceiver_seconds`` is a transceiver's lease, ``lease_seconds`` a relay's.
        """
        self._registry = registry
        self._cluster = cluster
        self._interval = interval_seconds
        self._lease = lease_seconds
        self._transceiver_lease = transceiver_seconds
        self._foresees = registry if isinstance(registry, _Foresees) else None
        self._transceivers: dict[Slot, TransceiverRecord] = {}
        self._relays: dict[RelayKey, RelayRecord] = {}
        self._transceiver_addresses: frozenset[Address] = frozenset()
        self._own_relays: dict[Address, Address] = {}
        self._relay_addresses: frozenset[Address] = frozenset()
        self._watchers: list[Callable[[], None]] = []
        self._is_refused = is_refused
        self._refused: dict[Slot, float] = {}
        self._suspicious = False
        self._hint = trio.Event()
        self._refreshes = 0
        self._failures = 0
        self._stale = False
        self._keep_until = self._keep_all_until = -1.0
        self._unseen: set[Slot] = set()
        """Who was known before an outage, and has not been seen alive since."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Refresh until cancelled; started after the first attempt, successful or not."""
        with self._watch_registry():
            await self.refresh()
            task_status.started()
            while True:
                self._hint = trio.Event()
                await trio.sleep(HINT_SECONDS)
                with trio.move_on_after(self._rest()):
                    await self._hint.wait()
                if self._suspicious:
                    await self._ask_all()
                await self.refresh()

    async def refresh(self) -> None:
        """Ask the registry once."""
        self._refreshes += 1
        began = trio.current_time()
        try:
            transceivers = await self._registry.transceivers()
            relays = await self._registry.relays()
        except RegistryUnavailable:
            self._failures += 1
            self._stale = True
            return
        now = trio.current_time()
        if self._stale:
            self._stale = False
            self._keep_until = now + self._lease
            self._keep_all_until = now + self._transceiver_lease
            self._unseen = set(self._transceivers)
        elif now - began > LATE_SECONDS:
            self._keep_all_until = max(self._keep_all_until, now + LEASE_SECONDS)
        if began >= self._keep_all_until:  # whoever is there has renewed since
            self._unseen -= {record.slot for record in transceivers}
        self._take(transceivers, relays)

    def hint_stale(self) -> None:
        """Somebody unknown was heard: refresh soon, at most every ``HINT_SECONDS``."""
        self._hint.set()

    def hint_gone(self) -> None:
        """Somebody does not listen any more: find out soon who."""
        self._suspicious = True
        self._hint.set()

    async def lives(self, slot: Slot) -> bool:
        """Whether a transceiver lives, as far as we know and as its host says."""
        record = self._transceivers.get(slot)
        if record is not None and self._is_refused is not None:
            await self._ask(self._is_refused, record)
        return slot in self._transceivers

    def transceiver(self, slot: Slot) -> TransceiverRecord | None:
        """Find a living transceiver."""
        return self._transceivers.get(slot)

    def is_relay(self, address: Address) -> bool:
        """Tell whether this is the internal address of a living relay of our own cluster."""
        return address in self._relay_addresses

    def is_transceiver(self, address: Address) -> bool:
        """Tell whether a living transceiver of our cluster, maybe one that drains, is here."""
        return address in self._transceiver_addresses

    def relay_serving(self, proxy: Address) -> Address | None:
        """Find the internal address of our own cluster's living relay with this proxy address.

        Where several share it, as behind a load balancer, it is the same one as long as they live,
        and no one that drains. None for a proxy of another cluster's relay too: which of ours
        stands between is known only from what it sent.
        """
        return self._own_relays.get(proxy)

    @contextmanager
    def watch(self, changed: Callable[[], None]) -> Iterator[None]:
        """Call ``changed`` now, and after every change of who is there or where.

        What else a record says (load, sessions) may have changed without a call.
        """
        self._watchers.append(changed)
        try:
            changed()
            yield
        finally:
            self._watchers.remove(changed)

    @property
    def transceivers(self) -> Sequence[TransceiverRecord]:
        """All living transceivers, those that drain included."""
        return tuple(self._transceivers.values())

    @property
    def relays(self) -> Sequence[RelayRecord]:
        """All living relays, of every cluster."""
        return tuple(self._relays.values())

    @property
    def has_own_relay(self) -> bool:
        """Whether our own cluster has a living relay; without one no client reaches it."""
        return bool(self._relay_addresses)

    def statistics(self) -> DirectoryStatistics:
        """Count."""
        return DirectoryStatistics(
            transceivers=len(self._transceivers),
            relays=len(self._relays),
            refreshes=self._refreshes,
            failures=self._failures,
            stale=self._stale,
        )

    def _rest(self) -> float:
        """Until the next refresh, beyond ``HINT_SECONDS``: not for longer than a lease lasts."""
        longest = self._interval - HINT_SECONDS
        if self._foresees is not None and not self._stale:
            longest = min(longest, self._foresees.next_end())
        return max(longest, 0.0)

    async def _ask_all(self) -> None:
        """Ask the hosts of all transceivers whether they are still there."""
        self._suspicious = False
        if self._is_refused is None:
            return
        async with trio.open_nursery() as nursery:
            for record in self._transceivers.values():
                nursery.start_soon(self._ask, self._is_refused, record)

    async def _ask(self, is_refused: IsRefused, record: TransceiverRecord) -> None:
        """Take a transceiver out of the view whose host says that nobody listens there.

        For a while only: its lease will be over then.
        """
        if await is_refused(record.address):
            self._refused[record.slot] = trio.current_time() + REFUSED_SECONDS
            self._take(tuple(self._transceivers.values()), tuple(self._relays.values()))

    @contextmanager
    def _watch_registry(self) -> Iterator[None]:
        """Have changes pushed, by a registry that can."""
        if isinstance(self._registry, _Watchable):
            with self._registry.watch(self._take):
                yield
        else:
            yield

    def _take(
        self, transceivers: Sequence[TransceiverRecord], relays: Sequence[RelayRecord]
    ) -> None:
        by_slot = {record.slot: record for record in transceivers}
        by_key = {(record.cluster, record.name): record for record in relays}
        now = trio.current_time()
        by_slot = self._kept(now) | by_slot
        if now < max(self._keep_until, self._keep_all_until):
            by_key = self._relays | by_key
        self._refused = {slot: until for slot, until in self._refused.items() if until > now}
        newest = _newest_slots(one for one in by_slot.values() if one.slot not in self._refused)
        before = self._places()
        self._relays = by_key
        self._transceivers = {slot: by_slot[slot] for slot in newest.values()}
        self._transceiver_addresses = frozenset(newest)
        own = sorted(
            (record for record in by_key.values() if record.cluster == self._cluster),
            key=lambda record: (not record.draining, record.name),
        )
        listeners = [listener for record in own for listener in record.listeners]
        self._relay_addresses = frozenset(listener.internal for listener in listeners)
        self._own_relays = {listener.proxy: listener.internal for listener in listeners}
        self._tell(before, self._places())

    def _kept(self, now: float) -> dict[Slot, TransceiverRecord]:
        """Who stays in the view, listed or not."""
        if now < self._keep_all_until:
            return self._transceivers
        unseen = self._unseen if now < self._keep_until else set()
        return {slot: one for slot, one in self._transceivers.items() if slot in unseen}

    def _places(self) -> dict[Slot | RelayKey, tuple[Hashable, ...]]:
        """Who is there, and all that a watcher is told of."""
        transceivers = self._transceivers.values()
        relays = self._relays.items()
        return {
            **{one.slot: (one.address, one.draining) for one in transceivers},
            **{key: (one.listeners, one.draining) for key, one in relays},
        }

    def _tell(
        self,
        before: Mapping[Slot | RelayKey, tuple[Hashable, ...]],
        after: Mapping[Slot | RelayKey, tuple[Hashable, ...]],
    ) -> None:
        """Log who has come and who has gone, and call the watchers."""
        for event, keys in ("found", after.keys() - before), ("gone", before.keys() - after):
            for key in keys:
                self._log(f"part {event}", key)
        if before != after:
            for changed in tuple(self._watchers):
                changed()

    def _log(self, event: str, key: Slot | RelayKey) -> None:
        match key:
            case (cluster, name):
                log.info(event, part="relay", id=name, cluster=cluster)
            case slot:
                log.info(event, part="transceiver", id=slot, cluster=self._cluster)


def _newest_slots(records: Iterable[TransceiverRecord]) -> dict[Address, Slot]:
    newest: dict[Address, Slot] = {}
    for record in records:
        other = newest.get(record.address)
        if other is None or _is_newer(record.slot, other):
            newest[record.address] = record.slot
    return newest


def _is_newer(slot: Slot, other: Slot) -> bool:
    """Compare in the circle of slots, as RFC 1982 does serial numbers."""
    return 0 < (slot - other) % MAX_SLOT < MAX_SLOT // 2
