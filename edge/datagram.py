"""UDP sockets on Trio: one wait for readiness, then a batch of datagrams by plain calls.

Receiving is ``async`` and takes what is there, up to ``BATCH``, so that one task serves any number
of senders without a task switch a packet. Sending is synchronous and never waits: a datagram that
the kernel does not take now is lost, as it might be anywhere else on its way, and counted.
Everything that knows about sockets is in this file.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from edge.address import Address
from edge.errors import Drop

BATCH: Final = 64
"""Datagrams taken at once: about 2 ms of work, so that other tasks wait no longer than that."""
RECEIVE_BYTES: Final = 4096
"""Longer datagrams are dropped; what WebRTC sends fits one Ethernet frame."""
SOCKET_BUFFER_BYTES: Final = 4 << 20

_BLOCKED: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})


@dataclass(frozen=True, slots=True)
class DatagramStatistics:
    """Counts of datagrams since the socket was made."""

    received: int
    sent: int
    drops: Mapping[Drop, int]


class Datagrams(Protocol):
    """What the relay and the transceiver need of a UDP socket."""

    @property
    def address(self) -> Address:
        """The bound address."""

    async def receive_batch(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams; returns at least one. Always a checkpoint; cancelling loses none.

        Raises trio.ClosedResourceError when the socket is or gets closed.
        """

    def send(self, data: bytes, address: Address) -> bool:
        """Send a datagram or count why not; returns whether it was taken."""

    def send_framed(self, header: bytes, payload: bytes, address: Address) -> bool:
        """Send header and payload as one datagram, as ``send`` does."""

    def statistics(self) -> DatagramStatistics:
        """Return the counters."""

    def close(self) -> None:
        """Close the socket; may be repeated."""


def bind_udp(address: Address) -> socket.socket:
    """Make a bound, non-blocking UDP socket; port 0 takes a free one. Raises OSError.

    An IPv6 socket serves IPv6 alone, so no address is ever v4-mapped.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):  # the system's limit stays in force
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


class DatagramSocket:
    """``Datagrams`` over a bound, non-blocking UDP socket, which it closes."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._address: Address = sock.getsockname()[:2]
        self._more = False
        self._received = 0
        self._sent = 0
        self._drops: Counter[Drop] = Counter()

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._address

    async def receive_batch(self) -> list[tuple[bytes, Address]]:
        """See ``Datagrams``. After a full batch the next one is tried without a wait."""
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError
            if self._more:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._socket)
            if batch := self._drain():
                return batch

    def _drain(self) -> list[tuple[bytes, Address]]:
        batch: list[tuple[bytes, Address]] = []
        self._more = True
        for _ in range(BATCH):
            try:
                data, source = self._socket.recvfrom(RECEIVE_BYTES)
            except BlockingIOError:
                self._more = False
                break
            except OSError:  # an ICMP error for something sent earlier, or a closed socket
                self._drops[Drop.RECEIVE_ERROR] += 1
                self._more = False
                break
            if len(data) == RECEIVE_BYTES:
                self._drops[Drop.MALFORMED] += 1
            else:
                batch.append((data, source if len(source) == 2 else source[:2]))
        self._received += len(batch)
        return batch

    def send(self, data: bytes, address: Address) -> bool:
        """See ``Datagrams``."""
        try:
            self._socket.sendto(data, address)
        except OSError as error:
            return self._not_sent(error)
        self._sent += 1
        return True

    def send_framed(self, header: bytes, payload: bytes, address: Address) -> bool:
        """See ``Datagrams``. The kernel puts the two together."""
        try:
            self._socket.sendmsg((header, payload), (), 0, address)
        except OSError as error:
            return self._not_sent(error)
        self._sent += 1
        return True

    def _not_sent(self, error: OSError) -> bool:
        blocked = error.errno in _BLOCKED
        self._drops[Drop.SEND_BLOCKED if blocked else Drop.SEND_ERROR] += 1
        return False

    def statistics(self) -> DatagramStatistics:
        """See ``Datagrams``."""
        return DatagramStatistics(self._received, self._sent, dict(self._drops))

    def close(self) -> None:
        """See ``Datagrams``. A task that waits in ``receive_batch`` gets ClosedResourceError."""
        if self._socket.fileno() >= 0 and trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
