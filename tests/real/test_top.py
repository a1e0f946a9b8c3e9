"""``edge top`` against real servers: good ones, bad ones, and a whole fleet."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from subprocess import PIPE, CompletedProcess

import pytest
import trio

from edge.client import open_load
from edge.config import HttpConfig
from edge.top.observer import Observer, fetch
from edge.top.page import BadPage
from edge.top.sources import Given
from tests.support.edges import FLEET_ENV, fleet
from tests.support.http import serve
from tests.support.redis_server import running_redis

ENTER_SCREEN = b"\x1b[?1049h"
LEAVE_SCREEN = b"\x1b[?1049l"
PAGE = (
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    b"# TYPE edge_relay_flows gauge\nedge_relay_flows 1\n"
)

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """Serve TCP on loopback; yields the URL."""
    async with trio.open_nursery() as nursery:
        serving = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serving)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def answer(text: bytes) -> Handler:
    """Answer anything with these bytes and close."""

    async def handler(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(text)

    return handler


async def hang(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def drip(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n")
    while True:
        await stream.send_all(b"x")
        await trio.sleep(0.05)


async def test_a_page_is_fetched() -> None:
    async with serve(HttpConfig(bind="127.0.0.1:0")) as live:
        assert await fetch(f"{live.listener.url}/metrics") == b"edge_up 1\n"
        with pytest.raises(BadPage, match="HTTP status 404"):
            await fetch(f"{live.listener.url}/nothing")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "does not speak HTTP"),
        (b"SSH-2.0-x\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000_000, "does not speak HTTP"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "HTTP status 503"),
    ],
    ids=["nothing", "another protocol", "endless head", "endless body", "error"],
)
async def test_what_is_no_page_is_named(text: bytes, reason: str) -> None:
    async with listening(answer(text)) as url:
        with pytest.raises(BadPage, match=reason):
            await fetch(f"{url}/metrics")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:x", "http://[::", "://"])
async def test_an_address_without_anybody(url: str) -> None:
    with pytest.raises((OSError, BadPage)):
        await fetch(f"{url}/metrics")


async def test_neither_silence_nor_drops_of_it_hold_a_look_up() -> None:
    async with listening(hang) as silent, listening(drip) as slow:
        observer = Observer(Given([silent, slow]), fetch_seconds=0.3, unix=lambda: 0.0)
        with trio.fail_after(1.0):
            snapshot = await observer.look()
    assert {each.reason for each in snapshot.silent} == {"no answer in time"}


async def _top(*arguments: str) -> CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edge", "top", "--once", *arguments]
    return await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False,
        env={**os.environ, **FLEET_ENV},
    )  # fmt: skip


async def test_a_fleet_from_its_registry() -> None:
    with running_redis() as server:
        async with fleet(server.url, transceivers=1) as group, open_load() as load:
            call = await load.open_call(group.transceivers[0].http)
            await call.wait_received(10)
            result = await _top("--json", "--registry", server.url)
            table = await _top("--http", group.relay.http, "--http", group.transceivers[0].http)
            call.close()
    assert (result.returncode, result.stderr) == (0, b"")
    snapshot = json.loads(result.stdout)
    (relay,), (transceiver,) = snapshot["relays"], snapshot["transceivers"]
    assert (snapshot["registry"], snapshot["silent"]) == ("up", [])
    assert (relay["part"]["name"], relay["state"], relay["flows"]) == (group.relay.udp, "up", 1)
    assert (transceiver["state"], transceiver["sessions"]) == ("up", 1)
    for rate in (relay["packets_in"], relay["packets_out"], transceiver["packets_in"]):
        assert 25 < rate < 100  # one call, 50 packets a second each way
    assert relay["packets_per_wake"] > 0
    assert 0 < transceiver["setup_seconds"][0] < 5.0
    assert table.returncode == 0
    assert b" 1 session " in table.stdout


async def test_no_registry_is_one_line() -> None:
    result = await _top("--registry", "redis://127.0.0.1:1/0")
    line = b"edge: registry.url: the registry does not answer\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, b"", line)


async def test_a_reader_that_goes_ends_it() -> None:
    command = [sys.executable, "-m", "edge", "top", "--json", "--interval", "0.1"]
    process = await trio.lowlevel.open_process(
        [*command, "--http", "http://127.0.0.1:1"], stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with trio.fail_after(40.0):
        line = await process.stdout.receive_some()
        await process.stdout.aclose()
        assert await process.wait() == 0
        assert await process.stderr.receive_some() == b""
        await process.stderr.aclose()
    assert json.loads(line)["registry"] == "not asked"


async def test_ctrl_c_leaves_the_terminal_as_it_was() -> None:
    """A terminal of 100 columns, on which two looks are taken."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        command = [sys.executable, "-m", "edge", "top", "--interval", "0.2"]
        async with listening(answer(PAGE)) as url:
            process = await trio.lowlevel.open_process(
                [*command, "--http", url], stdin=theirs, stdout=theirs, stderr=theirs
            )
            shown = await _read_until(ours, b"edge top", times=2)
            process.send_signal(signal.SIGINT)
            with trio.fail_after(10.0):
                assert await process.wait() == 0
            shown += await _read_until(ours, LEAVE_SCREEN)
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown.count(ENTER_SCREEN) == 1
    assert b"Traceback" not in shown
    assert url.partition("://")[2].encode() in shown


async def _read_until(descriptor: int, text: bytes, *, times: int = 1) -> bytes:
    read = b""
    with trio.fail_after(40.0):
        while read.count(text) < times:
            await trio.lowlevel.wait_readable(descriptor)
            read += os.read(descriptor, 65_536)
    return read
