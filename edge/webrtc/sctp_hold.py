"""Which of our messages may leave, where an heir must be able to take over after a crash.

The heir repeats what its snapshot holds under the same numbers, so that the peer drops what it has
got already. What the snapshot does not hold the heir does not know: were it sent, whoever made the
message would give it to the heir again, and the peer would have it twice, or it would be lost on
the way and with its sender. So a reliable message is numbered as a snapshot is written (``stage``
of the sender) and leaves when that is stored. A message that may be lost anyway waits for nothing.

Nor does any other wait for longer than ``HOLD_SECONDS``, or while no snapshot can be stored: then
messages go as they come until one is.
"""

from __future__ import annotations

import math
from typing import Final

HOLD_SECONDS: Final = 0.25
"""Longer than a registry that is well takes, and short for who waits for an answer."""


class Hold:
    """Up to which number messages may leave; ``deadline``: when what waits goes all the same."""

    def __init__(self, *, active: bool) -> None:
        self.active = active
        self.deadline = math.inf
        self._first = 0
        """The first number that is in no stored snapshot."""

    def bars(self, tsn: int) -> bool:
        """Whether a chunk of this number must not leave yet."""
        return self.active and tsn >= self._first

    def stored(self, next_tsn: int) -> None:
        """A snapshot is safe that holds everything before this number."""
        self.active, self._first, self.deadline = True, next_tsn, math.inf

    def release(self) -> None:
        """Hold nothing until a snapshot is stored."""
        self.active, self.deadline = False, math.inf

    def wait(self, waits: bool, *, now: float) -> None:
        """Note whether anything waits now."""
        self.deadline = min(self.deadline, now + HOLD_SECONDS) if waits else math.inf
