"""Asks a host whether anybody listens at one of its UDP addresses.

A host whose process is gone says so for each datagram (ICMP port unreachable; RFC 1122, 4.1.3.1),
which a connected socket is told of as a refused connection. A lease tells the same, and later.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from edge.address import Address

PROBE_SECONDS: Final = 0.02
"""How long a refusal is waited for: both are in one data centre."""


async def is_refused(address: Address) -> bool:
    """Send an empty datagram; True when it is refused, False when nothing is heard of it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            await sock.connect(address)
            await sock.send(b"")
            with trio.move_on_after(PROBE_SECONDS):
                await sock.recv(1)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
