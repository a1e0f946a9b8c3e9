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


class BucketTable:
    """A bucket for each of many names; the name that was used longest ago is forgotten first."""

    def __init__(self, per_second: float, *, max_names: int = 10_000) -> None:
        self._per_second = per_second
        self._max_names = max_names
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, *, now: float) -> float:
        """Take one token of this name's bucket, as ``TokenBucket.take``."""
        bucket = self._buckets.pop(name, None) or TokenBucket(self._per_second, now=now)
        self._buckets[name] = bucket
        if len(self._buckets) > self._max_names:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(now=now)
