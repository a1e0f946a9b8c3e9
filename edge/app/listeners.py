"""The public addresses of a relay: each has its sockets, its forwarder and its flows.

A forwarder's sockets are of one IP version, and TCP has another kind of socket. So a relay with
several addresses is several relays in one process, which the fleet knows under one name.
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from edge.address import Address, parse_address
from edge.app.base import Base, Task
from edge.app.sockets import Bound, Plan
from edge.errors import Drop, RemoteProtocolError
from edge.forwarder.engine import choose_engine, make_forwarder
from edge.forwarder.gatekeeper import SocketGate
from edge.forwarder.protocol import Forwarder
from edge.forwarder.pure import PureForwarder
from edge.packets import KernelPacketSocket
from edge.registry.protocol import RelayListener
from edge.relay import Relay
from edge.routing import FlowTable
from edge.tcp_connections import TcpLimits
from edge.tcp_packets import Admits, TcpPacketSocket
from edge.token import TokenSealer
from edge.wire.stun_peek import MessageClass, peek, peek_username

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listener:
    """A public address that is bound, and what serves it."""

    record: RelayListener
    relay: Relay
    forwarder: Forwarder
    guard: Task | None
    """What looks after its sockets."""


@contextmanager
def open_listener(base: Base, bound: Bound) -> Iterator[Listener]:
    """Make what serves an address, over its sockets; its tasks are the caller's to run."""
    if bound.plan.transport == "udp":
        yield _open_udp(base, bound)
        return
    with ExitStack() as stack:
        yield _open_tcp(base, bound, stack)


def _open_udp(base: Base, bound: Bound) -> Listener:
    settings, plan = base.config.relay, bound.plan
    engine = choose_engine(settings)
    advertised = _advertised(plan, bound.public[0])
    forwarder = make_forwarder(
        engine,
        bound.public,
        bound.internal,
        advertised=advertised,
        settings=settings,
        stale=base.directory.hint_gone,
    )
    relay = _make_relay(base, forwarder, advertised)
    log.info("relay", transport="udp", engine=engine, workers=len(bound.public))
    gate = SocketGate(bound.public, forwarder.flows, public=advertised)
    base.metrics.add_gate(gate.statistics)
    guard = partial(gate.run, lambda: relay.statistics().drops) if settings.gate else None
    return Listener(_record(plan, advertised, bound.internal[0]), relay, forwarder, guard)


def _open_tcp(base: Base, bound: Bound, stack: ExitStack) -> Listener:
    settings, plan = base.config.relay, bound.plan
    (listening,), (internal,) = bound.public, bound.internal
    record = _record(plan, _advertised(plan, listening), internal)
    limits = TcpLimits(
        connections=_affordable(settings.tcp_max_connections),
        per_address=settings.tcp_max_connections_per_address,
        first_seconds=settings.provisional_seconds,
        idle_seconds=settings.flow_idle_seconds,
    )
    public = TcpPacketSocket(listening, admits=make_admits(base.sealer, time.time), limits=limits)
    stack.callback(public.close)
    forwarder = PureForwarder(
        public,
        KernelPacketSocket(internal),
        advertised=record.proxy,
        stale=base.directory.hint_gone,
        strangers_per_second=settings.strangers_per_second,
        max_flows=settings.max_flows,
        clock=trio.current_time,
    )
    log.info("relay", transport="tcp", engine="pure", workers=1)
    base.metrics.add_tcp(public.statistics)
    return Listener(
        record, _make_relay(base, forwarder, record.proxy), forwarder, public.keep_house
    )


def make_admits(sealer: TokenSealer, unix: Callable[[], float]) -> Admits:
    """Let in whoever begins with a STUN request whose token opens."""

    def admits(frame: bytes) -> Drop | None:
        try:
            if peek(frame)[0] is not MessageClass.REQUEST:
                return Drop.MALFORMED
            sealer.open(peek_username(frame).partition(":")[0], unix_now=unix())
        except RemoteProtocolError as error:
            return error.drop
        return None

    return admits


def _make_relay(base: Base, forwarder: Forwarder, proxy: Address) -> Relay:
    settings = base.config.relay
    relay = Relay(
        forwarder,
        public=proxy,
        flows=FlowTable.configured(forwarder.flows, settings),
        sealer=base.sealer,
        cluster=base.config.registry.cluster,
        fleet=base.directory,
        registry=base.registry,
        lookups_per_second=settings.lookups_per_second,
    )
    base.metrics.add_relay(relay.statistics)
    return relay


def _advertised(plan: Plan, sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return parse_address(plan.advertise or host, default_port=port)


def _record(plan: Plan, public: Address, internal: socket.socket) -> RelayListener:
    return RelayListener(
        transport=plan.transport, public=public, internal=internal.getsockname()[:2]
    )


def _affordable(connections: int) -> int:
    """At most half of the descriptors that the system lets us have: others need some, too."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if allowed == resource.RLIM_INFINITY else min(connections, allowed // 2)
