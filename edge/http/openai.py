"""OpenAI's dialect over HTTP: calls, what may be done to them, and client secrets.

``POST /v1/realtime/calls`` takes the offer as the body or as a part of a form, with an API key or
with a client secret. Calls are answered at once, so there is nothing to accept or to reject later.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edge.errors import LocalProtocolError
from edge.http.body import check_media_type, check_session, read_json, split_form
from edge.http.calls import SDP, Calls, created
from edge.http.problem import Cause, Problem
from edge.http.secrets import ClientSecret
from edge.session_config import Json

FORM: Final = "multipart/form-data"
JSON: Final = "application/json"
DEFAULT_SECONDS: Final = 600


class _ExpiresAfter(msgspec.Struct):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, msgspec.Meta(ge=10, le=7_200)] = DEFAULT_SECONDS


class _SecretRequest(msgspec.Struct):
    expires_after: _ExpiresAfter = msgspec.field(default_factory=_ExpiresAfter)
    session: msgspec.Raw = msgspec.Raw(b"{}")


class OpenAiRoutes:
    """The routes under ``/v1/realtime``."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def open(self, request: Request) -> Response:
        """``POST /v1/realtime/calls``."""
        self._calls.admit(request)
        media_type = check_media_type(request, SDP, FORM)
        offer, session = await self._calls.read(request), None
        if media_type == FORM:
            offer, session = split_form(request.headers["content-type"], offer)
        opened = await self._calls.open(request, offer, session)
        return created(opened, f"/v1/realtime/calls/{opened.call_id}")

    async def hang_up(self, request: Request) -> Response:
        """``POST /v1/realtime/calls/{id}/hangup``."""
        return await self._calls.at_owner(request, _call_of(request), self._hang_up)

    async def answer_later(self, request: Request) -> Response:
        """``POST /v1/realtime/calls/{id}/accept`` and ``/reject``: too late for both."""
        return await self._calls.at_owner(request, _call_of(request), self._is_running)

    async def refer(self, request: Request) -> Response:
        """``POST /v1/realtime/calls/{id}/refer``."""
        return await self._calls.at_owner(request, _call_of(request), self._can_not_refer)

    async def make_secret(self, request: Request) -> Response:
        """``POST /v1/realtime/client_secrets``."""
        principal = self._calls.admit(request)
        principal.require_key()
        check_media_type(request, JSON)
        wanted = read_json(await self._calls.read(request) or b"{}", _SecretRequest)
        shown = check_session(bytes(wanted.session))
        fleet = self._calls.fleet
        secret = ClientSecret(
            id=fleet.secrets.new_id(),
            key_id=principal.key_id,
            expires=int(fleet.unix()) + wanted.expires_after.seconds,
            session=bytes(wanted.session),
        )
        return self._sealed(secret, shown)

    def _sealed(self, secret: ClientSecret, session: Json) -> Response:
        try:
            value = self._calls.fleet.secrets.seal(secret)
        except LocalProtocolError as error:
            detail = f"{error}: give it to the call instead"
            raise Problem(Cause.SESSION_TOO_LARGE, detail) from None
        head = {"type": "realtime", "object": "realtime.session", "id": f"sess_{secret.id}"}
        answer = {"value": value, "expires_at": secret.expires, "session": {**head, **session}}
        return Response(
            msgspec.json.encode(answer), headers={"Cache-Control": "no-store"}, media_type=JSON
        )

    def _hang_up(self, call_id: str) -> Response:
        self._calls.service.hang_up(call_id)
        return Response(status_code=200)

    def _is_running(self, call_id: str) -> Response:
        raise Problem(
            Cause.CALL_IS_RUNNING, "the call was answered when it was opened: only hangup is left"
        )

    def _can_not_refer(self, call_id: str) -> Response:
        raise Problem(Cause.NOT_SUPPORTED, "a WebRTC call can not be referred: there is no SIP")


def _call_of(request: Request) -> str:
    call_id: str = request.path_params["call_id"]
    return call_id
