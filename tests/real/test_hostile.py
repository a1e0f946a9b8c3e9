"""Attacks on a running process over real sockets, and what its output tells afterwards."""

from __future__ import annotations

import re
import socket

import trio

from edge.client import open_load
from edge.client.http import request
from edge.client.load import LoadClient
from tests.support.edges import SERVE, wait_sessions
from tests.support.processes import Edge, edge

KEY = "sk-a-key-that-nobody-may-read-in-a-log"
DEBUG = {"EDGE_LOG_LEVEL": "debug", "EDGE_HTTP_API_KEYS": KEY}
GARBAGE_PER_SECOND = 5_000


async def _raw(server: Edge, *parts: bytes) -> bytes:
    """Send bytes to the HTTP port and read until it closes."""
    host, port = server.http.removeprefix("http://").rsplit(":", 1)
    with trio.fail_after(15.0):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"".join(parts))
            return b"".join([bytes(chunk) async for chunk in stream])


async def test_a_body_with_two_lengths_smuggles_no_second_request() -> None:
    async with edge(*SERVE) as server:
        answer = await _raw(
            server,
            b"POST /v1/realtime/calls HTTP/1.1\r\nHost: 127.0.0.1\r\n",
            b"Content-Type: application/sdp\r\nContent-Length: 45\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        )
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1


async def test_no_secret_and_no_full_address_in_the_log_of_a_hostile_day() -> None:
    private = {KEY, "wrong-key-of-somebody"}
    async with edge(*SERVE, env=DEBUG) as server:
        async with open_load() as load:
            call = await load.open_call(server.http, api_key=KEY)
            private |= _secrets_of(call)
            await _abuse_http(server)
            _abuse_udp(server)
            await call.wait_received(50)
        await wait_sessions(server.http, 0)
        server.child.process.terminate()
        await server.child.wait()
    text = server.child.stderr.text
    assert "session ended" in text
    assert [secret for secret in private if secret in text] == []
    # The one address in it is masked; those of our own sockets are not clients'.
    assert re.findall(r'"client":"([^"]*)"', text) == ["127.0.0.0/24"]
    assert "Traceback" not in text
    assert "evil" not in text


def _secrets_of(call: LoadClient) -> set[str]:
    caller = call._caller
    answer, offer = caller._answer, caller.offer
    assert answer is not None
    return {answer.ufrag, answer.password, offer.ufrag, offer.password, f"127.0.0.1:{call.port}"}


async def _abuse_http(server: Edge) -> None:
    host = b"Host: 127.0.0.1\r\n"
    wrong = b"Authorization: Bearer wrong-key-of-somebody"
    for head in (
        b"GET /v1/evil HTTP/1.1\r\n" + host + wrong + b"\x00\r\n\r\n",
        b"GET /v1/evil HTTP/1.1\r\n" + host + wrong + b"\r\nConnection: close\r\n\r\n",
        b"GET /evil\r\n" + wrong + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01evil" + bytes(100) + b"\r\n\r\n",
    ):
        assert b"200 OK" not in await _raw(server, head)
    headers = ("Authorization", f"Bearer {KEY}"), ("Content-Type", "application/sdp")
    for body in (b"v=0\r\nevil\n{}", b"\xff" * 1_000, b"v=0\r\na=ice-ufrag:evil\x1b[31m\r\n"):
        url = f"{server.http}/v1/realtime/calls"
        assert (await request("POST", url, body, headers=headers)).status == 400


def _abuse_udp(server: Edge) -> None:
    host, port = server.udp.rsplit(":", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for first in range(256):
            stranger.sendto(bytes([first]) + b"evil" * 40, (host, int(port)))


async def test_garbage_does_not_touch_running_calls() -> None:
    """Far below what a relay can bear; docs/security.md says what happens above."""
    async with edge(*SERVE) as server, open_load() as load:
        calls = [await load.open_call(server.http) for _ in range(3)]
        for call in calls:
            await call.wait_received(10)
        before = [call.sent for call in calls]
        await _send_garbage(server, seconds=2.0)
        after = [call.sent for call in calls]
        await trio.sleep(0.3)
        for call, first, last in zip(calls, before, after, strict=True):
            missing = call.statistics(since=first).missing
            assert missing <= 0.01 * (last - first) + 1
        text = (await request("GET", f"{server.http}/metrics")).body.decode()
        assert 'reason="bug"' not in text
        assert 'edge_drops_total{part="relay",reason="bad_token"}' in text


async def _send_garbage(server: Edge, *, seconds: float) -> None:
    host, port = server.udp.rsplit(":", 1)
    username = b"\x00\x06\x00\x1c" + b"A" * 23 + b":abcd"
    forged_check = b"\x00\x01\x00\x20\x21\x12\xa4\x42" + bytes(12) + username
    kinds = (forged_check, b"\x80\x6f" + bytes(150), b"\xff" * 150, b"\x16\xfe\xfd" + bytes(100))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setblocking(False)
        stranger.connect((host, int(port)))
        for _ in range(int(seconds * 100)):
            for kind in kinds * (GARBAGE_PER_SECOND // 400):
                stranger.send(kind)
            await trio.sleep(0.01)
