"""A network namespace with one address and a default route, joined to us by a veth pair.

Firefox and libnice gather no loopback candidates; inside such a namespace they gather the veth's.
Nothing leads further: this side forwards nothing.
"""

from __future__ import annotations

import ctypes
import os
import random
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespace:
    """``here`` is our end's address, ``inside`` the one that the namespace has."""

    name: str
    here: str
    inside: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What goes before a command to run it inside."""
        return ("ip", "netns", "exec", self.name)

    async def connect(self, port: int) -> trio.SocketStream:
        """Connect to a port of the loopback interface inside."""
        raw = await trio.to_thread.run_sync(self._make_socket)
        stream_socket = trio.socket.from_stdlib_socket(raw)
        try:
            await stream_socket.connect(("127.0.0.1", port))
        except BaseException:
            stream_socket.close()
            raise
        return trio.SocketStream(stream_socket)

    def _make_socket(self) -> socket.socket:
        """Make a socket inside: it stays there, whoever uses it. A thread of its own is moved."""
        made: list[socket.socket] = []

        def inside() -> None:
            with (Path("/run/netns") / self.name).open("rb") as namespace:
                if _libc.setns(namespace.fileno(), CLONE_NEWNET) == 0:
                    made.append(socket.socket())

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if not made:
            raise OSError(f"no socket inside {self.name}")
        return made[0]


@asynccontextmanager
async def namespace() -> AsyncGenerator[Namespace]:
    """Make a namespace with names and addresses of its own; it is always taken down. Needs root."""
    unique = f"{os.getpid():x}{random.randrange(256):02x}"
    block = random.randrange(2**14) * 4
    network = f"10.{224 + random.randrange(31)}.{block >> 8}."
    made = Namespace(
        f"edge-{unique}", f"{network}{(block & 255) + 1}", f"{network}{(block & 255) + 2}"
    )
    outer, inner = f"ve{unique}a", f"ve{unique}b"
    in_namespace = ("-n", made.name)
    try:
        await _ip("netns", "add", made.name)
        await _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", made.name)
        await _ip("address", "add", f"{made.here}/30", "dev", outer)
        await _ip("link", "set", outer, "up")
        await _ip(*in_namespace, "address", "add", f"{made.inside}/30", "dev", inner)
        await _ip(*in_namespace, "link", "set", "lo", "up")
        await _ip(*in_namespace, "link", "set", inner, "up")
        await _ip(*in_namespace, "route", "add", "default", "via", made.here)
        yield made
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10.0):
            await _ip("link", "delete", outer, check=False)
            await _ip("netns", "delete", made.name, check=False)


async def _ip(*arguments: str, check: bool = True) -> None:
    await trio.run_process(["ip", *arguments], check=check, capture_stderr=True)
