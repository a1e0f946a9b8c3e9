"""A native forwarder over pairs of sockets on loopback, for what only it has."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final

import trio

from edge.address import Address
from edge.datagram import DatagramSocket, bind_udp
from edge.forwarder.native import NativeForwarder
from edge.forwarder.protocol import FlowEntry
from edge.wire.spp import encode_path

HOST: Final = "127.0.0.1"
HOP: Final = 3


def reuseport_pair() -> Iterator[socket.socket]:
    """Give sockets of one address, without end; for ``zip``."""
    address = HOST, 0
    while True:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(address)
        address = sock.getsockname()
        yield sock


class Rig:
    """A native forwarder over pairs of sockets, and one transceiver."""

    def __init__(
        self, pairs: int, *, threads: int = 1, max_flows: int = 1_000, cpus: tuple[int, ...] = ()
    ) -> None:
        publics, internals = reuseport_pair(), reuseport_pair()
        self.publics = [next(publics) for _ in range(pairs)]
        self.internals = [next(internals) for _ in range(pairs)]
        self.public: Address = self.publics[0].getsockname()
        self.internal: Address = self.internals[0].getsockname()
        self.forwarder = NativeForwarder(
            self.publics,
            self.internals,
            advertised=self.public,
            stale=lambda: None,
            strangers_per_second=1e6,
            max_flows=max_flows,
            threads=threads,
            cpus=cpus,
        )
        self.transceiver = DatagramSocket(bind_udp((HOST, 0)))
        self.forwarder.set_hop(HOP, self.transceiver.address, group=HOP, public=None)

    def add_client(self) -> DatagramSocket:
        client = DatagramSocket(bind_udp((HOST, 0)))
        path = encode_path(client.address, self.public)
        assert self.forwarder.flows.put(path, FlowEntry(HOP, 1.0))
        return client

    def close(self) -> None:
        self.transceiver.close()
        for sock in self.publics + self.internals:
            sock.close()


@contextlib.asynccontextmanager
async def open_rig(
    pairs: int = 1, *, threads: int = 1, max_flows: int = 1_000, cpus: tuple[int, ...] = ()
) -> AsyncIterator[Rig]:
    """Let a forwarder run."""
    with contextlib.closing(Rig(pairs, threads=threads, max_flows=max_flows, cpus=cpus)) as rig:
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.forwarder.run)
            yield rig
            nursery.cancel_scope.cancel()
