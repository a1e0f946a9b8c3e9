"""The registry of a fleet, in Redis. Keys, records, lifetimes and failures: docs/registry.md.

Redis is a cache and a claim book that others may also write to and that may be emptied at any time:

- Only sealed records count (``records``). What is forged, old, too long, of another version or of
  another Redis type is counted and passed over; our own writes replace it.
- That a record is missing proves nothing. It counts until its lease is over or its owner has put a
  tombstone in its place; so an emptied Redis takes no route down before the next heartbeats.
- Of any key at most ``MAX_SEALED_BYTES`` + 1 bytes are read.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Generic

from edge.address import Address
from edge.errors import Drop, RemoteProtocolError
from edge.registry.protocol import (
    MAX_SLOT,
    FlowRecord,
    RegistryStatistics,
    RegistryUnavailable,
    RelayRecord,
    Slot,
    TransceiverRecord,
)
from edge.registry.records import MAX_SEALED_BYTES, Lease, R, RecordKeys
from edge.registry.redis_worker import Command, RedisWorker, Reply

MAX_LISTED: Final = 4_096
MAX_NAME_BYTES: Final = 128
INDEX_SECONDS: Final = 10.0
"""How long the index keeps a name after its lease."""

_READ_CHUNK: Final = 128
_CLAIM_TRIES: Final = 100


@asynccontextmanager
async def open_redis_registry(
    url: str,
    *,
    secret: str,
    previous_secret: str = "",
    cluster: int = 0,
    lease_seconds: float = 3.0,
    max_waiting_flows: int = 20_000,
) -> AsyncIterator[RedisRegistry]:
    """Hold a registry whose thread lives as long as the block; leaving takes at most 3 s.

    Does not wait for Redis. Raises ConfigError for a bad URL or secret.
    """
    keys = RecordKeys(secret, previous_secret)
    worker = RedisWorker(url, max_waiting_writes=max_waiting_flows)
    registry = RedisRegistry(worker, keys, cluster=cluster, lease_seconds=lease_seconds)
    worker.start()
    try:
        yield registry
    finally:
        await worker.stop()


class RedisRegistry:
    """A ``Registry`` over a running ``RedisWorker``; made by ``open_redis_registry``."""

    def __init__(
        self,
        worker: RedisWorker,
        keys: RecordKeys,
        *,
        cluster: int = 0,
        lease_seconds: float = 3.0,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.drops: Counter[Drop] = Counter()
        self._worker = worker
        self._keys = keys
        self._entropy = entropy
        self._prefix = f"edge:{cluster}"
        store = _Store(worker, keys, self.drops)
        self._store = store
        self._transceivers = _Listing(
            store, f"{self._prefix}:transceiver", TransceiverRecord, lease_seconds
        )
        self._relays = _Listing(store, f"{self._prefix}:relay", RelayRecord, lease_seconds)

    async def claim_slot(self) -> Slot:
        """Take the next number of a counter, modulo 2**24 - 1, that no living transceiver has.

        In an empty Redis the count starts at random: a count from 1 would meet the living again.
        """
        counter = f"{self._prefix}:slot"
        start = int.from_bytes(self._entropy(3), "big")
        for _ in range(_CLAIM_TRIES):
            _, count = await self._worker.call(("SET", counter, start, "NX"), ("INCR", counter))
            if not isinstance(count, int):
                self.drops[Drop.MALFORMED] += 1
                await self._worker.call(("UNLINK", counter))
                continue
            slot = Slot((count - 1) % MAX_SLOT + 1)
            (taken,) = await self._worker.call(("EXISTS", self._transceivers.name(str(slot))))
            if not taken:
                return slot
        raise RegistryUnavailable("no slot could be claimed")

    async def put_transceiver(self, record: TransceiverRecord) -> None:
        """Write or renew a transceiver."""
        await self._transceivers.put(str(record.slot), record)

    async def remove_transceiver(self, slot: Slot) -> None:
        """Put a tombstone in a transceiver's place."""
        await self._transceivers.put(str(slot), None)

    async def transceivers(self) -> Sequence[TransceiverRecord]:
        """All with a lease."""
        return await self._transceivers.living()

    async def put_relay(self, record: RelayRecord) -> None:
        """Write or renew a relay; its name has at most 128 bytes."""
        await self._relays.put(record.name, record)

    async def remove_relay(self, name: str) -> None:
        """Put a tombstone in a relay's place."""
        await self._relays.put(name, None)

    async def relays(self) -> Sequence[RelayRecord]:
        """All with a lease."""
        return await self._relays.living()

    def save_flow(self, record: FlowRecord, *, seconds: float) -> None:
        """Queue a flow; it is written when Redis answers, if that is before its time is over."""
        write = partial(self._flow_writes, record, time.monotonic() + seconds)
        self._worker.post((record.public, record.client), write)

    def remove_flow(self, public: Address, client: Address) -> None:
        """Queue a flow's removal."""
        self._worker.post((public, client), partial(self._flow_removal, public, client))

    async def find_flow(self, public: Address, client: Address) -> FlowRecord | None:
        """Look a flow up, by the current secret and by the previous."""
        for lease in await self._store.read(self._flow_names(public, client), FlowRecord):
            if lease is not None and lease.record is not None:
                return lease.record
        return None

    def statistics(self) -> RegistryStatistics:
        """Count."""
        return self._worker.statistics(self.drops)

    def _flow_names(self, public: Address, client: Address) -> list[str]:
        return [f"{self._prefix}:flow:{name}" for name in self._keys.flow_names(public, client)]

    def _flow_writes(self, record: FlowRecord, until: float) -> Sequence[Command]:
        # Runs in the worker's thread.
        seconds = until - time.monotonic()
        if seconds < 0.001:
            return ()
        name = self._flow_names(record.public, record.client)[0]
        return (self._store.write(name, record, seconds),)

    def _flow_removal(self, public: Address, client: Address) -> Sequence[Command]:
        return (("UNLINK", *self._flow_names(public, client)),)


class _Store:
    """Sealed records under their names."""

    def __init__(self, worker: RedisWorker, keys: RecordKeys, drops: Counter[Drop]) -> None:
        self.worker = worker
        self.drops = drops
        self._keys = keys

    def write(self, name: str, record: R | None, seconds: float) -> Command:
        expires = self.worker.now() + seconds
        sealed = self._keys.seal(name, record, expires=expires)
        return ("SET", name, sealed, "PX", int(seconds * 1000))

    async def read(self, names: Sequence[str], record_type: type[R]) -> list[Lease[R] | None]:
        leases: list[Lease[R] | None] = []
        for first in range(0, len(names), _READ_CHUNK):
            chunk = names[first : first + _READ_CHUNK]
            replies = await self.worker.call(
                *(("GETRANGE", name, 0, MAX_SEALED_BYTES) for name in chunk)
            )
            leases += [
                self._open(name, reply, record_type)
                for name, reply in zip(chunk, replies, strict=True)
            ]
        return leases

    def _open(self, name: str, reply: Reply, record_type: type[R]) -> Lease[R] | None:
        if reply == b"":
            return None
        try:
            if not isinstance(reply, bytes):
                raise RemoteProtocolError("not a Redis string")
            return self._keys.open(name, reply, record_type, now=self.worker.now())
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return None


class _Listing(Generic[R]):
    """Leases of one kind, with an index: a sorted set of names by the end of their leases."""

    def __init__(self, store: _Store, kind: str, record_type: type[R], seconds: float) -> None:
        self._store = store
        self._kind = kind
        self._index = f"{kind}s"
        self._record_type = record_type
        self._seconds = seconds
        self._known: dict[str, Lease[R]] = {}

    def name(self, member: str) -> str:
        return f"{self._kind}:{member}"

    async def put(self, member: str, record: R | None) -> None:
        write = self._store.write(self.name(member), record, self._seconds)
        to_index = self._index_writes(member)
        written, *indexed = await self._store.worker.call(write, *to_index)
        if not isinstance(written, Exception) and _refused(indexed):
            # Something else has the index's name. (A SET replaces whatever is there.)
            self._store.drops[Drop.MALFORMED] += 1
            indexed = [*await self._store.worker.call(("UNLINK", self._index), *to_index)]
        if _refused([written, *indexed]):
            raise RegistryUnavailable("Redis refuses to write")

    def _index_writes(self, member: str) -> list[Command]:
        now = self._store.worker.now()
        return [
            ("ZREMRANGEBYSCORE", self._index, "-inf", now - INDEX_SECONDS),
            ("ZADD", self._index, now + self._seconds, member),
            ("PEXPIRE", self._index, int((self._seconds + INDEX_SECONDS) * 1000)),
        ]

    async def living(self) -> list[R]:
        """List what is there, and what is known and can not be over yet."""
        members = await self._members()
        leases = await self._store.read([self.name(one) for one in members], self._record_type)
        now = self._store.worker.now()
        known = {member: lease for member, lease in self._known.items() if lease.expires > now}
        known |= {one: lease for one, lease in zip(members, leases, strict=True) if lease}
        self._known = known
        return [lease.record for lease in known.values() if lease.record is not None]

    async def _members(self) -> list[str]:
        since = self._store.worker.now() - INDEX_SECONDS
        (reply,) = await self._store.worker.call(
            ("ZREVRANGEBYSCORE", self._index, "+inf", since, "LIMIT", 0, MAX_LISTED)
        )
        if not isinstance(reply, list):
            self._store.drops[Drop.MALFORMED] += 1
            return []
        members = [_member(raw) for raw in reply]
        self._store.drops[Drop.MALFORMED] += members.count(None)
        return [member for member in members if member is not None]


def _refused(replies: Sequence[Reply]) -> bool:
    return any(isinstance(reply, Exception) for reply in replies)


def _member(raw: Reply) -> str | None:
    if not isinstance(raw, bytes) or len(raw) > MAX_NAME_BYTES:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
