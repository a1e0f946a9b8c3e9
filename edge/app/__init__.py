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
from importlib import import_module

import trio

from edge.address import Address, format_address
from edge.app.base import Base, listening, open_base, settle_memory
from edge.app.sockets import Sockets, open_sockets
from edge.config import Config
from edge.http.listen import HttpListener
from edge.ready import Ready, Role, StartupError
from edge.registry.protocol import RegistryUnavailable


async def run(
    role: Role,
    config: Config,
    *,
    announce: Callable[[Ready], None],
    stop: trio.Event,
    sockets: Sockets | None = None,
    restarts: int = 0,
) -> None:
    """Serve until ``stop`` is set, then drain and return; cancelling skips the drain.

    ``sockets`` are those that a supervisor has bound, and stay its own; ``restarts`` is how often
    it has replaced its worker. Raises StartupError,
    ConfigError or OSError, alone or in a group, when it can not start.
    """
    try:
        async with AsyncExitStack() as stack:
            if sockets is None:
                sockets = stack.enter_context(open_sockets(role, config))
            base = await stack.enter_async_context(open_base(config))
            if role == "relay":
                base.metrics.add_restarts(restarts)
            listeners = await stack.enter_async_context(listening(base, sockets.http))
            open_role = {"relay": _relay, "transceiver": _transceiver, "serve": _both}[role]
            udp = await stack.enter_async_context(open_role(base, sockets, listeners, stop))
            ready = Ready(
                role=role, http=listeners[0].url, udp=format_address(udp), pid=os.getpid()
            )
            settle_memory(collect=role != "relay")  # whose flows are being looked up just now
            announce(ready)
            await stop.wait()
    except* RegistryUnavailable:
        raise StartupError("registry.url: the registry does not answer") from None


def prepare() -> None:
    """Load the rest of a relay, in its supervisor, whose next workers start the sooner for it."""
    import_module("edge.app.web")
    settle_memory()


@asynccontextmanager
async def _relay(
    base: Base, sockets: Sockets, listeners: Sequence[HttpListener], stop: trio.Event
) -> AsyncIterator[Address]:
    from edge.app.relay import open_relay

    async with open_relay(base, sockets.relay, listeners[0].url, stop) as udp:
        # It forwards. What only its monitoring waits for is loaded beside that.
        await trio.to_thread.run_sync(import_module, "edge.app.web")
        from edge.app.web import make_relay_app, serve_http

        async with serve_http(make_relay_app(base, stop), base, listeners, stop):
            yield udp


@asynccontextmanager
async def _transceiver(
    base: Base, sockets: Sockets, listeners: Sequence[HttpListener], stop: trio.Event
) -> AsyncIterator[Address]:
    """Run a transceiver; left with ``stop`` set, it drains first."""
    from edge.app.transceiver import make_transceiver_app, open_transceiver, register
    from edge.app.web import serve_http
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
    base: Base, sockets: Sockets, listeners: Sequence[HttpListener], stop: trio.Event
) -> AsyncIterator[Address]:
    from edge.app.relay import open_relay

    async with (
        open_relay(base, sockets.relay, listeners[0].url, stop) as udp,
        _transceiver(base, sockets, listeners, stop),
    ):
        yield udp
