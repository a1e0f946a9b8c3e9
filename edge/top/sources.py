"""Whom ``edge top`` asks: what the registry knows, or the URLs that were given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from edge.address import format_address
from edge.config import RegistryConfig
from edge.registry.lease import RELAY_LEASE_SECONDS
from edge.registry.protocol import Registry, RegistryUnavailable, RelayRecord, TransceiverRecord
from edge.registry.redis import open_redis_registry
from edge.top.figures import Part


class Source(Protocol):
    """Names the parts of a fleet."""

    async def parts(self) -> Sequence[Part] | None:
        """Who is there now; None when that can not be found out."""


class Given:
    """The URLs of a command line."""

    def __init__(self, urls: Sequence[str]) -> None:
        unique = dict.fromkeys(url.rstrip("/") for url in urls)
        self._parts = [
            Part(kind="process", name=url.partition("://")[2] or url, url=url) for url in unique
        ]

    async def parts(self) -> Sequence[Part]:
        """See ``Source``."""
        return self._parts


class Registered:
    """The records of a fleet's registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def parts(self) -> Sequence[Part] | None:
        """See ``Source``; it takes the registry's own time limit at most twice."""
        try:
            relays = await self._registry.relays()
            transceivers = await self._registry.transceivers()
        except RegistryUnavailable:
            return None
        parts = [*map(_relay, relays), *map(_transceiver, transceivers)]
        return sorted(parts, key=lambda part: (part.kind, part.cluster, part.region, part.name))


def _relay(record: RelayRecord) -> Part:
    return Part(
        kind="relay",
        name=format_address(record.public),
        url=record.http_url.rstrip("/"),
        cluster=record.cluster,
        region=record.region,
        address=format_address(record.internal),
        load=record.flows,
        draining=record.draining,
    )


def _transceiver(record: TransceiverRecord) -> Part:
    return Part(
        kind="transceiver",
        name=str(record.slot),
        url=record.http_url.rstrip("/"),
        cluster=record.cluster,
        address=format_address(record.address),
        load=record.sessions,
        draining=record.draining,
    )


@asynccontextmanager
async def open_source(urls: Sequence[str], registry: RegistryConfig) -> AsyncIterator[Source]:
    """Take the URLs where there are any, else hold a connection to the registry."""
    if urls:
        yield Given(urls)
        return
    async with open_redis_registry(
        registry.url,
        secret=registry.secret,
        previous_secret=registry.previous_secret,
        cluster=registry.cluster,
        lease_seconds=registry.lease_seconds,
        relay_lease_seconds=max(registry.lease_seconds, RELAY_LEASE_SECONDS),
        peer_urls=registry.peer_urls,
    ) as opened:
        yield Registered(opened)
