"""The sockets of a process, bound before anything runs on them.

So a supervisor can hold them while workers come and go. Public addresses of a relay are planned
here, too: each has its own pairs of sockets, public and internal.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from edge.address import Address, format_address, parse_address, parse_addresses
from edge.config import Config, RelayConfig
from edge.datagram import bind_udp
from edge.forwarder.engine import choose_engine
from edge.http.listen import bind_http
from edge.ready import Role, StartupError
from edge.tcp_connections import bind_tcp


@dataclass(frozen=True, slots=True)
class Plan:
    """What the configuration says of one public address."""

    transport: Literal["udp", "tcp"]
    bind: Address
    advertise: str
    """HOST[:PORT] for clients; empty: the bound address."""
    internal: Address


@dataclass(frozen=True, slots=True)
class Bound:
    """A public address that is bound: a pair of sockets for each worker, of TCP one alone."""

    plan: Plan
    public: Sequence[socket.socket]
    internal: Sequence[socket.socket]


@dataclass(frozen=True, slots=True)
class Sockets:
    """All that a process listens on, but for a transceiver's own UDP."""

    http: Sequence[socket.socket]
    relay: Sequence[Bound]


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
def open_sockets(role: Role, config: Config) -> Iterator[Sockets]:
    """Bind what a role listens on, for as long as the block. Raises ConfigError, StartupError."""
    with ExitStack() as stack:
        http = [stack.enter_context(sock) for sock in bind_http(config.http)]
        plans = [] if role == "transceiver" else plan_listeners(config.relay)
        yield Sockets(http, [_bind(config.relay, plan, stack) for plan in plans])


def _bind(settings: RelayConfig, plan: Plan, stack: ExitStack) -> Bound:
    if plan.transport == "tcp":
        listening = stack.enter_context(_listen(plan))
        return Bound(plan, [listening], _bind_internal(plan, 1, stack))
    workers = settings.workers if choose_engine(settings) == "native" else 1
    public = stack.enter_context(bound("relay.bind", format_address(plan.bind), workers))
    return Bound(plan, public, _bind_internal(plan, workers, stack))


def _bind_internal(plan: Plan, workers: int, stack: ExitStack) -> Sequence[socket.socket]:
    return stack.enter_context(bound("relay.internal_bind", format_address(plan.internal), workers))


def _listen(plan: Plan) -> socket.socket:
    try:
        return bind_tcp(plan.bind)
    except OSError as error:
        raise StartupError(
            f"relay.tcp_bind {format_address(plan.bind)}: {error.strerror}"
        ) from None


@contextmanager
def bound(key: str, bind: str, copies: int = 1) -> Iterator[list[socket.socket]]:
    """Bind UDP sockets to the HOST:PORT of a configuration key; several share its packets."""
    sockets: list[socket.socket] = []
    try:
        address = parse_address(bind)
        for _ in range(copies):
            sockets.append(bind_udp(address, reuse_port=copies > 1))
            address = sockets[0].getsockname()[:2]
        yield sockets
    except OSError as error:
        if len(sockets) == copies:
            raise
        raise StartupError(f"{key} {bind}: {error.strerror}") from None
    finally:
        for each in sockets:
            each.close()
