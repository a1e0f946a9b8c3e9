"""One session's conversation: a WebSocket connection, and another when it breaks.

What the server knew of the conversation is lost with a connection. The next one is told what we
hold of it; the client hears of both, by an ``error`` event and ``session.backend_restarted``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from edge.backends.protocol import AudioFrame, Call, Speaker
from edge.backends.realtime.connection import ConnectionLost, OpenStream, Target, connected
from edge.backends.realtime.machine import RealtimeMachine
from edge.errors import Drop

RETRY_SECONDS: Final = (0.25, 1.0, 3.0)
"""Before each new try, times 0.5 to 1.5; after the last the session ends."""
STABLE_SECONDS: Final = 30.0
"""A connection that held so long has all its tries again."""
PING_SECONDS: Final = 10.0
PONG_SECONDS: Final = 10.0
PLAY_OUT_SECONDS: Final = 60.0
"""For what the server has said before it closed in an orderly way."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Line:
    """How to reach the server."""

    target: Target
    connect_seconds: float
    open_stream: OpenStream
    random: Callable[[], float]

    def connected(
        self, farewell: Callable[[], str]
    ) -> AbstractAsyncContextManager[WebSocketConnection]:
        """Hold a connection."""
        return connected(
            self.target,
            seconds=self.connect_seconds,
            open_stream=self.open_stream,
            farewell=farewell,
        )


class RealtimeConversation:
    """One session: the machine, and the connection it speaks through."""

    def __init__(self, line: Line, call: Call, speaker: Speaker, machine: RealtimeMachine) -> None:
        self.drops: Counter[Drop] = machine.drops
        self._line = line
        self._call = call
        self._speaker = speaker
        self._machine = machine
        self._to_send = trio.Event()
        self._to_feed = trio.Event()

    def hear(self, frame: AudioFrame) -> None:
        """Queue what the client said; while there is no connection the newest is kept."""
        self._machine.hear(frame)
        self._wake()

    def receive_event(self, event: bytes) -> None:
        """Queue the client's event."""
        self._machine.receive_client(event)
        self._wake()

    def watch(self, changed: Callable[[], None]) -> None:
        """See ``Resumable``."""
        self._machine.changed = changed

    def resume_token(self) -> bytes:
        """Give the conversation as text, for a new connection elsewhere."""
        return self._machine.token()

    def move(self) -> None:
        """Say nothing more to anybody; ``run`` only waits to be cancelled."""
        self._machine.move()

    async def run(self) -> None:
        """Converse until the server closes, and play out; raises ConnectionLost."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_feeding)
            await self._converse()
            with trio.move_on_after(PLAY_OUT_SECONDS):
                await self._feed_while_due()
            nursery.cancel_scope.cancel()

    async def _converse(self) -> None:
        tries = iter(RETRY_SECONDS)
        while True:
            began = trio.current_time()
            try:
                await self._connect_once()
            except ConnectionLost as lost:
                if self._machine.moved:
                    await trio.sleep_forever()
                if lost.orderly:
                    return
                if trio.current_time() - began >= STABLE_SECONDS:
                    tries = iter(RETRY_SECONDS)
                delay = next(tries, None) if lost.again else None
                self._report(lost, last=delay is None)
                if delay is None:
                    raise
                await trio.sleep(delay * (0.5 + self._line.random()))

    async def _connect_once(self) -> None:
        """Serve one connection until ConnectionLost."""
        deadline = trio.current_time() + self._line.connect_seconds
        self._machine.connect()
        try:
            async with (
                self._line.connected(self._farewell) as socket,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._send, socket)
                nursery.start_soon(self._ping, socket)
                await self._receive(socket, deadline)
        finally:
            self._machine.disconnect()
            self._to_feed.set()

    async def _receive(self, socket: WebSocketConnection, deadline: float) -> None:
        with trio.move_on_at(deadline) as first:
            self._take(await socket.get_message())
        if first.cancelled_caught:
            raise ConnectionLost("it says nothing")
        while True:
            self._take(await socket.get_message())

    def _take(self, message: str | bytes) -> None:
        before = self._machine.errors
        self._machine.receive_server(message)
        if self._machine.errors != before:
            log.warning("realtime error", session=self._call.session, code=self._machine.last_error)
        self._wake()
        self._to_feed.set()

    async def _send(self, socket: WebSocketConnection) -> None:
        while True:
            while (message := self._machine.outbox.take()) is not None:
                try:
                    await socket.send_message(message)
                except ConnectionClosed:  # what came before it is still to be received
                    return
            self._to_send = trio.Event()
            await self._to_send.wait()

    async def _ping(self, socket: WebSocketConnection) -> None:
        while True:
            await trio.sleep(PING_SECONDS)
            with trio.move_on_after(PONG_SECONDS) as waiting:
                try:
                    await socket.ping()
                except ConnectionClosed:
                    return
            if waiting.cancelled_caught:
                raise ConnectionLost("it does not answer pings")

    async def _keep_feeding(self) -> None:
        while True:
            await self._feed_while_due()
            self._to_feed = trio.Event()
            await self._to_feed.wait()

    async def _feed_while_due(self) -> None:
        while (level := self._machine.feed_below) is not None:
            await self._speaker.wait_queued_below(level)
            self._machine.feed()

    def _farewell(self) -> str:
        return self._machine.end_reason or ""

    def _wake(self) -> None:
        if self._machine.outbox.is_ready:
            self._to_send.set()

    def _report(self, lost: ConnectionLost, *, last: bool) -> None:
        log.warning(
            "realtime server lost",
            session=self._call.session,
            cause=str(lost),
            error=self._machine.last_error,
            again=not last,
        )
        if last:
            self._machine.tell_error("backend_unavailable", "The model can not be reached.")
        else:
            self._machine.tell_error("backend_reconnecting", "The connection to the model broke.")
