"""WebSockets of the HTTP server on loopback, against an independent client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from edge.config import HttpConfig
from edge.http.http1 import MAX_MESSAGE_SIZE
from edge.http.listen import bind_http, make_listeners
from edge.http.server import HttpEvent, HttpServer

CONFIG = HttpConfig(bind="127.0.0.1:0", request_timeout_seconds=0.3)
HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade"
    b"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PING = b"\x89\x00"


async def echo(websocket: WebSocket) -> None:
    await websocket.accept("b" if "b" in websocket.scope["subprotocols"] else None)
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") == "bye":
                await websocket.close(4000, "as asked")
                return
            await websocket.send({**message, "type": "websocket.send"})
    except WebSocketDisconnect:
        pass


async def refuse(websocket: WebSocket) -> None:
    await websocket.send_denial_response(Response("no", 418))


async def plain(request: Request) -> Response:
    return Response("plain")


@asynccontextmanager
async def serve() -> AsyncIterator[tuple[HttpServer, str]]:
    routes = [WebSocketRoute("/echo", echo), WebSocketRoute("/no", refuse), Route("/echo", plain)]
    server = HttpServer(Starlette(routes=routes), http=CONFIG)
    (listener,) = make_listeners(CONFIG, bind_http(CONFIG))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, [listener], stop=stop, grace_seconds=1.0))
        yield server, listener.url.replace("http", "ws")
        stop.set()
        with trio.fail_after(2):
            while nursery.child_tasks:
                await trio.sleep(0.005)
    assert server.connections == 0
    assert not server.events[HttpEvent.BUG]


async def open_stream(url: str) -> trio.SocketStream:
    host, _, port = url.removeprefix("ws://").partition(":")
    return await trio.open_tcp_stream(host, int(port))


@asynccontextmanager
async def connect(
    url: str, path: str, subprotocols: list[str] | None = None
) -> AsyncIterator[WebSocketConnection]:
    """Like open_websocket_url, which leaves the socket to the collector when it is refused."""
    async with await open_stream(url) as stream, trio.open_nursery() as nursery:
        client = await wrap_client_stream(
            nursery, stream, "localhost", path, subprotocols=subprotocols
        )
        yield client
        await client.aclose()


async def exchange(url: str, *pieces: bytes) -> bytes:
    async with await open_stream(url) as stream:
        for piece in pieces:
            await stream.send_all(piece)
        with trio.fail_after(2):
            return b"".join([bytes(chunk) async for chunk in stream])


async def test_messages_go_both_ways_for_as_long_as_wanted() -> None:
    async with serve() as (server, url), connect(url, "/echo") as client:
        for message in ("text", b"\x00bytes", "x" * 100_000, ""):
            await client.send_message(message)
            assert await client.get_message() == message
        await trio.sleep(2 * CONFIG.request_timeout_seconds)
        await client.ping(b"still here")
        await client.send_message("after the time-out of a request")
        assert await client.get_message() == "after the time-out of a request"
        assert server.connections == 1


async def test_the_subprotocol_and_the_end_are_told() -> None:
    async with serve() as (_, url):
        async with connect(url, "/echo", ["a", "b"]) as client:
            assert client.subprotocol == "b"
            await client.send_message("bye")
            with pytest.raises(ConnectionClosed) as closed:
                await client.get_message()
        assert closed.value.reason is not None
        assert (closed.value.reason.code, closed.value.reason.reason) == (4000, "as asked")


@pytest.mark.parametrize(("path", "status"), [("/no", 418), ("/nowhere", 403)])
async def test_a_refusal_is_an_http_response(path: str, status: int) -> None:
    async with serve() as (_, url):
        with pytest.RaisesGroup(
            pytest.RaisesExc(ConnectionRejected, check=lambda e: e.status_code == status)
        ):
            async with connect(url, path):
                pass


async def test_a_message_that_is_too_long_ends_it() -> None:
    async with serve() as (_, url), connect(url, "/echo") as client:
        await client.send_message("x" * (MAX_MESSAGE_SIZE + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await client.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1009


async def test_who_answers_no_ping_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.http.server.SILENCE_SECONDS", 0.3)
    async with serve() as (server, url):
        server.service.config.websocket_ping_interval = 0.05
        async with connect(url, "/echo") as alive, await open_stream(url) as dead:
            await dead.send_all(HANDSHAKE % b"/echo")
            with trio.fail_after(2):
                frames = b"".join([bytes(chunk) async for chunk in dead])
            assert frames.count(PING) > 1
            await alive.send_message("here")
            assert await alive.get_message() == "here"
            assert server.events[HttpEvent.TIMED_OUT] == 1


async def test_who_does_not_read_is_cut() -> None:
    message = b"\x81\xfe\xff\xff\0\0\0\0" + b"x" * 65_535
    async with serve() as (server, url), await open_stream(url) as stream:
        await stream.send_all(HANDSHAKE % b"/echo")
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while True:
                await stream.send_all(message)
        assert server.connections == 0
        assert server.events[HttpEvent.TIMED_OUT] == 1


async def test_compression_is_not_agreed_to() -> None:
    offer = b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=x\r\n\r\n"
    request = (HANDSHAKE % b"/echo").replace(b"\r\n\r\n", offer)
    async with serve() as (_, url):
        answer = await exchange(url, request, b"\x88\x82\0\0\0\0\x03\xe8")
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in answer


async def test_endless_empty_fragments_end_it() -> None:
    start, more = b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0"
    async with serve() as (_, url):
        answer = await exchange(url, HANDSHAKE % b"/echo", start + more * (MAX_MESSAGE_SIZE + 1))
        assert answer.endswith(b"\x88\x02\x03\xf1")


async def test_many_messages_in_one_segment_with_the_handshake() -> None:
    message, close = b"\x81\x81\0\0\0\0x", b"\x88\x82\0\0\0\0\x03\xe8"
    async with serve() as (_, url), await open_stream(url) as stream:
        await stream.send_all(HANDSHAKE % b"/echo" + message * 3)
        answer = b""
        with trio.fail_after(2):
            while answer.count(b"\x81\x01x") < 3:
                answer += await stream.receive_some()
            await stream.send_all(close)
            answer += b"".join([bytes(chunk) async for chunk in stream])
    head, _, frames = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455, 1.3
    assert frames.replace(PING, b"") == b"\x81\x01x" * 3 + b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"-Version: 13", b"-Version: 12"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZQ=="),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff"),
        (b"keep-alive, Upgrade", b"keep-alive"),
        (b"Upgrade: websocket", b"Upgrade: h2c"),
    ],
)
async def test_what_is_no_handshake_is_plain_http(good: bytes, bad: bytes) -> None:
    request = (HANDSHAKE % b"/echo").replace(good, bad)
    assert bad in request
    async with serve() as (_, url):
        answer = await exchange(url, request)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"plain")


@pytest.mark.parametrize(
    "rubbish", [b"\xff" * 100, b"\x81\x85\0\0\0\0\xff\xff\xff\xff\xff", b"\x81"]
)
async def test_rubbish_and_a_reset_leave_nothing_behind(rubbish: bytes) -> None:
    async with serve() as (server, url):
        async with await open_stream(url) as stream:
            await stream.send_all(HANDSHAKE % b"/echo" + rubbish)
            await trio.sleep(0.02)
        with trio.fail_after(2):
            while server.connections:
                await trio.sleep(0.005)
