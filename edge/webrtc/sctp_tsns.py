"""Which transmission sequence numbers have arrived (RFC 9260, section 6.2)."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

MAX_AHEAD: Final = 0xFFFF  # as far as a gap block can tell
MAX_GAPS: Final = 512  # separate blocks beyond the cumulative TSN
REPORTED_GAPS: Final = 200  # blocks in one SACK: 800 bytes


class TsnMap:
    """The cumulative TSN and, in order, the blocks (first, last) received beyond it."""

    def __init__(self, cumulative: int, blocks: tuple[tuple[int, int], ...] = ()) -> None:
        self.cumulative = cumulative
        self._firsts = [first for first, _ in blocks]
        self._lasts = [last for _, last in blocks]

    def __contains__(self, tsn: int) -> bool:
        if tsn <= self.cumulative:
            return True
        at = bisect_right(self._firsts, tsn) - 1
        return at >= 0 and tsn <= self._lasts[at]

    @property
    def has_gaps(self) -> bool:
        """Whether anything beyond the cumulative TSN has arrived."""
        return bool(self._firsts)

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """All blocks beyond the cumulative TSN."""
        return tuple(zip(self._firsts, self._lasts, strict=True))

    def gaps(self) -> tuple[tuple[int, int], ...]:
        """The first blocks as distances from the cumulative TSN, for a SACK."""
        if not self._firsts:
            return ()
        return tuple(
            (first - self.cumulative, last - self.cumulative)
            for first, last in zip(
                self._firsts[:REPORTED_GAPS], self._lasts[:REPORTED_GAPS], strict=True
            )
        )

    def fits(self, tsn: int) -> bool:
        """Whether a TSN that is not in the map yet can be added."""
        return tsn <= self.cumulative + MAX_AHEAD and (
            tsn == self.cumulative + 1 or len(self._firsts) < MAX_GAPS
        )

    def add(self, tsn: int) -> None:
        """Note a TSN that is not in the map and fits."""
        if tsn == self.cumulative + 1:
            self.cumulative = tsn
            self._absorb()
            return
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, tsn)
        joins_left = at > 0 and lasts[at - 1] == tsn - 1
        joins_right = at < len(firsts) and firsts[at] == tsn + 1
        if joins_left and joins_right:
            lasts[at - 1] = lasts.pop(at)
            del firsts[at]
        elif joins_left:
            lasts[at - 1] = tsn
        elif joins_right:
            firsts[at] = tsn
        else:
            firsts.insert(at, tsn)
            lasts.insert(at, tsn)

    def forward(self, tsn: int) -> None:
        """Take everything up to ``tsn`` as received."""
        self.cumulative = max(self.cumulative, tsn)
        self._absorb()

    def _absorb(self) -> None:
        while self._firsts and self._firsts[0] <= self.cumulative + 1:
            del self._firsts[0]
            self.cumulative = max(self.cumulative, self._lasts.pop(0))
