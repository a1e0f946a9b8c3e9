"""What every role has: the registry, a view of the fleet, metrics, HTTP, and how parts run."""

from __future__ import annotations

import gc
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from edge.config import Config
from edge.http.listen import HttpListener, make_listeners
from edge.http.secrets import SecretSealer
from edge.metrics import Metrics
from edge.probe import is_refused
from edge.registry.directory import Directory
from edge.registry.lease import LOOK_SECONDS, RELAY_LEASE_SECONDS
from edge.registry.memory import MemoryRegistry
from edge.registry.redis import RedisRegistry, open_redis_registry
from edge.token import TokenKey, TokenSealer

COLLECTOR_THRESHOLDS: Final = 10_000, 20, 20
"""Of the cyclic garbage collector: a session makes some thousand objects, most of which stay."""

Task = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Base:
    """What every role needs, and what its parts add to."""

    config: Config
    registry: MemoryRegistry | RedisRegistry
    directory: Directory
    sealer: TokenSealer
    secrets: SecretSealer = field(repr=False)
    metrics: Metrics = field(default_factory=Metrics)


def settle_memory(*, collect: bool = True) -> None:
    """Have the collector pass over what was made at start, and come less often.

    A full collection walks all there is: 45 ms for what was imported, every few dozen calls. The
    last one is in here, but for who has no time to ``collect``.
    """
    if collect:
        gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


@asynccontextmanager
async def running(*tasks: Task) -> AsyncIterator[None]:
    """Run tasks, each started in turn, for as long as the block."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            await nursery.start(task)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_base(config: Config) -> AsyncIterator[Base]:
    """Connect to the registry and keep a view of the fleet."""
    settings = config.registry
    # One process without a fleet needs no one to share its secret with.
    secret = settings.secret or secrets.token_urlsafe(32)
    previous = TokenKey.derive(settings.previous_secret) if settings.previous_secret else None
    relay_lease = max(settings.lease_seconds, RELAY_LEASE_SECONDS)
    async with AsyncExitStack() as stack:
        registry: MemoryRegistry | RedisRegistry
        if settings.url == "memory:":
            registry = MemoryRegistry(
                cluster=settings.cluster,
                lease_seconds=settings.lease_seconds,
                relay_lease_seconds=relay_lease,
            )
        else:
            registry = await stack.enter_async_context(
                open_redis_registry(
                    settings.url,
                    secret=secret,
                    previous_secret=settings.previous_secret,
                    cluster=settings.cluster,
                    lease_seconds=settings.lease_seconds,
                    relay_lease_seconds=relay_lease,
                    peer_urls=settings.peer_urls,
                )
            )
        directory = Directory(
            registry,
            cluster=settings.cluster,
            interval_seconds=min(LOOK_SECONDS, settings.lease_seconds / 2),
            lease_seconds=relay_lease,
            transceiver_seconds=settings.lease_seconds,
            is_refused=is_refused,
        )
        sealer = TokenSealer(TokenKey.derive(secret), previous)
        client_secrets = SecretSealer(secret, settings.previous_secret)
        base = Base(config, registry, directory, sealer, client_secrets)
        base.metrics.add_registry(registry.statistics)
        base.metrics.add_directory(directory.statistics)
        await stack.enter_async_context(running(directory.run))
        yield base


@asynccontextmanager
async def listening(
    base: Base, sockets: Sequence[socket.socket]
) -> AsyncIterator[list[HttpListener]]:
    """Hold the listeners for HTTP; whoever connects waits until it is served."""
    listeners = make_listeners(base.config.http, sockets)
    try:
        yield listeners
    finally:
        for each in listeners:
            await trio.aclose_forcefully(each.listener)
