"""Who may call: the checks every request passes before a route sees it.

With API keys configured, everything under the session paths needs one of them. Without, the
server is open to its own machine only, and a web page must not be able to borrow that openness:
the Host header must name a loopback host (a page whose name was re-bound to 127.0.0.1 sends its
own), and a request that changes something must come from our own page or an allowed origin.
CORS is an exact list of origins (Fetch standard, section 3.2).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
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
from edge.http.problem import Problem

log = structlog.get_logger()

PROTECTED: Final = ("/v1/", "/whip")
"""Path prefixes that need an API key."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_ALLOW_METHODS: Final = "GET, POST, DELETE, OPTIONS"
_ALLOW_HEADERS: Final = (
    "authorization, content-type, if-match, openai-beta, x-openai-agents-sdk, x-requested-with"
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
    """ASGI middleware: host, origin, key and CORS checks, and errors as problem JSON."""

    def __init__(self, app: ASGIApp, *, http: HttpConfig) -> None:
        self._app = app
        self._keys = [key.encode() for key in http.api_keys]
        self._origins = frozenset(http.cors_origins)
        self._hosts = _own_hosts(http)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
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
            await problem.response()(scope, receive, answer.send)
        except ClientDisconnect:
            pass
        except Exception:
            log.exception("request_failed", method=scope["method"])
            if not answer.started:
                bug = Problem(500, "internal_error", "the server has failed on this request")
                await bug.response()(scope, receive, answer.send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._hosts is not None and _host_name(headers.get("host", "")) not in self._hosts:
            raise Problem(421, "wrong_host", "this server is open to its own machine only")
        if not self._keys and scope["method"] not in SAFE_METHODS:
            self._check_origin(headers)
        if scope["path"].startswith(PROTECTED) and scope["method"] != "OPTIONS" and self._keys:
            check_bearer(headers.get("authorization", ""), self._keys)

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if not (
            origin is None
            or origin in self._origins
            or headers.get("sec-fetch-site") == "same-origin"
            or origin.partition("://")[2] == headers.get("host")
        ):
            raise Problem(403, "origin_not_allowed", "pages of this origin may not call")

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
            raise Problem(403, "origin_not_allowed", "pages of this origin may not call")
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
        if message["type"] == "http.response.start":
            self.started = True
            MutableHeaders(scope=message).update(self._headers)
        await self._send(message)


def check_bearer(authorization: str, keys: Sequence[bytes]) -> None:
    """Raise a 401 Problem unless the header holds one of the keys (RFC 6750, section 2.1)."""
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential:
        raise Problem(
            401,
            "missing_api_key",
            "an API key is needed, as in: Authorization: Bearer KEY",
            {"WWW-Authenticate": 'Bearer realm="edge"'},
        )
    given = credential.strip().encode("latin-1", "replace")
    # Every key is compared, so that the time taken does not tell which one was close.
    if not sum(hmac.compare_digest(given, key) for key in keys):
        raise Problem(
            401,
            "invalid_api_key",
            "the API key is wrong",
            {"WWW-Authenticate": 'Bearer realm="edge", error="invalid_token"'},
        )


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
        scope["method"] == "OPTIONS"
        and "origin" in headers
        and "access-control-request-method" in headers
    )
