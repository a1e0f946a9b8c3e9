"""Who may call: the checks every request passes before a route sees it.

With API keys configured, everything under the session paths needs one of them, or a client secret
(``http.keys``). Without, the server is open to its own machine only, and a web page must not be
able to borrow that openness: the Host header must name a loopback host (a page whose name was
re-bound to 127.0.0.1 sends its own), and a request that changes something must come from our own
page or an allowed origin. CORS is an exact list of origins (Fetch standard, section 3.2).
"""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.address import parse_address
from edge.config import HttpConfig
from edge.errors import ConfigError
from edge.http.keys import Keyring, remember
from edge.http.problem import Cause, Problem

log = structlog.get_logger()

PROTECTED: Final = ("/v1/", "/whip", "/api/")
"""Path prefixes that need an API key or a client secret."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_ALLOW_METHODS: Final = "GET, POST, PATCH, DELETE, OPTIONS"
_ALLOW_HEADERS: Final = (
    "authorization, content-type, etag, if-match, openai-beta, x-openai-agents-sdk, "
    "x-requested-with"
)
_EXPOSE_HEADERS: Final = "Location, ETag, Link, Retry-After, Access-Control-Allow-Methods"
_PREFLIGHT_SECONDS: Final = 600


def check_exposure(http: HttpConfig) -> None:
    """Raise ConfigError when anyone on the network could open sessions without a key."""
    if not (http.api_keys or http.allow_anonymous or is_loopback(http.bind)):
        raise ConfigError(
            f"http.bind {http.bind} can be reached from outside: set http.api_keys, "
            "or http.allow_anonymous to serve anyone"
        )


def is_loopback(bind: str) -> bool:
    """Whether ``HOST:PORT`` is reached from this machine only. Raises ConfigError."""
    try:
        return ip_address(parse_address(bind)[0]).is_loopback
    except ValueError as error:
        raise ConfigError(f"http.bind {error}") from None


class Gate:
    """ASGI middleware: host, origin, key and CORS checks, and errors as problem JSON.

    ``keyring`` tells who asks for something protected; None where nothing is. What is refused is
    counted in ``refusals``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        http: HttpConfig,
        keyring: Keyring | None = None,
        refusals: Counter[Cause] | None = None,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._refusals = Counter[Cause]() if refusals is None else refusals
        self._is_open = not http.api_keys
        self._origins = frozenset(http.cors_origins)
        self._hosts = _own_hosts(http)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = _Answer(send, self._cors_headers(headers))
        try:
            self._check(scope, headers)
            if _is_preflight(scope, headers):
                await self._preflight(headers)(scope, receive, answer.send)
            else:
                await self._app(scope, receive, answer.send)
        except Problem as problem:
            await self._refuse(problem, scope, receive, answer)
        except ClientDisconnect:
            pass
        except Exception:
            log.exception("request_failed", method=scope.get("method", "websocket"))
            bug = Problem(Cause.INTERNAL_ERROR, "the server has failed on this request")
            await self._refuse(bug, scope, receive, answer)

    async def _refuse(
        self, problem: Problem, scope: Scope, receive: Receive, answer: _Answer
    ) -> None:
        self._refusals[problem.cause] += 1
        if answer.started:
            return
        if scope["type"] == "http":
            await problem.response()(scope, receive, answer.send)
            return
        response = problem.response()  # to a handshake, in the way of ASGI's extension
        start = {"status": response.status_code, "headers": response.raw_headers}
        await answer.send({"type": "websocket.http.response.start", **start})
        await answer.send({"type": "websocket.http.response.body", "body": response.body})

    def _check(self, scope: Scope, headers: Headers) -> None:
        method = scope.get("method", "")  # a WebSocket has none, and can do anything
        if self._hosts is not None and _host_name(headers.get("host", "")) not in self._hosts:
            raise Problem(Cause.WRONG_HOST, "this server is open to its own machine only")
        if self._is_open and method not in SAFE_METHODS:
            self._check_origin(headers)
        if self._keyring and scope["path"].startswith(PROTECTED) and method != "OPTIONS":
            remember(scope, self._keyring.authenticate(headers.get("authorization", "")))

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if not (
            origin is None
            or origin in self._origins
            or headers.get("sec-fetch-site") == "same-origin"
            or origin.partition("://")[2] == headers.get("host")
        ):
            raise Problem(Cause.ORIGIN_NOT_ALLOWED, "pages of this origin may not call")

    def _cors_headers(self, headers: Headers) -> dict[str, str]:
        if not self._origins:
            return {}
        origin = headers.get("origin")
        if origin not in self._origins:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": str(origin),
            "Access-Control-Expose-Headers": _EXPOSE_HEADERS,
        }

    def _preflight(self, headers: Headers) -> Response:
        if headers["origin"] not in self._origins:
            raise Problem(Cause.ORIGIN_NOT_ALLOWED, "pages of this origin may not call")
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": _ALLOW_METHODS,
                "Access-Control-Allow-Headers": _ALLOW_HEADERS,
                "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
            },
        )


class _Answer:
    """Passes a response on with our headers added, and knows whether it has started."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self.started = False
        self._send = send
        self._headers = {"X-Content-Type-Options": "nosniff", **headers}

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self.started = True
                MutableHeaders(scope=message).update(self._headers)
            case "websocket.accept" | "websocket.close":
                self.started = True
            case _:
                pass
        await self._send(message)


def _own_hosts(http: HttpConfig) -> frozenset[str] | None:
    """The names we answer to, or None for any."""
    if http.api_keys or http.allow_anonymous or not is_loopback(http.bind):
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", parse_address(http.bind)[0]})


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return (
        scope.get("method") == "OPTIONS"
        and "origin" in headers
        and "access-control-request-method" in headers
    )
