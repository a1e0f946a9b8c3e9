"""Puts the parts of a process together and takes them apart again.

Each part is an asynchronous context manager that owns its tasks. They are nested in the order in
which they need each other, so leaving them ends a process from the outside in: sessions say goodbye
through a relay that still forwards, records are taken out of a registry that is still connected.

A role imports its parts when it starts. A relay that is started again is a hole in every call until
it forwards, and it needs no codec, no DTLS and no backend.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from edge.address import Address, format_address
from edge.app.base import Base, listening, open_base, serve_http, settle_memory
from edge.config import Config
from edge.http.listen import HttpListener
from edge.ready import Ready, Role, StartupError
from edge.registry.protocol import RegistryUnavailable


async def run(
    role: Role, config: Config, *, announce: Callable[[Ready], None], stop: trio.Event
) -> None:
    """Serve until ``stop`` is set, then drain and return; cancelling skips the drain.

    Raises StartupError, ConfigError or OSError, alone or in a group, when it can not start.
    """
    try:
        async with AsyncExitStack() as stack:
            base = await stack.enter_async_context(open_base(config))
            listeners = await stack.enter_async_context(listening(base))
            open_role = {"relay": _relay, "transceiver": _transceiver, "serve": _both}[role]
            udp = await stack.enter_async_context(open_role(base, listeners, stop))
            ready = Ready(
                role=role, http=listeners[0].url, udp=format_address(udp), pid=os.getpid()
            )
            settle_memory()
            announce(ready)
            await stop.wait()
    except* RegistryUnavailable:
        raise StartupError("registry.url: the registry does not answer") from None


@asynccontextmanager
async def _relay(
    base: Base, listeners: Sequence[HttpListener], stop: trio.Event
) -> AsyncIterator[Address]:
    from edge.app.relay import make_relay_app, open_relay

    async with (
        open_relay(base, listeners[0].url, stop) as udp,
        serve_http(make_relay_app(base, stop), base, listeners, stop),
    ):
        yield udp


@asynccontextmanager
async def _transceiver(
    base: Base, listeners: Sequence[HttpListener], stop: trio.Event
) -> AsyncIterator[Address]:
    """Run a transceiver; left with ``stop`` set, it drains first."""
    from edge.app.transceiver import make_transceiver_app, open_transceiver, register
    from edge.geo_data import open_geography

    async with open_transceiver(base) as (transceiver, udp):
        with open_geography(base.config.geo) as geography:
            app = make_transceiver_app(base, transceiver, stop, geography)
            async with (
                serve_http(app, base, listeners, stop),
                register(base, transceiver, udp, listeners[0].url),
            ):
                yield udp
                await transceiver.drain()


@asynccontextmanager
async def _both(
    base: Base, listeners: Sequence[HttpListener], stop: trio.Event
) -> AsyncIterator[Address]:
    from edge.app.relay import open_relay

    async with (
        open_relay(base, listeners[0].url, stop) as udp,
        _transceiver(base, listeners, stop),
    ):
        yield udp
