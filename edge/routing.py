"""The relay's rules of routing: who serves a client, by DESIGN 6, over a store of confirmed flows.

A flow is a pair of a path, which names a client and the relay that it speaks to, and a hop, which
is a transceiver or a relay of another cluster. It starts as provisional when a STUN request with a
valid token comes in, and is confirmed when that very transaction is answered with success (RFC
8489, section 6.3) by the hop that was asked, or by a transceiver beside it, which may have been
passed the request: nobody knows a transaction but who has received it. So the relay learns only
from what an authenticated party sends out; what comes in can at most make a provisional flow, and
those are few, short-lived, the oldest goes first, and they never push out a confirmed one.

Two hops may be confirmed for one client: a client's port is used again for a new call, or somebody
with a call of his own forges the address of another. The relay can not tell these apart, so the
younger flow becomes the *challenger* of the owner. It may be sent to and from at once, and what
comes in goes to both, where each session's cryptography takes what is meant for it. The challenger
inherits the client when the owner gives it back, is gone, or has not answered a check for
``OWNER_QUIET`` seconds. So a call that lives is never taken over.

Sessions move, and the relay knows none of them. A flow follows its session in three ways: its hop
is gone and an heir takes it *on trust*; another transceiver answers for an owner that had it on
trust, and takes it; an owner gives it to another. On trust means that the owner has not answered a
check itself since it has the flow. For an owner that has, nobody else's answer is enough: it may
have passed on the forged check of somebody whose own session has moved, and serve this client yet.

Only authenticated answers keep a flow alive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from edge.config import RelayConfig
from edge.errors import Drop
from edge.forwarder.protocol import FlowEntry, FlowStore
from edge.transactions import Asked, Transactions
from edge.wire.spp import Path

OWNER_QUIET: Final = 15.0  # seconds: three consent intervals, so one lost check decides nothing
SCAN_PLACES: Final = 8_192
"""Places of the store that one step of a walk looks at: well below a millisecond."""
ON_TRUST: Final = 0.0
"""``save_at`` of a flow whose owner has not answered a check since it has it."""
DUE: Final = 0.1
"""``save_at`` of a flow whose record is due at the next answered check."""

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
        self._provisional = Transactions(max_provisional)
        # Requests on confirmed flows: each has an owner and at most one challenger.
        self._checks = Transactions(2 * max_flows)
        self._cursor = 0

    @classmethod
    def configured(cls, store: FlowStore, settings: RelayConfig) -> FlowTable:
        """Make a table with a relay's limits."""
        return cls(
            store,
            max_flows=settings.max_flows,
            max_provisional=settings.max_provisional_flows,
            provisional_seconds=settings.provisional_seconds,
            idle_seconds=settings.flow_idle_seconds,
        )

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

    def client_request(
        self, path: Path, hop: int, transaction_id: bytes, *, token: int = 0, now: float
    ) -> None:
        """Note a STUN request that ``hop`` is asked; ``token`` tells its token from others.

        Each token of a path has its own room, so that one can not push out another's.
        """
        known = _serves(self._store.get(path), hop)
        requests = self._checks if known else self._provisional
        if requests.note(Asked(path, hop, token), transaction_id, now):
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
        since = now - self._provisional_seconds
        for requests in (self._checks, self._provisional):
            asked = requests.take(path, transaction_id, hop, success=success, since=since)
            if asked is not None:
                return self._confirm(asked, hop, now) if success else None
        return self.outbound(path, hop)

    def _confirm(self, asked: Asked, hop: int, now: float) -> Drop | None:
        path = asked.path
        entry = self._store.get(path)
        if entry is None and len(self._store) >= self._max_flows:
            return Drop.TABLE_FULL
        moves = _trusts(entry, asked.hop) and entry is not None and hop != entry.owner
        if not self._store.put(path, self._confirmed(entry, hop, now, moves=moves)):
            return Drop.TABLE_FULL
        if moves:
            self._forget(path)
        else:
            self._provisional.move(asked, self._checks)
        return None

    def _confirmed(
        self, entry: FlowEntry | None, hop: int, now: float, *, moves: bool
    ) -> FlowEntry:
        if entry is None:
            return FlowEntry(hop, now, save_at=DUE)
        challenger_is_done = entry.challenger == hop or self._is_quiet(entry.challenger_heard, now)
        if entry.owner == hop or moves:
            if challenger_is_done:
                entry = entry._replace(challenger=0, challenger_heard=0.0)
            return entry._replace(
                owner=hop, heard=now, save_at=DUE if moves else entry.save_at or DUE
            )
        if self._is_quiet(entry.heard, now):
            return FlowEntry(hop, now, save_at=DUE)
        return entry._replace(challenger=hop, challenger_heard=now)

    def _is_quiet(self, heard: float, now: float) -> bool:
        return now - heard > self._quiet_seconds

    # Everything that is not a packet.

    def save_due(self, path: Path, hop: int, *, now: float) -> bool:
        """Whether the registry record of a flow that ``hop`` owns is to be written now.

        It is, a few times in a flow's life time; and then not until the next time.
        """
        entry = self._store.get(path)
        if entry is None or entry.owner != hop or entry.save_at > max(now, DUE):
            return False
        self._store.put(path, entry._replace(save_at=now + self.idle_seconds / 3))
        return True

    def restore(self, path: Path, hop: int, *, now: float) -> Drop | None:
        """Take a flow from its registry record, on trust; a flow that is there already wins."""
        if self._store.get(path) is not None:
            return None
        if len(self._store) >= self._max_flows:
            return Drop.TABLE_FULL
        # Its record is due at the next answered check: who knows how old it is.
        entry = FlowEntry(hop, now, save_at=ON_TRUST)
        return None if self._store.put(path, entry) else Drop.TABLE_FULL

    def release(self, path: Path, hop: int) -> Drop | None:
        """Take out the flow of ``hop``, which gives it back; a challenger inherits."""
        entry = self._store.get(path)
        if entry is None:
            return Drop.UNKNOWN_FLOW
        if not _serves(entry, hop):
            return Drop.NOT_OWNER
        self._leave(path, entry, hop, 0)
        return None

    def give(self, path: Path, hop: int, other: int, *, now: float) -> Drop | None:
        """Put ``other`` in the place of ``hop``, which gives it the flow.

        What the owner gives is saved by the caller, at once.
        """
        entry = self._store.get(path)
        if entry is None:
            return Drop.UNKNOWN_FLOW
        if not _serves(entry, hop):
            return Drop.NOT_OWNER
        self._forget(path)
        if entry.owner == hop:
            entry = entry._replace(owner=other, save_at=now + self.idle_seconds / 3)
        else:
            entry = entry._replace(challenger=other)
        if entry.challenger == entry.owner:
            entry = entry._replace(challenger=0, challenger_heard=0.0)
        self._store.put(path, entry)
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

    def drop_hop(self, hop: int, heir: Heir, *, cursor: int = 0, places: int = SCAN_PLACES) -> int:
        """Take the flows of a hop that is gone from it, in one step of a walk over ``places``.

        A challenger inherits, else the hop that ``heir`` names. Returns the next cursor; 0 when
        all is done.
        """
        following, flows = self._store.scan(cursor, places, hop=hop)
        for path, entry in flows:
            self._inherit(path, entry, hop, heir)
        return following

    def drop_hop_of(self, path: Path, hop: int, heir: Heir) -> None:
        """Do the same for one flow, before the walk comes by."""
        entry = self._store.get(path)
        if _serves(entry, hop) and entry is not None:
            self._inherit(path, entry, hop, heir)

    def _inherit(self, path: Path, entry: FlowEntry, hop: int, heir: Heir) -> None:
        self._forget(path)
        alone = entry.owner == hop and not entry.challenger
        self._leave(path, entry, hop, heir(path) if alone else 0)

    def _leave(self, path: Path, entry: FlowEntry, hop: int, heir: int) -> None:
        if entry.owner != hop:
            self._store.put(path, entry._replace(challenger=0, challenger_heard=0.0))
        elif entry.challenger:
            self._store.put(path, FlowEntry(entry.challenger, entry.challenger_heard, save_at=DUE))
        elif heir:
            self._store.put(path, entry._replace(owner=heir, save_at=ON_TRUST))
        else:
            self._store.remove(path)

    def _forget(self, path: Path) -> None:
        """Take no more answers to what was asked on a path; those of its owner just pass."""
        self._checks.forget(path)
        self._provisional.forget(path)


def _serves(entry: FlowEntry | None, hop: int) -> bool:
    return entry is not None and hop in (entry.owner, entry.challenger)


def _trusts(entry: FlowEntry | None, hop: int) -> bool:
    """Whether ``hop`` owns a flow on trust."""
    return entry is not None and entry.owner == hop and entry.save_at == ON_TRUST
