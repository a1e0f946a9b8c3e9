"""The HTTP side: SDP offers in, answers out, in two dialects of one thing.

OpenAI's: ``POST /v1/realtime/calls`` with the offer as the body or as a part of a form. WHIP
(RFC 9725): ``POST /whip``. Beside them stand health, metrics and the demo page. Who may call is
decided in ``http.gate``; time-outs and connection limits are the server's (``http.server``).

Any process of any cluster answers any request, itself and at once: where the client is decides
only which relays its answer names. So there is no redirect and no proxying, and whatever steers
requests (DNS, a CDN, anycast) may be wrong without breaking a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import aclosing
from typing import Final, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.config import HttpConfig
from edge.errors import RemoteProtocolError
from edge.geo import GeoSettings, Place, place_of
from edge.http.form import decode_form
from edge.http.gate import Gate, check_exposure
from edge.http.pages import page_routes
from edge.http.problem import Problem, retry_after
from edge.limits import TokenBucket
from edge.transceiver.admission import Overloaded

SDP: Final = "application/sdp"
FORM: Final = "multipart/form-data"
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"

_CALL_ID: Final = re.compile(r"rtc_[A-Za-z0-9_-]{1,64}", re.ASCII)

_WHIP_OPTIONS: Final = {
    "Allow": "POST, OPTIONS",
    "Accept-Post": SDP,
    # WHIP clients read here whether they may trickle: not without PATCH.
    "Access-Control-Allow-Methods": "POST, DELETE, OPTIONS",
}


class OpenedCall(Protocol):
    """A session that was just made: its public id ``rtc_...`` and the SDP answer."""

    @property
    def call_id(self) -> str:
        """The public id."""

    @property
    def answer(self) -> str:
        """The SDP answer."""


class CallService(Protocol):
    """What opens and ends sessions."""

    async def open_call(
        self, offer: bytes, *, session: bytes | None, place: Place | None
    ) -> OpenedCall:
        """Answer an offer from a place, None where it is not known; ``session`` is a JSON object.

        Raises RemoteProtocolError, Overloaded.
        """

    def hang_up(self, call_id: str) -> bool:
        """End a session; False when there is none with this id."""


def create_app(
    service: CallService,
    *,
    http: HttpConfig,
    render_metrics: Callable[[], bytes],
    ready: Callable[[], bool],
    now: Callable[[], float],
    geography: GeoSettings | None = None,
) -> Starlette:
    """Make the ASGI application. Raises ConfigError when it would be open to the network."""
    check_exposure(http)
    calls = _Calls(service, http=http, now=now, geography=geography or GeoSettings())
    routes: list[BaseRoute] = [
        Route("/v1/realtime/calls", calls.open_realtime, methods=["POST"]),
        Route("/v1/realtime/calls/{call_id}/hangup", calls.hang_up, methods=["POST"]),
        Route("/whip", calls.whip, methods=["POST", "OPTIONS"]),
        Route("/whip/{call_id}", calls.whip_session, methods=["DELETE", "OPTIONS"]),
        *_operations_routes(render_metrics, ready),
        *page_routes(),
    ]
    return _make_app(routes, http)


def create_operations_app(
    *, http: HttpConfig, render_metrics: Callable[[], bytes], ready: Callable[[], bool]
) -> Starlette:
    """Make the application of a process that serves no calls: health and metrics only."""
    return _make_app(_operations_routes(render_metrics, ready), http)


def _make_app(routes: list[BaseRoute], http: HttpConfig) -> Starlette:
    gate = Middleware(Gate, http=http)
    app = Starlette(
        routes=routes, middleware=[gate], exception_handlers={HTTPException: _http_exception}
    )
    app.router.redirect_slashes = False
    return app


async def _http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our form."""
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else "method_not_allowed"
    detail = "there is nothing here" if error.status_code == 404 else "not with this method"
    return Problem(error.status_code, code, detail, error.headers).response()


def _operations_routes(
    render_metrics: Callable[[], bytes], ready: Callable[[], bool]
) -> list[BaseRoute]:
    async def healthz(request: Request) -> Response:
        return Response("ok\n", media_type="text/plain")

    async def readyz(request: Request) -> Response:
        if not ready():
            raise Problem(503, "not_ready", "not ready to take calls", retry_after(1))
        return Response("ready\n", media_type="text/plain")

    async def metrics(request: Request) -> Response:
        return Response(render_metrics(), headers={"Content-Type": PROMETHEUS})

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]


class _Calls:
    """The routes that open and end sessions."""

    def __init__(
        self,
        service: CallService,
        *,
        http: HttpConfig,
        now: Callable[[], float],
        geography: GeoSettings,
    ) -> None:
        self._service = service
        self._geography = geography
        self._max_body_bytes = http.max_body_bytes
        self._now = now
        self._bucket = TokenBucket(http.offers_per_second, now=now())

    async def open_realtime(self, request: Request) -> Response:
        """``POST /v1/realtime/calls``."""
        media_type = self._admit(request, SDP, FORM)
        offer = await self._read_body(request)
        session = None
        if media_type == FORM:
            offer, session = _offer_and_session(request.headers["content-type"], offer)
        opened = await self._open(request, offer, session)
        return _created(opened, f"/v1/realtime/calls/{opened.call_id}")

    async def hang_up(self, request: Request) -> Response:
        """``POST /v1/realtime/calls/{id}/hangup``."""
        return self._end(request)

    async def whip(self, request: Request) -> Response:
        """``POST /whip`` and ``OPTIONS /whip`` (RFC 9725, section 4.2)."""
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=_WHIP_OPTIONS)
        self._admit(request, SDP)
        opened = await self._open(request, await self._read_body(request), None)
        response = _created(opened, f"/whip/{opened.call_id}")
        response.headers["ETag"] = '"ice-0"'  # names the ICE session, which never restarts
        return response

    async def whip_session(self, request: Request) -> Response:
        """``DELETE /whip/{id}``."""
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": "DELETE, OPTIONS"})
        return self._end(request)

    def _admit(self, request: Request, *media_types: str) -> str:
        wait = self._bucket.take(now=self._now())
        if wait:
            raise Problem(429, "rate_limit_exceeded", "too many offers", retry_after(wait))
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in media_types or "content-encoding" in request.headers:
            raise Problem(
                415,
                "unsupported_media_type",
                f"the body must be {' or '.join(media_types)}, without content encoding",
                {"Accept-Post": ", ".join(media_types)},
            )
        return media_type

    async def _read_body(self, request: Request) -> bytes:
        body = bytearray()
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > self._max_body_bytes:
                    detail = f"the body is longer than {self._max_body_bytes} bytes"
                    raise Problem(413, "body_too_large", detail)
        return bytes(body)

    async def _open(self, request: Request, offer: bytes, session: bytes | None) -> OpenedCall:
        peer = request.client.host if request.client else None
        place = place_of(request.headers, peer, self._geography)
        try:
            return await self._service.open_call(offer, session=session, place=place)
        except RemoteProtocolError as error:
            raise Problem(400, "invalid_offer", str(error)) from None
        except Overloaded as error:
            raise Problem(
                503,
                "overloaded",
                error.reason,
                retry_after(error.retry_after_seconds),
            ) from None

    def _end(self, request: Request) -> Response:
        call_id = request.path_params["call_id"]
        if not (_CALL_ID.fullmatch(call_id) and self._service.hang_up(call_id)):
            raise Problem(404, "call_not_found", "there is no call with this id")
        return Response(status_code=200)


def _offer_and_session(content_type: str, body: bytes) -> tuple[bytes, bytes | None]:
    try:
        parts = decode_form(content_type, body)
    except RemoteProtocolError as error:
        raise Problem(400, "invalid_form", str(error)) from None
    if "sdp" not in parts:
        raise Problem(400, "missing_sdp", "the form has no part named sdp")
    session = parts.get("session")
    if session is not None:
        _check_json_object(session)
    return parts["sdp"], session


def _check_json_object(text: bytes) -> None:
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "invalid_session", "the session part is not a JSON object") from None


def _created(opened: OpenedCall, location: str) -> Response:
    return Response(
        opened.answer,
        status_code=201,
        headers={"Location": location, "Cache-Control": "no-store"},
        media_type=SDP,
    )
