"""Values that live for a time, in the order of their last writing."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Leases(Generic[K, V]):
    """A dictionary whose entries end; ``clock`` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[K, tuple[V, float]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def put(self, key: K, value: V, seconds: float) -> None:
        """Write a value to live for so long."""
        self._values.pop(key, None)
        self._values[key] = value, self._clock() + seconds

    def remove(self, key: K) -> None:
        """Take a value out, if it is there."""
        self._values.pop(key, None)

    def drop_oldest(self) -> None:
        """Take out what was written the longest ago."""
        del self._values[next(iter(self._values))]

    def get(self, key: K) -> V | None:
        """Return a value that lives."""
        value, expires = self._values.get(key, (None, 0.0))
        if value is not None and expires <= self._clock():
            del self._values[key]
            return None
        return value

    def living(self) -> list[V]:
        """Return all values that live."""
        now = self._clock()
        self._values = {key: one for key, one in self._values.items() if one[1] > now}
        return [value for value, _ in self._values.values()]
