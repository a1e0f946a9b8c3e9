"""A relay as a part of a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import msgspec
import structlog
import trio
from starlette.types import ASGIApp

from edge.address import Address, format_address, parse_address
from edge.app.base import Base, Task, bound, running
from edge.config import Config
from edge.forwarder.engine import choose_engine, make_forwarder
from edge.forwarder.gatekeeper import SocketGate
from edge.geo_data import point_of_relay
from edge.registry.directory import LINGER_SECONDS, keep_relay
from edge.registry.protocol import RelayRecord
from edge.relay import Relay
from edge.routing import FlowTable
from edge.signaling import create_operations_app

log = structlog.get_logger()


@asynccontextmanager
async def open_relay(base: Base, url: str, stop: trio.Event) -> AsyncIterator[Address]:
    """Run a relay; yields the public address that clients are told. ``url`` is its own HTTP."""
    settings, fleet = base.config.relay, base.config.registry
    engine = choose_engine(settings)
    with ExitStack() as stack:
        workers = settings.workers if engine == "native" else 1
        public = stack.enter_context(bound("relay.bind", settings.bind, workers))
        internal = stack.enter_context(
            bound("relay.internal_bind", settings.internal_bind, workers)
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
        async with running(partial(_linger, relay.run), *tasks):
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


def make_relay_app(base: Base, stop: trio.Event) -> ASGIApp:
    """Make the HTTP of a relay alone: health and metrics."""
    return create_operations_app(
        http=base.config.http, render_metrics=base.metrics.render, ready=lambda: not stop.is_set()
    )


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
