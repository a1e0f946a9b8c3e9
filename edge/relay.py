"""The relay: forwards between clients and transceivers, and answers nobody itself.

The rules are those of ``routing``; this is Trio, sockets and the registry around them. One drain
loop a socket handles a whole batch by plain calls, with no task and no queue for a packet. From
the public side, STUN requests go by their token and all else by a confirmed flow. From the
internal side, a datagram must come from a living transceiver and name a client whose flow is its
own; a header with nothing behind it gives the flow back.

After a restart the flow table is empty and the registry knows more: the first datagram of an
unknown client waits for one look-up, within the bounds of ``lookup``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import structlog
import trio

from edge.address import Address
from edge.datagram import Datagrams
from edge.errors import Drop, RemoteProtocolError
from edge.lookup import Lookups
from edge.registry.protocol import (
    FlowRecord,
    Registry,
    RegistryUnavailable,
    Slot,
    TransceiverRecord,
)
from edge.routing import EXPIRE_BATCH, Flow, FlowTable
from edge.token import TokenSealer
from edge.wire.demux import Kind, classify
from edge.wire.spp import Path, decode_path, split
from edge.wire.stun import MessageClass, peek, peek_username

HOUSEKEEPING_SECONDS: Final = 0.5
LOOKUP_TASKS: Final = 8
LOOKUP_TIMEOUT: Final = 1.0  # seconds

log = structlog.get_logger()

Handler = Callable[[bytes, Address, float], Drop | None]
"""Takes a datagram, its source and ``now``; returns why it was dropped, or None."""


class TransceiverDirectory(Protocol):
    """What a relay must know of the fleet, at once and without asking anybody."""

    def transceiver(self, slot: Slot) -> TransceiverRecord | None:
        """The living transceiver of a slot."""

    def slot_of(self, address: Address) -> Slot | None:
        """The slot whose living transceiver sends from this internal address."""

    def hint_stale(self) -> None:
        """Ask for an early refresh."""


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """Counts since the start, and the sizes of what is held now."""

    packets_to_transceivers: int
    bytes_to_transceivers: int
    packets_to_clients: int
    bytes_to_clients: int
    flows: int
    provisional_flows: int
    waiting_lookups: int
    drops: Mapping[Drop, int]


class Relay:
    """One public and one internal socket, which stay the caller's to close.

    ``clock`` is monotonic and ``unix`` is unix time, both in seconds.
    """

    def __init__(
        self,
        public: Datagrams,
        internal: Datagrams,
        *,
        flows: FlowTable,
        sealer: TokenSealer,
        cluster: int,
        directory: TransceiverDirectory,
        registry: Registry,
        lookups_per_second: float = 2_000.0,
        clock: Callable[[], float] = trio.current_time,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._public = public
        self._internal = internal
        self._flows = flows
        self._sealer = sealer
        self._cluster = cluster
        self._directory = directory
        self._registry = registry
        self._clock = clock
        self._unix = unix
        self._drops: Counter[Drop] = Counter()
        self._lookups = Lookups(self._restore, per_second=lookups_per_second, clock=clock)
        self._packets_in = self._bytes_in = self._packets_out = self._bytes_out = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, self._public, self._from_client)
                nursery.start_soon(self._pump, self._internal, self._from_transceiver)
                nursery.start_soon(self._keep_house)
                for _ in range(LOOKUP_TASKS):
                    nursery.start_soon(self._lookups.serve)
                task_status.started()
        finally:
            self._lookups.clear()

    def statistics(self) -> RelayStatistics:
        """Return the counters."""
        return RelayStatistics(
            packets_to_transceivers=self._packets_in,
            bytes_to_transceivers=self._bytes_in,
            packets_to_clients=self._packets_out,
            bytes_to_clients=self._bytes_out,
            flows=len(self._flows),
            provisional_flows=self._flows.provisional,
            waiting_lookups=len(self._lookups),
            drops=self._drops + self._flows.drops,
        )

    async def _pump(self, datagrams: Datagrams, handler: Handler) -> None:
        while True:
            batch = await datagrams.receive_batch()
            now = self._clock()
            for datagram, source in batch:
                self._handle(handler, datagram, source, now)

    def _handle(self, handler: Handler, datagram: bytes, source: Address, now: float) -> None:
        try:
            drop = handler(datagram, source, now)
        except RemoteProtocolError as error:
            drop = error.drop
        except Exception:
            drop = Drop.BUG
            log.exception("bug in the relay")
        if drop is not None:
            self._drops[drop] += 1

    # Clients to transceivers.

    def _from_client(self, datagram: bytes, client: Address, now: float) -> Drop | None:
        if datagram[:1] < b"\x04":  # STUN, or nothing at all; RFC 7983
            message_class, transaction_id = peek(datagram)
            if message_class is MessageClass.REQUEST:
                return self._from_token(datagram, client, transaction_id, now)
        flow = self._flows.lookup(client)
        if flow is None:
            if classify(datagram) is Kind.UNKNOWN:
                return Drop.UNKNOWN_KIND
            return self._look_up(client, self._from_client, datagram, client, now)
        drop = self._to_transceiver(flow.slot, flow.path, datagram)
        if flow.challenger is not None:
            self._to_transceiver(flow.challenger.slot, flow.path, datagram)
        return drop

    def _from_token(
        self, datagram: bytes, client: Address, transaction_id: bytes, now: float
    ) -> Drop | None:
        server_ufrag = peek_username(datagram).partition(":")[0]
        token = self._sealer.open(server_ufrag, unix_now=self._unix())
        if token.cluster != self._cluster:
            return Drop.BAD_TOKEN
        if client == self._flows.public:
            return Drop.MALFORMED  # a forged source: the answer would come back to ourselves
        if self._directory.transceiver(Slot(token.slot)) is None:
            return self._unknown_slot()
        path = self._flows.client_request(client, token.slot, transaction_id, now=now)
        return self._to_transceiver(token.slot, path, datagram)

    def _to_transceiver(self, slot: int, path: Path, datagram: bytes) -> Drop | None:
        record = self._directory.transceiver(Slot(slot))
        if record is None:
            return self._unknown_slot()
        if self._internal.send_framed(path, datagram, record.address):
            self._packets_in += 1
            self._bytes_in += len(datagram)
        return None

    def _unknown_slot(self) -> Drop:
        self._directory.hint_stale()
        return Drop.UNKNOWN_SLOT

    # Transceivers to clients.

    def _from_transceiver(self, datagram: bytes, source: Address, now: float) -> Drop | None:
        slot = self._directory.slot_of(source)
        if slot is None:
            return self._unknown_slot()
        path, payload = split(datagram)
        if not payload:
            flow = self._flows.release(path, slot)
        elif payload[0] < 4:
            flow = self._outbound_stun(path, slot, payload, now)
        else:
            flow = self._flows.outbound(path, slot)
        if isinstance(flow, Drop):
            if flow is not Drop.UNKNOWN_FLOW:
                return flow
            client, proxy = decode_path(path)
            if proxy != self._flows.public:
                return flow
            return self._look_up(client, self._from_transceiver, datagram, source, now)
        if not payload:
            self._forget(flow)
        elif self._public.send(payload, flow.client):
            self._packets_out += 1
            self._bytes_out += len(payload)
        return None

    def _outbound_stun(self, path: Path, slot: Slot, payload: bytes, now: float) -> Flow | Drop:
        message_class, transaction_id = peek(payload)
        success = message_class is MessageClass.SUCCESS
        if not success and message_class is not MessageClass.ERROR:
            return self._flows.outbound(path, slot)
        flow = self._flows.outbound_response(path, slot, transaction_id, success=success, now=now)
        if success and isinstance(flow, Flow) and flow.save_at <= now:
            self._save(flow, now)
        return flow

    # The registry.

    def _save(self, flow: Flow, now: float) -> None:
        """Write the record of a flow that owns its client, a few times in its life time."""
        if self._flows.lookup(flow.client) is not flow:
            return
        flow.save_at = now + self._flows.idle_seconds / 3
        record = FlowRecord(public=self._flows.public, client=flow.client, slot=Slot(flow.slot))
        self._registry.save_flow(record, seconds=self._flows.idle_seconds)

    def _forget(self, flow: Flow) -> None:
        """Remove the record of a flow that was given back, unless another inherits."""
        if self._flows.lookup(flow.client) is None:
            self._registry.remove_flow(self._flows.public, flow.client)

    def _look_up(
        self, client: Address, handler: Handler, datagram: bytes, source: Address, now: float
    ) -> Drop | None:
        """Let a datagram wait until the registry has been asked for its flow."""
        return self._lookups.hold(client, partial(self._handle, handler, datagram, source), now=now)

    async def _restore(self, client: Address) -> bool:
        """Look a flow up; returns whether there is one now."""
        try:
            with trio.fail_after(LOOKUP_TIMEOUT):
                record = await self._registry.find_flow(self._flows.public, client)
        except (RegistryUnavailable, trio.TooSlowError):
            return False
        if record is None or self._directory.transceiver(record.slot) is None:
            return False
        now = self._clock()
        flow = self._flows.restore(client, record.slot, now=now)
        if isinstance(flow, Drop):
            self._drops[flow] += 1
            return False
        flow.save_at = now + self._flows.idle_seconds / 3
        return True

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(HOUSEKEEPING_SECONDS)
            while self._flows.expire(now=self._clock()) == EXPIRE_BATCH:
                await trio.lowlevel.checkpoint()
            for slot in list(self._flows.slots):
                if self._directory.transceiver(Slot(slot)) is None:
                    self._flows.drop_slot(slot)
