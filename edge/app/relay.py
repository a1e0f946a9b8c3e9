"""A relay as a part of a process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import msgspec
import trio

from edge.address import Address, format_address
from edge.app.base import Base, Task, running
from edge.app.listeners import open_listener
from edge.app.sockets import Bound
from edge.config import Config
from edge.geo_data import point_of_relay
from edge.registry.heartbeat import LINGER_SECONDS, keep_relay
from edge.registry.lease import RELAY_RENEW_SECONDS
from edge.registry.protocol import RelayListener, RelayRecord


@asynccontextmanager
async def open_relay(
    base: Base, addresses: Sequence[Bound], url: str, stop: trio.Event
) -> AsyncIterator[Address]:
    """Run a relay; yields the first address that clients are told. ``url`` is its own HTTP."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(open_listener(base, each)) for each in addresses]
        record = _relay_record(base.config, [each.record for each in listeners], url)

        def make_record() -> RelayRecord:
            flows = sum(len(each.forwarder.flows) for each in listeners)
            return msgspec.structs.replace(record, flows=flows, draining=stop.is_set())

        interval = max(base.config.registry.heartbeat_seconds, RELAY_RENEW_SECONDS)
        keep = partial(keep_relay, base.registry, make_record, interval=interval)
        guards = [each.guard for each in listeners if each.guard is not None]
        # Where all is cancelled at once, sessions still say goodbye through the relay.
        relays = [partial(_linger, each.relay.run) for each in listeners]
        async with running(*relays, keep, *guards):
            yield record.public


def _relay_record(config: Config, listeners: Sequence[RelayListener], url: str) -> RelayRecord:
    """What the fleet is told of a relay, but for its load."""
    first, *more = listeners
    point = point_of_relay(config)
    return RelayRecord(
        name=format_address(first.internal),
        cluster=config.registry.cluster,
        public=first.public,
        internal=first.internal,
        region=config.relay.region,
        latitude=point.latitude if point else None,
        longitude=point.longitude if point else None,
        max_flows=config.relay.max_flows * len(listeners),
        http_url=config.relay.http_url or url,
        more=tuple(more),
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
