"""How often something may happen."""

from __future__ import annotations


class TokenBucket:
    """At most ``per_second`` takings a second in the long run, and one second's worth at once."""

    def __init__(self, per_second: float, *, now: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second)
        self._tokens = self._capacity
        self._updated = now

    def take(self, *, now: float) -> float:
        """Take one token and return 0.0, or return the seconds until there is one."""
        elapsed = max(0.0, now - self._updated)
        self._updated = now
        self._tokens = min(self._capacity, self._tokens + elapsed * self._per_second)
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self._per_second
        self._tokens -= 1.0
        return 0.0
