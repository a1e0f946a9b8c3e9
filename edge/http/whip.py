"""WHIP (RFC 9725): publish by one POST, trickle and restart ICE by PATCH, end by DELETE.

The entity tag names the ICE session. A trickle PATCH must name the present one (If-Match); one that
restarts ICE comes with ``If-Match: *`` and new credentials, and is answered with ours and a new
tag. Candidates are taken politely and not used: a client's checks tell where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from edge.errors import RemoteProtocolError
from edge.geo import Place
from edge.http.body import check_media_type
from edge.http.calls import SDP, Calls, created
from edge.http.problem import Cause, Problem, retry_after
from edge.transceiver.admission import Overloaded
from edge.webrtc.ice import IceCredentials
from edge.wire.sdp_fragment import Fragment, decode_fragment

FRAGMENT: Final = "application/trickle-ice-sdpfrag"

_ENDPOINT_OPTIONS: Final = {
    "Allow": "POST, OPTIONS",
    "Accept-Post": SDP,
    # WHIP clients read here whether they may trickle.
    "Access-Control-Allow-Methods": "POST, PATCH, DELETE, OPTIONS",
}
_SESSION_OPTIONS: Final = {
    "Allow": "PATCH, DELETE, OPTIONS",
    "Accept-Patch": FRAGMENT,
    "Access-Control-Allow-Methods": "PATCH, DELETE, OPTIONS",
}


class WhipRoutes:
    """The routes under ``/whip``."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._links = link_header(calls.http.ice_servers)

    async def endpoint(self, request: Request) -> Response:
        """``POST /whip`` and ``OPTIONS /whip`` (section 4.2)."""
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=_ENDPOINT_OPTIONS)
        self._calls.admit(request)
        check_media_type(request, SDP)
        opened = await self._calls.open(request, await self._calls.read(request), None)
        headers = {"ETag": etag(0), "Accept-Patch": FRAGMENT, **self._links}
        return created(opened, f"/whip/{opened.call_id}", headers)

    async def session(self, request: Request) -> Response:
        """``PATCH``, ``DELETE`` and ``OPTIONS`` of ``/whip/{id}``."""
        call_id: str = request.path_params["call_id"]
        match request.method:
            case "OPTIONS":
                return Response(status_code=204, headers=_SESSION_OPTIONS)
            case "DELETE":
                return await self._calls.at_owner(request, call_id, self._end)
            case _:
                return await self._patch(request, call_id)

    async def _patch(self, request: Request, call_id: str) -> Response:
        check_media_type(request, FRAGMENT, header="Accept-Patch")
        body = await self._calls.read(request)
        if_match, place = _condition(request), self._calls.place(request)

        def act(call_id: str) -> Response:
            return self._apply(call_id, _fragment(body), if_match, place)

        return await self._calls.at_owner(request, call_id, act, body=body)

    def _apply(
        self, call_id: str, fragment: Fragment, if_match: str, place: Place | None
    ) -> Response:
        generation, ufrag = self._calls.service.ice_generation(call_id)
        restarts = bool(fragment.ufrag) and fragment.ufrag != ufrag
        check_if_match(if_match, etag(generation), restarts=restarts)
        if not restarts:
            return Response(status_code=204, headers={"ETag": etag(generation)})
        remote = IceCredentials(fragment.ufrag, fragment.password)
        try:
            restart = self._calls.service.restart_ice(call_id, remote, place)
        except Overloaded as error:
            after = retry_after(error.retry_after_seconds)
            raise Problem(Cause.OVERLOADED, error.reason, after) from None
        headers = {"ETag": etag(restart.generation), "Cache-Control": "no-store"}
        return Response(restart.fragment, headers=headers, media_type=FRAGMENT)

    def _end(self, call_id: str) -> Response:
        self._calls.service.hang_up(call_id)
        return Response(status_code=200)


def etag(generation: int) -> str:
    """Name an ICE session."""
    return f'"ice-{generation}"'


def check_if_match(given: str, current: str, *, restarts: bool) -> None:
    """Raise a 428 or 412 Problem unless the condition fits what is asked for (section 4.3)."""
    if not given:
        raise Problem(Cause.MISSING_IF_MATCH, "If-Match must hold the ETag, or * to restart ICE")
    if restarts and given != "*":
        raise Problem(Cause.ETAG_MISMATCH, "new credentials restart ICE, which needs If-Match: *")
    if given != "*" and current not in [one.strip() for one in given.split(",")]:
        raise Problem(Cause.ETAG_MISMATCH, "the ETag is of an ICE session that is over")


def _condition(request: Request) -> str:
    """The tag that a PATCH names; a client of the drafts sends it back as ``ETag``."""
    return request.headers.get("if-match") or request.headers.get("etag", "")


def link_header(servers: Sequence[str]) -> dict[str, str]:
    """Tell ICE servers in a ``Link`` header (section 4.6); empty without any."""
    links = []
    for server in servers:
        url, *credentials = server.split(" ")
        link = f'<{url}>; rel="ice-server"'
        if credentials:
            name, password = credentials
            link += f'; username="{name}"; credential="{password}"; credential-type="password"'
        links.append(link)
    return {"Link": ", ".join(links)} if links else {}


def _fragment(body: bytes) -> Fragment:
    try:
        return decode_fragment(body)
    except RemoteProtocolError as error:
        raise Problem(Cause.INVALID_FRAGMENT, str(error)) from None
