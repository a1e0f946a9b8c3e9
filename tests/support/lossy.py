"""A UDP proxy that loses and delays on purpose, between real clients and a real relay."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Final, Literal

import trio

from edge.address import Address
from edge.datagram import DatagramSocket, bind_udp

HOST: Final = "127.0.0.1"
MOST_HELD: Final = 4_096
"""Datagrams under way in one direction; the oldest give way."""

Direction = Literal["up", "down"]
Loses = Callable[[Direction, bytes], bool]
"""``(direction, datagram)``: whether the proxy loses it; ``up`` is towards the relay."""
Delays = Callable[[Direction, float], float]
"""``(direction, now)``: for how many seconds it keeps a datagram; their order stays."""


class _Way:
    """One direction: what is held back, in order, and the task that lets it go."""

    def __init__(self) -> None:
        self._held: deque[tuple[float, Callable[[], object]]] = deque(maxlen=MOST_HELD)
        self._more = trio.Event()

    def carry(self, send: Callable[[], object], delay: float) -> None:
        """Send now or later, but not before what came earlier."""
        if delay <= 0 and not self._held:
            send()
            return
        latest = self._held[-1][0] if self._held else 0.0
        self._held.append((max(trio.current_time() + delay, latest), send))
        self._more.set()

    async def run(self) -> None:
        """Let go what is due, forever."""
        while True:
            self._more = trio.Event()
            while self._held:
                await trio.sleep_until(self._held[0][0])
                self._held.popleft()[1]()
            await self._more.wait()


class LossyProxy:
    """Stands before a relay, which must advertise ``address``; each client has its own port."""

    def __init__(self, public: DatagramSocket, nursery: trio.Nursery) -> None:
        self.loses: Loses = lambda direction, datagram: False
        self.delays: Delays = lambda direction, now: 0.0
        self.upstream: Address | None = None
        self._public = public
        self._nursery = nursery
        self._clients: dict[Address, DatagramSocket] = {}
        self._ways: dict[Direction, _Way] = {"up": _Way(), "down": _Way()}

    @property
    def address(self) -> Address:
        """Where clients send to."""
        return self._public.address

    async def run(self) -> None:
        """Carry datagrams towards the relay; answers are carried by a task a client."""
        for way in self._ways.values():
            self._nursery.start_soon(way.run)
        while True:
            for datagram, client in await self._public.receive_batch():
                if client not in self._clients:
                    self._clients[client] = DatagramSocket(bind_udp((self.address[0], 0)))
                    self._nursery.start_soon(self._carry_down, client)
                if self.upstream is not None:
                    send = partial(self._clients[client].send, datagram, self.upstream)
                    self._carry("up", datagram, send)

    async def _carry_down(self, client: Address) -> None:
        while True:
            for datagram, _ in await self._clients[client].receive_batch():
                self._carry("down", datagram, partial(self._public.send, datagram, client))

    def _carry(self, direction: Direction, datagram: bytes, send: Callable[[], object]) -> None:
        if not self.loses(direction, datagram):
            self._ways[direction].carry(send, self.delays(direction, trio.current_time()))

    def close(self) -> None:
        """Close every socket."""
        for each in (self._public, *self._clients.values()):
            each.close()


@asynccontextmanager
async def open_lossy_proxy(host: str = HOST) -> AsyncGenerator[LossyProxy]:
    """Run a proxy; set its ``upstream`` once the relay is ready."""
    with ExitStack() as sockets:
        async with trio.open_nursery() as nursery:
            proxy = LossyProxy(DatagramSocket(bind_udp((host, 0))), nursery)
            sockets.callback(proxy.close)
            try:
                nursery.start_soon(proxy.run)
                yield proxy
            finally:
                nursery.cancel_scope.cancel()
