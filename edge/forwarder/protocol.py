"""What a relay's data plane is, for both that do it: ``native`` and its twin ``pure``.

A forwarder owns the way of a packet: the sockets, the confirmed flows, and the hops, which are the
addresses on the inside. It forwards whatever these decide and raises the rest for Python, where
flows, tokens, limits and the registry live. A path (the 38-byte SPP header, ``wire.spp``) is the
key of a flow; its proxy address is *ours* for our own clients, and that of a *peer*, a relay of
another cluster, for clients which that one serves.

From a client, over the public socket with a path made of its source, or from a peer over the
internal socket with a path whose proxy is that peer's public address:

1. Nothing at all, more than MAX_PAYLOAD bytes, our own public address as the source, STUN (first
   byte 0 to 3, RFC 7983) without a sound header (20 bytes, magic cookie, the length of the rest, a
   multiple of 4), or a request that is no Binding request with a USERNAME (among its first 32
   attributes, before MESSAGE-INTEGRITY): MALFORMED.
2. A Binding request is raised.
3. Anything else of a known flow goes to its owner, and to its challenger if there is one. For each
   of them, a hop that is not there: UNKNOWN_SLOT and ``stale``.
4. Without a flow: UNKNOWN_KIND for what ``wire.demux`` does not know, all else is raised.

From a transceiver, or from a peer with our own public address as the proxy:

1. Over MAX_DATAGRAM bytes: MALFORMED. A source that is no hop: UNKNOWN_SLOT and ``stale``. No SPP
   header: MALFORMED. A proxy that is neither ours nor a peer's public address: UNKNOWN_RELAY. From
   a peer, a proxy that is another peer's: LOOP.
2. An empty payload (the flow is given back), four bytes that name a slot (it is given to another,
   ``wire.spp``) and a STUN success or error response, of any method, are raised; other STUN without
   a sound header is MALFORMED.
3. Anything else needs a flow (raised when there is none) whose owner or challenger is in the
   sender's group, else NOT_OWNER. It goes to the client without the header when the proxy is ours,
   and to that peer with it when not.

What is raised waits in two bounded queues (QUEUE_FULL). What belongs to a known flow or is on its
way to a client comes first; what strangers send has a rate limit (``limits.TokenBucket``;
RATE_LIMIT) and a short queue.

``forward`` and ``deliver`` look at no flow, and work while ``run`` does not. A payload over
MAX_PAYLOAD is MALFORMED, a hop that is not there UNKNOWN_SLOT and ``stale``, a proxy that is
neither ours nor a peer's UNKNOWN_RELAY. An address of a family that the socket does not serve is
SEND_ERROR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import trio

from edge.address import Address
from edge.errors import Drop
from edge.wire.spp import HEADER_BYTES, Path

MAX_DATAGRAM: Final = 2048
"""Longer datagrams are dropped, counted with their SPP header; WebRTC fits one Ethernet frame."""
MAX_PAYLOAD: Final = MAX_DATAGRAM - HEADER_BYTES
FIRST_PEER: Final = 1 << 24
"""Hops below are transceivers' slots; from here on they number relays of other clusters."""
RAISED_BATCH: Final = 64
"""What ``receive`` returns at most of each queue: about 2 ms of work."""
KNOWN_QUEUE: Final = 1_024
STRANGER_QUEUE: Final = 256


class FlowEntry(NamedTuple):
    """A confirmed flow. Times are in seconds on the caller's monotonic clock, 0.1 s coarse."""

    owner: int
    """The hop that serves the client."""
    heard: float
    """When the owner last answered a check."""
    challenger: int = 0
    """Another hop that is confirmed for the same client (see ``routing``), or 0."""
    challenger_heard: float = 0.0
    save_at: float = 0.0
    """When the flow's registry record is due to be written; 0: its owner has it on trust."""


class FlowStore(Protocol):
    """The confirmed flows by path. A store is bounded by the caller, who asks ``len``."""

    def __len__(self) -> int:
        """How many there are."""

    def get(self, path: Path) -> FlowEntry | None:
        """Find a flow."""

    def put(self, path: Path, entry: FlowEntry) -> bool:
        """Set a flow. False when there is no room (only beyond the store's capacity)."""

    def remove(self, path: Path) -> None:
        """Take a flow out; no error when there is none."""

    def scan(
        self, cursor: int, limit: int, *, heard_before: float = ..., hop: int = ...
    ) -> tuple[int, list[tuple[Path, FlowEntry]]]:
        """Look at ``limit`` places of the store from ``cursor`` on (0 at first).

        Returns the next cursor, 0 when the end is reached, and the flows there whose owner was last
        heard before ``heard_before`` (default: any time) and that belong to ``hop`` as owner or
        challenger (default 0: any hop). A walk during which flows are put or removed may miss some.
        """


class Raised(NamedTuple):
    """A datagram that the forwarder leaves to Python."""

    path: Path
    payload: bytes
    """Without the SPP header."""
    sender: int
    """The hop it came from on its way to the client; 0 when it came from the client's side."""

    def __repr__(self) -> str:
        """Tell what a log may hold."""
        return f"Raised({len(self.payload)} bytes, sender={self.sender})"


@dataclass(frozen=True, slots=True)
class ForwarderStatistics:
    """Counts since the start."""

    packets_to_transceivers: int
    """Datagrams forwarded inwards; one that goes to owner and challenger counts twice."""
    bytes_to_transceivers: int
    """Of payload, without SPP headers; likewise below."""
    packets_to_clients: int
    bytes_to_clients: int
    wakes: int
    """Rounds of the loop that found something."""
    drops: Mapping[Drop, int]


class Forwarder(Protocol):
    """A running data plane. All methods are for the one Trio thread."""

    @property
    def flows(self) -> FlowStore:
        """The confirmed flows."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Forward until cancelled."""

    async def receive(self) -> list[Raised]:
        """Wait for something raised; known flows' first. Cancelling loses nothing."""

    def forward(self, path: Path, payload: bytes, hop: int) -> bool:
        """Send towards a hop, framed, as the loop would; counts why not, returns whether sent."""

    def deliver(self, path: Path, payload: bytes) -> bool:
        """Send towards the client of a path, as the loop would; likewise."""

    def set_hop(self, hop: int, address: Address, *, group: int, public: Address | None) -> None:
        """Add or move a hop, from 1 to 2**32 - 1; an address that another one had is now its own.

        ``group``: hops of one group may answer for each other's flows. Nobody knows the group of a
        hop that is not there.

        ``public`` is a peer's public address; None for a transceiver.
        """

    def remove_hop(self, hop: int) -> None:
        """Take a hop out; its flows stay, and lead nowhere."""

    def statistics(self) -> ForwarderStatistics:
        """Return the counters."""
