"""A relay, transceivers that a test speaks for, and a registry that it watches."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import trio

from edge.address import Address
from edge.datagram import Datagrams
from edge.errors import Drop
from edge.forwarder.pure import PureForwarder
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import (
    FlowRecord,
    RegistryUnavailable,
    RelayRecord,
    Slot,
    TransceiverRecord,
)
from edge.relay import Relay
from edge.routing import FlowTable
from edge.token import TokenKey, TokenSealer
from edge.wire import stun, stun_peek
from edge.wire.spp import encode_path, split
from tests.support.net import Network, receive

SECRET = "a fleet secret of 32 characters, or more"
CLUSTER = 7
UNIX = 1_800_000_000
IDLE = 60.0
SEALER = TokenSealer(TokenKey.derive(SECRET))
DTLS = b"\x16\xfe\xfd a handshake record"
RTP = b"\x80\x6f\x00\x01 a media packet"


class FakeFleet:
    """Who is alive, as the test says."""

    def __init__(self) -> None:
        self.hints = 0
        self._transceivers: dict[int, TransceiverRecord] = {}
        self._relays: dict[str, RelayRecord] = {}
        self._changed: Callable[[], None] = lambda: None

    @property
    def transceivers(self) -> Sequence[TransceiverRecord]:
        return tuple(self._transceivers.values())

    @property
    def relays(self) -> Sequence[RelayRecord]:
        return tuple(self._relays.values())

    @contextlib.contextmanager
    def watch(self, changed: Callable[[], None]) -> Iterator[None]:
        self._changed = changed
        changed()
        yield

    def hint_stale(self) -> None:
        self.hints += 1

    def add(self, slot: int, address: Address, *, draining: bool = False) -> None:
        self._transceivers[slot] = TransceiverRecord(
            slot=Slot(slot), cluster=CLUSTER, address=address, http_url="", draining=draining
        )
        self._changed()

    def remove(self, slot: int) -> None:
        del self._transceivers[slot]
        self._changed()

    def add_relay(self, record: RelayRecord) -> None:
        self._relays[record.name] = record
        self._changed()

    def remove_relay(self, name: str) -> None:
        del self._relays[name]
        self._changed()


class WatchedRegistry(MemoryRegistry):
    """Counts what it is asked, and answers late, never or with an error."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Address] = []
        self.saved: list[FlowRecord] = []
        self.removed: list[Address] = []
        self.seconds = 0.0
        self.down = False
        self.broken = False

    async def find_flow(self, public: Address, client: Address) -> FlowRecord | None:
        self.asked.append(client)
        await trio.sleep(self.seconds)
        if self.down:
            raise RegistryUnavailable
        return await super().find_flow(public, client)

    def save_flow(self, record: FlowRecord, *, seconds: float) -> None:
        if self.broken:
            raise ZeroDivisionError
        self.saved.append(record)
        super().save_flow(record, seconds=seconds)

    def remove_flow(self, public: Address, client: Address) -> None:
        self.removed.append(client)
        super().remove_flow(public, client)


@dataclass
class Rig:
    """A relay, and sockets that play the two transceivers and the clients around it."""

    net: Network
    relay: Relay
    public: Address
    internal: Address
    fleet: FakeFleet
    registry: WatchedRegistry
    transceivers: dict[int, Datagrams] = field(default_factory=dict)
    transactions: int = 0

    def client(self) -> Datagrams:
        return self.net.socket(("127.0.0.1", 0))

    def add_transceiver(self, slot: int) -> Datagrams:
        sock = self.transceivers[slot] = self.net.socket(("127.0.0.1", 0))
        self.fleet.add(slot, sock.address)
        return sock

    def transaction(self) -> bytes:
        self.transactions += 1
        return self.transactions.to_bytes(12)

    def request(self, token: str, transaction: bytes | None = None) -> bytes:
        return stun.encode_request(
            transaction or self.transaction(),
            username=f"{token}:client",
            password="of the server",
            priority=1,
        )

    async def answer(self, slot: int, *, by: int = 0) -> None:
        """Let a transceiver answer one request with success, or another that it is passed to."""
        path, payload = split((await receive(self.transceivers[slot]))[0])
        _, transaction = stun_peek.peek(payload)
        success = stun.encode_success(transaction, ("192.0.2.1", 1), password="of the server")
        self.transceivers[by or slot].send_framed(path, success, self.internal)

    async def connect(self, client: Datagrams, slot: int) -> None:
        """Let a client's check be answered with success, which confirms its flow."""
        client.send(self.request(token(slot)), self.public)
        await self.answer(slot)
        [answer] = await receive(client)
        assert stun_peek.peek(answer)[0] is stun_peek.MessageClass.SUCCESS

    def to_client(self, slot: int, client: Address, payload: bytes) -> None:
        path = encode_path(client, self.public)
        self.transceivers[slot].send_framed(path, payload, self.internal)

    def drops(self) -> dict[Drop, int]:
        return dict(self.relay.statistics().drops)


def token(slot: int, *, cluster: int = CLUSTER, expiry: int = UNIX + 3600) -> str:
    return SEALER.seal(slot, cluster, expiry, 1)


@contextlib.asynccontextmanager
async def open_rig(
    net: Network,
    *,
    registry: WatchedRegistry | None = None,
    lookups_per_second: float = 100.0,
    public_port: int = 0,
    cluster: int = CLUSTER,
) -> AsyncIterator[Rig]:
    public, internal = (net.packets(("127.0.0.1", port)) for port in (public_port, 0))
    fleet = FakeFleet()
    registry = registry if registry is not None else WatchedRegistry()
    forwarder = PureForwarder(
        public,
        internal,
        advertised=public.address,
        stale=fleet.hint_stale,
        strangers_per_second=10_000.0,
        max_flows=100,
        clock=trio.current_time,
    )
    relay = Relay(
        forwarder,
        public=public.address,
        flows=FlowTable(
            forwarder.flows,
            max_flows=100,
            max_provisional=16,
            provisional_seconds=5.0,
            idle_seconds=IDLE,
        ),
        sealer=SEALER,
        cluster=cluster,
        fleet=fleet,
        registry=registry,
        lookups_per_second=lookups_per_second,
        unix=lambda: UNIX,
    )
    rig = Rig(net, relay, public.address, internal.address, fleet, registry)
    for slot in (1, 2):
        rig.add_transceiver(slot)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.run)
        yield rig
        nursery.cancel_scope.cancel()
    for sock in (public, internal):
        sock.close()


async def relay_carries_a_call(net: Network) -> None:
    """The way of a call, for virtual and for real sockets."""
    async with open_rig(net) as rig:
        client, transceiver = rig.client(), rig.transceivers[1]
        await rig.connect(client, 1)
        for datagram in (DTLS, RTP, bytes([20]), bytes([255]) * 1200):
            client.send(datagram, rig.public)
            assert await receive(transceiver) == [
                encode_path(client.address, rig.public) + datagram
            ]
            rig.to_client(1, client.address, datagram)
            assert await receive(client) == [datagram]
        statistics = rig.relay.statistics()
        assert statistics.packets_to_transceivers == 5
        assert statistics.packets_to_clients == 5
        assert (statistics.flows, statistics.provisional_flows) == (1, 0)
        assert statistics.drops == {}


def record(rig: Rig, client: Datagrams, slot: int) -> None:
    rig.registry.save_flow(
        FlowRecord(public=rig.public, client=client.address, cluster=CLUSTER, slot=Slot(slot)),
        seconds=IDLE,
    )
