"""UDP sockets on Trio: one wait for readiness, then a batch of datagrams by plain calls.

Receiving takes what is there, up to a batch, so that one task serves any number of senders without
a task switch a packet. Sending is synchronous and never waits: a datagram that the kernel does not
take now is lost, as it might be anywhere else on its way, and counted.

This is for those that answer what they receive, a transceiver or a test. A forwarder, for which
everything counts twice, uses ``packets``. Everything that knows about sockets is in these two files
and in ``mmsg``.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from edge.address import Address
from edge.errors import Drop
from edge.mmsg import (
    BATCH,
    MAX_ENDPOINTS,
    BatchReceiver,
    Endpoint,
    Outbox,
    to_address,
)
from edge.ticks import Load, Timer, open_timer

RECEIVE_BYTES: Final = 4096
"""Longer datagrams are dropped; what WebRTC sends fits one Ethernet frame."""
SOCKET_BUFFER_BYTES: Final = 4 << 20

_BLOCKED: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3
_SO_MEMINFO: Final = 55  # asm-generic/socket.h
_MEMINFO: Final = struct.Struct("=9I")  # linux/sock_diag.h; the last is SK_MEMINFO_DROPS


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

    def hold(self) -> None:
        """Let what ``send_framed`` takes leave together, by ``flush``.

        Nothing is to be awaited before that. What the kernel then does not take is counted.
        """

    def flush(self) -> None:
        """Send what was held back."""

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
        self._taken = 0
        self._received = 0
        self._sent = 0
        self._drops: Counter[Drop] = Counter()
        self._load = Load()
        self._resources = contextlib.ExitStack()
        self._timer: Timer | None = None
        self._receiver: BatchReceiver | None = None
        self._outbox: Outbox | None = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # another machine; one by one is as right
                self._receiver = BatchReceiver(sock.family, BATCH, RECEIVE_BYTES - 1)
                self._outbox = Outbox(sock)
                self._timer = self._resources.enter_context(open_timer())
        self._sources: dict[Endpoint, Address] = {}

    @property
    def address(self) -> Address:
        """The bound address."""
        return self._address

    async def receive_batch(self) -> list[tuple[bytes, Address]]:
        """See ``Datagrams``. After a full batch the next one is tried without a wait."""
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError
            await self._wait()
            batch = self._drain()
            if self._taken:
                self._load.note(self._taken, trio.current_time())
                return batch

    async def _wait(self) -> None:
        if self._more:
            await trio.lowlevel.checkpoint()
            return
        if self._timer is not None:
            rest = self._load.rest(trio.current_time())
            if rest > 0:
                self._timer.set(rest)
                await trio.lowlevel.wait_readable(self._timer)
                return
        await trio.lowlevel.wait_readable(self._socket)

    def _drain(self) -> list[tuple[bytes, Address]]:
        if self._receiver is not None and self._load.busy:
            batch = self._receive_many(self._receiver)
        else:
            batch = self._receive_singly()
        self._taken = len(batch)
        self._received += self._taken
        return batch

    def _receive_many(self, receiver: BatchReceiver) -> list[tuple[bytes, Address]]:
        # 0.8 us a datagram instead of 1.4 us when 60 are there, but 4 us instead of 3 us for one.
        try:
            taken = receiver.receive(self._socket.fileno())
        except BlockingIOError:
            self._more = False
            return []
        except OSError:  # as below
            self._drops[Drop.RECEIVE_ERROR] += 1
            self._more = False
            return []
        if receiver.too_long:
            self._drops[Drop.MALFORMED] += receiver.too_long
            receiver.too_long = 0
        self._more = len(taken) == BATCH
        sources = self._sources
        return [(data, sources.get(each) or self._source(each)) for data, each in taken]

    def _source(self, endpoint: Endpoint) -> Address:
        if len(self._sources) >= MAX_ENDPOINTS:
            self._sources.clear()
        address = self._sources[endpoint] = to_address(endpoint)
        return address

    def _receive_singly(self) -> list[tuple[bytes, Address]]:
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
        return batch

    def send(self, data: bytes, address: Address) -> bool:
        """See ``Datagrams``."""
        try:
            self._socket.sendto(data, address)
        except OSError as error:
            return self._not_sent(error.errno)
        self._sent += 1
        return True

    def send_framed(self, header: bytes, payload: bytes, address: Address) -> bool:
        """See ``Datagrams``. The kernel puts the two together."""
        outbox = self._outbox
        if outbox is not None and outbox.open and outbox.put(header + payload, address):
            self._sent += 1
            return True
        try:
            self._socket.sendmsg((header, payload), (), 0, address)
        except OSError as error:
            return self._not_sent(error.errno)
        self._sent += 1
        return True

    def hold(self) -> None:
        """See ``Datagrams``."""
        if self._outbox is not None:
            self._outbox.open = True

    def flush(self) -> None:
        """See ``Datagrams``."""
        if self._outbox is None:
            return
        self._outbox.open = False
        for code in self._outbox.flush():
            self._sent -= 1
            self._not_sent(code)

    def _not_sent(self, code: int | None) -> bool:
        self._count_unsent(code, 1)
        return False

    def _count_unsent(self, code: int | None, count: int) -> None:
        self._drops[send_drop(code)] += count

    def statistics(self) -> DatagramStatistics:
        """See ``Datagrams``."""
        count_kernel_drops(self._socket, self._drops)
        return DatagramStatistics(self._received, self._sent, dict(self._drops))

    def close(self) -> None:
        """See ``Datagrams``. A task that waits in ``receive_batch`` gets ClosedResourceError."""
        count_kernel_drops(self._socket, self._drops)
        if self._socket.fileno() >= 0 and trio.lowlevel.in_trio_run():
            trio.lowlevel.notify_closing(self._socket)
            if self._timer is not None:
                trio.lowlevel.notify_closing(self._timer)
        self._socket.close()
        self._timer = None
        self._resources.close()


def send_drop(code: int | None) -> Drop:
    """Name the reason why the kernel did not take a datagram."""
    return Drop.SEND_BLOCKED if code in _BLOCKED else Drop.SEND_ERROR


def count_kernel_drops(sock: socket.socket, drops: Counter[Drop]) -> None:
    """Set KERNEL_QUEUE to the kernel's own count, unless it is 0 or the socket is closed."""
    with contextlib.suppress(OSError):
        meminfo = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        if lost := _MEMINFO.unpack(meminfo)[-1]:
            drops[Drop.KERNEL_QUEUE] = lost
