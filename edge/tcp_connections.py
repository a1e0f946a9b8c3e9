"""A relay's TCP connections: how one is bound, what each may take, and what is held for it."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from edge.address import Address
from edge.mmsg import Endpoint
from edge.wire.framing import FrameQueue, FrameReader

BACKLOG: Final = 1_024
SEND_BUFFER_BYTES: Final = 16_384
"""Of the kernel, for each connection. Linux doubles it; what is older than a second is no audio."""
QUEUE_FRAMES: Final = 64
"""Frames that wait for one connection: a second of audio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpLimits:
    """What connections may take."""

    connections: int = 1_000
    per_address: int = 100
    """Connections of one client address; of IPv6, of one /64."""
    first_seconds: float = 5.0
    """Until the first frame, and then until its answer."""
    idle_seconds: float = 60.0
    """How long a connection stays to which nothing is sent."""


@dataclass(frozen=True, slots=True)
class TcpStatistics:
    """How many connections there are now, and were since the start."""

    connections: int
    strangers: int
    """Those of them that no transceiver has answered yet."""
    accepted: int


@dataclass(slots=True, eq=False, repr=False)
class Connection:
    """A client's connection, and what is half read or not yet written."""

    socket: socket.socket
    endpoint: Endpoint
    network: str
    deadline: float
    admitted: bool = False
    blocked: bool = False
    """The kernel takes no more: we wait for room."""
    reader: FrameReader = field(default_factory=FrameReader)
    queue: FrameQueue = field(default_factory=lambda: FrameQueue(QUEUE_FRAMES))


def bind_tcp(address: Address) -> socket.socket:
    """Make a listening, non-blocking TCP socket; port 0 takes a free one. Raises OSError.

    As with ``bind_udp``, an IPv6 socket serves IPv6 alone.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def network_of(host: str) -> str:
    """What a limit for one address holds to: an IPv6 client has a /64."""
    ip = ip_address(host)
    return host if ip.version == 4 else ip.packed[:8].hex()
