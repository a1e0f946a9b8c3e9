"""Hears every UDP datagram that crosses a bridge, whoever it is for. Needs root."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

ETH_P_IP: Final = 0x0800
SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_STATISTICS: Final = 6
PACKET_MR_PROMISC: Final = 1
SO_RCVBUFFORCE: Final = 33
BUFFER_BYTES: Final = 32 << 20
MAX_DATAGRAM: Final = 2_048
BATCH: Final = 256
UDP: Final = 17

_STATISTICS: Final = struct.Struct("II")
_MEMBERSHIP: Final = struct.Struct("iHH8s")

Hear = Callable[[str, int, str, int, bytes], None]
"""Source host and port, destination host and port, payload."""


class Sniffer:
    """Calls ``hear`` for each datagram; made by ``sniffing``."""

    def __init__(self, device: str, hear: Hear) -> None:
        self._missed = 0
        self._hear = hear
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        index = socket.if_nametoindex(device)
        membership = _MEMBERSHIP.pack(index, PACKET_MR_PROMISC, 0, bytes(8))
        self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
        self._socket.bind((device, ETH_P_IP))

    async def run(self) -> None:
        """Hear until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            for _ in range(BATCH):
                try:
                    self._take(self._socket.recv(MAX_DATAGRAM))
                except BlockingIOError:
                    break

    def count_missed(self) -> int:
        """How many so far the kernel had no room for; its own count begins anew when read."""
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _STATISTICS.size)
        self._missed += _STATISTICS.unpack(statistics)[1]
        return self._missed

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def _take(self, packet: bytes) -> None:
        start = (packet[0] & 15) * 4
        if packet[9] != UDP or len(packet) < start + 8:
            return
        source, destination, size = struct.unpack_from("!HHH", packet, start)
        payload = packet[start + 8 : start + size]
        self._hear(
            socket.inet_ntoa(packet[12:16]),
            source,
            socket.inet_ntoa(packet[16:20]),
            destination,
            payload,
        )


@asynccontextmanager
async def sniffing(device: str, hear: Hear) -> AsyncGenerator[Sniffer]:
    """Hear what crosses a device for as long as the block."""
    sniffer = Sniffer(device, hear)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sniffer.run)
            yield sniffer
            nursery.cancel_scope.cancel()
    finally:
        sniffer.close()
