"""Whether the registry remembers: a claim that it has as long as it does. No I/O.

All processes of a cluster keep one claim together, the *mark*. A registry without it was emptied
not long ago, and may not know yet who took which session over: somebody who did may still be on the
way to tell. So the mark is claimed anew under epoch 1 by whoever misses it, and counts when that
very claim is ``SETTLE_SECONDS`` old, which is said by a higher epoch. Until then nobody takes a
session over, and what is stored under a claim that was written back extends no reserve.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf
from typing import Final

from edge.registry.sessions import SESSION_SECONDS, Claim, Slot

MARK: Final = "mark"
"""It is claimed like a session."""
SETTLE_SECONDS: Final = 3.0
"""In which everybody that lives finds the registry again and writes back what it holds."""
REFRESH_SECONDS: Final = SESSION_SECONDS / 3


def is_settled(held: Claim | None) -> bool:
    """Whether the mark counts: the registry knows of everybody who took a session over."""
    return held is not None and held.epoch > 1


class Mark:
    """The mark as one process sees it. Times are monotonic seconds."""

    def __init__(self, slot: Slot, *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._slot = slot
        self._entropy = entropy
        self._seen = -inf
        """When we asked the last time that it counted."""
        self._young: Claim | None = None
        self._young_since = inf
        """When we first asked of this very claim, which does not count yet."""
        self._refresh_at = -inf

    def note(self, held: Claim | None, *, asked: float) -> bool:
        """Take an answer; True where the registry may have forgotten since the last one."""
        if is_settled(held):
            self._seen = asked
            self._young, self._young_since = None, inf
            return False
        self._seen = -inf
        forgot = held is None or held != self._young
        if forgot:
            self._young, self._young_since = held, asked
        return forgot

    def wanted(self, held: Claim | None, *, now: float) -> Claim | None:
        """What is to be claimed now, if anything, where ``held`` is the mark."""
        if held is None:  # of each mark the owner is another one: it tells them apart
            owner = Slot(int.from_bytes(self._entropy(3), "big") + 1)
            return Claim(session=MARK, owner=owner, epoch=1)
        if is_settled(held):
            return self._refreshed(held, now)
        return held.next_of(self._slot) if now - self._young_since >= SETTLE_SECONDS else None

    def follows(self, written_back: float | None) -> bool:
        """Whether it counted after a claim was written back at that time; None: never was one."""
        return written_back is None or self._seen >= written_back

    def _refreshed(self, held: Claim, now: float) -> Claim | None:
        if now < self._refresh_at:
            return None
        self._refresh_at = now + REFRESH_SECONDS
        return held.next_of(self._slot)
