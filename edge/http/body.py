"""The bodies of requests: their type, their length, and the JSON in them."""

from __future__ import annotations

from contextlib import aclosing
from typing import TypeVar

import msgspec
from starlette.requests import Request

from edge.errors import RemoteProtocolError
from edge.http.form import decode_form
from edge.http.problem import Cause, Problem
from edge.session_config import MAX_SESSION_BYTES, Json, decode_session, merge

T = TypeVar("T")


def check_media_type(request: Request, *allowed: str, header: str = "Accept-Post") -> str:
    """Return the type of the body; raises a 415 Problem whose ``header`` lists what is taken."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in allowed or "content-encoding" in request.headers:
        raise Problem(
            Cause.UNSUPPORTED_MEDIA_TYPE,
            f"the body must be {' or '.join(allowed)}, without content encoding",
            {header: ", ".join(allowed)},
        )
    return media_type


async def read_body(request: Request, *, limit: int) -> bytes:
    """Read a body of at most ``limit`` bytes; raises a 413 Problem."""
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise Problem(Cause.BODY_TOO_LARGE, f"the body is longer than {limit} bytes")
    return bytes(body)


def read_json(body: bytes, kind: type[T]) -> T:
    """Read JSON; raises a Problem: 400 for what is none, 422 for other values than documented."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        # It names the field and the rule, and repeats nothing of what was sent.
        raise Problem(Cause.INVALID_VALUE, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(Cause.INVALID_JSON, "the body is not valid JSON") from None


def check_session(session: bytes) -> Json:
    """Read a session configuration; raises a 400 or 413 Problem."""
    if len(session) > MAX_SESSION_BYTES:
        detail = f"the session configuration is longer than {MAX_SESSION_BYTES} bytes"
        raise Problem(Cause.SESSION_TOO_LARGE, detail)
    try:
        return decode_session(session)
    except RemoteProtocolError as error:
        raise Problem(Cause.INVALID_SESSION, str(error)) from None


def laid_over(base: bytes, changes: bytes | None) -> bytes:
    """Lay one session configuration over another; raises a 400 or 413 Problem."""
    if changes is None or not base:
        return base if changes is None else changes
    merged = msgspec.json.encode(merge(check_session(base), check_session(changes)))
    check_session(merged)
    return merged


def split_form(content_type: str, body: bytes) -> tuple[bytes, bytes | None]:
    """Return the parts ``sdp`` and ``session`` of a form; raises a 400 or 413 Problem."""
    try:
        parts = decode_form(content_type, body)
    except RemoteProtocolError as error:
        raise Problem(Cause.INVALID_FORM, str(error)) from None
    if "sdp" not in parts:
        raise Problem(Cause.MISSING_SDP, "the form has no part named sdp")
    session = parts.get("session")
    if session is not None:
        check_session(session)
    return parts["sdp"], session
