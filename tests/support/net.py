"""A virtual UDP network on a virtual clock, and its twin on loopback.

A datagram's fate is a function of (seed, flow, index in the flow) and of nothing else, so the
random order in which Trio runs ready tasks changes no outcome.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from socket import socket as Socket
from typing import Final, NamedTuple, Protocol

import trio

from edge.address import Address
from edge.datagram import Datagrams, DatagramSocket, DatagramStatistics, bind_udp
from edge.errors import Drop
from edge.mmsg import BATCH, PACKET_BYTES, Endpoint, to_address, to_endpoint
from edge.packets import KernelPacketSocket, PacketSocket, Waits
from tests.support.clock import VirtualClock

QUEUE: Final = 1024
"""Datagrams a virtual socket holds unread."""


@dataclass(frozen=True, slots=True)
class Link:
    """The conditions from one address to another; times in seconds, the rest probabilities."""

    latency: float = 0.005
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Reordered datagrams take up to four latencies more and may be overtaken."""
    held_until: float = 0.0
    """Nothing arrives before this time on Trio's clock: a stall, after which all comes at once."""

    @property
    def random(self) -> bool:
        """Whether a datagram's fate is a matter of chance; most links of the tests are not."""
        return bool(self.jitter or self.loss or self.duplicate or self.reorder)

    def fate(self, seed: str) -> Fate:
        """Throw the dice for one datagram."""
        dice = random.Random(seed)
        return Fate(
            lost=dice.random() < self.loss,
            doubled=dice.random() < self.duplicate,
            overtaken=dice.random() < self.reorder,
            delay=dice.random() * self.jitter,
            later=dice.random() * 4 * self.latency,
        )


class Fate(NamedTuple):
    """What becomes of one datagram; times in seconds."""

    lost: bool = False
    doubled: bool = False
    overtaken: bool = False
    delay: float = 0.0
    later: float = 0.0


_SURE: Final = Fate()


class Network(Protocol):
    """Where test bodies get their sockets, virtual or real."""

    def socket(self, address: Address) -> Datagrams:
        """Bind a socket; port 0 takes a free one."""

    def packets(self, address: Address) -> PacketSocket:
        """Bind a socket for a forwarder."""


class VirtualNetwork:
    def __init__(self, *, seed: int = 0, link: Link | None = None) -> None:
        self._seed = seed
        self._default = link if link is not None else Link()
        self._links: dict[tuple[Address, Address], Link] = {}
        self.isolated: set[Address] = set()
        """Addresses to and from which nothing gets through."""
        self._sockets: dict[Address, VirtualSocket] = {}
        self._ports = itertools.count(40_000)
        self._sent: Counter[tuple[Address, Address]] = Counter()
        self._latest: dict[tuple[Address, Address], float] = {}
        self._order = itertools.count()
        self._in_flight: list[tuple[float, int, bytes, Address, Address]] = []

    def socket(self, address: Address) -> VirtualSocket:
        return VirtualSocket(self, self._bound(address))

    def packets(self, address: Address) -> VirtualPacketSocket:
        return VirtualPacketSocket(self, self._bound(address))

    def set_link(self, source: Address, destination: Address, link: Link) -> None:
        """Set the conditions of one direction between two addresses."""
        self._links[source, destination] = link

    @property
    def due(self) -> float:
        """When the next datagram arrives."""
        return self._in_flight[0][0] if self._in_flight else math.inf

    def happen(self) -> None:
        """Deliver what arrives now."""
        now = trio.current_time()
        while self._in_flight and self._in_flight[0][0] <= now:
            self._deliver()

    def _bound(self, address: Address) -> Address:
        address = (address[0], address[1] or next(self._ports))
        if address in self._sockets:
            raise OSError("address in use")
        return address

    def transmit(self, data: bytes, source: Address, destination: Address) -> None:
        """Send a datagram; the source may be anybody's, as on a network without filters."""
        flow = source, destination
        link = self._links.get(flow, self._default)
        index = self._sent[flow]
        self._sent[flow] += 1
        fate = link.fate(f"{self._seed} {flow} {index}") if link.random else _SURE
        if fate.lost or not self.isolated.isdisjoint(flow):
            return
        due = max(trio.current_time() + link.latency + fate.delay, link.held_until)
        if fate.overtaken:
            due += fate.later
        else:
            due = self._latest[flow] = max(due, self._latest.get(flow, due))
        for copy in range(1 + fate.doubled):
            self._carry(due + copy * fate.later, data, flow)

    def _carry(self, due: float, data: bytes, flow: tuple[Address, Address]) -> None:
        """Let a datagram arrive at this time on Trio's clock."""
        heapq.heappush(self._in_flight, (due, next(self._order), data, *flow))

    def _deliver(self) -> None:
        _, _, data, source, destination = heapq.heappop(self._in_flight)
        if receiver := self._sockets.get(destination):
            receiver._arrived(data, source)
        elif sender := self._sockets.get(source):
            sender._refused()


class VirtualSocket:
    """``Datagrams`` without a kernel."""

    def __init__(self, network: VirtualNetwork, address: Address) -> None:
        self._network = network
        self._address = address
        self._queue: deque[tuple[bytes, Address]] = deque()
        self._readable = trio.Event()
        self._closed = False
        self._received = 0
        self._sent = 0
        self._drops: Counter[Drop] = Counter()
        network._sockets[address] = self

    @property
    def address(self) -> Address:
        return self._address

    def rebind(self, address: Address) -> None:
        """Move to another address, as behind a NAT that forgot its mapping."""
        address = self._network._bound(address)
        del self._network._sockets[self._address]
        self._address = address
        self._network._sockets[address] = self

    @property
    def unread(self) -> int:
        """Datagrams that have arrived and nobody took."""
        return len(self._queue)

    async def receive_batch(self) -> list[tuple[bytes, Address]]:
        if self._queue or self._closed:
            await trio.lowlevel.checkpoint()
        while not self._queue and not self._closed:
            self._readable = trio.Event()
            await self._readable.wait()
        if self._closed:
            raise trio.ClosedResourceError
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        self._received += len(batch)
        return batch

    def send(self, data: bytes, address: Address) -> bool:
        if self._closed or len(data) > 65_507:
            self._drops[Drop.SEND_ERROR] += 1
            return False
        self._sent += 1
        self._network.transmit(bytes(data), self._address, address)
        return True

    def send_framed(self, header: bytes, payload: bytes, address: Address) -> bool:
        return self.send(header + payload, address)

    def hold(self) -> None:
        """Each is sent at once here."""

    def flush(self) -> None:
        """Nothing is held back."""

    def statistics(self) -> DatagramStatistics:
        return DatagramStatistics(self._received, self._sent, dict(self._drops))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            del self._network._sockets[self._address]
            self._readable.set()

    def _arrived(self, data: bytes, source: Address) -> None:
        if len(self._queue) >= QUEUE:
            self._drops[Drop.QUEUE_FULL] += 1
            return
        self._queue.append((data, source))
        self._readable.set()

    def _refused(self) -> None:
        """Nobody is there; most sockets do not care."""


class VirtualPacketSocket(VirtualSocket):
    """``PacketSocket`` without a kernel."""

    def __init__(self, network: VirtualNetwork, address: Address) -> None:
        super().__init__(network, address)
        self.unreachable = 0
        self._watching = False

    @contextlib.contextmanager
    def waits(self, other: VirtualPacketSocket) -> Iterator[Waits]:
        async def readable() -> None:
            if self._queue or other._queue:
                await trio.lowlevel.checkpoint()
                return
            self._readable = other._readable = trio.Event()
            await self._readable.wait()

        yield Waits(readable, trio.sleep)

    def watch_errors(self) -> None:
        self._watching = True

    def receive(self) -> list[tuple[bytes, Endpoint]]:
        batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
        whole = [(data, to_endpoint(host)) for data, host in batch if len(data) <= PACKET_BYTES]
        self._drops[Drop.MALFORMED] += len(batch) - len(whole)
        return whole

    def send_all(self, datagrams: Sequence[bytes], endpoints: Sequence[bytes]) -> list[int]:
        pairs = zip(datagrams, endpoints, strict=True)
        return [place for place, pair in enumerate(pairs) if not self._transmit(*pair)]

    def drops(self) -> Mapping[Drop, int]:
        return self._drops + Counter({Drop.UNREACHABLE: self.unreachable})

    def _transmit(self, datagram: bytes, endpoint: bytes) -> bool:
        host, port = to_address(Endpoint(endpoint))
        if (":" in host) != (":" in self._address[0]) or host.startswith("::ffff:"):
            self._drops[Drop.SEND_ERROR] += 1
            return False
        return self.send(datagram, (host, port))

    def _refused(self) -> None:
        if self._watching:
            self.unreachable += 1
            self._readable.set()


@contextlib.asynccontextmanager
async def open_network(
    *, seed: int = 0, link: Link | None = None, network: VirtualNetwork | None = None
) -> AsyncIterator[VirtualNetwork]:
    """Run a virtual network; its sockets are closed at the end."""
    network = network or VirtualNetwork(seed=seed, link=link)
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, VirtualClock), "a virtual network needs autojump_clock"
    try:
        with clock.carrying(network):
            yield network
    finally:
        for sock in list(network._sockets.values()):
            sock.close()


class LoopbackNetwork:
    """The twin: the same calls over real sockets. Hosts must be loopback ones."""

    def __init__(self) -> None:
        self._sockets: list[DatagramSocket] = []
        self._raw: list[Socket] = []

    def socket(self, address: Address) -> DatagramSocket:
        sock = DatagramSocket(bind_udp(address))
        self._sockets.append(sock)
        return sock

    def packets(self, address: Address) -> KernelPacketSocket:
        return KernelPacketSocket(self.raw(address))

    def raw(self, address: Address) -> Socket:
        """Bind a plain socket."""
        sock = bind_udp(address)
        self._raw.append(sock)
        return sock


@contextlib.asynccontextmanager
async def open_loopback() -> AsyncIterator[LoopbackNetwork]:
    """Give loopback sockets; they are closed at the end."""
    network = LoopbackNetwork()
    try:
        yield network
    finally:
        for sock in network._sockets:
            sock.close()
        for raw in network._raw:
            raw.close()


async def receive(sock: Datagrams, count: int = 1, *, within: float = 5.0) -> list[bytes]:
    """Wait for ``count`` datagrams or fail; returns their bytes in the order of arrival."""
    got: list[bytes] = []
    with trio.fail_after(within):
        while len(got) < count:
            got += [data for data, _ in await sock.receive_batch()]
    return got


async def silence(sock: Datagrams, *, seconds: float = 0.2) -> bool:
    """Whether nothing arrives for some time."""
    with trio.move_on_after(seconds):
        await sock.receive_batch()
        return False
    return True
