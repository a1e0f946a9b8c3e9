"""The data plane in C: threads of their own forward, and Python does what they raise.

The loop, its rules and its tables are in ``native_src``; this is what Trio sees of it. The threads
never take the GIL, so packets go on while Python is busy.
"""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import trio

from edge.address import Address
from edge.errors import Drop
from edge.forwarder._native import Core
from edge.forwarder.bpf import kernel_drops
from edge.forwarder.protocol import FlowEntry, ForwarderStatistics, Raised
from edge.wire.spp import Path, encode_path

STALE_PAUSE: Final = 0.02
"""Seconds between two calls of ``stale``, so that a flood of errors is one task's small work."""


class NativeFlows:
    """``FlowStore`` in the memory of the loop: a cache line a flow. It holds ``max_flows``."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __len__(self) -> int:
        return self._core.flow_count()

    def get(self, path: Path) -> FlowEntry | None:
        """See ``FlowStore``."""
        fields = self._core.get(path)
        return None if fields is None else FlowEntry(*fields)

    def put(self, path: Path, entry: FlowEntry) -> bool:
        """See ``FlowStore``."""
        return self._core.put(path, *entry)

    def remove(self, path: Path) -> None:
        """See ``FlowStore``."""
        self._core.remove(path)

    def scan(
        self, cursor: int, limit: int, *, heard_before: float = math.inf, hop: int = 0
    ) -> tuple[int, list[tuple[Path, FlowEntry]]]:
        """See ``FlowStore``. Places are a third more than ``max_flows``, in random order."""
        after, found = self._core.scan(cursor, limit, heard_before, hop)
        return after, [(Path(path), FlowEntry(*fields)) for path, fields in found]


class NativeForwarder:
    """``Forwarder`` over pairs of sockets, which stay the caller's to close after ``run``.

    ``public[i]`` and ``internal[i]`` are served by thread ``i % threads``; the public ones share an
    address (SO_REUSEPORT), as do the internal ones. All public sockets are of one address family,
    and all internal ones. ``advertised`` is the public address that clients know. ``stale`` is
    called when a hop is missing or does not answer, at most every STALE_PAUSE. Thread i is pinned
    to processor ``cpus[i]`` where that is given.
    """

    def __init__(
        self,
        public: Sequence[socket.socket],
        internal: Sequence[socket.socket],
        *,
        advertised: Address,
        stale: Callable[[], None],
        strangers_per_second: float,
        max_flows: int,
        threads: int = 1,
        cpus: Sequence[int] = (),
    ) -> None:
        if not public or len(public) != len(internal):
            raise ValueError("sockets come in pairs")
        self._public = tuple(public)
        self._internal = tuple(internal)
        self._stale = stale
        self._threads = self._limited(threads)
        self._cpus = tuple(cpus)
        self._running = False
        self._core = Core(
            advertised=_endpoint(advertised),
            public_family=public[0].family,
            internal_family=internal[0].family,
            strangers_per_second=strangers_per_second,
            max_flows=max_flows,
        )
        self._flows = NativeFlows(self._core)

    @property
    def flows(self) -> NativeFlows:
        """See ``Forwarder``."""
        return self._flows

    @property
    def threads(self) -> int:
        """How many threads forward while it runs."""
        return self._threads

    def set_threads(self, threads: int) -> None:
        """Change the number of threads, at most one a pair; what comes meanwhile waits a moment.

        Raises OSError when the system has no more threads; then it goes on with those it had.
        """
        before, self._threads = self._threads, self._limited(threads)
        if not self._running:
            return
        self._core.stop()
        try:
            self._start()
        except OSError:
            self._threads = before
            self._start()
            raise

    def _limited(self, threads: int) -> int:
        if threads < 1:
            raise ValueError("one thread is the least")
        return min(threads, len(self._public))

    def _start(self) -> None:
        publics, internals = (
            tuple(sock.fileno() for sock in socks) for socks in (self._public, self._internal)
        )
        self._core.start(publics, internals, self._threads, self._cpus)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See ``Forwarder``. Raises OSError when threads can not be had."""
        self._start()
        self._running = True
        try:
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(self._core.stale_fd)
                self._tell_stale()
                await trio.sleep(STALE_PAUSE)
        finally:
            self._running = False
            self._core.stop()

    def _tell_stale(self) -> None:
        if self._core.clear_stale():
            self._stale()

    async def receive(self) -> list[Raised]:
        """See ``Forwarder``."""
        while True:
            await trio.lowlevel.wait_readable(self._core.raised_fd)
            if taken := self._core.take():
                return [Raised(Path(path), payload, sender) for path, payload, sender in taken]

    def forward(self, path: Path, payload: bytes, hop: int) -> bool:
        """See ``Forwarder``."""
        sent = self._core.forward(path, payload, hop, self._internal[0].fileno())
        if not sent:
            self._tell_stale()
        return sent

    def deliver(self, path: Path, payload: bytes) -> bool:
        """See ``Forwarder``."""
        public, internal = self._public[0].fileno(), self._internal[0].fileno()
        return self._core.deliver(path, payload, public, internal)

    def set_hop(self, hop: int, address: Address, *, group: int, public: Address | None) -> None:
        """See ``Forwarder``."""
        self._core.set_hop(
            hop, _endpoint(address), group, None if public is None else _endpoint(public)
        )

    def remove_hop(self, hop: int) -> None:
        """See ``Forwarder``."""
        self._core.remove_hop(hop)

    def statistics(self) -> ForwarderStatistics:
        """See ``Forwarder``."""
        counts = self._core.counts()
        return ForwarderStatistics(
            packets_to_transceivers=counts.pop("packets_to_transceivers"),
            bytes_to_transceivers=counts.pop("bytes_to_transceivers"),
            packets_to_clients=counts.pop("packets_to_clients"),
            bytes_to_clients=counts.pop("bytes_to_clients"),
            wakes=counts.pop("wakes"),
            drops=self._drops(counts),
        )

    def _drops(self, counts: dict[str, int]) -> Counter[Drop]:
        drops = Counter({Drop(name): count for name, count in counts.items() if count})
        open_sockets = (sock for sock in self._public + self._internal if sock.fileno() >= 0)
        if lost := sum(kernel_drops(sock) for sock in open_sockets):
            drops[Drop.KERNEL_QUEUE] = lost
        return drops


def _endpoint(address: Address) -> bytes:
    """Write host and port as they stand in an SPP header. Raises LocalProtocolError."""
    path = encode_path(address, address)
    return path[2:18] + path[34:36]
