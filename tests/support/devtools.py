"""A browser driven over one WebSocket of JSON: numbered commands, their replies, and events.

Chromium's DevTools protocol and WebDriver BiDi (Firefox) share this shape, so they share this
module; ``chromium.py`` and ``firefox.py`` add their own command names behind ``Page``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final, TypeVar

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

T = TypeVar("T")

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
COMMAND_SECONDS: Final = 30.0

_NOTHING: Final = msgspec.Raw(b"{}")


class _Message(msgspec.Struct):
    id: int | None = None
    method: str = ""
    params: msgspec.Raw = _NOTHING
    result: msgspec.Raw = _NOTHING
    error: object = None  # an object or a string
    message: str = ""


class DevtoolsError(Exception):
    """The browser refused a command, a script threw, or the connection is gone."""


class Connection:
    """Commands and events over an open WebSocket; ``run`` must run beside its users."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self._ids = count(1)
        self._waiting: dict[int, tuple[trio.Event, list[_Message]]] = {}
        self._handlers: defaultdict[str, list[Callable[[bytes], None]]] = defaultdict(list)

    async def run(self) -> None:
        """Read until the browser closes the connection."""
        decoder = msgspec.json.Decoder(_Message)
        try:
            while True:
                self._receive(decoder.decode(await self._socket.get_message()))
        except ConnectionClosed:
            for event, _ in self._waiting.values():
                event.set()

    def on(self, method: str, handler: Callable[[bytes], None]) -> None:
        """Call ``handler`` with the JSON parameters of every event of this name."""
        self._handlers[method].append(handler)

    async def command(
        self, method: str, kind: type[T], *, session: str | None = None, **params: object
    ) -> T:
        """Send one command and decode its result; DevtoolsError when it is refused."""
        number = next(self._ids)
        body: dict[str, object] = {"id": number, "method": method, "params": params}
        if session is not None:
            body["sessionId"] = session
        event, replies = trio.Event(), list[_Message]()
        self._waiting[number] = event, replies
        try:
            with trio.fail_after(COMMAND_SECONDS):
                await self._socket.send_message(msgspec.json.encode(body).decode())
                await event.wait()
        finally:
            del self._waiting[number]
        if not replies:
            raise DevtoolsError(f"{method}: the browser has gone")
        reply = replies[0]
        if reply.error is not None:
            raise DevtoolsError(f"{method}: {reply.error} {reply.message}")
        return msgspec.json.decode(reply.result, type=kind)

    def _receive(self, message: _Message) -> None:
        if message.id is None:
            for handler in self._handlers[message.method]:
                handler(bytes(message.params))
        elif message.id in self._waiting:
            event, replies = self._waiting[message.id]
            replies.append(message)
            event.set()


@asynccontextmanager
async def connected(
    stream: trio.SocketStream, host: str, resource: str
) -> AsyncGenerator[Connection]:
    """Speak WebSocket on a stream for the length of the block, and close it."""
    async with stream, trio.open_nursery() as nursery:
        socket = await wrap_client_stream(
            nursery, stream, host, resource, max_message_size=MAX_MESSAGE_BYTES
        )
        connection = Connection(socket)
        nursery.start_soon(connection.run)
        yield connection
        nursery.cancel_scope.cancel()


class Point(msgspec.Struct, frozen=True):
    """A place in the viewport, in CSS pixels."""

    x: float
    y: float


class Page(ABC):
    """One tab. ``console`` and ``exceptions`` hold the last lines the page produced."""

    def __init__(self) -> None:
        self.console: deque[str] = deque(maxlen=200)
        self.exceptions: deque[str] = deque(maxlen=50)

    @abstractmethod
    async def goto(self, url: str) -> None:
        """Navigate and wait for the load event."""

    @abstractmethod
    async def before_load(self, statements: str) -> None:
        """Run JavaScript in every later document, before its own scripts."""

    @abstractmethod
    async def screenshot(self, path: trio.Path) -> None:
        """Write the viewport as PNG."""

    @abstractmethod
    async def _run(self, script: str) -> str:
        """Evaluate an expression, await it if it is a promise, and return its string."""

    @abstractmethod
    async def _click_at(self, point: Point) -> None:
        """Press and release the first mouse button: a user gesture."""

    async def evaluate(self, expression: str, kind: type[T]) -> T:
        """The value of a JavaScript expression (promises are awaited), decoded as ``kind``."""
        text = await self._run(f"(async () => JSON.stringify((await ({expression})) ?? null))()")
        return msgspec.json.decode(text, type=kind)

    async def click(self, selector: str) -> None:
        """Click the middle of the element, as a person would."""
        script = f"""(() => {{
            const element = document.querySelector({selector!r});
            element.scrollIntoView({{block: "nearest"}});
            const box = element.getBoundingClientRect();
            return {{x: Math.round(box.x + box.width / 2), y: Math.round(box.y + box.height / 2)}};
        }})()"""
        await self._click_at(await self.evaluate(script, Point))

    async def wait_until(self, expression: str, *, seconds: float = 10.0) -> None:
        """Poll until the expression is truthy; trio.TooSlowError after ``seconds``."""
        with trio.fail_after(seconds):
            while not await self.evaluate(f"Boolean(await ({expression}))", bool):
                await trio.sleep(0.05)
