"""What the dialects have in common: how a call is opened, found, and reached where it is.

A call runs in one transceiver at a time. Requests about it may reach any other, which finds the
owner (``owners``) and passes them on. Redirecting would not do: clients do not take their key along
to another address, and the owner's may not be reachable for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from edge.address import mask_address
from edge.config import HttpConfig
from edge.errors import RemoteProtocolError
from edge.geo import GeoSettings, Place, client_address, place_of
from edge.http.body import laid_over, read_body
from edge.http.forward import HOP_HEADER, forward
from edge.http.keys import Principal, principal_of
from edge.http.limits import Limits
from edge.http.owners import Owners
from edge.http.problem import Cause, Problem, retry_after
from edge.http.secrets import ClientSecret, SecretSealer
from edge.registry.protocol import RegistryUnavailable
from edge.transceiver.admission import Opener, Overloaded, TooManySessions
from edge.transceiver.call_ids import CALL_ID
from edge.transceiver.events import Holder
from edge.webrtc.ice import IceCredentials

SDP: Final = "application/sdp"


class OpenedCall(Protocol):
    """A session that was just made: its public id ``rtc_...`` and the SDP answer."""

    @property
    def call_id(self) -> str:
        """The public id."""

    @property
    def answer(self) -> str:
        """The SDP answer."""


class IceRestart(Protocol):
    """What a client needs to go on after an ICE restart: an SDP fragment, and its number."""

    @property
    def fragment(self) -> str:
        """Our new credentials and candidates (RFC 8840, section 9)."""

    @property
    def generation(self) -> int:
        """How often this call's ICE has restarted."""


class CallService(Protocol):
    """What opens and ends sessions."""

    async def open_call(
        self, offer: bytes, *, session: bytes | None, place: Place | None, opener: Opener
    ) -> OpenedCall:
        """Answer an offer from a place, None where it is not known; ``session`` is a JSON object.

        Raises RemoteProtocolError, Overloaded.
        """

    def opener_of(self, call_id: str) -> Opener | None:
        """Whose call this is; None when it does not run here."""

    def hang_up(self, call_id: str) -> bool:
        """End a session; False when there is none with this id."""

    def join(self, call_id: str, holder: Holder) -> AbstractContextManager[Callable[[bytes], None]]:
        """Hold a call's events for as long as the block; yields what takes the client's.

        Raises LookupError when there is no such call, RuntimeError when too many hold it.
        """

    def ice_generation(self, call_id: str) -> tuple[int, str]:
        """How often a call's ICE has restarted, and the client's ufrag. Raises LookupError."""

    def restart_ice(self, call_id: str, remote: IceCredentials, place: Place | None) -> IceRestart:
        """Take the client's new credentials and make ours. Raises LookupError, Overloaded."""


ClaimOnce = Callable[[str, float], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Fleet:
    """What signaling asks of the rest of the fleet."""

    secrets: SecretSealer = field(repr=False)
    unix: Callable[[], float]
    claim_once: ClaimOnce
    """``(name, seconds)``: True for the first to claim it; raises RegistryUnavailable."""
    release: Callable[[str], Awaitable[None]]
    """Give a claim back."""
    owners: Owners


class Calls:
    """Opens and finds calls for every dialect."""

    def __init__(
        self,
        service: CallService,
        *,
        http: HttpConfig,
        fleet: Fleet,
        limits: Limits,
        geography: GeoSettings,
    ) -> None:
        self.service = service
        self.http = http
        self.fleet = fleet
        self._limits = limits
        self._geography = geography

    def admit(self, request: Request) -> Principal:
        """Hold who asks to the rate limits; raises a 429 Problem."""
        principal = principal_of(request.scope)
        self._limits.take(key=principal.key_id, address=self._address(request))
        return principal

    async def read(self, request: Request) -> bytes:
        """Read a body; raises a 413 Problem."""
        return await read_body(request, limit=self.http.max_body_bytes)

    async def open(self, request: Request, offer: bytes, session: bytes | None) -> OpenedCall:
        """Open a call; its session configuration is laid over that of a client secret.

        Raises a Problem.
        """
        principal = principal_of(request.scope)
        secret = principal.secret
        if secret is not None:
            session = laid_over(secret.session, session) or None
            await self._claim(secret)
        opener = principal.opener(_masked(self._address(request)))
        try:
            return await self.service.open_call(
                offer, session=session, place=self.place(request), opener=opener
            )
        except (RemoteProtocolError, Overloaded) as error:
            if secret is not None:
                await self._release(secret)
            raise _problem_of(error) from None

    async def at_owner(
        self, request: Request, call_id: str, act: Callable[[str], Response], *, body: bytes = b""
    ) -> Response:
        """Do something about a call, here or in the transceiver that has it."""
        if url := await self.elsewhere(request, call_id):
            return await forward(request, url, body)
        self.check(request, call_id)
        return act(call_id)

    async def elsewhere(self, request: HTTPConnection, call_id: str) -> str | None:
        """Where the transceiver is that has this call, if it is another one.

        Raises a 503 Problem while that can not be told, or nobody has it.
        """
        is_here = partial(self._is_here, call_id)
        last_hop = HOP_HEADER in request.headers
        return await self.fleet.owners.find(call_id, is_here, last_hop=last_hop)

    def check(self, request: HTTPConnection, call_id: str) -> None:
        """Raise a 404 Problem unless who asks has such a call here."""
        opener = self.service.opener_of(call_id) if CALL_ID.fullmatch(call_id) else None
        if opener is None or not principal_of(request.scope).opener().may_touch(opener):
            raise Problem(Cause.CALL_NOT_FOUND, "there is no call with this id, or it has ended")

    def place(self, request: Request) -> Place | None:
        """Where a request comes from."""
        return place_of(request.headers, _peer(request), self._geography)

    def _address(self, request: Request) -> str:
        return client_address(request.headers, _peer(request), self._geography)

    def _is_here(self, call_id: str) -> bool:
        return self.service.opener_of(call_id) is not None

    async def _claim(self, secret: ClientSecret) -> None:
        """Let a client secret be used once, where the configuration says so."""
        if not self.http.single_use_secrets:
            return
        try:
            first = await self.fleet.claim_once(secret.id, secret.expires - self.fleet.unix())
        except RegistryUnavailable:
            detail = "whether the client secret was used can not be told now, try again"
            raise Problem(Cause.REGISTRY_UNAVAILABLE, detail, retry_after(1)) from None
        if not first:
            raise Problem(Cause.USED_SECRET, "the client secret was used: ask for a new one")

    async def _release(self, secret: ClientSecret) -> None:
        """Nothing was opened: the secret is as good as before, if the registry can be told."""
        if self.http.single_use_secrets:
            with suppress(RegistryUnavailable):
                await self.fleet.release(secret.id)


def created(opened: OpenedCall, location: str, headers: dict[str, str] | None = None) -> Response:
    """Answer with the SDP of a call that was opened."""
    return Response(
        opened.answer,
        status_code=201,
        headers={"Location": location, "Cache-Control": "no-store", **(headers or {})},
        media_type=SDP,
    )


def _problem_of(error: RemoteProtocolError | Overloaded) -> Problem:
    match error:
        case RemoteProtocolError():
            return Problem(Cause.INVALID_OFFER, str(error))
        case TooManySessions():
            cause = Cause.TOO_MANY_SESSIONS
        case _:
            cause = Cause.OVERLOADED
    return Problem(cause, error.reason, retry_after(error.retry_after_seconds))


def _peer(request: HTTPConnection) -> str | None:
    return request.client.host if request.client else None


def _masked(address: str) -> str:
    try:
        return mask_address((address, 0))
    except ValueError:
        return ""
