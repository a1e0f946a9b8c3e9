"""UDP sockets on Trio: one wait for readiness, then a batch of datagrams by plain calls.

Receiving takes what is there, up to a batch, so that one task serves any number of senders without
a task switch a packet. Sending is synchronous and never waits: a datagram that the kernel does not
take now is lost, as it might be anywhere else on its way, and counted.

``Datagrams`` is for those that answer what they receive, a transceiver or a test. A forwarder, for
which everything counts twice, uses ``PacketSocket``: many datagrams a call, and addresses as the
kernel writes them. Everything that knows about sockets is in this file and in ``mmsg``.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, Self

import trio

from edge.address import Address
from edge.errors import Drop
from edge.mmsg import LATE_ERRORS, BatchReceiver, BatchSender, Endpoint
from edge.ticks import open_timer

BATCH: Final = 64
"""Datagrams taken at once: about 2 ms of work, so that other tasks wait no longer than that."""
RECEIVE_BYTES: Final = 4096
"""Longer datagrams are dropped; what WebRTC sends fits one Ethernet frame."""
SOCKET_BUFFER_BYTES: Final = 4 << 20

PACKETS: Final = 128
"""What a ``PacketSocket`` takes at once: about 1 ms of work."""
PACKET_BYTES: Final = 2048
"""The longest datagram of a ``PacketSocket``."""

_BLOCKED: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})
_IP_RECVERR: Final = 11  # linux/in.h
_IPV6_RECVERR: Final = 25  # linux/in6.h
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3
_SO_MEMINFO: Final = 55  # asm-generic/socket.h
_MEMINFO: Final = struct.Struct("=9I")  # linux/sock_diag.h; the last is SK_MEMINFO_DROPS
_ERRORS_AT_ONCE: Final = 4 * PACKETS


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


def bind_udp(address: Address, *, reuse_port: bool = False) -> socket.socket:
    """Make a bound, non-blocking UDP socket; port 0 takes a free one. Raises OSError.

    An IPv6 socket serves IPv6 alone, so no address is ever v4-mapped. With ``reuse_port`` several
    sockets may have one address, and the kernel spreads the senders over them (SO_REUSEPORT).
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
        _never_fragment(sock)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _never_fragment(sock: socket.socket) -> None:
    """Send with DF set, whatever is believed of the path's MTU (IP_PMTUDISC_PROBE).

    WebRTC keeps to 1,200 bytes. And Linux, which then needs no IP identification, forwards a packet
    5 % cheaper (scripts/bench_relay, native).
    """
    if sys.platform != "linux":
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)


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
        # recvmmsg was tried: 0.8 us a datagram instead of 1.4 us when 60 are there, but 4 us
        # instead of 3 us when there is one, as is usual here.
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
        self._drops[_send_drop(error.errno)] += 1
        return False

    def statistics(self) -> DatagramStatistics:
        """See ``Datagrams``."""
        _count_kernel_drops(self._socket, self._drops)
        return DatagramStatistics(self._received, self._sent, dict(self._drops))

    def close(self) -> None:
        """See ``Datagrams``. A task that waits in ``receive_batch`` gets ClosedResourceError."""
        _count_kernel_drops(self._socket, self._drops)
        if self._socket.fileno() >= 0 and trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


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
        """Return what is there, up to PACKETS datagrams; never waits. Longer ones are dropped."""

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
        self._receiver = BatchReceiver(sock.family, PACKETS, PACKET_BYTES)
        self._sender = BatchSender(sock.family, PACKETS, PACKET_BYTES)
        self._drops: Counter[Drop] = Counter()

    @property
    def address(self) -> Address:
        """The bound address."""
        host, port = self._socket.getsockname()[:2]
        return host, port

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
            self._drops[_send_drop(code)] += 1
        return [place for place, _ in failed]

    def drops(self) -> Mapping[Drop, int]:
        """See ``PacketSocket``."""
        _count_kernel_drops(self._socket, self._drops)
        drops = self._drops + Counter({Drop.MALFORMED: self._receiver.too_long})
        return drops + Counter({Drop.UNREACHABLE: self.unreachable})

    def close(self) -> None:
        """See ``PacketSocket``."""
        _count_kernel_drops(self._socket, self._drops)
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


def _send_drop(code: int | None) -> Drop:
    return Drop.SEND_BLOCKED if code in _BLOCKED else Drop.SEND_ERROR


def _count_kernel_drops(sock: socket.socket, drops: Counter[Drop]) -> None:
    """Set KERNEL_QUEUE to the kernel's own count, unless it is 0 or the socket is closed."""
    with contextlib.suppress(OSError):
        meminfo = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        if lost := _MEMINFO.unpack(meminfo)[-1]:
            drops[Drop.KERNEL_QUEUE] = lost
