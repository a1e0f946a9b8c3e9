"""The public addresses of a relay: each has its sockets, its forwarder and its flows.

A forwarder's sockets are of one IP version, and TCP has another kind of socket. So a relay with
several addresses is several relays in one process, which the fleet knows under one name.
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog
import trio

from edge.address import Address, format_address, parse_address, parse_addresses
from edge.app.base import Base, Task, bound
from edge.config import RelayConfig
from edge.errors import Drop, RemoteProtocolError
from edge.forwarder.engine import choose_engine, make_forwarder
from edge.forwarder.gatekeeper import SocketGate
from edge.forwarder.protocol import Forwarder
from edge.forwarder.pure import PureForwarder
from edge.packets import KernelPacketSocket
from edge.ready import StartupError
from edge.registry.protocol import RelayListener
from edge.relay import Relay
from edge.routing import FlowTable
from edge.tcp_connections import TcpLimits, bind_tcp
from edge.tcp_packets import Admits, TcpPacketSocket
from edge.token import TokenSealer
from edge.wire.stun import MessageClass, peek, peek_username

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """What the configuration says of one public address."""

    transport: Literal["udp", "tcp"]
    bind: Address
    advertise: str
    """HOST[:PORT] for clients; empty: the bound address."""
    internal: Address


@dataclass(frozen=True, slots=True)
class Listener:
    """A public address that is bound, and what serves it."""

    record: RelayListener
    relay: Relay
    forwarder: Forwarder
    guard: Task | None
    """What looks after its sockets."""


def plan_listeners(settings: RelayConfig) -> list[Plan]:
    """List a relay's addresses: UDP first; a fixed internal port is the first one's."""
    udp = parse_addresses(settings.bind)
    tcp = parse_addresses(settings.tcp_bind) if settings.tcp_bind else []
    told = settings.advertise.split(",") if settings.advertise else [""] * len(udp)
    if settings.tcp_advertise:
        told += settings.tcp_advertise.split(",")
    elif settings.advertise and len(tcp) == len(udp):
        told += [parse_address(one.strip(), default_port=0)[0] for one in told]
    else:
        told += [""] * len(tcp)
    host, port = parse_address(settings.internal_bind)
    return [
        Plan(
            "udp" if number < len(udp) else "tcp", bind, one.strip(), (host, port and port + number)
        )
        for number, (bind, one) in enumerate(zip(udp + tcp, told, strict=True))
    ]


@contextmanager
def open_listener(base: Base, plan: Plan) -> Iterator[Listener]:
    """Bind an address; its tasks are the caller's to run. Raises StartupError."""
    with ExitStack() as stack:
        if plan.transport == "udp":
            yield _open_udp(base, plan, stack)
        else:
            yield _open_tcp(base, plan, stack)


def _open_udp(base: Base, plan: Plan, stack: ExitStack) -> Listener:
    settings = base.config.relay
    engine = choose_engine(settings)
    workers = settings.workers if engine == "native" else 1
    public = stack.enter_context(bound("relay.bind", format_address(plan.bind), workers))
    internal = _bind_internal(plan, workers, stack)
    advertised = _advertised(plan, public[0])
    forwarder = make_forwarder(
        engine,
        public,
        internal,
        advertised=advertised,
        settings=settings,
        stale=base.directory.hint_gone,
    )
    relay = _make_relay(base, forwarder, advertised)
    log.info("relay", transport="udp", engine=engine, workers=workers)
    gate = SocketGate(public, forwarder.flows, public=advertised)
    base.metrics.add_gate(gate.statistics)
    guard = partial(gate.run, lambda: relay.statistics().drops) if settings.gate else None
    return Listener(_record(plan, advertised, internal[0]), relay, forwarder, guard)


def _open_tcp(base: Base, plan: Plan, stack: ExitStack) -> Listener:
    settings = base.config.relay
    listening = _listen(plan)
    stack.callback(listening.close)
    internal = _bind_internal(plan, 1, stack)
    record = _record(plan, _advertised(plan, listening), internal[0])
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
        KernelPacketSocket(internal[0]),
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


def _bind_internal(plan: Plan, workers: int, stack: ExitStack) -> Sequence[socket.socket]:
    return stack.enter_context(bound("relay.internal_bind", format_address(plan.internal), workers))


def _listen(plan: Plan) -> socket.socket:
    try:
        return bind_tcp(plan.bind)
    except OSError as error:
        raise StartupError(
            f"relay.tcp_bind {format_address(plan.bind)}: {error.strerror}"
        ) from None


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
