"""The relay's rules of routing: who serves a client, by DESIGN 6, over a store of confirmed flows.

A flow is a pair of a path, which names a client and the relay that it speaks to, and a hop, which
is a transceiver or a relay of another cluster. It starts as provisional when a STUN request with a
valid token comes in, and is confirmed when that hop answers that very transaction with success
(RFC 8489, section 6.3). So the relay learns only from what an authenticated party sends out; what
comes in can at most make a provisional flow, and those are few, short-lived, the oldest goes first,
and they never push out a confirmed one.

Two hops may be confirmed for one client: a client's port is used again for a new call, or somebody
with a call of his own forges the address of another. The relay can not tell these apart, so the
younger flow becomes the *challenger* of the owner. It may be sent to and from at once, and what
comes in goes to both, where each session's cryptography takes what is meant for it. The challenger
inherits the client when the owner gives it back, is gone, or has not answered a check for
``OWNER_QUIET`` seconds. So a call that lives is never taken over.

Only authenticated answers keep a flow alive.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from edge.errors import Drop
from edge.forwarder.protocol import FlowEntry, FlowStore
from edge.wire.spp import Path

OWNER_QUIET: Final = 15.0  # seconds: three consent intervals, so one lost check decides nothing
MAX_TRANSACTIONS: Final = 8
"""Unanswered STUN transactions held for one flow; the oldest goes."""
SCAN_PLACES: Final = 8_192
"""Places of the store that one step of a walk looks at: well below a millisecond."""

Heir = Callable[[Path], int]
"""Names the hop that takes over a client whose hop is gone, or 0."""


class FlowTable:
    """The flows of one relay. ``drops`` counts provisional flows pushed out.

    Whatever a method refuses it returns as a Drop, for the caller to count.
    """

    def __init__(
        self,
        store: FlowStore,
        *,
        max_flows: int,
        max_provisional: int,
        provisional_seconds: float,
        idle_seconds: float,
    ) -> None:
        self.idle_seconds = idle_seconds
        self.drops: Counter[Drop] = Counter()
        self._store = store
        self._max_flows = max_flows
        self._provisional_seconds = provisional_seconds
        self._quiet_seconds = min(OWNER_QUIET, idle_seconds / 2)
        self._provisional = _Requests(max_provisional)
        # Requests on confirmed flows: each has an owner and at most one challenger.
        self._checks = _Requests(2 * max_flows)
        self._cursor = 0

    def __len__(self) -> int:
        return len(self._store)

    @property
    def provisional(self) -> int:
        """How many flows wait for their first answer."""
        return len(self._provisional)

    def lookup(self, path: Path) -> FlowEntry | None:
        """Return the confirmed flow of a client."""
        return self._store.get(path)

    # What passes.

    def client_request(self, path: Path, hop: int, transaction_id: bytes, *, now: float) -> None:
        """Note a STUN request whose token leads to ``hop``."""
        known = _serves(self._store.get(path), hop)
        requests = self._checks if known else self._provisional
        if requests.note((path, hop), transaction_id, now):
            self.drops[Drop.TABLE_FULL] += 1

    def outbound(self, path: Path, hop: int) -> Drop | None:
        """Return why ``hop`` may not send anything but a STUN response to a client."""
        entry = self._store.get(path)
        if entry is None:
            return Drop.UNKNOWN_FLOW
        return None if _serves(entry, hop) else Drop.NOT_OWNER

    def outbound_response(
        self, path: Path, hop: int, transaction_id: bytes, *, success: bool, now: float
    ) -> Drop | None:
        """Return why ``hop`` may not send a STUN response to a client.

        A success that answers a noted transaction confirms or refreshes the flow; an error may
        pass and changes nothing.
        """
        key, since = (path, hop), now - self._provisional_seconds
        for requests in (self._checks, self._provisional):
            if requests.take(key, transaction_id, since=since):
                return self._confirm(path, hop, now) if success else None
        return self.outbound(path, hop)

    def _confirm(self, path: Path, hop: int, now: float) -> Drop | None:
        entry = self._store.get(path)
        if entry is None and len(self._store) >= self._max_flows:
            return Drop.TABLE_FULL
        self._provisional.move((path, hop), self._checks)
        if not self._store.put(path, self._confirmed(entry, hop, now)):
            return Drop.TABLE_FULL
        return None

    def _confirmed(self, entry: FlowEntry | None, hop: int, now: float) -> FlowEntry:
        if entry is None:
            return FlowEntry(hop, now)
        if entry.owner == hop:
            if entry.challenger and self._is_quiet(entry.challenger_heard, now):
                entry = entry._replace(challenger=0, challenger_heard=0.0)
            return entry._replace(heard=now)
        if self._is_quiet(entry.heard, now):
            return FlowEntry(hop, now)
        return entry._replace(challenger=hop, challenger_heard=now)

    def _is_quiet(self, heard: float, now: float) -> bool:
        return now - heard > self._quiet_seconds

    # Everything that is not a packet.

    def save_due(self, path: Path, hop: int, *, now: float) -> bool:
        """Whether the registry record of a flow that ``hop`` owns is to be written now.

        It is, a few times in a flow's life time; and then not until the next time.
        """
        entry = self._store.get(path)
        if entry is None or entry.owner != hop or entry.save_at > now:
            return False
        self._store.put(path, entry._replace(save_at=now + self.idle_seconds / 3))
        return True

    def restore(self, path: Path, hop: int, *, now: float) -> Drop | None:
        """Take a flow from its registry record; a flow that is there already wins."""
        if self._store.get(path) is not None:
            return None
        if len(self._store) >= self._max_flows:
            return Drop.TABLE_FULL
        # Its record is due at the next answered check: who knows how old it is.
        return None if self._store.put(path, FlowEntry(hop, now)) else Drop.TABLE_FULL

    def release(self, path: Path, hop: int) -> Drop | None:
        """Take out the flow of ``hop``, which gives it back; a challenger inherits."""
        entry = self._store.get(path)
        if entry is None:
            return Drop.UNKNOWN_FLOW
        if not _serves(entry, hop):
            return Drop.NOT_OWNER
        self._leave(path, entry, hop, 0)
        return None

    def expire(self, *, now: float) -> None:
        """Take out what is idle: provisional flows, and one step of a walk over the confirmed."""
        for requests in (self._provisional, self._checks):
            requests.expire(before=now - self._provisional_seconds)
        limit = now - self.idle_seconds
        self._cursor, idle = self._store.scan(self._cursor, SCAN_PLACES, heard_before=limit)
        for path, entry in idle:
            if entry.challenger and entry.challenger_heard >= limit:
                self._leave(path, entry, entry.owner, 0)
            else:
                self._store.remove(path)

    def drop_hop(self, hop: int, heir: Heir, *, cursor: int = 0) -> int:
        """Take the flows of a hop that is gone from it, in one step of a walk.

        A challenger inherits, else the hop that ``heir`` names. Returns the next cursor; 0 when
        all is done.
        """
        following, flows = self._store.scan(cursor, SCAN_PLACES, hop=hop)
        for path, entry in flows:
            self._leave(path, entry, hop, heir(path))
        return following

    def _leave(self, path: Path, entry: FlowEntry, hop: int, heir: int) -> None:
        if entry.owner != hop:
            self._store.put(path, entry._replace(challenger=0, challenger_heard=0.0))
        elif entry.challenger:
            self._store.put(path, FlowEntry(entry.challenger, entry.challenger_heard))
        elif heir:
            self._store.put(path, entry._replace(owner=heir))
        else:
            self._store.remove(path)


def _serves(entry: FlowEntry | None, hop: int) -> bool:
    return entry is not None and hop in (entry.owner, entry.challenger)


_Key = tuple[Path, int]


class _Requests:
    """STUN transactions that wait for an answer, by path and hop, in the order of the last one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._noted: OrderedDict[_Key, dict[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, key: _Key, transaction_id: bytes, now: float) -> bool:
        """Note a request; returns whether the oldest flow's had to go."""
        transactions = self._noted.pop(key, None)
        if pushed := transactions is None and len(self._noted) >= self._limit:
            self._noted.popitem(last=False)
        transactions = self._noted[key] = transactions or {}
        transactions.pop(transaction_id, None)
        if len(transactions) >= MAX_TRANSACTIONS:
            del transactions[next(iter(transactions))]
        transactions[transaction_id] = now
        return pushed

    def take(self, key: _Key, transaction_id: bytes, *, since: float) -> bool:
        """Whether this request was noted, not earlier than ``since``; it is answered then."""
        transactions = self._noted.get(key)
        if transactions is None or transaction_id not in transactions:
            return False
        at = transactions.pop(transaction_id)
        if not transactions:
            del self._noted[key]
        return at >= since

    def move(self, key: _Key, other: _Requests) -> None:
        """Hand what is noted for a flow to another place."""
        transactions = self._noted.pop(key, None)
        if transactions:
            other._noted[key] = transactions

    def expire(self, *, before: float) -> None:
        """Forget flows without a request since then."""
        while self._noted:
            key, transactions = next(iter(self._noted.items()))
            if next(reversed(transactions.values())) >= before:
                break
            del self._noted[key]
