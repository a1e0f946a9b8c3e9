"""Sealed records in one Redis: single ones under their names, and listings of the living.

That a record is missing proves nothing. It counts until its lease is over or its owner has put a
tombstone in its place; so an emptied Redis takes no route down before the next heartbeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Final, Generic

from edge.errors import Drop, RemoteProtocolError
from edge.registry.protocol import RegistryUnavailable
from edge.registry.records import MAX_SEALED_BYTES, Lease, R, RecordKeys
from edge.registry.redis_worker import Command, RedisWorker, Reply

MAX_LISTED: Final = 4_096
MAX_NAME_BYTES: Final = 128
INDEX_SECONDS: Final = 10.0
"""How long the index keeps a name after its lease."""

_READ_CHUNK: Final = 128


class Store:
    """Sealed records under their names."""

    def __init__(self, worker: RedisWorker, keys: RecordKeys, drops: Counter[Drop]) -> None:
        self.worker = worker
        self.drops = drops
        self._keys = keys

    def write(self, name: str, record: R | None, seconds: float) -> Command:
        """Make the command that writes a record, or a tombstone, to live for ``seconds``."""
        return ("SET", name, self.seal(name, record, seconds), "PX", int(seconds * 1000))

    def seal(self, name: str, record: R | None, seconds: float) -> bytes:
        """Seal a record, or a tombstone, to count for ``seconds``."""
        return self._keys.seal(name, record, expires=self.worker.now() + seconds)

    async def read(self, names: Sequence[str], record_type: type[R]) -> list[Lease[R] | None]:
        """Read records, None for each that is missing or not acceptable."""
        leases: list[Lease[R] | None] = []
        for first in range(0, len(names), _READ_CHUNK):
            chunk = names[first : first + _READ_CHUNK]
            replies = await self.worker.call(
                *(("GETRANGE", name, 0, MAX_SEALED_BYTES) for name in chunk)
            )
            leases += [
                self.open(name, reply, record_type)
                for name, reply in zip(chunk, replies, strict=True)
            ]
        return leases

    def open(self, name: str, reply: Reply, record_type: type[R]) -> Lease[R] | None:
        """Open what Redis has under a name, None (and counted) for what is not acceptable."""
        if reply == b"":
            return None
        try:
            if not isinstance(reply, bytes):
                raise RemoteProtocolError("not a Redis string")
            return self._keys.open(name, reply, record_type, now=self.worker.now())
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return None


class Listing(Generic[R]):
    """Leases of one kind, with an index: a sorted set of names by the end of their leases."""

    def __init__(self, store: Store, kind: str, record_type: type[R], seconds: float) -> None:
        self._store = store
        self._kind = kind
        self._index = f"{kind}s"
        self._record_type = record_type
        self._seconds = seconds
        self._known: dict[str, Lease[R]] = {}

    def name(self, member: str) -> str:
        """Name the record of a member."""
        return f"{self._kind}:{member}"

    async def put(self, member: str, record: R | None) -> None:
        """Write a record, or a tombstone, and note it in the index."""
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

    def next_end(self) -> float:
        """Seconds until the first lease ends of those listed, unless it is renewed before.

        Less than 0 where a record is still there past its time; ``math.inf`` for an empty list.
        """
        ends = [lease.expires for lease in self._known.values() if lease.record is not None]
        return min(ends, default=inf) - self._store.worker.now()

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
