"""Errors as HTTP says them: problem details (RFC 9457) that OpenAI's clients can read too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """A request is refused: raised anywhere under the application, sent as problem JSON.

    ``detail`` is a sentence for a person that repeats nothing of the request; ``code`` is for a
    program.
    """

    def __init__(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The response to send."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "error": {"message": self.detail, "type": _error_type(self.status), "code": self.code},
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
