"""Pipecat's small-webrtc dialect: JSON offers on ``/api/offer``, trickle by PATCH.

``pc_id`` is the call's id. An offer that names a running call without ``restart_pc`` would
renegotiate it, which no call here does; with ``restart_pc`` the former call ends and a new one
begins. Candidates are taken politely, as in WHIP: a client's checks tell where it is.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from edge.http.body import check_media_type, read_json
from edge.http.calls import Calls
from edge.http.problem import Cause, Problem

JSON: Final = "application/json"


class _Offer(msgspec.Struct):
    sdp: str
    type: Literal["offer"] = "offer"
    pc_id: str | None = None
    restart_pc: bool | None = False


class _Candidate(msgspec.Struct):
    candidate: str


class _Trickle(msgspec.Struct):
    pc_id: str
    candidates: list[_Candidate] = msgspec.field(default_factory=list)


class PipecatRoutes:
    """The one route, by method."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def offer(self, request: Request) -> Response:
        """``POST /api/offer``."""
        self._calls.admit(request)
        check_media_type(request, JSON)
        wanted = read_json(await self._calls.read(request), _Offer)
        if wanted.pc_id:
            self._end_former(request, wanted.pc_id, restart=bool(wanted.restart_pc))
        opened = await self._calls.open(request, wanted.sdp.encode(), None)
        answer = {"sdp": opened.answer, "type": "answer", "pc_id": opened.call_id}
        return _json(answer)

    async def trickle(self, request: Request) -> Response:
        """``PATCH /api/offer``."""
        check_media_type(request, JSON, header="Accept-Patch")
        body = await self._calls.read(request)
        call_id = read_json(body, _Trickle).pc_id
        return await self._calls.at_owner(request, call_id, _taken, body=body)

    def _end_former(self, request: Request, call_id: str, *, restart: bool) -> None:
        if self._calls.service.opener_of(call_id) is None:
            return
        self._calls.check(request, call_id)
        if not restart:
            detail = "a running call is not renegotiated: offer with restart_pc, or without pc_id"
            raise Problem(Cause.CALL_IS_RUNNING, detail)
        self._calls.service.hang_up(call_id)


def _taken(call_id: str) -> Response:
    return _json({"status": "success"})


def _json(value: dict[str, str]) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), headers=headers, media_type=JSON)
