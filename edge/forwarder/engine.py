"""Which loop forwards: the native one where it was built, else its twin."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Literal

import trio

from edge.address import Address
from edge.config import RelayConfig
from edge.forwarder.protocol import Forwarder
from edge.forwarder.pure import PureForwarder
from edge.packets import KernelPacketSocket
from edge.ready import StartupError

Engine = Literal["native", "pure"]


def choose_engine(settings: RelayConfig) -> Engine:
    """Read ``relay.engine``; raises StartupError when what it asks for is not there."""
    native = find_spec("edge.forwarder._native") is not None
    if settings.engine == "native" and not native:
        raise StartupError("relay.engine: this installation has no native engine (no C compiler?)")
    return "native" if native and settings.engine != "pure" else "pure"


def make_forwarder(
    engine: Engine,
    public: Sequence[socket.socket],
    internal: Sequence[socket.socket],
    *,
    advertised: Address,
    settings: RelayConfig,
    stale: Callable[[], None],
) -> Forwarder:
    """Make a forwarder over bound sockets, which stay the caller's; the twin serves one pair."""
    if engine == "pure":
        return PureForwarder(
            KernelPacketSocket(public[0]),
            KernelPacketSocket(internal[0]),
            advertised=advertised,
            stale=stale,
            strangers_per_second=settings.strangers_per_second,
            max_flows=settings.max_flows,
            clock=trio.current_time,
        )
    from edge.forwarder.native import NativeForwarder

    return NativeForwarder(
        public,
        internal,
        advertised=advertised,
        stale=stale,
        strangers_per_second=settings.strangers_per_second,
        max_flows=settings.max_flows,
        threads=len(public),
        cpus=settings.cpus,
    )
