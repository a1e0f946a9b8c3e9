"""A running forwarder, native or pure, and those around it that a test speaks for.

What must not come out is stated as well as what must: ``Rig.counts`` waits until all counters are
as a test says.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from edge.address import Address
from edge.datagram import Datagrams
from edge.errors import Drop
from edge.forwarder.protocol import (
    FIRST_PEER,
    FlowEntry,
    Forwarder,
    Raised,
)
from edge.forwarder.pure import PureForwarder
from edge.wire.spp import Path, encode_path
from tests.support.net import LoopbackNetwork, Network

RTP = b"\x80\x6f\x00\x01 a media packet"
DTLS = b"\x16\xfe\xfd a handshake record"
NOISE = b"\x50 of no protocol"
COOKIE = b"\x21\x12\xa4\x42"
USERNAME = b"\x00\x06\x00\x06server\x00\x00"
INTEGRITY = b"\x00\x08\x00\x14" + bytes(20)
PRIORITY = b"\x00\x24\x00\x04" + bytes(4)


def stun(kind: int, *attributes: bytes, length: int | None = None, cookie: bytes = COOKIE) -> bytes:
    """Write a STUN message; ``length`` overrides what the header says."""
    body = b"".join(attributes)
    size = len(body) if length is None else length
    return struct.pack("!HH", kind, size) + cookie + bytes(12) + body


REQUEST = stun(0x0001, PRIORITY, USERNAME, INTEGRITY)
CARRIED = b"\xc0\x71\x00\x10" + bytes(16) + b"\xc0\x70\x03\x83" + bytes(900)
"""A check's and its answer's part of a DTLS handshake (SPED): attributes we do not know."""
CARRIER = stun(0x0001, USERNAME, PRIORITY, CARRIED, INTEGRITY)
INDICATION = stun(0x0011)
SUCCESS = stun(0x0101, PRIORITY)
CARRYING_SUCCESS = stun(0x0101, PRIORITY, CARRIED, INTEGRITY)
ERROR = stun(0x0111, PRIORITY)

UNSOUND = (
    REQUEST[:1],
    REQUEST[:19],
    stun(0x0011, cookie=b"\x21\x12\xa4\x43"),
    stun(0x0011, length=4),
    stun(0x0101, PRIORITY, length=4),
    stun(0x0111, b"\x00\x00"),
    REQUEST + b"\x00",
)
UNASKED = (
    stun(0x0003, USERNAME),
    stun(0x0201, USERNAME),
    stun(0x0001),
    stun(0x0001, INTEGRITY, USERNAME),
    stun(0x0001, *[PRIORITY] * 32, USERNAME),
    stun(0x0001, b"\x00\x06\x00\x09server\x00\x00"),
    stun(0x0001, b"\x00\x24\xff\xff", USERNAME),
)
ASKED = (
    REQUEST,
    CARRIER,
    stun(0x0001, CARRIED, USERNAME, INTEGRITY),
    stun(0x0001, USERNAME),
    stun(0x0001, *[PRIORITY] * 31, USERNAME),
    stun(0x0001, b"\x00\x06\x00\x05serve\x00\x00\x00"),
    stun(0x0001, b"\x00\x06\x00\x00"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """How a forwarder is made."""

    host: str
    stale: Callable[[], None]
    strangers_per_second: float
    max_flows: int


@dataclass(frozen=True, slots=True)
class Made:
    """A forwarder and where it is."""

    forwarder: Forwarder
    public: Address
    internal: Address


def make_pure(net: Network, options: Options) -> Made:
    public, internal = (net.packets((options.host, 0)) for _ in range(2))
    forwarder = PureForwarder(
        public,
        internal,
        advertised=public.address,
        stale=options.stale,
        strangers_per_second=options.strangers_per_second,
        max_flows=options.max_flows,
        clock=trio.current_time,
    )
    return Made(forwarder, public.address, internal.address)


def make_native(net: Network, options: Options) -> Made:
    from edge.forwarder.native import NativeForwarder

    assert isinstance(net, LoopbackNetwork)
    public, internal = (net.raw((options.host, 0)) for _ in range(2))
    advertised: Address = public.getsockname()[:2]
    forwarder = NativeForwarder(
        [public],
        [internal],
        advertised=advertised,
        stale=options.stale,
        strangers_per_second=options.strangers_per_second,
        max_flows=options.max_flows,
    )
    return Made(forwarder, advertised, internal.getsockname()[:2])


MAKERS = {"pure": make_pure, "native": make_native}


class Rig:
    """A running forwarder with those that a test speaks for around it."""

    def __init__(self, net: Network, made: Made, host: str) -> None:
        self.net = net
        self.host = host
        self.forwarder = made.forwarder
        self.public = made.public
        self.internal = made.internal
        self.stale = 0
        self.client = self.socket()

    @property
    def path(self) -> Path:
        """The path of the one client that most tests need."""
        return encode_path(self.client.address, self.public)

    def socket(self) -> Datagrams:
        return self.net.socket((self.host, 0))

    def hint_stale(self) -> None:
        self.stale += 1

    def transceiver(self, hop: int, *, group: int | None = None) -> Datagrams:
        sock = self.socket()
        self.forwarder.set_hop(hop, sock.address, group=group or hop, public=None)
        return sock

    def peer(self, hop: int, *, group: int = FIRST_PEER) -> tuple[Datagrams, Address]:
        """Add a relay of another cluster; returns its internal socket and its public address."""
        inside, outside = self.socket(), self.socket()
        self.forwarder.set_hop(hop, inside.address, group=group, public=outside.address)
        return inside, outside.address

    def flow(self, owner: int, challenger: int = 0, *, path: Path | None = None) -> None:
        entry = FlowEntry(owner, 1.0, challenger, 1.0)
        assert self.forwarder.flows.put(self.path if path is None else path, entry)

    async def raised(self, count: int) -> list[Raised]:
        """Wait for so many raised datagrams."""
        got: list[Raised] = []
        with trio.fail_after(5):
            while len(got) < count:
                got += await self.forwarder.receive()
        return got

    async def nothing_raised(self) -> bool:
        with trio.move_on_after(0.02):
            await self.forwarder.receive()
            return False
        return True

    async def counts(
        self,
        *,
        inwards: Iterable[bytes] = (),
        outwards: Iterable[bytes] = (),
        drops: Mapping[Drop, int] | None = None,
    ) -> None:
        """Wait until the counters say that exactly these payloads went and these drops were."""
        ins, outs = list(inwards), list(outwards)
        wanted = len(ins), sum(map(len, ins)), len(outs), sum(map(len, outs)), drops or {}
        with trio.move_on_after(3):
            while self._counters() != wanted:
                await trio.sleep(0.002)
        await trio.sleep(0.01)
        assert (now := self._counters()) == wanted, (now, wanted)

    def _counters(self) -> tuple[int, int, int, int, Mapping[Drop, int]]:
        now = self.forwarder.statistics()
        return (
            now.packets_to_transceivers,
            now.bytes_to_transceivers,
            now.packets_to_clients,
            now.bytes_to_clients,
            {drop: count for drop, count in now.drops.items() if count},
        )


class OpenRig(Protocol):
    """How a body gets its rig."""

    def __call__(
        self, *, strangers_per_second: float = ..., max_flows: int = ..., running: bool = ...
    ) -> AbstractAsyncContextManager[Rig]: ...


Make = Callable[[Network, Options], Made]


def rig_opener(net: Network, make: Make, host: str) -> OpenRig:
    """Bind what a body need not know."""

    @contextlib.asynccontextmanager
    async def open_rig(
        *, strangers_per_second: float = 1_000.0, max_flows: int = 64, running: bool = True
    ) -> AsyncIterator[Rig]:
        options = Options(host, lambda: rig.hint_stale(), strangers_per_second, max_flows)
        rig = Rig(net, make(net, options), host)
        async with trio.open_nursery() as nursery:
            if running:
                await nursery.start(rig.forwarder.run)
            yield rig
            nursery.cancel_scope.cancel()

    return open_rig
