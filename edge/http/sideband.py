"""The sideband: a running call's events on a WebSocket of the customer's server.

``/v1/realtime?call_id=rtc_...`` with the API key that the call was opened with. Every event of the
backend's comes as a text message, and every text message is an event for the backend, as on the
client's data channel beside it. When the call ends, ``session.ended`` comes and the connection is
closed. What one reads too slowly waits in a bounded queue; beyond it the connection is cut, because
who misses some events can not trust the others.

Where another transceiver has the call, the messages are passed on both ways.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Final
from urllib.parse import quote, urlsplit

import structlog
import trio
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from edge.http.calls import Calls
from edge.http.forward import FORWARD_SECONDS, owner_headers, unreachable
from edge.http.keys import principal_of
from edge.http.problem import MEDIA_TYPE as PROBLEM
from edge.http.problem import Cause, Problem
from edge.http.request import connect
from edge.limits import TokenBucket
from edge.transceiver.events import MAX_EVENT_BYTES, TooManyHolders

PATH: Final = "/v1/realtime"
MAX_QUEUED_BYTES: Final = 1_048_576
MAX_QUEUED_EVENTS: Final = 1_024
EVENTS_PER_SECOND: Final = 500.0
"""Of a sideband's own; faster ones wait."""
GOODBYE_SECONDS: Final = 5.0
"""For the last events, when the call is over."""
MIN_WAIT: Final = 0.001
"""Seconds; a clock can not tell much shorter ones apart."""
SUBPROTOCOL: Final = "realtime"

DONE: Final = 1000  # RFC 6455, 7.4.1
TOO_BIG: Final = 1009

_GONE: Final = (WebSocketDisconnect, WebSocketDisconnected)

log = structlog.get_logger()


class SidebandRoute:
    """The endpoint of the WebSocket."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one sideband; raises a Problem before it is accepted."""
        principal_of(websocket.scope).require_key()
        call_id = websocket.query_params.get("call_id", "")
        if not call_id:
            detail = "this server takes WebSockets of running calls only: name one by ?call_id="
            raise Problem(Cause.MISSING_CALL_ID, detail)
        if url := await self._calls.elsewhere(websocket, call_id):
            await _pass_on(websocket, url, call_id)
            return
        self._calls.check(websocket, call_id)
        await self._join(websocket, call_id)

    async def _join(self, websocket: WebSocket, call_id: str) -> None:
        sideband = _Sideband(websocket)
        try:
            with self._calls.service.join(call_id, sideband) as say:
                await _accept(websocket)
                await sideband.run(say)
        except TooManyHolders:
            detail = "as many sidebands as a call may have are connected"
            raise Problem(Cause.TOO_MANY_SIDEBANDS, detail) from None
        if sideband.is_slow:
            log.warning("sideband too slow", session=call_id)


class _Sideband:
    """One connection; see ``Holder``."""

    def __init__(self, websocket: WebSocket) -> None:
        self.is_slow = False
        self._websocket = websocket
        self._events: deque[bytes] = deque()
        self._queued_bytes = 0
        self._over = False
        self._more = trio.Event()
        self._scope = trio.CancelScope()

    def take(self, event: bytes) -> bool:
        """Queue an event; one that does not fit ends the connection."""
        full = (
            self._queued_bytes + len(event) > MAX_QUEUED_BYTES
            or len(self._events) >= MAX_QUEUED_EVENTS
        )
        if full or self.is_slow:
            self.is_slow = True
            self._scope.cancel()
            return False
        self._events.append(event)
        self._queued_bytes += len(event)
        self._more.set()
        return True

    def close(self) -> None:
        """Close the connection when all is sent, or soon."""
        self._over = True
        self._scope.deadline = trio.current_time() + GOODBYE_SECONDS
        self._more.set()

    async def run(self, say: Callable[[bytes], None]) -> None:
        """Pass events on both ways until either side is done."""
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive, say, nursery.cancel_scope)
                    await self._send()
                    await self._websocket.close(DONE)
                    nursery.cancel_scope.cancel()
            except* _GONE:
                pass

    async def _send(self) -> None:
        while not (self._over and not self._events):
            while self._events:
                event = self._events.popleft()
                self._queued_bytes -= len(event)
                await self._websocket.send_text(event.decode("utf-8", "replace"))
            self._more = trio.Event()
            if not self._over:
                await self._more.wait()

    async def _receive(self, say: Callable[[bytes], None], scope: trio.CancelScope) -> None:
        bucket = TokenBucket(EVENTS_PER_SECOND, now=trio.current_time())
        async with aclosing(_messages(self._websocket)) as events:
            async for event in events:
                if len(event) > MAX_EVENT_BYTES:
                    await self._websocket.close(TOO_BIG)
                    break
                while wait := bucket.take(now=trio.current_time()):
                    await trio.sleep(max(wait, MIN_WAIT))
                say(event)
        scope.cancel()


async def _messages(websocket: WebSocket) -> AsyncGenerator[bytes]:
    """Every message of the client's, text or not, until it is gone."""
    with suppress(trio.BrokenResourceError):  # it has reset the connection
        while (message := await websocket.receive())["type"] == "websocket.receive":
            text: str | None = message.get("text")
            yield message["bytes"] if text is None else text.encode()


async def _accept(websocket: WebSocket) -> None:
    offered = websocket.scope["subprotocols"]
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)


async def _pass_on(websocket: WebSocket, url: str, call_id: str) -> None:
    """Connect to the owner, then be a pipe between it and the client."""
    headers = [(name.encode(), value.encode()) for name, value in owner_headers(websocket)]
    resource = f"{PATH}?call_id={quote(call_id, safe='')}"
    try:
        with trio.fail_after(FORWARD_SECONDS):
            stream = await connect(url)
    except (OSError, trio.TooSlowError) as error:
        raise unreachable(error) from None
    failure: BaseException | None = None
    try:
        async with stream, trio.open_nursery() as nursery:
            with trio.fail_after(FORWARD_SECONDS):
                owner = await wrap_client_stream(
                    nursery, stream, urlsplit(url).netloc, resource, extra_headers=headers
                )
            await _accept(websocket)
            await _pipe(websocket, owner)
            nursery.cancel_scope.cancel()
    except* (ConnectionRejected, HandshakeError, OSError, trio.TooSlowError) as group:
        failure = _first(group)
    if isinstance(failure, ConnectionRejected):
        await _repeat(websocket, failure)
    elif failure is not None:
        raise unreachable(failure)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _repeat(websocket: WebSocket, rejected: ConnectionRejected) -> None:
    """Refuse as the owner has refused."""
    headers = {"Content-Type": PROBLEM}
    await websocket.send_denial_response(
        Response(rejected.body or b"", rejected.status_code, headers=headers)
    )


async def _pipe(websocket: WebSocket, owner: WebSocketConnection) -> None:
    async def to_owner(scope: trio.CancelScope) -> None:
        with suppress(ConnectionClosed):
            async with aclosing(_messages(websocket)) as messages:
                async for message in messages:
                    await owner.send_message(message.decode("utf-8", "replace"))
        scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(to_owner, nursery.cancel_scope)
            with suppress(ConnectionClosed):
                while True:
                    await websocket.send_text(str(await owner.get_message()))
            await websocket.close(owner.closed.code if owner.closed else DONE)
            nursery.cancel_scope.cancel()
    except* _GONE:
        pass
