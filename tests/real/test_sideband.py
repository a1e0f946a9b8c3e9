"""The sideband WebSocket on loopback against clients that do not behave."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from edge.config import HttpConfig
from edge.errors import Drop
from edge.http.server import HttpEvent
from edge.http.sideband import MAX_QUEUED_BYTES
from edge.transceiver.events import MAX_HOLDERS
from tests.support.http import HOST, Live, serve

CONFIG = HttpConfig(bind="127.0.0.1:0", request_timeout_seconds=0.3)
LOCKED = HttpConfig(
    bind="127.0.0.1:0", request_timeout_seconds=0.3, api_keys=("key-one-1", "key-two-2")
)
OFFER = (
    b"POST /v1/realtime/calls HTTP/1.1\r\n" + HOST + b"Content-Type: application/sdp\r\n"
    b"Authorization: Bearer key-one-1\r\nConnection: close\r\nContent-Length: 5\r\n\r\nv=0\r\n"
)
SPEECH = b'{"type":"response.output_audio_transcript.delta","delta":"' + b"x" * 30_000 + b'"}'


@asynccontextmanager
async def call(config: HttpConfig = CONFIG) -> AsyncIterator[Live]:
    """A server with one call, ``rtc_1``."""
    with trio.fail_after(10.0):
        async with serve(config) as live:
            assert b" 201 " in await live.exchange(OFFER)
            yield live
            assert live.server.events[HttpEvent.BUG] == 0


@asynccontextmanager
async def connecting(
    live: Live, query: str = "?call_id=rtc_1", *headers: tuple[bytes, bytes]
) -> AsyncIterator[WebSocketConnection]:
    """A sideband; its TCP connection is closed in any case."""
    stream = await live.connect()
    refusals: list[BaseException] = []
    try:
        async with stream, trio.open_nursery() as nursery:
            yield await wrap_client_stream(
                nursery, stream, "localhost", f"/v1/realtime{query}", extra_headers=list(headers)
            )
            nursery.cancel_scope.cancel()
    except* ConnectionRejected as group:
        refusals += group.exceptions
    for refusal in refusals:
        raise refusal


async def join(live: Live) -> trio.SocketStream:
    """A sideband by hand, which reads no further than the answer to the handshake."""
    stream = await live.connect()
    await stream.send_all(
        b"GET /v1/realtime?call_id=rtc_1 HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
    return stream


async def next_event(sideband: WebSocketConnection) -> dict[str, object]:
    event: dict[str, object] = json.loads(await sideband.get_message())
    return event


async def test_events_go_both_ways_until_the_call_ends() -> None:
    async with call() as live, connecting(live) as one, connecting(live) as other:
        for sideband in (one, other):
            assert (await next_event(sideband))["type"] == "session.created"
        live.service.channels["rtc_1"].send_event(b'{"type":"response.created"}')
        for sideband in (one, other):
            assert await next_event(sideband) == {"type": "response.created"}
        await one.send_message('{"type":"response.cancel"}')
        await other.send_message("no event at all")
        assert (await next_event(one))["type"] == "error"
        assert live.service.said == [b'{"type":"response.cancel"}']
        await trio.sleep(0.4)  # longer than a request may take
        assert live.service.hang_up("rtc_1")
        with pytest.raises(ConnectionClosed) as closed:
            await one.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1000


async def test_who_leaves_is_forgotten() -> None:
    async with call() as live:
        channel = live.service.channels["rtc_1"]
        async with connecting(live) as sideband:
            await next_event(sideband)
            assert channel.is_held
        stream = await join(live)
        await stream.send_all(b"\xff" * 100)  # no frame
        with trio.move_on_after(2.0):
            while await stream.receive_some():
                pass
        await stream.aclose()
        while channel.is_held:
            await trio.sleep(0.01)
        assert await live.is_healthy()


async def test_who_reads_too_slowly_is_cut_off_and_hinders_nobody() -> None:
    async with call() as live, connecting(live) as good:
        await next_event(good)
        channel = live.service.channels["rtc_1"]
        stream = await join(live)
        sent = 0
        while not channel.drops[Drop.QUEUE_FULL]:
            assert channel.send_event(SPEECH)
            sent += 1
            assert await good.get_message()
        assert sent * len(SPEECH) > MAX_QUEUED_BYTES
        with trio.fail_after(3.0):
            while live.server.connections > 1:
                await trio.sleep(0.01)
        channel.send_event(b'{"type":"still.here"}')
        assert await next_event(good) == {"type": "still.here"}
        await stream.aclose()


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("?call_id=rtc_1", [], 401, "missing_api_key"),
        ("?call_id=rtc_1", [(b"Authorization", b"Bearer nobody")], 401, "invalid_api_key"),
        ("?call_id=rtc_1", [(b"Authorization", b"Bearer key-two-2")], 404, "call_not_found"),
        ("?call_id=rtc_2", [(b"Authorization", b"Bearer key-one-1")], 404, "call_not_found"),
        ("?call_id=%0a", [(b"Authorization", b"Bearer key-one-1")], 404, "call_not_found"),
        ("?model=x", [(b"Authorization", b"Bearer key-one-1")], 400, "missing_call_id"),
    ],
)
async def test_refusals(
    query: str, headers: list[tuple[bytes, bytes]], status: int, code: str
) -> None:
    async with call(LOCKED) as live:
        with pytest.raises(ConnectionRejected) as refused:
            async with connecting(live, query, *headers):
                pass
        assert refused.value.status_code == status
        assert refused.value.body is not None
        assert json.loads(refused.value.body)["error"]["code"] == code
        assert not live.service.channels["rtc_1"].is_held


async def test_a_foreign_page_can_not_listen_to_an_open_server() -> None:
    async with call() as live:
        with pytest.raises(ConnectionRejected) as refused:
            async with connecting(live, "?call_id=rtc_1", (b"Origin", b"https://bad.example")):
                pass
        assert refused.value.status_code == 403


async def test_sidebands_are_few() -> None:
    async with call() as live, trio.open_nursery() as nursery:
        joined = [trio.Event() for _ in range(MAX_HOLDERS)]

        async def hold(number: int) -> None:
            async with connecting(live) as sideband:
                await next_event(sideband)
                joined[number].set()
                await trio.sleep_forever()

        for number in range(MAX_HOLDERS):
            nursery.start_soon(hold, number)
        for each in joined:
            await each.wait()
        with pytest.raises(ConnectionRejected) as refused:
            async with connecting(live):
                pass
        assert refused.value.status_code == 409
        nursery.cancel_scope.cancel()


async def test_a_message_that_is_too_long_ends_the_sideband() -> None:
    async with call() as live, connecting(live) as sideband:
        await next_event(sideband)
        await sideband.send_message('{"type":"x","a":"' + "x" * 200_000 + '"}')
        with pytest.raises(ConnectionClosed) as closed:
            await sideband.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1009
        assert live.service.said == []
