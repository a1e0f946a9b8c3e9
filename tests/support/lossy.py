"""A UDP proxy that loses datagrams on purpose, between real clients and a real relay."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal

import trio

from edge.address import Address
from edge.datagram import DatagramSocket, bind_udp

HOST: Final = "127.0.0.1"

Direction = Literal["up", "down"]
Loses = Callable[[Direction, bytes], bool]
"""``(direction, datagram)``: whether the proxy loses it; ``up`` is towards the relay."""


class LossyProxy:
    """Stands before a relay, which must advertise ``address``; each client has its own port."""

    def __init__(self, public: DatagramSocket, nursery: trio.Nursery) -> None:
        self.loses: Loses = lambda direction, datagram: False
        self.upstream: Address | None = None
        self._public = public
        self._nursery = nursery
        self._clients: dict[Address, DatagramSocket] = {}

    @property
    def address(self) -> Address:
        """Where clients send to."""
        return self._public.address

    async def run(self) -> None:
        """Carry datagrams towards the relay; answers are carried by a task a client."""
        while True:
            for datagram, client in await self._public.receive_batch():
                if client not in self._clients:
                    self._clients[client] = DatagramSocket(bind_udp((HOST, 0)))
                    self._nursery.start_soon(self._carry_down, client)
                if self.upstream is not None and not self.loses("up", datagram):
                    self._clients[client].send(datagram, self.upstream)

    async def _carry_down(self, client: Address) -> None:
        while True:
            for datagram, _ in await self._clients[client].receive_batch():
                if not self.loses("down", datagram):
                    self._public.send(datagram, client)

    def close(self) -> None:
        """Close every socket."""
        for each in (self._public, *self._clients.values()):
            each.close()


@asynccontextmanager
async def open_lossy_proxy() -> AsyncGenerator[LossyProxy]:
    """Run a proxy; set its ``upstream`` once the relay is ready."""
    async with trio.open_nursery() as nursery:
        proxy = LossyProxy(DatagramSocket(bind_udp((HOST, 0))), nursery)
        try:
            nursery.start_soon(proxy.run)
            yield proxy
            nursery.cancel_scope.cancel()
        finally:
            proxy.close()
