"""Whole calls over TCP alone and over both IP versions; what attackers of the TCP port leave."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

from edge.client import open_load
from edge.client.caller import Caller
from edge.errors import EndReason
from edge.wire.framing import encode_frame
from tests.support.edges import SERVE, ended, metric, sessions, wait_sessions
from tests.support.processes import Edge, edge
from tests.support.tcp_phone import CERTIFICATE, candidates, offer, tcp_call

TCP: Final = ("--ice-tcp", "127.0.0.1:0")
BOTH: Final = ("serve", "--http", "127.0.0.1:0", "--udp", "127.0.0.1:0,[::1]:0")
BOTH_TCP: Final = ("--ice-tcp", "127.0.0.1:0,[::1]:0")
CONNECTIONS: Final = r'edge_relay_tcp_connections\{state="answered"\}'
WAITING: Final = r'edge_relay_tcp_connections\{state="waiting"\}'
ACCEPTED: Final = "edge_relay_tcp_accepted_total"


async def wait_metric(http: str, pattern: str, value: int, *, seconds: float = 5.0) -> None:
    """Wait until a metric has a value."""
    found = -1
    with trio.move_on_after(seconds):
        while (found := await metric(http, pattern)) != value:
            await trio.sleep(0.05)
    assert found == value, pattern


async def test_a_whole_call_needs_no_udp() -> None:
    async with edge(*SERVE, *TCP) as server:
        async with tcp_call(server.http) as phone:
            await phone.heard(100)
            assert await metric(server.http, CONNECTIONS) == 1
            assert await sessions(server.http) == 1
            statistics = phone.caller.journal.statistics(now=trio.current_time())
            assert statistics.missing == 0
            assert statistics.duplicates == statistics.rejected == statistics.reordered == 0
            await phone.hang_up()
            await wait_sessions(server.http, 0)
            assert await ended(server.http, EndReason.PEER_CLOSED) == 1
        await wait_metric(server.http, CONNECTIONS, 0)


async def test_udp_comes_first_and_ipv6_before_ipv4() -> None:
    async with edge(*BOTH, *BOTH_TCP) as server:
        answer, _ = await offer(server.http, Caller(CERTIFICATE, now=trio.current_time()))
        udp, tcp = candidates(answer, "udp"), candidates(answer, "tcp")
        assert [host for host, _ in udp] == [host for host, _ in tcp] == ["::1", "127.0.0.1"]
        lines = [line for line in answer.splitlines() if line.startswith("a=candidate:")]
        priorities = [int(line.split()[3]) for line in lines]
        assert priorities == sorted(priorities, reverse=True)
        assert len({line.split()[0] for line in lines}) == len(lines), "foundations differ"
        assert "c=IN IP4 127.0.0.1\r\n" in answer


async def test_each_way_carries_a_call() -> None:
    """UDP and TCP, IPv4 and IPv6, all of one relay."""
    async with edge(*BOTH, *BOTH_TCP) as server, open_load() as load:
        udp = candidates((await offer(server.http, Caller(CERTIFICATE, now=0.0)))[0], "udp")
        for where in udp:
            call = await load.open_call(server.http, enter=where)
            await call.wait_received(25)
            assert call.server == where
        for family in ".:":
            async with tcp_call(server.http, family=family) as phone:
                await phone.heard(25)
        assert await metric(server.http, r'edge_relay_flows\{state="confirmed"\}') == 4


def descriptors(server: Edge) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))


@contextmanager
def strangers(where: tuple[str, int], count: int) -> Iterator[list[socket.socket]]:
    """Connections that have said nothing yet."""
    sockets = [socket.create_connection(where) for _ in range(count)]
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def forged_check() -> bytes:
    username = b"\x00\x06\x00\x1c" + b"A" * 23 + b":abcd"
    return b"\x00\x01\x00\x20\x21\x12\xa4\x42" + bytes(12) + username


GARBAGE: Final = {
    "an oversized frame": b"\xff\xff" + bytes(3_000),
    "a frame of two bytes": b"\x00\x02ab",
    "HTTP": b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
    "a forged token": encode_frame(forged_check()),
    "media first": encode_frame(b"\x80\x6f" + bytes(150)),
}
"""What closes a connection at once. As lengths, "GE" and 0x1603 are over 1,500."""


async def closed_silently(sock: socket.socket) -> bool:
    """Whether a connection ends without a word."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock.dup()))
    with trio.fail_after(5.0):
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:  # a reset, since we were not read to the end
            return True
        finally:
            await stream.aclose()


async def test_attackers_leave_nothing_behind_and_harm_nobody() -> None:
    hasty = {"EDGE_RELAY_PROVISIONAL_SECONDS": "1"}
    async with edge(*SERVE, *TCP, env=hasty) as server, tcp_call(server.http) as phone:
        await phone.heard(10)
        where = candidates(phone.answer, "tcp")[0]
        before, sent = descriptors(server), phone.caller.journal.sent
        with strangers(where, len(GARBAGE)) as sockets:
            for sock, data in zip(sockets, GARBAGE.values(), strict=True):
                sock.sendall(data)
            for sock, name in zip(sockets, GARBAGE, strict=True):
                assert await closed_silently(sock), name
        with strangers(where, 50) as slow:
            for number, sock in enumerate(slow):  # silent ones, half frames, half lengths
                sock.sendall(b"\x01\x00half"[: number % 7])
            await wait_metric(server.http, WAITING, 50)
            assert descriptors(server) >= before + 50
            await wait_metric(server.http, WAITING, 0)
        await wait_metric(server.http, CONNECTIONS, 1)
        with trio.fail_after(5.0):
            while descriptors(server) > before + 1:  # of HTTP, maybe
                await trio.sleep(0.05)
        await phone.heard(25)
        statistics = phone.caller.journal.statistics(now=trio.current_time(), since=sent)
        assert statistics.missing == 0
        assert statistics.longest_silence < 0.3
        assert await metric(server.http, ACCEPTED) == 51 + len(GARBAGE)
