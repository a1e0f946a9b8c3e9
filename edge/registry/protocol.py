"""What the parts of a fleet tell each other: a cache and a claim book, never on a packet's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from edge.address import Address
from edge.errors import Drop
from edge.registry.sessions import SessionBook
from edge.registry.sessions import Slot as Slot

MAX_SLOT: Final = 2**24 - 1


class TransceiverRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A living transceiver."""

    slot: Slot
    cluster: int
    address: Address
    """Where relays send its datagrams."""
    http_url: str
    sessions: int = 0
    draining: bool = False


class RelayListener(msgspec.Struct, frozen=True, kw_only=True):
    """One public address of a relay, with flows and an internal address of its own."""

    transport: str
    """``udp`` or ``tcp``; what a later version may know of is passed over."""
    public: Address
    """What clients are told."""
    internal: Address
    """Where its internal datagrams come from and go to."""

    @property
    def proxy(self) -> Address:
        """What stands for it in SPP headers: UDP and TCP may have one public address."""
        return self.public if self.transport == "udp" else self.internal


class RelayRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A living relay, of whichever cluster."""

    name: str
    """Its own inside its cluster."""
    cluster: int
    public: Address
    """What clients are told."""
    internal: Address
    """Where its internal datagrams come from and go to, those of other clusters' relays too."""
    region: str = ""
    latitude: float | None = None
    """Degrees north; None where the relay's place is not known."""
    longitude: float | None = None
    """Degrees east."""
    flows: int = 0
    """Confirmed flows, the relay's load."""
    max_flows: int = 0
    """How many it takes; 0 where it does not say."""
    http_url: str = ""
    """Where its health and metrics are."""
    draining: bool = False
    """It forwards what it has and shall get no new clients."""
    more: tuple[RelayListener, ...] = ()
    """Its other listeners: of the other IP version, and for TCP."""

    @property
    def listeners(self) -> tuple[RelayListener, ...]:
        """All listeners; the first is the one that other relays send to."""
        first = RelayListener(transport="udp", public=self.public, internal=self.internal)
        return (first, *self.more)


class FlowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A confirmed flow: who serves this client address behind this public address."""

    public: Address
    client: Address
    cluster: int
    """Whose transceiver serves the client; of another cluster, by way of its relays."""
    slot: Slot
    """The transceiver's; 0 for another cluster, whose relays know it."""

    def __repr__(self) -> str:
        """Like a Struct's, without the client."""
        return f"FlowRecord(cluster={self.cluster}, slot={self.slot})"


class RegistryUnavailable(Exception):
    """The registry can not be reached right now; what is known stays in use."""


@dataclass(frozen=True, slots=True)
class RegistryStatistics:
    """Counts since the start, and what waits now."""

    up: bool
    """The store answered the last time it was asked."""
    operations: int
    """Commands answered."""
    failures: int
    """Round trips that failed."""
    waiting_writes: int
    """Flow writes not answered yet."""
    drops: Mapping[Drop, int]
    peers: int = 0
    """Other clusters' registries that are read."""
    peers_up: int = 0
    """How many of them answered the last time."""


class Registry(Protocol):
    """The claim book. ``async`` methods may block, be cancelled, or raise RegistryUnavailable."""

    @property
    def sessions(self) -> SessionBook:
        """Who owns which session of this cluster, and their checkpoints."""

    async def claim_slot(self) -> Slot:
        """Take a slot that no other process has, now or in the recent past."""

    async def put_transceiver(self, record: TransceiverRecord) -> None:
        """Write or renew a record; it lives for the lease time."""

    async def remove_transceiver(self, slot: Slot) -> None:
        """Take a transceiver out at once."""

    async def transceivers(self) -> Sequence[TransceiverRecord]:
        """All that are alive, in this cluster."""

    async def put_relay(self, record: RelayRecord) -> None:
        """Write or renew a relay's record; it lives for the lease time."""

    async def remove_relay(self, name: str) -> None:
        """Take a relay of this cluster out at once."""

    async def relays(self) -> Sequence[RelayRecord]:
        """All that are alive, in every cluster that is known."""

    async def claim_once(self, name: str, seconds: float) -> bool:
        """Claim a name for this time; False when it is claimed already, in this cluster."""

    async def release_claim(self, name: str) -> None:
        """Give a claim back."""

    def save_flow(self, record: FlowRecord, *, seconds: float) -> None:
        """Queue a flow to be written with this time to live; never blocks, drops when full."""

    def remove_flow(self, public: Address, client: Address) -> None:
        """Queue a flow's removal; never blocks."""

    async def find_flow(self, public: Address, client: Address) -> FlowRecord | None:
        """Look a flow up."""
