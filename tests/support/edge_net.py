"""A whole edge and its callers, on a virtual network or on loopback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Protocol, cast

import trio

from edge.address import Address
from edge.backends.echo import Echo
from edge.backends.protocol import Backend
from edge.client.caller import Caller
from edge.client.channel import CallerChannel
from edge.config import AudioConfig, TransceiverConfig
from edge.datagram import Datagrams
from edge.forwarder.pure import PureForwarder
from edge.registry.directory import Directory
from edge.registry.heartbeat import keep_relay, keep_transceiver
from edge.registry.lease import LEASE_SECONDS, Lease
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import Registry, RelayRecord, TransceiverRecord
from edge.registry.sessions import Claim
from edge.relay import Relay
from edge.routing import FlowTable
from edge.token import TokenKey, TokenSealer
from edge.transceiver.answers import OpenedCall
from edge.transceiver.checkpoint import CheckpointKeys
from edge.transceiver.environment import Environment
from edge.transceiver.mark import MARK
from edge.transceiver.mobility import Fleet
from edge.transceiver.service import Transceiver
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.offload import MediaOffload
from tests.support.net import Network, VirtualNetwork
from tests.support.severed import Severed

SECRET = "a fleet secret that is long enough"
CERTIFICATES = DtlsCertificate.generate(), DtlsCertificate.generate()
UNIX_OFFSET = 1_800_000_000.0
HOST = "127.0.0.1"  # good on both networks

Task = Callable[..., Awaitable[None]]


class Closable(Protocol):
    """A socket of whatever kind."""

    def close(self) -> None: ...


def _unix() -> float:
    return trio.current_time() + UNIX_OFFSET


@dataclass(frozen=True)
class VirtualEdge:
    """One relay and its transceivers."""

    network: Network
    registry: MemoryRegistry
    relay: Relay
    public: Address
    transceivers: Sequence[Transceiver]
    relay_scope: trio.CancelScope
    """Ends the relay: its tasks, its sockets and its record."""
    transceiver_scopes: Sequence[trio.CancelScope]
    """The same for each transceiver."""
    ways: Sequence[Severed]
    """Each transceiver's way to the registry."""
    addresses: Sequence[Address]
    """Where each transceiver is."""

    def cut_off(self, transceiver: int) -> None:
        """Cut a transceiver off from everybody, as if it had died or its network had."""
        assert isinstance(self.network, VirtualNetwork)
        self.ways[transceiver].cut = True
        self.network.isolated.add(self.addresses[transceiver])

    def join_again(self, transceiver: int) -> None:
        """Undo ``cut_off``."""
        assert isinstance(self.network, VirtualNetwork)
        self.ways[transceiver].cut = False
        self.network.isolated.discard(self.addresses[transceiver])

    @asynccontextmanager
    async def call(
        self,
        transceiver: int = 0,
        *,
        port: int = 0,
        audio: bool = True,
        direction: str = "sendrecv",
        channel: CallerChannel | None = None,
    ) -> AsyncIterator[Phone]:
        """Open a call to one of the transceivers and keep it running."""
        socket = self.network.socket((HOST, port))
        phone = Phone(socket, audio=audio, direction=direction, channel=channel)
        try:
            async with trio.open_nursery() as nursery:
                await phone.dial(self.transceivers[transceiver])
                nursery.start_soon(phone.run)
                yield phone
                nursery.cancel_scope.cancel()
        finally:
            phone.socket.close()


class Phone:
    """A caller with a socket."""

    def __init__(
        self,
        socket: Datagrams,
        *,
        audio: bool = True,
        direction: str = "sendrecv",
        channel: CallerChannel | None = None,
    ) -> None:
        self.socket = socket
        self.caller = Caller(CERTIFICATES[0], now=trio.current_time(), channel=channel)
        self.call: OpenedCall | None = None
        self._audio = audio
        self._direction = direction
        self._changed = trio.Event()

    async def dial(self, transceiver: Transceiver) -> None:
        """Offer, take the answer, and send the first check."""
        offer = self.caller.offer.encode().replace(b"sendrecv", self._direction.encode())
        self.call = await transceiver.open_call(offer)
        answer = self.call.answer.encode()
        self._send(self.caller.take_answer(answer, now=trio.current_time()))

    async def run(self) -> None:
        """Serve the machine until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive)
            nursery.start_soon(self._tick)

    async def connected(self, *, within: float = 5.0) -> None:
        """Wait until media flows, or fail."""
        await self.heard(1, within=within)

    async def heard(self, count: int, *, within: float = 5.0) -> None:
        """Wait until this many more packets came back, or fail."""
        goal = self.caller.journal.received + count
        with trio.fail_after(within):
            while self.caller.journal.received < goal:
                await self._changed.wait()

    def say(self, message: str | bytes) -> None:
        """Send a message on the channel."""
        self._send(self.caller.send_message(message, now=trio.current_time()))
        self._wake()

    async def told(self, count: int, *, within: float = 5.0) -> list[str | bytes]:
        """Wait until this many messages have come on the channel in all, or fail."""
        channel = self.caller.channel
        assert channel is not None
        with trio.fail_after(within):
            while len(channel.received) < count:
                await self._changed.wait()
        return list(channel.received)

    def hang_up(self) -> None:
        """Say goodbye by close_notify."""
        self._send(self.caller.close())

    def _send(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            if self.caller.server is not None:
                self.socket.send(datagram, self.caller.server)

    async def _receive(self) -> None:
        while True:
            for datagram, _ in await self.socket.receive_batch():
                self._send(self.caller.receive(datagram, now=trio.current_time()))
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _tick(self) -> None:
        while not self.caller.closed:
            self._send(self.caller.tick(now=trio.current_time()))
            if self.caller.deadline == inf:
                await self._changed.wait()
            else:
                await trio.sleep_until(self.caller.deadline)


@asynccontextmanager
async def open_edge(
    network: Network,
    *,
    transceivers: int = 1,
    backend: Backend | None = None,
    config: TransceiverConfig | None = None,
    audio: AudioConfig | None = None,
    provisional_seconds: float = 5.0,
    offload: MediaOffload | None = None,
    mobile: bool = False,
) -> AsyncIterator[VirtualEdge]:
    """Run a relay and some transceivers; all is closed at the end.

    Where they are ``mobile``, sessions can go from one to another.
    """
    lease_seconds = LEASE_SECONDS if mobile else 3.0
    registry = MemoryRegistry(clock=trio.current_time, lease_seconds=lease_seconds)
    ways = [Severed(registry) for _ in range(transceivers)]
    directory = Directory(registry)
    sealer = TokenSealer(TokenKey.derive(SECRET))
    slots = [await registry.claim_slot() for _ in range(transceivers)]
    for epoch in (1, 2):
        await registry.sessions.claim(Claim(session=MARK, owner=slots[0], epoch=epoch))
    public, internal = network.packets((HOST, 0)), network.packets((HOST, 0))
    sockets = [network.socket((HOST, 0)) for _ in slots]
    forwarder = PureForwarder(
        public,
        internal,
        advertised=public.address,
        stale=directory.hint_stale,
        strangers_per_second=20_000.0,
        max_flows=1_000,
        clock=trio.current_time,
    )
    relay = Relay(
        forwarder,
        public=public.address,
        flows=FlowTable(
            forwarder.flows,
            max_flows=1_000,
            max_provisional=64,
            provisional_seconds=provisional_seconds,
            idle_seconds=60.0,
        ),
        sealer=sealer,
        cluster=0,
        fleet=directory,
        registry=registry,
        unix=_unix,
    )
    services = [
        Transceiver(
            socket,
            slot=slot,
            cluster=0,
            sealer=sealer,
            directory=directory,
            backend=backend or Echo(),
            certificate=CERTIFICATES[1],
            config=config or TransceiverConfig(),
            audio=audio,
            environment=Environment(clock=trio.current_time, unix=_unix, entropy=os.urandom),
            offload=offload,
            fleet=_fleet(way) if mobile else None,
        )
        for slot, socket, way in zip(slots, sockets, ways, strict=True)
    ]
    relay_record = RelayRecord(
        name="relay", cluster=0, public=public.address, internal=internal.address
    )
    keep = partial(keep_relay, registry, lambda: relay_record, interval=lease_seconds / 4)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(directory.run)
            relay_scope = await nursery.start(_serve_part, (public, internal), relay.run, keep)
            scopes = [
                await nursery.start(
                    _serve_part, (socket,), service.run, _keep(way, service, socket)
                )
                for service, socket, way in zip(services, sockets, ways, strict=True)
            ]
            yield VirtualEdge(
                network=network,
                registry=registry,
                relay=relay,
                public=public.address,
                transceivers=services,
                relay_scope=relay_scope,
                transceiver_scopes=scopes,
                ways=ways,
                addresses=[socket.address for socket in sockets],
            )
            nursery.cancel_scope.cancel()
    finally:
        closables: list[Closable] = [public, internal, *sockets]
        for each in closables:
            each.close()


async def _serve_part(
    sockets: Sequence[Closable],
    *tasks: Task,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    """Run the tasks of a relay or a transceiver; its sockets are closed when they end."""
    try:
        async with trio.open_nursery() as nursery:
            for task in tasks:
                await nursery.start(task)
            task_status.started(nursery.cancel_scope)
    finally:
        for each in sockets:
            each.close()


def _keep(way: Severed, service: Transceiver, socket: Datagrams) -> Task:
    def make_record() -> TransceiverRecord:
        return TransceiverRecord(
            slot=service.slot,
            cluster=0,
            address=socket.address,
            http_url="",
            draining=service.draining,
        )

    registry = cast("Registry", way)
    return partial(keep_transceiver, registry, make_record, interval=0.125, lease=service.lease)


def _fleet(way: Severed) -> Fleet:
    return Fleet(way, Lease(now=trio.current_time()), CheckpointKeys(SECRET))
