"""The data plane in Python: what an install without a compiler gets, and the native loop's measure.

One task serves both sockets. It waits until one of them has something, takes what is there, decides
by plain calls, and sends what has come together by one call a socket. When packets come fast, a
wake-up costs more than a packet; so from ``FAST`` on, the loop waits for a tick first and then
takes all that has come meanwhile. See ``protocol`` for the rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog
import trio

from edge.address import Address
from edge.errors import Drop
from edge.forwarder.clients import ClientCodec
from edge.forwarder.hops import Hop, Hops, client_of, proxy_of
from edge.forwarder.outbox import Outbox
from edge.forwarder.protocol import MAX_PAYLOAD, ForwarderStatistics, Raised
from edge.forwarder.raised import RaisedQueues
from edge.forwarder.screen import asks_by_name, is_request, is_response, is_sound
from edge.forwarder.store import MemoryStore
from edge.mmsg import BATCH
from edge.packets import PacketSocket, Waits
from edge.wire.demux import Kind, classify
from edge.wire.spp import HEADER_BYTES, MAGIC, Path, decode_give, encode_path

FAST: Final = 7_000.0
"""Packets a second from which on the loop ticks; below, it adds no delay."""
LONG_TICK: Final = 0.001
SHORT_TICK: Final = 0.0005
"""Seconds. scripts/bench_relay, CPU ns a packet over that of a C loop with 0.5 ms: at 20,000/s 1.7
with 1 ms (22 packets a wake-up), 1.4 with 3 ms (52); at 100,000/s 1.4 with 1 ms, but then 2 ms
pass between two wake-ups, since what has gathered takes its time too. Hence the short one there."""
GATHER: Final = 50
"""Packets that a tick shall gather, within its bounds."""
LAST_OF_STUN: Final = 3
"""First bytes up to here are STUN's (RFC 7983, 7)."""
RATE_WINDOW: Final = 0.01
"""Seconds over which the rate is measured."""

log = structlog.get_logger()


class PureForwarder:
    """``Forwarder`` over two sockets, which stay the caller's. ``clock`` is monotonic, in seconds.

    ``advertised`` is the public address that clients know. ``stale`` is called, maybe often, when a
    hop is missing or can not be reached.
    """

    def __init__(
        self,
        public: PacketSocket,
        internal: PacketSocket,
        *,
        advertised: Address,
        stale: Callable[[], None],
        strangers_per_second: float,
        max_flows: int,
        clock: Callable[[], float],
    ) -> None:
        self._public = public
        self._internal = internal
        self._stale = stale
        self._clock = clock
        self._clients = ClientCodec(advertised, ipv6=":" in public.address[0])
        own = encode_path(advertised, advertised)
        self._own_proxy, self._own_client = proxy_of(own), client_of(own)
        self._store = MemoryStore(max_flows)
        self._hops = Hops()
        self._raised = RaisedQueues(strangers_per_second, clock)
        self._drops: Counter[Drop] = Counter()
        self._to_hops = Outbox(internal, overhead=HEADER_BYTES)
        self._to_peers = Outbox(internal, overhead=HEADER_BYTES)
        self._to_clients = Outbox(public, overhead=0)
        self._boxes = self._to_hops, self._to_peers, self._to_clients
        self._wakes = self._unreachable = 0

    @property
    def flows(self) -> MemoryStore:
        """See ``Forwarder``."""
        return self._store

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See ``Forwarder``."""
        self._internal.watch_errors()
        with self._public.waits(self._internal) as waits:
            task_status.started()
            await self._serve(waits)

    async def _serve(self, waits: Waits) -> None:
        pace = _Pace(self._clock)
        inwards = outwards = 0
        while True:
            if max(inwards, outwards) >= BATCH:
                await trio.lowlevel.checkpoint()
            elif pace.tick and inwards + outwards:
                await waits.tick(pace.tick)
            else:
                await waits.readable()
            inwards = self._take_from_clients()
            self._finish()
            outwards = self._take_from_inside()
            self._finish()
            self._wakes += bool(inwards or outwards)
            pace.note(inwards + outwards)

    def _finish(self) -> None:
        """Send what has come together."""
        try:
            for box in self._boxes:
                box.flush()
            if self._internal.unreachable != self._unreachable:
                self._unreachable = self._internal.unreachable
                self._stale()
        except Exception:
            self._bug()

    def _bug(self) -> None:
        self._drops[Drop.BUG] += 1
        log.exception("bug in the forwarder")

    # The short way, which nearly all packets go: 0.5 us instead of 1 us. What is not plain here
    # goes by the rules below, which hold for all.

    def _take_from_clients(self) -> int:
        batch = self._public.receive()
        clients, rows, hops = self._clients, self._store.rows, self._hops.by_number
        owners, challengers = self._store.owners, self._store.challengers
        split, join, own = clients.endpoints.unpack, clients.paths.pack, clients.own
        prefix, proxy, proxy_port = clients.prefix, clients.proxy, clients.proxy_port
        datagrams, endpoints = self._to_hops.datagrams, self._to_hops.endpoints
        for payload, client in batch:
            try:
                _, port, host = split(client)
                path = join(prefix, host, proxy, port, proxy_port)
                row = rows.get(path)
                if (
                    row is not None
                    and 0 < len(payload) <= MAX_PAYLOAD
                    and payload[0] > LAST_OF_STUN
                    and not challengers[row]
                    and (hop := hops.get(owners[row])) is not None
                    and client != own
                ):
                    datagrams.append(path + payload)
                    endpoints.append(hop.endpoint)
                else:
                    self._from_client(Path(path), payload)
            except Exception:
                self._bug()
        return len(batch)

    def _take_from_inside(self) -> int:
        batch = self._internal.receive()
        clients, rows, hops = self._clients, self._store.rows, self._hops.by_endpoint
        owners = self._store.owners
        split, join, family = clients.paths.unpack_from, clients.endpoints.pack, clients.family
        own = clients.prefix, clients.proxy, clients.proxy_port
        datagrams, endpoints = self._to_clients.datagrams, self._to_clients.endpoints
        for datagram, source in batch:
            try:
                hop = hops.get(source)
                if hop is not None and len(datagram) > HEADER_BYTES:
                    prefix, host, proxy, port, proxy_port = split(datagram)
                    row = rows.get(datagram[:HEADER_BYTES])
                    if (
                        row is not None
                        and owners[row] == hop.number
                        and datagram[HEADER_BYTES] > LAST_OF_STUN
                        and (prefix, proxy, proxy_port) == own
                    ):
                        datagrams.append(datagram[HEADER_BYTES:])
                        endpoints.append(join(family, port, host))
                        continue
                self._from_inside(hop, datagram)
            except Exception:
                self._bug()
        return len(batch)

    # Towards transceivers.

    def _from_client(self, path: Path, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD or client_of(path) == self._own_client:
            self._drops[Drop.MALFORMED] += 1
        else:
            self._inwards(path, payload)

    def _inwards(self, path: Path, payload: bytes) -> None:
        row = self._store.rows.get(path)
        if payload[:1] < b"\x04" and self._takes_stun(path, payload, known=row is not None):
            return
        if row is not None:
            self._to_hop(self._store.owners[row], path, payload)
            if challenger := self._store.challengers[row]:
                self._to_hop(challenger, path, payload)
        elif classify(payload) is Kind.UNKNOWN:
            self._drops[Drop.UNKNOWN_KIND] += 1
        else:
            self._raise(Raised(path, payload, 0), known=False)

    def _takes_stun(self, path: Path, payload: bytes, *, known: bool) -> bool:
        """Raise requests and drop what is no STUN; returns False for all else, which goes on."""
        if not is_sound(payload) or (is_request(payload) and not asks_by_name(payload)):
            self._drops[Drop.MALFORMED] += 1
        elif is_request(payload):
            self._raise(Raised(path, payload, 0), known=known)
        else:
            return False
        return True

    def _to_hop(self, number: int, path: Path, payload: bytes) -> bool:
        hop = self._hops.by_number.get(number)
        if hop is None:
            self._drops[Drop.UNKNOWN_SLOT] += 1
            self._stale()
            return False
        self._to_hops.put(path + payload, hop.endpoint)
        return True

    # Towards clients.

    def _from_inside(self, hop: Hop | None, datagram: bytes) -> None:
        if hop is None:
            self._drops[Drop.UNKNOWN_SLOT] += 1
            self._stale()
        elif len(datagram) < HEADER_BYTES or datagram[:2] != MAGIC:
            self._drops[Drop.MALFORMED] += 1
        else:
            self._route(hop, Path(datagram[:HEADER_BYTES]), datagram)

    def _route(self, hop: Hop, path: Path, datagram: bytes) -> None:
        """Decide by the path's proxy which way a datagram goes."""
        proxy = path[18:34] + path[36:38]
        if proxy == self._own_proxy:
            self._outwards(hop, path, datagram, None)
        elif (peer := self._hops.by_proxy.get(proxy)) is None:
            self._drops[Drop.UNKNOWN_RELAY] += 1
        elif not hop.proxy:
            self._outwards(hop, path, datagram, peer)
        elif hop.proxy != proxy:
            self._drops[Drop.LOOP] += 1
        elif client_of(path) == self._own_client:
            self._drops[Drop.MALFORMED] += 1
        else:
            self._inwards(path, datagram[HEADER_BYTES:])

    def _outwards(self, hop: Hop, path: Path, datagram: bytes, peer: Hop | None) -> None:
        payload = datagram[HEADER_BYTES:]
        row = self._store.rows.get(path)
        if payload[:1] < b"\x04":  # STUN, or what is said of the flow
            if not payload or decode_give(payload) or (is_sound(payload) and is_response(payload)):
                self._raise(Raised(path, payload, hop.number), known=True)
                return
            if not is_sound(payload):
                self._drops[Drop.MALFORMED] += 1
                return
        if row is None:
            self._raise(Raised(path, payload, hop.number), known=True)
        elif self._may_send(hop, row):
            self._to_client(path, payload, peer)
        else:
            self._drops[Drop.NOT_OWNER] += 1

    def _may_send(self, hop: Hop, row: int) -> bool:
        """Whether owner or challenger of a flow is in the hop's group."""
        owner, challenger = self._store.owners[row], self._store.challengers[row]
        if hop.number in (owner, challenger):
            return True
        others = (self._hops.by_number.get(number) for number in (owner, challenger))
        return any(other is not None and other.group == hop.group for other in others)

    def _to_client(self, path: Path, payload: bytes, peer: Hop | None) -> None:
        if peer is None:
            self._to_clients.put(payload, self._clients.endpoint(path))
        else:
            self._to_peers.put(path + payload, peer.endpoint)

    # What was raised, and what Python sends.

    def _raise(self, raised: Raised, *, known: bool) -> None:
        if drop := self._raised.put(raised, known=known):
            self._drops[drop] += 1

    async def receive(self) -> list[Raised]:
        """See ``Forwarder``."""
        return await self._raised.get()

    def forward(self, path: Path, payload: bytes, hop: int) -> bool:
        """See ``Forwarder``."""
        if len(payload) > MAX_PAYLOAD:
            self._drops[Drop.MALFORMED] += 1
            return False
        return self._to_hop(hop, path, payload) and self._to_hops.flush()

    def deliver(self, path: Path, payload: bytes) -> bool:
        """See ``Forwarder``."""
        proxy = proxy_of(path)
        peer = None if proxy == self._own_proxy else self._hops.by_proxy.get(proxy)
        if len(payload) > MAX_PAYLOAD:
            self._drops[Drop.MALFORMED] += 1
        elif peer is None and proxy != self._own_proxy:
            self._drops[Drop.UNKNOWN_RELAY] += 1
        else:
            self._to_client(path, payload, peer)
            return (self._to_peers if peer else self._to_clients).flush()
        return False

    # Everything that is not a packet.

    def set_hop(self, hop: int, address: Address, *, group: int, public: Address | None) -> None:
        """See ``Forwarder``."""
        self._hops.set(hop, address, group=group, public=public)

    def remove_hop(self, hop: int) -> None:
        """See ``Forwarder``."""
        self._hops.remove(hop)

    def statistics(self) -> ForwarderStatistics:
        """See ``Forwarder``."""
        drops = Counter(self._drops)
        drops.update(self._public.drops())
        drops.update(self._internal.drops())
        return ForwarderStatistics(
            packets_to_transceivers=self._to_hops.packets,
            bytes_to_transceivers=self._to_hops.bytes,
            packets_to_clients=self._to_clients.packets + self._to_peers.packets,
            bytes_to_clients=self._to_clients.bytes + self._to_peers.bytes,
            wakes=self._wakes,
            drops=dict(drops),
        )


class _Pace:
    """How long it pays to wait for more packets: ``tick`` seconds, 0.0 when they come slowly."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.tick = 0.0
        self._clock = clock
        self._since = clock()
        self._packets = 0

    def note(self, packets: int) -> None:
        """Count packets; decide anew when a window is over."""
        self._packets += packets
        elapsed = self._clock() - self._since
        if elapsed >= RATE_WINDOW:
            rate = self._packets / elapsed
            self.tick = min(LONG_TICK, max(SHORT_TICK, GATHER / rate)) if rate > FAST else 0.0
            self._since += elapsed
            self._packets = 0
