"""When the gate is closed, how many strangers it lets in, and what the gatekeeper does about it.

The gate (``gate``) is open in peace: there is no filter, and no call depends on it. It closes when
the kernel drops datagrams while strangers send many. The rate at which they were served then is
what the relay can do, so the gate opens when they send far less for a while; the while doubles
when they come back soon. In between the filter is made anew as flows come and go, and ``share``
follows what its strangers cost.
"""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from edge.address import Address
from edge.errors import Drop
from edge.forwarder.bpf import MAX_INSTRUCTIONS, Program, attach, detach, kernel_drops
from edge.forwarder.gate import MAX_SOURCES, compile_gate
from edge.forwarder.protocol import FlowStore
from edge.wire.spp import decode_path

TICK_SECONDS: Final = 0.1
FLOOD: Final = 1_000.0
"""Strangers' datagrams a second: below there is no flood, whatever the kernel drops."""
STRANGERS_PER_SECOND: Final = 5_000.0
"""How many the closed gate lets in, if there are so many Binding requests among them."""
MIN_SHARE: Final = 0.01
CALM_RATIO: Final = 0.25
"""Strangers' rate at which the gate opens, of that at which it closed."""
CALM_SECONDS: Final = 3.0
MAX_CALM_SECONDS: Final = 60.0
NEW_FLOWS_SECONDS: Final = 0.25
"""How soon new flows are known to a closed gate, and how often it is made anew at most."""
RENEW_SECONDS: Final = 1.0
SECONDS_PER_FLOW: Final = 1e-4
"""A flow takes 2 to 5 us to compile; with many, the gate is made less often."""
SCAN: Final = 4_096
MIN_INSTRUCTIONS: Final = 256

STRANGERS: Final = (
    Drop.MALFORMED,
    Drop.UNKNOWN_KIND,
    Drop.BAD_TOKEN,
    Drop.RATE_LIMIT,
    Drop.QUEUE_FULL,
)
"""What becomes of a flood that reaches the relay."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Close:
    """Make the filter and attach it, or put it in place of the one that is there."""

    share: float


@dataclass(frozen=True, slots=True)
class Open:
    """Take the filter off."""


class GateKeeper:
    """The policy, without a socket or a clock; ``tick`` it every TICK_SECONDS or so."""

    def __init__(self) -> None:
        self._drops = self._strangers = 0
        self._ticked: float | None = None
        self._closed_at: float | None = None
        self._opened_at = -MAX_CALM_SECONDS
        self._calm_below = 0.0
        self._calm_since = 0.0
        self._calm_seconds = CALM_SECONDS
        self._made_at = 0.0
        self._made_flows = 0
        self._made_strangers = 0
        self._share = 1.0

    @property
    def closed(self) -> bool:
        """Whether the filter is on."""
        return self._closed_at is not None

    def tick(
        self, *, kernel_drops: int, strangers: int, flows: int, now: float
    ) -> Close | Open | None:
        """Say what to do.

        ``kernel_drops`` is the socket's count modulo 2**32, which the filter counts up as well;
        ``strangers`` counts what strangers sent and the relay dropped; ``flows`` is how many there
        are now.
        """
        if self._ticked is None or now <= self._ticked:
            self._drops, self._strangers = kernel_drops, strangers
            self._ticked = now if self._ticked is None else self._ticked
            return None
        seconds, self._ticked = now - self._ticked, now
        dropped = (kernel_drops - self._drops & 0xFFFFFFFF) / seconds
        served = (strangers - self._strangers) / seconds
        self._drops, self._strangers = kernel_drops, strangers
        if self._closed_at is None:
            if not dropped or served < FLOOD:
                return None
            return self._close(dropped, served, flows, now)
        if dropped + served > self._calm_below:
            self._calm_since = now
        elif now - self._calm_since >= self._calm_seconds:
            self._closed_at, self._opened_at = None, now
            return Open()
        return self._renew(flows, now)

    def _close(self, dropped: float, served: float, flows: int, now: float) -> Close:
        again = now - self._opened_at < 2 * self._calm_seconds
        longer = min(2 * self._calm_seconds, MAX_CALM_SECONDS)
        self._calm_seconds = longer if again else CALM_SECONDS
        self._calm_below = max(FLOOD, CALM_RATIO * served)
        self._closed_at = self._calm_since = now
        self._share = max(MIN_SHARE, min(1.0, STRANGERS_PER_SECOND / (dropped + served)))
        return self._made(flows, now)

    def _renew(self, flows: int, now: float) -> Close | None:
        wait = NEW_FLOWS_SECONDS if flows != self._made_flows else RENEW_SECONDS
        elapsed = now - self._made_at
        if elapsed < max(wait, flows * SECONDS_PER_FLOW):
            return None
        let_in = (self._strangers - self._made_strangers) / elapsed
        factor = STRANGERS_PER_SECOND / max(let_in, STRANGERS_PER_SECOND / 2)
        self._share = max(MIN_SHARE, min(1.0, self._share * factor))
        return self._made(flows, now)

    def _made(self, flows: int, now: float) -> Close:
        self._made_at, self._made_flows, self._made_strangers = now, flows, self._strangers
        return Close(self._share)


@dataclass(frozen=True, slots=True)
class GateStatistics:
    """Counts since the start."""

    closed: bool
    closings: int
    filters: int
    """How often a filter was made."""


class SocketGate:
    """The gate of the sockets of one public address, which stay their owner's to close."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        store: FlowStore,
        *,
        public: Address,
        randbits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self._sockets = sockets
        self._store = store
        self._public = public
        self._randbits = randbits
        self._keeper = GateKeeper()
        self._limit = MAX_INSTRUCTIONS
        self._usable = True
        self._closings = self._filters = 0

    async def run(
        self,
        drops: Callable[[], Mapping[Drop, int]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the gate until cancelled; ``drops`` tells the relay's so far."""
        self._open()  # a worker that was killed has left its filter on the sockets
        task_status.started()
        try:
            while True:
                await trio.sleep(TICK_SECONDS)
                self.tick(drops(), now=trio.current_time())
        finally:
            self._open()

    def tick(self, drops: Mapping[Drop, int], *, now: float) -> None:
        """Close, renew or open the gate; see ``GateKeeper``.

        Where the system has no such filters, the gate stays open, and the log says so once.
        """
        if not self._usable:
            return
        try:
            self._tick(sum(drops.get(drop, 0) for drop in STRANGERS), now)
        except OSError as error:
            self._usable = False
            self._open()
            log.warning("no filter against floods", error=error.strerror)

    def statistics(self) -> GateStatistics:
        """Return the counters."""
        closed = self._usable and self._keeper.closed
        return GateStatistics(closed, self._closings, self._filters)

    def _tick(self, strangers: int, now: float) -> None:
        was_closed = self._keeper.closed
        match self._keeper.tick(
            kernel_drops=sum(map(kernel_drops, self._sockets)),
            strangers=strangers,
            flows=len(self._store),
            now=now,
        ):
            case Close(share):
                if not was_closed:
                    self._closings += 1
                    log.warning("gate closed", flows=len(self._store))
                self._close(share)
            case Open():
                log.info("gate opened")
                self._open()

    def _open(self) -> None:
        for sock in self._sockets:
            with suppress(OSError):  # it had no filter
                detach(sock)

    def _close(self, share: float) -> None:
        known = known_sources(self._store, self._public)
        while True:
            program = compile_gate(known, share=share, key=self._randbits(64), limit=self._limit)
            self._filters += 1
            if all(_set(sock, program) for sock in self._sockets):
                return
            self._limit //= 2
            if self._limit < MIN_INSTRUCTIONS:
                raise OSError(errno.ENOMEM, "no memory for a filter")


def _set(sock: socket.socket, program: Program) -> bool:
    """Attach a filter; False when it is too long for the system."""
    for _ in range(2):
        try:
            attach(sock, program)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
        else:
            return True
        with suppress(OSError):
            detach(sock)  # for a moment: the old and the new one together may be what is too long
    return False


def known_sources(store: FlowStore, public: Address) -> list[Address] | None:
    """List our own clients; None when they are too many for a filter."""
    if len(store) > MAX_SOURCES:
        return None
    known: list[Address] = []
    cursor = 0
    while True:
        cursor, found = store.scan(cursor, SCAN)
        for path, _ in found:
            client, proxy = decode_path(path)
            if proxy == public:
                known.append(client)
        if not cursor:
            return known
