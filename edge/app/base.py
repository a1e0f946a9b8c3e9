"""What every role has: the registry, a view of the fleet, metrics, HTTP, and how parts run."""

from __future__ import annotations

import gc
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio
from starlette.types import ASGIApp

from edge.address import parse_address
from edge.config import Config
from edge.datagram import bind_udp
from edge.http.listen import HttpListener, make_listeners
from edge.http.secrets import SecretSealer
from edge.http.server import HttpServer
from edge.metrics import Metrics
from edge.probe import is_refused
from edge.ready import StartupError
from edge.registry.directory import Directory
from edge.registry.lease import LOOK_SECONDS, RELAY_LEASE_SECONDS
from edge.registry.memory import MemoryRegistry
from edge.registry.redis import RedisRegistry, open_redis_registry
from edge.token import TokenKey, TokenSealer

HTTP_GRACE_SECONDS: Final = 1.0
"""For requests that are under way when a process stops."""

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


def settle_memory() -> None:
    """Have the collector pass over what was made at start, and come less often.

    A full collection walks all there is: 45 ms for what was imported, every few dozen calls.
    """
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
            is_refused=is_refused,
        )
        sealer = TokenSealer(TokenKey.derive(secret), previous)
        client_secrets = SecretSealer(secret, settings.previous_secret)
        base = Base(config, registry, directory, sealer, client_secrets)
        base.metrics.add_registry(registry.statistics)
        base.metrics.add_directory(directory.statistics)
        await stack.enter_async_context(running(directory.run))
        yield base


@contextmanager
def bound(key: str, bind: str, copies: int = 1) -> Iterator[list[socket.socket]]:
    """Bind UDP sockets to the HOST:PORT of a configuration key; several share its packets."""
    sockets: list[socket.socket] = []
    try:
        address = parse_address(bind)
        for _ in range(copies):
            sockets.append(bind_udp(address, reuse_port=copies > 1))
            address = sockets[0].getsockname()[:2]
        yield sockets
    except OSError as error:
        if len(sockets) == copies:
            raise
        raise StartupError(f"{key} {bind}: {error.strerror}") from None
    finally:
        for each in sockets:
            each.close()


@asynccontextmanager
async def listening(base: Base) -> AsyncIterator[list[HttpListener]]:
    """Bind for HTTP; whoever connects waits until it is served."""
    listeners = await make_listeners(base.config.http)
    try:
        yield listeners
    finally:
        for each in listeners:
            await trio.aclose_forcefully(each.listener)


@asynccontextmanager
async def serve_http(
    app: ASGIApp, base: Base, listeners: Sequence[HttpListener], stop: trio.Event
) -> AsyncIterator[None]:
    """Serve HTTP until ``stop``."""
    server = HttpServer(app, http=base.config.http)
    base.metrics.add_http(server)
    serve = partial(server.serve, listeners, stop=stop, grace_seconds=HTTP_GRACE_SECONDS)
    async with running(serve):
        yield
