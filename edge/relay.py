"""The relay: forwards between clients and transceivers, and answers nobody itself.

Packets pass in the ``forwarder``. This is what it leaves to Python: STUN checks, which go by their
token, their answers, which confirm flows by the rules of ``routing``, and whatever comes from
nobody known. After a restart the flow table is empty and the registry knows more: the first
datagram of an unknown client waits for one look-up, within the bounds of ``lookup``.

A transceiver may be gone while its sessions go on elsewhere. The relay knows nothing of sessions: a
check whose slot is gone goes to the owner of its flow or to an heir of the path, who passes it on
to the session's owner, and that one's answer tells where the flow belongs (``routing``).

A token may name another cluster. Then one of that cluster's relays, the *peer* that rendezvous
hashing gives this client, gets the datagram with its SPP header and takes it on to a transceiver;
the way back is the same. To each relay the next one is a hop like any other, so the same flows,
confirmations and records serve. A datagram never goes on to a third relay: what comes from a peer
must name a transceiver of our own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final, NamedTuple, Protocol

import structlog
import trio

from edge.address import Address, format_address
from edge.errors import Drop, RemoteProtocolError
from edge.forwarder.protocol import FIRST_PEER, Forwarder, Raised
from edge.lookup import Lookups, Outcome
from edge.registry.protocol import (
    FlowRecord,
    Registry,
    RegistryUnavailable,
    RelayListener,
    RelayRecord,
    Slot,
    TransceiverRecord,
)
from edge.rendezvous import weigh
from edge.routing import FlowTable, Heir
from edge.token import TokenSealer
from edge.wire.spp import Path, decode_give, decode_path
from edge.wire.stun import MessageClass, peek, peek_username

HOUSEKEEPING_SECONDS: Final = 0.5
HASHES_A_STEP: Final = 1_024
"""Of a walk over the flows of a hop that is gone, each a microsecond or two."""
LOOKUP_TASKS: Final = 8
LOOKUP_TIMEOUT: Final = 1.0  # seconds

log = structlog.get_logger()


class Fleet(Protocol):
    """What a relay must know of the others, at once and without asking anybody."""

    @property
    def transceivers(self) -> Sequence[TransceiverRecord]:
        """The living transceivers of our cluster."""

    @property
    def relays(self) -> Sequence[RelayRecord]:
        """The living relays of all clusters."""

    def watch(self, changed: Callable[[], None]) -> AbstractContextManager[None]:
        """Have ``changed`` called now and whenever somebody has come, moved or gone."""

    def hint_stale(self) -> None:
        """Ask for an early refresh."""


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """Counts since the start, and the sizes of what is held now."""

    packets_to_transceivers: int
    bytes_to_transceivers: int
    packets_to_clients: int
    bytes_to_clients: int
    wakes: int
    flows: int
    provisional_flows: int
    waiting_lookups: int
    drops: Mapping[Drop, int]


class _Hop(NamedTuple):
    """What the forwarder is told of a hop."""

    address: Address
    group: int
    public: Address | None


class Relay:
    """One public address. The forwarder and its sockets stay the caller's.

    ``public`` is its proxy address in SPP headers: over UDP, what clients are told. ``clock`` is
    monotonic and ``unix`` is unix time, both in seconds.
    """

    def __init__(
        self,
        forwarder: Forwarder,
        *,
        public: Address,
        flows: FlowTable,
        sealer: TokenSealer,
        cluster: int,
        fleet: Fleet,
        registry: Registry,
        lookups_per_second: float = 2_000.0,
        clock: Callable[[], float] = trio.current_time,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._forwarder = forwarder
        self._public = public
        self._flows = flows
        self._sealer = sealer
        self._cluster = cluster
        self._fleet = fleet
        self._registry = registry
        self._clock = clock
        self._unix = unix
        self._drops: Counter[Drop] = Counter()
        self._lookups = Lookups(self._restore, per_second=lookups_per_second, clock=clock)
        self._hops: dict[int, _Hop] = {}
        self._peers = _Peers(cluster)
        self._heirs: tuple[int, ...] = ()
        self._gone: set[int] = set()
        self._met = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled."""
        try:
            with self._fleet.watch(self._meet):
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._forwarder.run)
                    nursery.start_soon(self._serve)
                    nursery.start_soon(self._keep_house)
                    nursery.start_soon(self._bury_the_gone)
                    for _ in range(LOOKUP_TASKS):
                        nursery.start_soon(self._lookups.serve)
                    task_status.started()
        finally:
            self._lookups.clear()

    def statistics(self) -> RelayStatistics:
        """Return the counters."""
        forwarded = self._forwarder.statistics()
        return RelayStatistics(
            packets_to_transceivers=forwarded.packets_to_transceivers,
            bytes_to_transceivers=forwarded.bytes_to_transceivers,
            packets_to_clients=forwarded.packets_to_clients,
            bytes_to_clients=forwarded.bytes_to_clients,
            wakes=forwarded.wakes,
            flows=len(self._flows),
            provisional_flows=self._flows.provisional,
            waiting_lookups=len(self._lookups),
            drops=self._drops + self._flows.drops + Counter(forwarded.drops),
        )

    async def _serve(self) -> None:
        while True:
            batch = await self._forwarder.receive()
            now = self._clock()
            for raised in batch:
                self._handle(raised, now)

    def _handle(self, raised: Raised, now: float) -> None:
        try:
            drop = self._route(raised, now)
        except RemoteProtocolError as error:
            drop = error.drop
        except Exception:
            drop = Drop.BUG
            log.exception("bug in the relay")
        if drop is not None:
            self._drops[drop] += 1

    def _route(self, raised: Raised, now: float) -> Drop | None:
        path, payload, sender = raised
        if sender and sender not in self._hops:  # it went while this waited
            return Drop.UNKNOWN_SLOT
        if not payload:
            return self._given_back(raised, now)
        if sender and (slot := decode_give(payload)):
            return self._given(raised, slot, now)
        if payload[0] < 4:  # STUN; RFC 7983
            message_class, transaction_id = peek(payload)
            if sender == 0 and message_class is MessageClass.REQUEST:
                return self._request(path, payload, transaction_id, now)
            if sender and message_class in (MessageClass.SUCCESS, MessageClass.ERROR):
                return self._response(raised, message_class, transaction_id, now)
        return self._pass_on(raised, now)

    # Checks and their answers.

    def _request(
        self, path: Path, payload: bytes, transaction_id: bytes, now: float
    ) -> Drop | None:
        server_ufrag = peek_username(payload).partition(":")[0]
        token = self._sealer.open(server_ufrag, unix_now=self._unix())
        if token.cluster == self._cluster:
            hop = self._server(path, token.slot)
        elif decode_path(path)[1] != self._public:
            return Drop.LOOP
        else:
            hop = self._peers.choose(token.cluster, path)
        if not hop:
            self._fleet.hint_stale()
            return Drop.UNKNOWN_SLOT
        self._flows.client_request(path, hop, transaction_id, token=token.nonce, now=now)
        self._forwarder.forward(path, payload, hop)
        return None

    def _server(self, path: Path, slot: int) -> int:
        """Find who is asked instead of a slot that is gone: the flow's owner, or its heir."""
        if slot in self._hops:
            return slot
        self._fleet.hint_stale()
        entry = self._flows.lookup(path)
        if entry is not None and entry.owner not in self._hops and entry.owner < FIRST_PEER:
            self._flows.drop_hop_of(path, entry.owner, self._heir)
            entry = self._flows.lookup(path)
        if entry is not None and entry.owner in self._hops and entry.owner < FIRST_PEER:
            return entry.owner
        return self._heir(path)

    def _response(
        self, raised: Raised, message_class: MessageClass, transaction_id: bytes, now: float
    ) -> Drop | None:
        path, payload, sender = raised
        success = message_class is MessageClass.SUCCESS
        drop = self._flows.outbound_response(path, sender, transaction_id, success=success, now=now)
        if drop is Drop.UNKNOWN_FLOW:
            return self._look_up(raised, now)
        if drop is None:
            self._forwarder.deliver(path, payload)
            if success and self._flows.save_due(path, sender, now=now):
                self._save(path, sender)
        return drop

    def _given_back(self, raised: Raised, now: float) -> Drop | None:
        path = raised.path
        drop = self._flows.release(path, raised.sender)
        if drop is Drop.UNKNOWN_FLOW:
            return self._look_up(raised, now)
        if drop is None:
            client, proxy = decode_path(path)
            if self._flows.lookup(path) is None:
                self._registry.remove_flow(proxy, client)
            if proxy != self._public:
                self._forwarder.deliver(path, b"")
        return drop

    def _given(self, raised: Raised, slot: int, now: float) -> Drop | None:
        """Hand a flow to another transceiver, at the word of one of ours that holds it."""
        path, _, sender = raised
        if sender >= FIRST_PEER:
            return Drop.NOT_OWNER
        if slot not in self._hops:
            self._fleet.hint_stale()
            return Drop.UNKNOWN_SLOT
        drop = self._flows.give(path, sender, slot, now=now)
        if drop is Drop.UNKNOWN_FLOW:
            return self._look_up(raised, now)
        if drop is None and (entry := self._flows.lookup(path)) and entry.owner == slot:
            self._save(path, slot)
        return drop

    # What found no flow when it came.

    def _pass_on(self, raised: Raised, now: float) -> Drop | None:
        path, payload, sender = raised
        entry = self._flows.lookup(path)
        if entry is None:
            return self._look_up(raised, now)
        if sender:
            drop = self._flows.outbound(path, sender)
            if drop is None:
                self._forwarder.deliver(path, payload)
            return drop
        for hop in (entry.owner, entry.challenger):
            if hop:
                self._forwarder.forward(path, payload, hop)
        return None

    def _look_up(self, raised: Raised, now: float) -> Drop | None:
        """Let a datagram wait until the registry has been asked for its flow."""
        return self._lookups.hold(raised.path, lambda at: self._handle(raised, at), now=now)

    async def _restore(self, path: Path) -> Outcome:
        """Look a flow up and put it into the table."""
        client, proxy = decode_path(path)
        try:
            with trio.fail_after(LOOKUP_TIMEOUT):
                record = await self._registry.find_flow(proxy, client)
        except (RegistryUnavailable, trio.TooSlowError):
            return Outcome.ABSENT
        if record is None:
            return Outcome.ABSENT
        hop = self._hop_of(record, path)
        if not hop:
            return Outcome.WAITS
        drop = self._flows.restore(path, hop, now=self._clock())
        if drop is not None:
            self._drops[drop] += 1
            return Outcome.ABSENT
        return Outcome.FOUND

    def _hop_of(self, record: FlowRecord, path: Path) -> int:
        if record.cluster == self._cluster:
            return record.slot if record.slot in self._hops else self._heir(path)
        return self._peers.choose(record.cluster, path) if record.public == self._public else 0

    def _save(self, path: Path, hop: int) -> None:
        client, proxy = decode_path(path)
        cluster, slot = self._cluster, Slot(hop)
        if hop >= FIRST_PEER:
            cluster, slot = self._peers.cluster_of(hop), Slot(0)
        record = FlowRecord(public=proxy, client=client, cluster=cluster, slot=slot)
        self._registry.save_flow(record, seconds=self._flows.idle_seconds)

    # Who is there.

    def _meet(self) -> None:
        """Tell the forwarder who has come, moved or gone."""
        hops = {
            int(one.slot): _Hop(one.address, one.slot, None) for one in self._fleet.transceivers
        }
        for hop, cluster, peer in self._peers.meet(self._fleet.relays):
            hops[hop] = _Hop(peer.internal, FIRST_PEER + cluster, peer.proxy)
        for hop in self._hops.keys() - hops.keys():
            self._forwarder.remove_hop(hop)
        for hop, (address, group, public) in hops.items() - self._hops.items():
            self._forwarder.set_hop(hop, address, group=group, public=public)
        self._gone = (self._gone | self._hops.keys()) - hops.keys()
        self._hops = hops
        self._heirs = _able(self._fleet.transceivers)
        self._met.set()

    def _heir(self, path: Path) -> int:
        """Choose who is asked for a client whose transceiver is gone; 0 if nobody is there.

        Rendezvous hashing by path: the relay does not know the session. Who is asked finds it.
        """
        return max(self._heirs, key=lambda slot: weigh(str(slot), path), default=0)

    def _heir_of(self, hop: int) -> tuple[Heir, int]:
        """Who inherits from a hop, by path, and among how many he is chosen."""
        if hop < FIRST_PEER:
            return self._heir, len(self._heirs)
        cluster = self._peers.cluster_of(hop)
        return partial(self._peers.choose, cluster), self._peers.count(cluster)

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(HOUSEKEEPING_SECONDS)
            self._flows.expire(now=self._clock())

    async def _bury_the_gone(self) -> None:
        while True:
            await self._met.wait()
            self._met = trio.Event()
            for hop in tuple(self._gone):
                await self._bury(hop)

    async def _bury(self, hop: int) -> None:
        """Give the flows of a hop that is gone to its heirs, at once but in bounded steps.

        Where nobody is left to inherit they wait for one to come: a relay of that cluster, or a
        transceiver.
        """
        heir, candidates = self._heir_of(hop)
        if not candidates:
            return
        self._gone.discard(hop)
        places = max(1, HASHES_A_STEP // candidates)
        cursor = self._flows.drop_hop(hop, heir, places=places)
        while cursor:
            await trio.lowlevel.checkpoint()
            cursor = self._flows.drop_hop(hop, heir, cursor=cursor, places=places)


def _able(living: Iterable[TransceiverRecord]) -> tuple[int, ...]:
    """Those who may inherit: who drains does when all do."""
    everybody = tuple(living)
    return tuple(int(one.slot) for one in everybody if not one.draining) or tuple(
        int(one.slot) for one in everybody
    )


class _Peers:
    """The relays of other clusters, each with the hop number that it keeps while we live."""

    def __init__(self, cluster: int) -> None:
        self._own_cluster = cluster
        self._numbers = count(FIRST_PEER)
        self._hops: dict[tuple[int, str], int] = {}
        self._clusters: dict[int, int] = {}
        self._living: dict[int, dict[int, RelayRecord]] = {}

    def meet(self, relays: Iterable[RelayRecord]) -> list[tuple[int, int, RelayListener]]:
        """Take note of the living relays; returns our peers' listeners: hop, cluster, listener.

        Any of them may send to us; we send new clients' datagrams to the first of a relay.
        """
        self._living = {}
        met: list[tuple[int, int, RelayListener]] = []
        for relay in relays:
            if relay.cluster == self._own_cluster:
                continue
            first = self._hop(relay.cluster, relay.name)
            self._living.setdefault(relay.cluster, {})[first] = relay
            met.append((first, relay.cluster, relay.listeners[0]))
            for listener in relay.more:
                hop = self._hop(relay.cluster, format_address(listener.internal))
                met.append((hop, relay.cluster, listener))
        return met

    def cluster_of(self, hop: int) -> int:
        """The cluster of a peer, living or gone."""
        return self._clusters[hop]

    def count(self, cluster: int) -> int:
        """How many relays of a cluster are there."""
        return len(self._living.get(cluster, ()))

    def choose(self, cluster: int, path: Path) -> int:
        """Choose the relay of a cluster for a client: rendezvous hashing; 0 if there is none.

        Every relay of ours chooses the same one, and when one goes only its clients move.
        """
        peers = self._living.get(cluster, {})
        return max(peers, key=lambda hop: weigh(peers[hop].name, path), default=0)

    def _hop(self, cluster: int, name: str) -> int:
        hop = self._hops.get((cluster, name))
        if hop is None:
            hop = self._hops[cluster, name] = next(self._numbers)
            self._clusters[hop] = cluster
        return hop
