"""STUN transactions that a relay has passed on and that wait for an answer (RFC 8489, section 6).

Each token of a path has its own room, and the number of both is bounded: the oldest goes.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from edge.forwarder.protocol import FIRST_PEER
from edge.wire.spp import Path

MAX_TRANSACTIONS: Final = 8
"""Unanswered STUN transactions held for one token and flow; the oldest goes."""


class Asked(NamedTuple):
    """Who was asked what about: a flow to be, or that there is."""

    path: Path
    hop: int
    token: int


class Transactions:
    """What was asked and is not answered, in the order of the last request."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._noted: OrderedDict[Asked, dict[bytes, float]] = OrderedDict()
        self._by_path: dict[Path, dict[Asked, None]] = {}

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, asked: Asked, transaction_id: bytes, now: float) -> bool:
        """Note a request; returns whether the oldest flow's had to go."""
        transactions = self._noted.get(asked, {})
        if pushed := not transactions and len(self._noted) >= self._limit:
            self._remove(next(iter(self._noted)))
        transactions.pop(transaction_id, None)
        if len(transactions) >= MAX_TRANSACTIONS:
            del transactions[next(iter(transactions))]
        transactions[transaction_id] = now
        self._put(asked, transactions)
        return pushed

    def take(
        self, path: Path, transaction_id: bytes, hop: int, *, success: bool, since: float
    ) -> Asked | None:
        """Find what ``hop`` answers, noted not earlier than ``since``; it is answered then.

        A success may be that of a transceiver beside the one that was asked.
        """
        beside = [
            asked
            for asked in self._by_path.get(path, ())
            if transaction_id in self._noted[asked]
            and (asked.hop == hop or (success and max(asked.hop, hop) < FIRST_PEER))
        ]
        asked = max(beside, key=lambda one: one.hop == hop, default=None)
        if asked is None:
            return None
        at = self._noted[asked].pop(transaction_id)
        if not self._noted[asked]:
            self._remove(asked)
        return asked if at >= since else None

    def move(self, asked: Asked, other: Transactions) -> None:
        """Hand what is noted for a flow to another place."""
        if transactions := self._noted.get(asked):
            self._remove(asked)
            other._put(asked, transactions)

    def forget(self, path: Path) -> None:
        """Forget all that was asked on a path."""
        for asked in tuple(self._by_path.get(path, ())):
            self._remove(asked)

    def expire(self, *, before: float) -> None:
        """Forget flows without a request since then."""
        while self._noted:
            asked, transactions = next(iter(self._noted.items()))
            if next(reversed(transactions.values())) >= before:
                break
            self._remove(asked)

    def _put(self, asked: Asked, transactions: dict[bytes, float]) -> None:
        self._noted[asked] = transactions
        self._noted.move_to_end(asked)
        self._by_path.setdefault(asked.path, {})[asked] = None

    def _remove(self, asked: Asked) -> None:
        del self._noted[asked]
        of_path = self._by_path[asked.path]
        del of_path[asked]
        if not of_path:
            del self._by_path[asked.path]
