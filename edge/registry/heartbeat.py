"""How the record of a relay or a transceiver is kept in the registry, for as long as it lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Final

import trio

from edge.registry.lease import Lease
from edge.registry.protocol import (
    Registry,
    RegistryUnavailable,
    RelayRecord,
    TransceiverRecord,
)

GOODBYE_SECONDS: Final = 1.0
LINGER_SECONDS: Final = 0.1
"""How long a transceiver that leaves stays known, so that relays still take its goodbyes."""


async def keep_transceiver(
    registry: Registry,
    make_record: Callable[[], TransceiverRecord],
    *,
    interval: float = 0.5,
    lease: Lease | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Renew a transceiver's record until cancelled, then take it out a moment later.

    ``lease`` is told of each renewal, and of our return before it. Raises RegistryUnavailable when
    the first write fails; later failures are tolerated.
    """

    async def put() -> None:
        if lease is not None and lease.returning and lease.is_broken(now=trio.current_time()):
            await lease.returning()
        with nullcontext() if lease is None else _renewal(lease):
            await registry.put_transceiver(make_record())

    async def remove() -> None:
        # Its sessions, which may have been cancelled together with us, say goodbye meanwhile.
        await trio.sleep(LINGER_SECONDS)
        await registry.remove_transceiver(make_record().slot)

    await _keep(put, remove, interval, task_status)


async def keep_relay(
    registry: Registry,
    make_record: Callable[[], RelayRecord],
    *,
    interval: float = 0.5,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Renew a relay's record until cancelled, then take it out; as ``keep_transceiver``."""

    async def put() -> None:
        await registry.put_relay(make_record())

    await _keep(put, partial(registry.remove_relay, make_record().name), interval, task_status)


@contextmanager
def _renewal(lease: Lease) -> Iterator[None]:
    lease.ask(now=trio.current_time())
    renewed = False
    try:
        yield
        renewed = True
    finally:
        lease.answer(renewed=renewed, now=trio.current_time())


async def _keep(
    put: Callable[[], Awaitable[None]],
    remove: Callable[[], Awaitable[None]],
    interval: float,
    task_status: trio.TaskStatus[None],
) -> None:
    try:
        await put()
        task_status.started()
        while True:
            await trio.sleep(interval)
            with suppress(RegistryUnavailable):
                await put()
    finally:
        with trio.move_on_after(GOODBYE_SECONDS, shield=True), suppress(RegistryUnavailable):
            await remove()
