"""``Datagrams`` with an offload beside it; what it does is in ``native_src``."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Final

import trio

from edge.address import Address
from edge.datagram import DatagramSocket, DatagramStatistics
from edge.errors import Drop
from edge.mmsg import (
    BATCH,
    ENDPOINT_BYTES,
    MAX_ENDPOINTS,
    PACKET_BYTES,
    Endpoint,
    to_endpoint,
)
from edge.offload._native import Plane
from edge.webrtc.offload import Hear, Heard, RtpKeys, RtpOffload

TICKS_A_TURN: Final = 2
"""Ticks after which other tasks have their turn. Trio's own part of a tick is 15 to 25 us."""


class MediaSocket(DatagramSocket):
    """``Datagrams`` and ``MediaOffload`` over a bound, non-blocking UDP socket, which it closes.

    ``clock`` is the sessions'; ``seed`` is 64 random bits for the table of paths.
    """

    def __init__(self, sock: socket.socket, *, clock: Callable[[], float], seed: int) -> None:
        super().__init__(sock)
        self.heard: Sequence[Heard] = ()
        self.rested = 0.0
        self._clock = clock
        self._ticks = 0
        self._endpoint_bytes = ENDPOINT_BYTES[sock.family]
        self._plane = Plane(sock.fileno(), self._endpoint_bytes, seed)
        self._relays: dict[Address, Endpoint] = {}

    def open_stream(self, keys: RtpKeys, hear: Hear) -> RtpOffload:
        """See ``MediaOffload``."""
        return self._plane.stream(hear, keys.receive, keys.send)

    def endpoint(self, relay: Address) -> Endpoint:
        """See ``MediaOffload``. Raises LocalProtocolError for what is no numeric address."""
        known = self._relays.get(relay)
        if known is None:
            if len(self._relays) >= MAX_ENDPOINTS:
                self._relays.clear()
            known = self._relays[relay] = to_endpoint(relay)
        return known

    async def _wait(self) -> None:
        """Under load, sleep until the next tick: at most a millisecond, with all tasks.

        And every second tick only is a checkpoint.

        A tick costs 60 us of CPU so, 85 us where Trio waits for a timer's descriptor, and 33 us of
        both is the sleep itself; at 100 sessions that is a tenth of what a packet costs.
        """
        if not self._load.busy or self._more:
            await super()._wait()
            return
        self._ticks += 1
        if self._ticks >= TICKS_A_TURN:
            self._ticks = 0
            await trio.lowlevel.checkpoint()
        if self._socket.fileno() < 0:
            raise trio.ClosedResourceError
        now = trio.current_time()
        rest = self._load.rest(now)
        if rest > 0:
            self._plane.rest(rest)
            self.rested += trio.current_time() - now
        else:
            await super()._wait()

    def _drain(self) -> list[tuple[bytes, Address]]:
        self.heard = ()
        try:
            datagrams, self.heard, self._taken, too_long = self._plane.receive(self._clock())
        except OSError:  # an ICMP error for something sent earlier, or a closed socket
            self._drops[Drop.RECEIVE_ERROR] += 1
            self._more, self._taken = False, 0
            return []
        self._received += self._taken - too_long
        self._drops[Drop.MALFORMED] += too_long
        self._more = self._taken == BATCH
        sources = self._sources
        return [(data, sources.get(each) or self._source(each)) for data, each in datagrams]

    def send_framed(self, header: bytes, payload: bytes, address: Address) -> bool:
        """See ``Datagrams``; True, as what the kernel does not take is counted later."""
        endpoint = self.endpoint(address)
        if len(header) + len(payload) > PACKET_BYTES or len(endpoint) != self._endpoint_bytes:
            return super().send_framed(header, payload, address)
        self._plane.put(header, payload, endpoint)
        return True

    def hold(self) -> None:
        """See ``Datagrams``."""
        self._plane.hold()

    def flush(self) -> None:
        """See ``Datagrams``."""
        self._plane.flush()

    def statistics(self) -> DatagramStatistics:
        """See ``Datagrams``."""
        sent, failed = self._plane.outcomes()
        self._sent += sent
        for code, count in failed:
            self._count_unsent(code, count)
        return super().statistics()

    def close(self) -> None:
        """See ``Datagrams``."""
        self._plane.close()
        super().close()
