"""Puts the parts of a process together and takes them apart again.

Each part is an asynchronous context manager that owns its tasks. They are nested in the order in
which they need each other, so leaving them ends a process from the outside in: sessions say goodbye
through a relay that still forwards, records are taken out of a registry that is still connected.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
import structlog
import trio
from starlette.types import ASGIApp

from edge.address import Address, format_address, parse_address
from edge.backends.echo import Echo
from edge.backends.protocol import Backend
from edge.config import Config
from edge.datagram import DatagramSocket, bind_udp
from edge.errors import ConfigError
from edge.forwarder.engine import choose_engine, make_forwarder
from edge.forwarder.gatekeeper import SocketGate
from edge.geo import GeoSettings
from edge.geo_data import open_geography, point_of_relay
from edge.http.listen import HttpListener, make_listeners
from edge.http.server import HttpServer
from edge.metrics import Metrics
from edge.ready import Ready, Role, StartupError
from edge.registry.directory import (
    LINGER_SECONDS,
    Directory,
    keep_relay,
    keep_transceiver,
)
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import (
    RegistryUnavailable,
    RelayRecord,
    TransceiverRecord,
)
from edge.registry.redis import RedisRegistry, open_redis_registry
from edge.relay import Relay
from edge.routing import FlowTable
from edge.signaling import create_app, create_operations_app
from edge.token import TokenKey, TokenSealer
from edge.transceiver.service import Environment, Transceiver
from edge.webrtc.certificate import DtlsCertificate

HTTP_GRACE_SECONDS: Final = 1.0
"""For requests that are under way when a process stops."""

log = structlog.get_logger()

Task = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Base:
    """What every role needs, and what its parts add to."""

    config: Config
    registry: MemoryRegistry | RedisRegistry
    directory: Directory
    sealer: TokenSealer
    metrics: Metrics = field(default_factory=Metrics)


async def run(
    role: Role, config: Config, *, announce: Callable[[Ready], None], stop: trio.Event
) -> None:
    """Serve until ``stop`` is set, then drain and return; cancelling skips the drain.

    Raises StartupError, ConfigError or OSError, alone or in a group, when it can not start.
    """
    try:
        async with AsyncExitStack() as stack:
            base = await stack.enter_async_context(_open_base(config))
            listeners = await stack.enter_async_context(_listening(base))
            url = listeners[0].url
            udp: Address | None = None
            transceiver: Transceiver | None = None
            if role in ("serve", "relay"):
                udp = await stack.enter_async_context(_open_relay(base, url, stop))
            if role in ("serve", "transceiver"):
                transceiver, address = await stack.enter_async_context(_open_transceiver(base))
                udp = udp or address
            assert udp is not None
            geography = stack.enter_context(open_geography(config.geo)) if transceiver else None
            app = _make_app(base, transceiver, stop, geography)
            await stack.enter_async_context(_serve_http(app, base, listeners, stop))
            if transceiver is not None:
                await stack.enter_async_context(_register(base, transceiver, address, url))
            announce(Ready(role=role, http=url, udp=format_address(udp), pid=os.getpid()))
            await stop.wait()
            if transceiver is not None:
                await transceiver.drain()
    except* RegistryUnavailable:
        raise StartupError("registry.url: the registry does not answer") from None


@asynccontextmanager
async def _running(*tasks: Task) -> AsyncIterator[None]:
    """Run tasks, each started in turn, for as long as the block."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            await nursery.start(task)
        yield
        nursery.cancel_scope.cancel()


async def _linger(
    task: Task, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a task until we are cancelled and a moment longer, so that others still have it."""
    shield = trio.CancelScope(shield=True)

    async def run() -> None:
        with shield:
            await task(task_status=task_status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        try:
            await trio.sleep_forever()
        finally:
            shield.deadline = trio.current_time() + LINGER_SECONDS


@asynccontextmanager
async def _open_base(config: Config) -> AsyncIterator[_Base]:
    settings = config.registry
    # One process without a fleet needs no one to share its secret with.
    secret = settings.secret or secrets.token_urlsafe(32)
    previous = TokenKey.derive(settings.previous_secret) if settings.previous_secret else None
    async with AsyncExitStack() as stack:
        registry: MemoryRegistry | RedisRegistry
        if settings.url == "memory:":
            registry = MemoryRegistry(
                cluster=settings.cluster, lease_seconds=settings.lease_seconds
            )
        else:
            registry = await stack.enter_async_context(
                open_redis_registry(
                    settings.url,
                    secret=secret,
                    previous_secret=settings.previous_secret,
                    cluster=settings.cluster,
                    lease_seconds=settings.lease_seconds,
                    peer_urls=settings.peer_urls,
                )
            )
        directory = Directory(
            registry,
            cluster=settings.cluster,
            interval_seconds=settings.heartbeat_seconds / 2,
            lease_seconds=settings.lease_seconds,
        )
        base = _Base(config, registry, directory, TokenSealer(TokenKey.derive(secret), previous))
        base.metrics.add_registry(registry.statistics)
        base.metrics.add_directory(directory.statistics)
        await stack.enter_async_context(_running(directory.run))
        yield base


@contextmanager
def _bound(key: str, bind: str, copies: int = 1) -> Iterator[list[socket.socket]]:
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
async def _open_relay(base: _Base, url: str, stop: trio.Event) -> AsyncIterator[Address]:
    """Run a relay; yields the public address that clients are told. ``url`` is its own HTTP."""
    settings, fleet = base.config.relay, base.config.registry
    engine = choose_engine(settings)
    with ExitStack() as stack:
        workers = settings.workers if engine == "native" else 1
        public = stack.enter_context(_bound("relay.bind", settings.bind, workers))
        internal = stack.enter_context(
            _bound("relay.internal_bind", settings.internal_bind, workers)
        )
        host, port = public[0].getsockname()[:2]
        advertised = parse_address(settings.advertise or host, default_port=port)
        forwarder = make_forwarder(
            engine,
            public,
            internal,
            advertised=advertised,
            settings=settings,
            stale=base.directory.hint_stale,
        )
        relay = Relay(
            forwarder,
            public=advertised,
            flows=FlowTable(
                forwarder.flows,
                max_flows=settings.max_flows,
                max_provisional=settings.max_provisional_flows,
                provisional_seconds=settings.provisional_seconds,
                idle_seconds=settings.flow_idle_seconds,
            ),
            sealer=base.sealer,
            cluster=fleet.cluster,
            fleet=base.directory,
            registry=base.registry,
            lookups_per_second=settings.lookups_per_second,
        )
        base.metrics.add_relay(relay.statistics)
        log.info("relay", engine=engine, workers=workers)
        record = _relay_record(base.config, advertised, internal[0].getsockname()[:2], url)

        def make_record() -> RelayRecord:
            return msgspec.structs.replace(
                record, flows=len(forwarder.flows), draining=stop.is_set()
            )

        keep = partial(keep_relay, base.registry, make_record, interval=fleet.heartbeat_seconds)
        gate = SocketGate(public, forwarder.flows, public=advertised)
        guard = partial(gate.run, lambda: relay.statistics().drops)
        # Where all is cancelled at once, sessions still say goodbye through the relay.
        tasks = (keep, guard) if settings.gate else (keep,)
        async with _running(partial(_linger, relay.run), *tasks):
            yield advertised


def _relay_record(config: Config, public: Address, internal: Address, url: str) -> RelayRecord:
    """What the fleet is told of a relay, but for its load."""
    point = point_of_relay(config)
    return RelayRecord(
        name=format_address(internal),
        cluster=config.registry.cluster,
        public=public,
        internal=internal,
        region=config.relay.region,
        latitude=point.latitude if point else None,
        longitude=point.longitude if point else None,
        max_flows=config.relay.max_flows,
        http_url=config.relay.http_url or url,
    )


@asynccontextmanager
async def _open_transceiver(base: _Base) -> AsyncIterator[tuple[Transceiver, Address]]:
    """Run a transceiver that is not registered yet; yields it and its UDP address."""
    settings = base.config.transceiver
    with _bound("transceiver.bind", settings.bind) as (sock,):
        datagrams = DatagramSocket(sock)
        transceiver = Transceiver(
            datagrams,
            slot=await base.registry.claim_slot(),
            cluster=base.config.registry.cluster,
            sealer=base.sealer,
            directory=base.directory,
            backend=_make_backend(base.config),
            certificate=DtlsCertificate.generate(),
            config=settings,
            environment=Environment(clock=trio.current_time, unix=time.time, entropy=os.urandom),
            observe_setup=base.metrics.observe_setup,
            observe_round_trip=base.metrics.observe_round_trip,
        )
        base.metrics.add_transceiver(transceiver)
        base.metrics.add_datagrams(datagrams.statistics)
        async with _running(transceiver.run):
            yield transceiver, datagrams.address


@asynccontextmanager
async def _register(
    base: _Base, transceiver: Transceiver, address: Address, url: str
) -> AsyncIterator[None]:
    """Keep a transceiver in the registry."""
    config = base.config

    def make_record() -> TransceiverRecord:
        return TransceiverRecord(
            slot=transceiver.slot,
            cluster=config.registry.cluster,
            address=address,
            http_url=config.transceiver.http_url or url,
            sessions=transceiver.sessions,
            draining=transceiver.draining,
        )

    keep = partial(
        keep_transceiver, base.registry, make_record, interval=config.registry.heartbeat_seconds
    )
    async with _running(keep):
        yield


def _make_backend(config: Config) -> Backend:
    match config.backend.kind:
        case "echo":
            return Echo(delay=config.backend.echo_delay_seconds)
        case other:
            raise ConfigError(f"backend.kind: there is no backend {other!r}")


def _make_app(
    base: _Base,
    transceiver: Transceiver | None,
    stop: trio.Event,
    geography: GeoSettings | None,
) -> ASGIApp:
    http, render = base.config.http, base.metrics.render
    if transceiver is None:
        return create_operations_app(
            http=http, render_metrics=render, ready=lambda: not stop.is_set()
        )
    return create_app(
        transceiver,
        http=http,
        render_metrics=render,
        ready=lambda: not stop.is_set() and base.directory.has_own_relay,
        now=trio.current_time,
        geography=geography,
    )


@asynccontextmanager
async def _listening(base: _Base) -> AsyncIterator[list[HttpListener]]:
    """Bind for HTTP; whoever connects waits until it is served."""
    listeners = await make_listeners(base.config.http)
    try:
        yield listeners
    finally:
        for each in listeners:
            await trio.aclose_forcefully(each.listener)


@asynccontextmanager
async def _serve_http(
    app: ASGIApp, base: _Base, listeners: Sequence[HttpListener], stop: trio.Event
) -> AsyncIterator[None]:
    """Serve HTTP until ``stop``."""
    server = HttpServer(app, http=base.config.http)
    base.metrics.add_http(server)
    serve = partial(server.serve, listeners, stop=stop, grace_seconds=HTTP_GRACE_SECONDS)
    async with _running(serve):
        yield
