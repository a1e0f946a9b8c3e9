"""UDP sockets for a forwarder: many datagrams a call, and addresses as the kernel writes them.

``PacketSocket`` is what ``datagram`` is to all others. It never waits by itself: who owns two of
them waits for both at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, Self

import trio

from edge.address import Address
from edge.datagram import count_kernel_drops, send_drop
from edge.errors import Drop
from edge.mmsg import BATCH, LATE_ERRORS, PACKET_BYTES, BatchReceiver, BatchSender, Endpoint
from edge.ticks import open_timer

_IP_RECVERR: Final = 11  # linux/in.h
_IPV6_RECVERR: Final = 25  # linux/in6.h
_ERRORS_AT_ONCE: Final = 4 * BATCH


@dataclass(frozen=True, slots=True)
class Waits:
    """How a forwarder waits."""

    readable: Callable[[], Awaitable[None]]
    """Until one of its sockets has something to receive."""
    tick: Callable[[float], Awaitable[None]]
    """For some seconds: a sleep that may be had many times a second."""


class PacketSocket(Protocol):
    """What a forwarder needs of a UDP socket. Datagrams are at most PACKET_BYTES long."""

    @property
    def address(self) -> Address:
        """The bound address."""

    @property
    def unreachable(self) -> int:
        """How many errors the network has reported; see ``watch_errors``."""

    def waits(self, other: Self) -> AbstractContextManager[Waits]:
        """Prepare to wait for this and the other socket."""

    def watch_errors(self) -> None:
        """Hear from now on that a datagram's receiver can not be reached (ICMP)."""

    def receive(self) -> list[tuple[bytes, Endpoint]]:
        """Return what is there, up to BATCH datagrams; never waits. Longer ones are dropped."""

    def send_all(self, datagrams: Sequence[bytes], endpoints: Sequence[bytes]) -> list[int]:
        """Send in order; returns the places of those that were not taken, which are counted."""

    def drops(self) -> Mapping[Drop, int]:
        """Return how many datagrams were dropped here, by cause."""

    def close(self) -> None:
        """Close the socket; may be repeated. Nobody may be waiting for it."""


class KernelPacketSocket:
    """``PacketSocket`` over a bound, non-blocking UDP socket; others may close that, too."""

    def __init__(self, sock: socket.socket) -> None:
        self.unreachable = 0
        self._socket = sock
        self._receiver = BatchReceiver(sock.family, BATCH, PACKET_BYTES)
        self._sender = BatchSender(sock.family, BATCH, PACKET_BYTES)
        self._drops: Counter[Drop] = Counter()

    @property
    def address(self) -> Address:
        """The bound address."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @contextmanager
    def waits(self, other: Self) -> Iterator[Waits]:
        """See ``PacketSocket``. One wake-up for both sockets: Trio waits for their epoll."""
        with select.epoll() as both, open_timer() as timer:
            for sock in (self._socket, other._socket):
                both.register(sock, select.EPOLLIN)

            async def tick(seconds: float) -> None:
                timer.set(seconds)
                await trio.lowlevel.wait_readable(timer)

            yield Waits(partial(trio.lowlevel.wait_readable, both.fileno()), tick)

    def watch_errors(self) -> None:
        """See ``PacketSocket``. Without this an unconnected socket is told nothing."""
        if self._socket.family == socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)

    def receive(self) -> list[tuple[bytes, Endpoint]]:
        """See ``PacketSocket``."""
        try:
            return self._receiver.receive(self._socket.fileno())
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno not in LATE_ERRORS or not self._drain_errors():
                self._drops[Drop.RECEIVE_ERROR] += 1
            return []

    def send_all(self, datagrams: Sequence[bytes], endpoints: Sequence[bytes]) -> list[int]:
        """See ``PacketSocket``."""
        interrupted = self._sender.interrupted
        failed = self._sender.send(self._socket.fileno(), datagrams, endpoints)
        if self._sender.interrupted != interrupted:
            self._drain_errors()
        for _, code in failed:
            self._drops[send_drop(code)] += 1
        return [place for place, _ in failed]

    def drops(self) -> Mapping[Drop, int]:
        """See ``PacketSocket``."""
        count_kernel_drops(self._socket, self._drops)
        drops = self._drops + Counter({Drop.MALFORMED: self._receiver.too_long})
        return drops + Counter({Drop.UNREACHABLE: self.unreachable})

    def close(self) -> None:
        """See ``PacketSocket``."""
        count_kernel_drops(self._socket, self._drops)
        self._socket.close()

    def _drain_errors(self) -> int:
        """Empty the queue of errors, which else would keep the socket readable."""
        drained = 0
        with contextlib.suppress(OSError):  # BlockingIOError at its end
            while drained < _ERRORS_AT_ONCE:
                self._socket.recvmsg(1, 0, socket.MSG_ERRQUEUE)
                drained += 1
        self.unreachable += drained
        return drained
