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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from edge.address import Address
from edge.errors import Drop, RemoteProtocolError
from edge.forwarder.protocol import FIRST_PEER, Forwarder, Raised
from edge.lookup import Lookups, Outcome
from edge.registry.protocol import FlowRecord, Registry, RegistryUnavailable, Slot
from edge.relay_hops import Fleet, Hops
from edge.routing import FlowTable
from edge.token import TokenSealer
from edge.wire.spp import Path, decode_give, decode_path
from edge.wire.stun_peek import MessageClass, peek, peek_username

HOUSEKEEPING_SECONDS: Final = 0.5
LOOKUP_TASKS: Final = 32
"""Under way at once: after a restart all flows are looked up, each some milliseconds long."""
LOOKUP_TIMEOUT: Final = 1.0  # seconds

log = structlog.get_logger()


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
        self._hops = Hops(forwarder, fleet, cluster)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled."""
        try:
            with self._fleet.watch(self._hops.meet):
                async with trio.open_nursery() as nursery:
                    await nursery.start(self._forwarder.run)
                    nursery.start_soon(self._serve)
                    nursery.start_soon(self._keep_house)
                    nursery.start_soon(self._hops.bury, self._flows)
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
        if sender and sender not in self._hops.known:  # it went while this waited
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
            hop = self._hops.peers.choose(token.cluster, path)
        if not hop:
            self._fleet.hint_stale()
            return Drop.UNKNOWN_SLOT
        self._flows.client_request(path, hop, transaction_id, token=token.nonce, now=now)
        self._forwarder.forward(path, payload, hop)
        return None

    def _server(self, path: Path, slot: int) -> int:
        """Find who is asked instead of a slot that is gone: the flow's owner, or its heir."""
        if slot in self._hops.known:
            return slot
        self._fleet.hint_stale()
        entry = self._flows.lookup(path)
        if entry is not None and entry.owner not in self._hops.known and entry.owner < FIRST_PEER:
            self._flows.drop_hop_of(path, entry.owner, self._hops.heir)
            entry = self._flows.lookup(path)
        if entry is not None and entry.owner in self._hops.known and entry.owner < FIRST_PEER:
            return entry.owner
        return self._hops.heir(path)

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
        if slot not in self._hops.known:
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
            return record.slot if record.slot in self._hops.known else self._hops.heir(path)
        return self._hops.peers.choose(record.cluster, path) if record.public == self._public else 0

    def _save(self, path: Path, hop: int) -> None:
        client, proxy = decode_path(path)
        cluster, slot = self._cluster, Slot(hop)
        if hop >= FIRST_PEER:
            cluster, slot = self._hops.peers.cluster_of(hop), Slot(0)
        record = FlowRecord(public=proxy, client=client, cluster=cluster, slot=slot)
        self._registry.save_flow(record, seconds=self._flows.idle_seconds)

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(HOUSEKEEPING_SECONDS)
            self._flows.expire(now=self._clock())
