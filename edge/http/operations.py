"""Health and metrics, and what every application has around its routes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.config import HttpConfig
from edge.http.gate import Gate
from edge.http.keys import Keyring
from edge.http.problem import Cause, Problem, retry_after

PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


def create_operations_app(
    *, http: HttpConfig, render_metrics: Callable[[], bytes], ready: Callable[[], bool]
) -> Starlette:
    """Make the application of a process that serves no calls: health and metrics only."""
    return make_app(operations_routes(render_metrics, ready), http)


def make_app(
    routes: list[BaseRoute],
    http: HttpConfig,
    keyring: Keyring | None = None,
    refusals: Counter[Cause] | None = None,
) -> Starlette:
    """Put the gate and our errors around routes."""
    gate = Middleware(Gate, http=http, keyring=keyring, refusals=refusals)
    app = Starlette(
        routes=routes, middleware=[gate], exception_handlers={HTTPException: _http_exception}
    )
    app.router.redirect_slashes = False
    return app


def operations_routes(
    render_metrics: Callable[[], bytes], ready: Callable[[], bool]
) -> list[BaseRoute]:
    """``/healthz``, ``/readyz`` and ``/metrics``."""

    async def healthz(request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def readyz(request: Request) -> Response:
        if not ready():
            raise Problem(Cause.NOT_READY, "not ready to take calls", retry_after(1))
        return Response("ready\n", media_type="text/plain")

    async def metrics(request: Request) -> Response:
        return Response(render_metrics(), headers={"Content-Type": PROMETHEUS})

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


async def _http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our form."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        raise Problem(Cause.METHOD_NOT_ALLOWED, "not with this method", error.headers)
    raise Problem(Cause.NOT_FOUND, "there is nothing here")
