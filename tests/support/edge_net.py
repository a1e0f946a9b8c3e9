"""A whole edge and its callers, on a virtual network or on loopback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import inf

import trio

from edge.address import Address
from edge.backends.echo import Echo
from edge.backends.protocol import Backend
from edge.client.caller import Caller
from edge.config import TransceiverConfig
from edge.datagram import Datagrams
from edge.registry.directory import Directory, keep_relay, keep_transceiver
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import RelayRecord, TransceiverRecord
from edge.relay import Relay
from edge.routing import FlowTable
from edge.token import TokenKey, TokenSealer
from edge.transceiver.service import Environment, OpenedCall, Transceiver
from edge.webrtc.certificate import DtlsCertificate
from tests.support.net import Network

SECRET = "a fleet secret that is long enough"
CERTIFICATES = DtlsCertificate.generate(), DtlsCertificate.generate()
UNIX_OFFSET = 1_800_000_000.0
HOST = "127.0.0.1"  # good on both networks


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

    @asynccontextmanager
    async def call(
        self, transceiver: int = 0, *, port: int = 0, audio: bool = True
    ) -> AsyncIterator[Phone]:
        """Open a call to one of the transceivers and keep it running."""
        phone = Phone(self.network.socket((HOST, port)), audio=audio)
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

    def __init__(self, socket: Datagrams, *, audio: bool = True) -> None:
        self.socket = socket
        self.caller = Caller(CERTIFICATES[0], now=trio.current_time())
        self.call: OpenedCall | None = None
        self._audio = audio

    async def dial(self, transceiver: Transceiver) -> None:
        """Offer, take the answer, and send the first check."""
        self.call = await transceiver.open_call(self.caller.offer.encode())
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
                await trio.sleep(0.01)

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

    async def _tick(self) -> None:
        while True:
            self._send(self.caller.tick(now=trio.current_time()))
            deadline = self.caller.deadline
            await trio.sleep(0.005 if deadline == inf else max(deadline - trio.current_time(), 0))


@asynccontextmanager
async def open_edge(
    network: Network,
    *,
    transceivers: int = 1,
    backend: Backend | None = None,
    config: TransceiverConfig | None = None,
) -> AsyncIterator[VirtualEdge]:
    """Run a relay and some transceivers; all is closed at the end."""
    registry = MemoryRegistry(clock=trio.current_time)
    directory = Directory(registry)
    sealer = TokenSealer(TokenKey.derive(SECRET))
    public, internal = network.socket((HOST, 0)), network.socket((HOST, 0))
    sockets = [network.socket((HOST, 0)) for _ in range(transceivers)]
    relay = Relay(
        public,
        internal,
        flows=FlowTable(
            public.address,
            max_flows=1_000,
            max_provisional=64,
            provisional_seconds=5.0,
            idle_seconds=60.0,
        ),
        sealer=sealer,
        cluster=0,
        directory=directory,
        registry=registry,
        unix=_unix,
    )
    services = [
        Transceiver(
            socket,
            slot=await registry.claim_slot(),
            cluster=0,
            sealer=sealer,
            directory=directory,
            backend=backend or Echo(),
            certificate=CERTIFICATES[1],
            config=config or TransceiverConfig(),
            environment=Environment(clock=trio.current_time, unix=_unix, entropy=os.urandom),
        )
        for socket in sockets
    ]
    relay_record = RelayRecord(
        name="relay", cluster=0, public=public.address, internal=internal.address
    )
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(directory.run)
            await nursery.start(relay.run)
            await nursery.start(partial(keep_relay, registry, lambda: relay_record))
            for service, socket in zip(services, sockets, strict=True):
                record = TransceiverRecord(
                    slot=service.slot, cluster=0, address=socket.address, http_url=""
                )
                await nursery.start(service.run)
                await nursery.start(partial(_keep, registry, record))
            yield VirtualEdge(network, registry, relay, public.address, services)
            nursery.cancel_scope.cancel()
    finally:
        for each in (public, internal, *sockets):
            each.close()


async def _keep(
    registry: MemoryRegistry, record: TransceiverRecord, *, task_status: trio.TaskStatus[None]
) -> None:
    await keep_transceiver(registry, lambda: record, task_status=task_status)
