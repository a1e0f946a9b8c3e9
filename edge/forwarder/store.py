"""The confirmed flows of the pure forwarder: rows of plain numbers, found by path.

At 100,000 flows one costs about 210 bytes (``tests/test_flow_store.py`` measures it): its path 80,
its place in the dict 52, its row number 32, the columns 40 and their spare room. A dict of
FlowEntry would take twice that.
"""

from __future__ import annotations

import math
from array import array
from typing import Final

from edge.forwarder.protocol import FlowEntry
from edge.wire.spp import Path

_NUMBERS: Final = "I"
_TIMES: Final = "d"


class MemoryStore:
    """``FlowStore`` for at most ``capacity`` flows.

    The forwarder reads ``rows``, ``owners`` and ``challengers`` itself, since a call for each
    packet would cost more than the access. Nobody else writes or keeps them.
    """

    def __init__(self, capacity: int) -> None:
        self.rows: dict[bytes, int] = {}
        self.owners = array(_NUMBERS)
        self.challengers = array(_NUMBERS)
        self._capacity = capacity
        self._paths: list[Path | None] = []
        self._heard = array(_TIMES)
        self._challenger_heard = array(_TIMES)
        self._save_at = array(_TIMES)
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, path: Path) -> FlowEntry | None:
        """See ``FlowStore``."""
        row = self.rows.get(path)
        return None if row is None else self._entry(row)

    def put(self, path: Path, entry: FlowEntry) -> bool:
        """See ``FlowStore``."""
        row = self.rows.get(path)
        if row is None:
            if len(self.rows) >= self._capacity:
                return False
            row = self.rows[path] = self._free.pop() if self._free else self._grow()
            self._paths[row] = path
        self.owners[row] = entry.owner
        self.challengers[row] = entry.challenger
        self._heard[row] = entry.heard
        self._challenger_heard[row] = entry.challenger_heard
        self._save_at[row] = entry.save_at
        return True

    def remove(self, path: Path) -> None:
        """See ``FlowStore``."""
        row = self.rows.pop(path, None)
        if row is not None:
            self._paths[row] = None
            self._free.append(row)

    def scan(
        self, cursor: int, limit: int, *, heard_before: float = math.inf, hop: int = 0
    ) -> tuple[int, list[tuple[Path, FlowEntry]]]:
        """See ``FlowStore``."""
        end = min(cursor + limit, len(self._paths))
        found = [
            (path, self._entry(row))
            for row in range(cursor, end)
            if (path := self._paths[row]) is not None
            and self._heard[row] < heard_before
            and hop in (0, self.owners[row], self.challengers[row])
        ]
        return 0 if end == len(self._paths) else end, found

    def _entry(self, row: int) -> FlowEntry:
        return FlowEntry(
            self.owners[row],
            self._heard[row],
            self.challengers[row],
            self._challenger_heard[row],
            self._save_at[row],
        )

    def _grow(self) -> int:
        """Add a row; returns its number."""
        self._paths.append(None)
        for numbers in (self.owners, self.challengers):
            numbers.append(0)
        for times in (self._heard, self._challenger_heard, self._save_at):
            times.append(0.0)
        return len(self._paths) - 1
