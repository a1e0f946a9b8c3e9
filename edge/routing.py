"""The relay's flow table: which transceiver serves a client address, by the rules of DESIGN 6.

A flow is a pair of a client address and a transceiver slot. It starts as provisional when a STUN
request with a valid token comes in, and is confirmed when that slot answers that very transaction
with success (RFC 8489, section 6.3). So the relay learns only from what an authenticated party
sends out; what comes in can at most make a provisional flow, and those are few, short-lived, the
oldest goes first, and they never push out a confirmed one.

Two slots may be confirmed for one address: a client port is used again for a new call, or somebody
with a call of his own forges the address of another. The relay can not tell these apart, so the
younger flow becomes the *challenger* of the owner. It may be sent to and from at once, and what
comes in goes to both, where each session's cryptography takes what is meant for it. The challenger
inherits the address when the owner gives it back, is gone, or has not answered a check for
``OWNER_QUIET`` seconds. So a call that lives is never taken over.

Only authenticated answers keep a flow alive. Both directions find it with one dict access.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Collection
from itertools import islice
from typing import Final

from edge.address import Address
from edge.errors import Drop
from edge.wire.spp import Path, encode_path

OWNER_QUIET: Final = 15.0  # seconds: three consent intervals, so one lost check decides nothing
MAX_TRANSACTIONS: Final = 8
"""Unanswered STUN transactions held for one flow; the oldest goes."""
EXPIRE_BATCH: Final = 1_000
"""Flows that one ``expire`` takes out at most."""


class Flow:
    """One client address served by one slot. Read-only outside of this module but ``save_at``.

    Mutable and slotted, without a dataclass's frozen checks: it is on every packet's way.
    """

    __slots__ = ("_heard", "_transactions", "challenger", "client", "path", "save_at", "slot")

    def __init__(self, client: Address, path: Path, slot: int, *, now: float) -> None:
        self.client = client
        self.path = path
        self.slot = slot
        self.challenger: Flow | None = None
        self.save_at = -math.inf
        """When the flow's registry record is due to be written; for the caller's use."""
        self._heard = now
        self._transactions: dict[bytes, float] | None = None

    def __repr__(self) -> str:
        return f"Flow(slot={self.slot})"

    def _note(self, transaction_id: bytes, now: float) -> None:
        noted = self._transactions
        if noted is None:
            self._transactions = {transaction_id: now}
            return
        noted.pop(transaction_id, None)
        if len(noted) >= MAX_TRANSACTIONS:
            del noted[next(iter(noted))]
        noted[transaction_id] = now

    def _take(self, transaction_id: bytes, *, since: float) -> bool:
        noted = self._transactions
        if noted is None or transaction_id not in noted:
            return False
        at = noted.pop(transaction_id)
        if not noted:
            self._transactions = None  # most flows hold none: an empty dict is 64 bytes
        return at >= since


class FlowTable:
    """All flows behind one public address. ``drops`` counts provisional flows pushed out.

    Whatever a method refuses it returns as a Drop, for the caller to count.
    """

    def __init__(
        self,
        public: Address,
        *,
        max_flows: int,
        max_provisional: int,
        provisional_seconds: float,
        idle_seconds: float,
    ) -> None:
        self.public = public
        self.idle_seconds = idle_seconds
        self.drops: Counter[Drop] = Counter()
        self._max_flows = max_flows
        self._max_provisional = max_provisional
        self._provisional_seconds = provisional_seconds
        self._quiet_seconds = min(OWNER_QUIET, idle_seconds / 2)
        # In the order of the last authenticated answer.
        self._by_client: dict[Address, Flow] = {}
        self._by_path: dict[Path, Flow] = {}
        self._flows_of: Counter[int] = Counter()
        # In the order of the last request.
        self._provisional: OrderedDict[tuple[Path, int], Flow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_client)

    @property
    def provisional(self) -> int:
        """How many flows wait for their first answer."""
        return len(self._provisional)

    @property
    def slots(self) -> Collection[int]:
        """The slots that own confirmed flows."""
        return self._flows_of.keys()

    # Clients to transceivers.

    def lookup(self, client: Address) -> Flow | None:
        """Return the confirmed flow that owns a client address, for all but STUN requests."""
        return self._by_client.get(client)

    def client_request(
        self, client: Address, slot: int, transaction_id: bytes, *, now: float
    ) -> Path:
        """Note a STUN request whose token names ``slot``; returns the path to send it along."""
        owner = self._by_client.get(client)
        path = owner.path if owner is not None else encode_path(client, self.public)
        flow = _confirmed(owner, slot) or self._provisional_flow(client, path, slot, now)
        flow._note(transaction_id, now)
        return path

    def _provisional_flow(self, client: Address, path: Path, slot: int, now: float) -> Flow:
        key = path, slot
        flow = self._provisional.get(key)
        if flow is None:
            if len(self._provisional) >= self._max_provisional:
                self._provisional.popitem(last=False)
                self.drops[Drop.TABLE_FULL] += 1
            flow = self._provisional[key] = Flow(client, path, slot, now=now)
        else:
            flow._heard = now
            self._provisional.move_to_end(key)
        return flow

    # Transceivers to clients.

    def outbound(self, path: Path, slot: int) -> Flow | Drop:
        """Return the flow on which ``slot`` may send anything but a STUN response."""
        owner = self._by_path.get(path)
        if owner is None:
            return Drop.UNKNOWN_FLOW
        if owner.slot == slot:
            return owner
        return _confirmed(owner, slot) or Drop.NOT_OWNER

    def outbound_response(
        self, path: Path, slot: int, transaction_id: bytes, *, success: bool, now: float
    ) -> Flow | Drop:
        """Return the flow on which ``slot`` may send a STUN response.

        A success that answers a noted transaction confirms or refreshes the flow; an error may
        pass and changes nothing.
        """
        owner = self._by_path.get(path)
        flow = _confirmed(owner, slot) or self._provisional.get((path, slot))
        answers = flow is not None and flow._take(
            transaction_id, since=now - self._provisional_seconds
        )
        if flow is None or not answers:
            return self.outbound(path, slot)
        return self._confirm(flow, owner, now) if success else flow

    def _confirm(self, flow: Flow, owner: Flow | None, now: float) -> Flow | Drop:
        if owner is None and len(self._by_client) >= self._max_flows:
            return Drop.TABLE_FULL
        self._provisional.pop((flow.path, flow.slot), None)
        flow._heard = now
        if owner is None:
            self._add(flow)
        elif owner is flow:
            if flow.challenger is not None and self._is_quiet(flow.challenger, now):
                flow.challenger = None
            self._by_client[flow.client] = self._by_client.pop(flow.client)
        elif self._is_quiet(owner, now):
            self._remove(owner)
            self._add(flow)
        else:
            owner.challenger = flow
        return flow

    def _is_quiet(self, flow: Flow, now: float) -> bool:
        return now - flow._heard > self._quiet_seconds

    # Everything that is not a packet.

    def restore(self, client: Address, slot: int, *, now: float) -> Flow | Drop:
        """Take a flow from its registry record; a flow that is there already wins."""
        present = self._by_client.get(client)
        if present is not None:
            return present
        if len(self._by_client) >= self._max_flows:
            return Drop.TABLE_FULL
        flow = Flow(client, encode_path(client, self.public), slot, now=now)
        self._add(flow)
        return flow

    def release(self, path: Path, slot: int) -> Flow | Drop:
        """Take out the flow of ``slot``, which gives it back; a challenger inherits."""
        flow = self.outbound(path, slot)
        if isinstance(flow, Flow):
            owner = self._by_path[path]
            if owner is flow:
                self._bequeath(owner)
            else:
                owner.challenger = None
        return flow

    def expire(self, *, now: float) -> int:
        """Take out what is idle, at most EXPIRE_BATCH confirmed flows; returns how many."""
        while self._provisional:
            oldest = next(iter(self._provisional.values()))
            if now - oldest._heard <= self._provisional_seconds:
                break
            self._provisional.popitem(last=False)
        idle = []
        for flow in islice(self._by_client.values(), EXPIRE_BATCH):
            if now - flow._heard <= self.idle_seconds:
                break
            idle.append(flow)
        for flow in idle:
            self._remove(flow)
        return len(idle)

    def drop_slot(self, slot: int) -> int:
        """Take out all flows of a slot that is gone; returns how many it owned."""
        owned = self._flows_of[slot]
        for flow in list(self._by_client.values()):
            if flow.slot == slot:
                self._bequeath(flow)
            elif flow.challenger is not None and flow.challenger.slot == slot:
                flow.challenger = None
        return owned

    def _bequeath(self, flow: Flow) -> None:
        self._remove(flow)
        if flow.challenger is not None:
            self._add(flow.challenger)

    def _add(self, flow: Flow) -> None:
        self._by_client[flow.client] = flow
        self._by_path[flow.path] = flow
        self._flows_of[flow.slot] += 1

    def _remove(self, flow: Flow) -> None:
        del self._by_client[flow.client]
        del self._by_path[flow.path]
        self._flows_of[flow.slot] -= 1
        if not self._flows_of[flow.slot]:
            del self._flows_of[flow.slot]


def _confirmed(owner: Flow | None, slot: int) -> Flow | None:
    """Return the owner or its challenger, whichever is of ``slot``."""
    if owner is None or owner.slot == slot:
        return owner
    challenger = owner.challenger
    return challenger if challenger is not None and challenger.slot == slot else None
