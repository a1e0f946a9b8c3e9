"""Passes a request about a call on to the transceiver that has it, inside the fleet.

Where that is comes from sealed records of the registry, never from a request. Who receives a
request that was passed on answers it in any case, even if only that it is to come again, so nothing
goes round in circles. The key goes
along, because every transceiver knows the same keys and checks for itself.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from edge.http.problem import Cause, Problem, retry_after
from edge.http.request import RemoteProtocolError
from edge.http.request import Response as OwnerResponse
from edge.http.request import request as send_request

HOP_HEADER: Final = "edge-forwarded"
FORWARD_SECONDS: Final = 5.0

_REQUEST_HEADERS: Final = ("authorization", "content-type", "if-match")
_RESPONSE_HEADERS: Final = frozenset(
    {"content-type", "etag", "accept-patch", "retry-after", "cache-control"}
)

log = structlog.get_logger()


async def forward(request: Request, url: str, body: bytes) -> Response:
    """Ask the transceiver at ``url`` and give its answer; raises a 503 Problem."""
    target = url.rstrip("/") + request.url.path
    try:
        with trio.fail_after(FORWARD_SECONDS):
            answer = await send_request(
                request.method, target, body, headers=owner_headers(request), verify=True
            )
    except (OSError, trio.TooSlowError, trio.BrokenResourceError, RemoteProtocolError) as error:
        raise unreachable(error) from None
    return _response(answer)


def owner_headers(request: HTTPConnection) -> tuple[tuple[str, str], ...]:
    """The headers that go along."""
    given = ((name, request.headers.get(name)) for name in _REQUEST_HEADERS)
    return ((HOP_HEADER, "1"), *((name, value) for name, value in given if value is not None))


def unreachable(error: BaseException) -> Problem:
    """Make the Problem of an owner that does not answer."""
    log.warning("call's owner unreachable", error=type(error).__name__)
    detail = "the server that has this call does not answer, try again"
    return Problem(Cause.OWNER_UNREACHABLE, detail, retry_after(1))


def _response(answer: OwnerResponse) -> Response:
    headers = {name: value for name, value in answer.headers.items() if name in _RESPONSE_HEADERS}
    return Response(answer.body, answer.status, headers=headers)
