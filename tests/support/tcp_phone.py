"""A caller whose only way to the edge is one TCP connection (RFC 6544)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import inf
from typing import Final
from urllib.parse import urljoin

import trio

from edge.address import Address
from edge.client.caller import Caller
from edge.client.http import request
from edge.webrtc.certificate import DtlsCertificate
from edge.wire.framing import FrameReader, encode_frame

CERTIFICATE: Final = DtlsCertificate.generate()

_CANDIDATE: Final = re.compile(
    r"^a=candidate:\S+ 1 (udp|tcp) (\d+) (\S+) (\d+) typ host( tcptype passive)?\r?$", re.M
)


def candidates(answer: str, transport: str) -> list[Address]:
    """The addresses of an answer for one transport, best first."""
    found = [each for each in _CANDIDATE.findall(answer) if each[0] == transport]
    assert all(bool(each[4]) == (transport == "tcp") for each in found)
    found.sort(key=lambda each: -int(each[1]))
    return [(host, int(port)) for _, _, host, port, _ in found]


async def offer(http: str, caller: Caller) -> tuple[str, str]:
    """Open a call; returns the answer and the call's URL."""
    headers = (("Content-Type", "application/sdp"),)
    response = await request(
        "POST", f"{http}/v1/realtime/calls", caller.offer.encode(), headers=headers
    )
    assert response.status == 201, response.body
    return response.body.decode(), urljoin(http, response.headers["location"])


class TcpPhone:
    """A call; ``serve`` keeps it running."""

    def __init__(self) -> None:
        self.caller = Caller(CERTIFICATE, now=trio.current_time())
        self.answer = ""
        self.location = ""
        self.hung_up_on = False
        """The relay has closed the connection."""
        self.stream: trio.SocketStream | None = None
        self._sending = trio.StrictFIFOLock()  # a stream takes one sender at a time

    async def dial(self, http: str, *, family: str = ".") -> None:
        """Offer, and connect to the best TCP candidate of an IP version ("." or ":")."""
        self.answer, self.location = await offer(http, self.caller)
        where = next(each for each in candidates(self.answer, "tcp") if family in each[0])
        self.stream = await trio.open_tcp_stream(*where)
        frames = self.caller.take_answer(self.answer.encode(), now=trio.current_time(), enter=where)
        await self._send(frames)

    async def serve(self) -> None:
        """Serve the machine until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._tick)

    async def heard(self, count: int, *, within: float = 5.0) -> None:
        """Wait until so many more packets came back, or fail."""
        goal = self.caller.journal.received + count
        with trio.fail_after(within):
            while self.caller.journal.received < goal:
                await trio.sleep(0.01)

    async def hang_up(self) -> None:
        """Say goodbye by close_notify."""
        await self._send(self.caller.close())

    async def _send(self, datagrams: list[bytes]) -> None:
        assert self.stream is not None
        async with self._sending:
            for datagram in datagrams:
                await self.stream.send_all(encode_frame(datagram))

    async def _receive(self) -> None:
        assert self.stream is not None
        reader = FrameReader()
        async for data in self.stream:
            for datagram in reader.receive(bytes(data)):
                now = trio.current_time()
                await self._send(self.caller.receive(datagram, now=now))
                await self._send(self.caller.tick(now=now))  # the first frame may be due
        self.hung_up_on = True

    async def _tick(self) -> None:
        while True:
            await self._send(self.caller.tick(now=trio.current_time()))
            deadline = self.caller.deadline
            await trio.sleep(0.005 if deadline == inf else max(deadline - trio.current_time(), 0))


@asynccontextmanager
async def tcp_call(http: str, *, family: str = ".") -> AsyncGenerator[TcpPhone]:
    """Run a call over TCP for as long as the block."""
    phone = TcpPhone()
    await phone.dial(http, family=family)
    assert phone.stream is not None
    async with phone.stream, trio.open_nursery() as nursery:
        nursery.start_soon(phone.serve)
        yield phone
        nursery.cancel_scope.cancel()
