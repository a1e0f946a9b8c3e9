"""Ports for processes that have to be told one: to be found there by others, or to come back to it.

They are below those that the kernel hands out for port 0, of which every test takes many: nobody
else gets one while its process is not there yet, or starts again.
"""

from __future__ import annotations

import socket
from random import SystemRandom
from typing import Final

PORTS: Final = range(10_000, 32_768)
"""``net.ipv4.ip_local_port_range`` begins behind them."""


def free_port(kind: socket.SocketKind) -> int:
    """A port that is free now; a loopback one for sockets of this kind."""
    while True:
        port = SystemRandom().choice(PORTS)
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
