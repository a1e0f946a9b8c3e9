"""The HTTP of a process: what it serves, and metrics. A relay loads it when it forwards already."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio
from starlette.types import ASGIApp

from edge.app.base import Base, running
from edge.exposition import make_page
from edge.http.listen import HttpListener
from edge.http.operations import create_operations_app
from edge.http.server import HttpServer

HTTP_GRACE_SECONDS: Final = 1.0
"""For requests that are under way when a process stops."""


def make_relay_app(base: Base, stop: trio.Event) -> ASGIApp:
    """Make the HTTP of a relay alone: health and metrics."""
    return create_operations_app(
        http=base.config.http,
        render_metrics=make_page(base.metrics),
        ready=lambda: not stop.is_set(),
    )


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
