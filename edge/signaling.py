"""The HTTP side: SDP offers in, answers out, in three dialects of one thing.

OpenAI's (``http.openai``): ``POST /v1/realtime/calls``, what may be done to a call, client secrets,
and the sideband WebSocket (``http.sideband``). WHIP (``http.whip``, RFC 9725): ``/whip``. Pipecat's
small-webrtc (``http.pipecat``): ``/api/offer``. Beside them stand health, metrics and the demo
page. Who may call is decided in ``http.gate``; time-outs and connection limits are the server's
(``http.server``). This module is the table of routes.

Any process of any cluster answers any offer, itself and at once: where the client is decides only
which relays its answer names. So whatever steers requests (DNS, a CDN, anycast) may be wrong
without breaking a call. What concerns a call that runs is passed on to who has it (``http.calls``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, WebSocketRoute

from edge.config import HttpConfig
from edge.geo import GeoSettings
from edge.http.calls import Calls, CallService, Fleet, OpenedCall
from edge.http.gate import check_exposure
from edge.http.keys import Keyring
from edge.http.limits import Limits
from edge.http.openai import OpenAiRoutes
from edge.http.operations import create_operations_app, make_app, operations_routes
from edge.http.pages import page_routes
from edge.http.pipecat import PipecatRoutes
from edge.http.problem import Cause
from edge.http.sideband import PATH as SIDEBAND
from edge.http.sideband import SidebandRoute
from edge.http.whip import WhipRoutes

__all__ = ["CallService", "Fleet", "OpenedCall", "create_app", "create_operations_app"]


def create_app(
    service: CallService,
    *,
    http: HttpConfig,
    fleet: Fleet,
    render_metrics: Callable[[], bytes],
    ready: Callable[[], bool],
    now: Callable[[], float],
    geography: GeoSettings | None = None,
    refusals: Counter[Cause] | None = None,
) -> Starlette:
    """Make the ASGI application; what it refuses is counted in ``refusals``.

    Raises ConfigError when it would be open to the network.
    """
    check_exposure(http)
    calls = Calls(
        service,
        http=http,
        fleet=fleet,
        limits=Limits(http, now=now),
        geography=geography or GeoSettings(),
    )
    routes = [
        *_openai_routes(calls),
        *_whip_routes(calls),
        *_pipecat_routes(calls),
        *operations_routes(render_metrics, ready),
        *page_routes(),
    ]
    keyring = Keyring(http.api_keys, secrets=fleet.secrets, unix=fleet.unix)
    return make_app(routes, http, keyring, refusals)


def _openai_routes(calls: Calls) -> list[BaseRoute]:
    openai, sideband = OpenAiRoutes(calls), SidebandRoute(calls)
    call = "/v1/realtime/calls/{call_id}"
    return [
        Route("/v1/realtime/calls", openai.open, methods=["POST"]),
        Route(f"{call}/hangup", openai.hang_up, methods=["POST"]),
        Route(f"{call}/accept", openai.answer_later, methods=["POST"]),
        Route(f"{call}/reject", openai.answer_later, methods=["POST"]),
        Route(f"{call}/refer", openai.refer, methods=["POST"]),
        Route("/v1/realtime/client_secrets", openai.make_secret, methods=["POST"]),
        WebSocketRoute(SIDEBAND, sideband.serve),
    ]


def _whip_routes(calls: Calls) -> list[BaseRoute]:
    whip = WhipRoutes(calls)
    return [
        Route("/whip", whip.endpoint, methods=["POST", "OPTIONS"]),
        Route("/whip/{call_id}", whip.session, methods=["PATCH", "DELETE", "OPTIONS"]),
    ]


def _pipecat_routes(calls: Calls) -> list[BaseRoute]:
    pipecat = PipecatRoutes(calls)
    return [
        Route("/api/offer", pipecat.offer, methods=["POST"]),
        Route("/api/offer", pipecat.trickle, methods=["PATCH"]),
    ]
