"""The relays of clusters that have a Redis of their own, read there and never written.

Each peer has a thread and a view of its own, which its task renews in the background; so nobody
ever waits for a peer. While one does not answer its last view stays, and for one lease time after
it is back nobody is taken out of the view: its relays may have to write their records again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import trio

from edge.config import mask_url
from edge.errors import Drop
from edge.registry.listing import Listing, Store
from edge.registry.protocol import RegistryStatistics, RegistryUnavailable, RelayRecord
from edge.registry.records import RecordKeys
from edge.registry.redis_worker import RedisWorker

RELAYS: Final = "edge:relay"
"""The name of relay records, the same in every Redis; a member is ``CLUSTER:NAME``."""


class PeerRelays:
    """What the Redis of another cluster knows of relays; times in seconds."""

    def __init__(
        self, url: str, keys: RecordKeys, *, lease_seconds: float, interval_seconds: float
    ) -> None:
        self.relays: Sequence[RelayRecord] = ()
        self.worker = RedisWorker(url, label=mask_url(url))
        self._drops: Counter[Drop] = Counter()
        store = Store(self.worker, keys, self._drops)
        self._listing = Listing(store, RELAYS, RelayRecord, lease_seconds)
        self._lease = lease_seconds
        self._interval = interval_seconds
        self._stale = False
        self._keep_until = -1.0

    async def run(self) -> None:
        """Renew the view until cancelled."""
        while True:
            await self._refresh()
            await trio.sleep(self._interval)

    def statistics(self) -> RegistryStatistics:
        """Count."""
        return self.worker.statistics(self._drops)

    async def _refresh(self) -> None:
        try:
            relays = await self._listing.living()
        except RegistryUnavailable:
            self._stale = True
            return
        if self._stale:
            self._stale = False
            self._keep_until = trio.current_time() + self._lease
        if trio.current_time() < self._keep_until:
            relays = merge_relays(relays, self.relays)
        self.relays = relays


def merge_relays(*views: Sequence[RelayRecord]) -> list[RelayRecord]:
    """Join views of relays; of one that several know the first counts."""
    merged: dict[tuple[int, str], RelayRecord] = {}
    for view in views:
        for record in view:
            merged.setdefault((record.cluster, record.name), record)
    return list(merged.values())
