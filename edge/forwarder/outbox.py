"""Datagrams that leave a pure forwarder together, and how many have left."""

from __future__ import annotations

from edge.packets import PacketSocket


class Outbox:
    """For one socket and one direction; ``overhead`` bytes of each datagram are no payload.

    The forwarder appends to ``datagrams`` and ``endpoints`` itself: two calls less a packet.
    """

    def __init__(self, sock: PacketSocket, *, overhead: int) -> None:
        self.datagrams: list[bytes] = []
        self.endpoints: list[bytes] = []
        self.packets = 0
        self.bytes = 0
        self._socket = sock
        self._overhead = overhead

    def put(self, datagram: bytes, endpoint: bytes) -> None:
        """Leave a datagram for the next ``flush``."""
        self.datagrams.append(datagram)
        self.endpoints.append(endpoint)

    def flush(self) -> bool:
        """Send all in order and forget it; whether all could be sent."""
        datagrams, endpoints = self.datagrams.copy(), self.endpoints.copy()
        self.datagrams.clear()
        self.endpoints.clear()
        if not datagrams:
            return True
        if len(datagrams) != len(endpoints):
            raise RuntimeError("a datagram without an endpoint: none of these goes out")
        unsent = self._socket.send_all(datagrams, endpoints)
        packets = len(datagrams) - len(unsent)
        size = sum(map(len, datagrams)) - sum(len(datagrams[place]) for place in unsent)
        self.packets += packets
        self.bytes += size - self._overhead * packets
        return not unsent
