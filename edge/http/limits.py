"""How often one process takes what costs it something: by client address, by key, and in all.

The narrowest limit is asked first, so that who is over it takes nothing from the others. An IPv6
client counts by its /64, of which it may choose addresses at will.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from edge.config import HttpConfig
from edge.http.problem import Cause, Problem, retry_after
from edge.limits import BucketTable, TokenBucket


class Limits:
    """The rate limits of one process; ``now`` is a monotonic clock in seconds."""

    def __init__(self, http: HttpConfig, *, now: Callable[[], float]) -> None:
        self._now = now
        self._addresses = BucketTable(http.offers_per_second_per_address)
        self._keys = BucketTable(http.offers_per_second_per_key)
        self._all = TokenBucket(http.offers_per_second, now=now())

    def take(self, *, key: str, address: str) -> None:
        """Count an offer or a client secret; raises a 429 Problem over a limit."""
        now = self._now()
        if wait := self._addresses.take(_network(address), now=now):
            raise _too_many("from this address", wait)
        if wait := self._keys.take(key, now=now):
            raise _too_many("with this key", wait)
        if wait := self._all.take(now=now):
            raise _too_many("for this server", wait)


def _too_many(whose: str, wait: float) -> Problem:
    detail = f"too many requests {whose}: wait as long as Retry-After says"
    return Problem(Cause.RATE_LIMIT_EXCEEDED, detail, retry_after(wait))


def _network(address: str) -> str:
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    return str(IPv6Address(int(ip) >> 64 << 64)) if isinstance(ip, IPv6Address) else address
