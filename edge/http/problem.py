"""Errors as HTTP says them: problem details (RFC 9457) that OpenAI's clients can read too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class Cause(StrEnum):
    """Why a request is refused: the ``code`` of its problem, and a metric label."""

    BAD_REQUEST = "bad_request"
    INVALID_JSON = "invalid_json"
    INVALID_OFFER = "invalid_offer"
    INVALID_FORM = "invalid_form"
    INVALID_SESSION = "invalid_session"
    INVALID_FRAGMENT = "invalid_fragment"
    MISSING_SDP = "missing_sdp"
    MISSING_CALL_ID = "missing_call_id"
    MISSING_API_KEY = "missing_api_key"
    INVALID_API_KEY = "invalid_api_key"
    EXPIRED_SECRET = "expired_secret"
    USED_SECRET = "used_secret"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    KEY_NOT_ALLOWED = "key_not_allowed"
    NOT_FOUND = "not_found"
    CALL_NOT_FOUND = "call_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CALL_IS_RUNNING = "call_is_running"
    TOO_MANY_SIDEBANDS = "too_many_sidebands"
    ETAG_MISMATCH = "etag_mismatch"
    BODY_TOO_LARGE = "body_too_large"
    SESSION_TOO_LARGE = "session_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    WRONG_HOST = "wrong_host"
    INVALID_VALUE = "invalid_value"
    MISSING_IF_MATCH = "missing_if_match"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    TOO_MANY_SESSIONS = "too_many_sessions"
    INTERNAL_ERROR = "internal_error"
    NOT_SUPPORTED = "not_supported"
    NOT_READY = "not_ready"
    OVERLOADED = "overloaded"
    OWNER_UNREACHABLE = "owner_unreachable"
    REGISTRY_UNAVAILABLE = "registry_unavailable"


STATUS: Final[Mapping[Cause, int]] = {
    **dict.fromkeys(Cause, 400),
    **dict.fromkeys((Cause.MISSING_API_KEY, Cause.INVALID_API_KEY, Cause.EXPIRED_SECRET), 401),
    **dict.fromkeys((Cause.USED_SECRET,), 401),
    **dict.fromkeys((Cause.ORIGIN_NOT_ALLOWED, Cause.KEY_NOT_ALLOWED), 403),
    **dict.fromkeys((Cause.NOT_FOUND, Cause.CALL_NOT_FOUND), 404),
    Cause.METHOD_NOT_ALLOWED: 405,
    **dict.fromkeys((Cause.CALL_IS_RUNNING, Cause.TOO_MANY_SIDEBANDS), 409),
    Cause.ETAG_MISMATCH: 412,
    **dict.fromkeys((Cause.BODY_TOO_LARGE, Cause.SESSION_TOO_LARGE), 413),
    Cause.UNSUPPORTED_MEDIA_TYPE: 415,
    Cause.WRONG_HOST: 421,
    Cause.INVALID_VALUE: 422,
    Cause.MISSING_IF_MATCH: 428,
    **dict.fromkeys((Cause.RATE_LIMIT_EXCEEDED, Cause.TOO_MANY_SESSIONS), 429),
    Cause.INTERNAL_ERROR: 500,
    Cause.NOT_SUPPORTED: 501,
    **dict.fromkeys((Cause.NOT_READY, Cause.OVERLOADED), 503),
    **dict.fromkeys((Cause.OWNER_UNREACHABLE, Cause.REGISTRY_UNAVAILABLE), 503),
}


class Problem(Exception):
    """A request is refused: raised anywhere under the application, sent as problem JSON.

    ``detail`` is a sentence for a person that repeats nothing of the request.
    """

    def __init__(self, cause: Cause, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.cause = cause
        self.status = STATUS[cause]
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The response to send."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "error": {
                "message": self.detail,
                "type": _error_type(self.status),
                "code": self.cause.value,
            },
        }
        return Response(
            msgspec.json.encode(body), self.status, headers=self.headers, media_type=MEDIA_TYPE
        )


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to come back; whole seconds, at least 1 (RFC 9110, 10.2.3)."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def _error_type(status: int) -> str:
    match status:
        case 401 | 403:
            return "authentication_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "server_error" if status >= 500 else "invalid_request_error"
