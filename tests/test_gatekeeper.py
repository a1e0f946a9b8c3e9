"""When the gate closes and opens, and what its keeper does with a socket."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import trio
from trio.abc import Clock

from edge.address import Address
from edge.errors import Drop
from edge.forwarder import bpf, gatekeeper
from edge.forwarder.bpf import Program
from edge.forwarder.gate import MAX_SOURCES
from edge.forwarder.gatekeeper import (
    CALM_SECONDS,
    MIN_SHARE,
    STRANGERS_PER_SECOND,
    Close,
    GateKeeper,
    Open,
    SocketGate,
    known_sources,
)
from edge.forwarder.protocol import FlowEntry
from edge.forwarder.store import MemoryStore
from edge.wire.spp import encode_path

TICK = 0.125
PUBLIC: Address = ("203.0.113.1", 3478)
CAPACITY = 100_000


@dataclass
class Flood:
    """A relay of a certain capacity under a flood, as its gatekeeper sees it."""

    keeper: GateKeeper = field(default_factory=GateKeeper)
    now: float = 1_000.0
    flows: int = 10
    drops: int = (1 << 32) - 50_000
    """The count wraps on the way."""
    strangers: int = 0
    share: float | None = None
    """What the closed gate lets in, None when it is open."""
    actions: list[Close | Open] = field(default_factory=list)

    def last(self, seconds: float, *, rate: float, checks: bool = False) -> list[Close | Open]:
        """Let strangers send so much for so long; returns what was done."""
        self.actions = []
        for _ in range(round(seconds / TICK)):
            self._tick(rate, checks)
        return self.actions

    def _tick(self, rate: float, checks: bool) -> None:
        reach = rate if self.share is None else rate * self.share * checks
        served = min(reach, CAPACITY)
        self.now += TICK
        self.drops = self.drops + round((rate - served) * TICK) & 0xFFFFFFFF
        self.strangers += round(served * TICK)
        action = self.keeper.tick(
            kernel_drops=self.drops, strangers=self.strangers, flows=self.flows, now=self.now
        )
        if action is not None:
            self.actions.append(action)
            self.share = action.share if isinstance(action, Close) else None


@pytest.fixture
def flood() -> Flood:
    flood = Flood()
    assert flood.last(1.0, rate=0) == []
    return flood


def test_it_stays_open_while_nothing_is_dropped(flood: Flood) -> None:
    assert flood.last(60, rate=0.9 * CAPACITY) == []
    assert not flood.keeper.closed


def test_kernel_drops_without_strangers_are_no_flood(flood: Flood) -> None:
    flood.drops += 1_000
    assert flood.last(1, rate=10) == []


def test_it_closes_in_the_tick_that_sees_drops(flood: Flood) -> None:
    assert isinstance(flood.last(TICK, rate=3 * CAPACITY)[0], Close)
    assert flood.keeper.closed


@pytest.mark.parametrize("checks", [False, True])
def test_it_stays_closed_while_the_flood_lasts_and_opens_soon_after(
    flood: Flood, checks: bool
) -> None:
    assert not any(isinstance(a, Open) for a in flood.last(30, rate=3 * CAPACITY, checks=checks))
    assert flood.last(CALM_SECONDS - 2 * TICK, rate=100)
    assert flood.keeper.closed
    flood.last(1.0, rate=100)
    assert not flood.keeper.closed
    assert flood.last(60, rate=100) == []


def test_a_flood_that_the_relay_can_bear_does_not_hold_it_closed(flood: Flood) -> None:
    flood.last(2, rate=3 * CAPACITY)
    flood.last(2 * CALM_SECONDS, rate=0.2 * CAPACITY)
    assert not flood.keeper.closed


def test_a_flood_in_pulses_finds_it_closed_after_some(flood: Flood) -> None:
    openings = 0
    for _ in range(30):
        openings += any(isinstance(a, Open) for a in flood.last(1, rate=3 * CAPACITY))
        openings += any(isinstance(a, Open) for a in flood.last(8, rate=0))
    assert openings <= 3


def test_a_flood_of_checks_is_let_in_as_far_as_it_is_cheap(flood: Flood) -> None:
    flood.last(5, rate=3 * CAPACITY, checks=True)
    before = flood.strangers
    flood.last(10, rate=3 * CAPACITY, checks=True)
    assert (flood.strangers - before) / 10 == pytest.approx(STRANGERS_PER_SECOND, rel=0.2)


def test_the_share_has_a_lower_bound(flood: Flood) -> None:
    flood.last(5, rate=1_000 * CAPACITY, checks=True)
    assert flood.share == MIN_SHARE


def test_new_calls_are_let_in_when_the_flood_has_no_checks(flood: Flood) -> None:
    flood.last(10, rate=3 * CAPACITY, checks=False)
    assert flood.share == 1.0


def test_new_flows_are_known_soon(flood: Flood) -> None:
    flood.last(1, rate=3 * CAPACITY)
    quiet = len(flood.last(10, rate=3 * CAPACITY))
    assert quiet <= 10
    flood.flows += 1
    assert flood.last(0.25, rate=3 * CAPACITY)


def test_many_flows_are_compiled_less_often(flood: Flood) -> None:
    flood.flows = 30_000
    assert len(flood.last(9, rate=3 * CAPACITY)) <= 4


# With a socket.


def store_of(*clients: Address, proxy: Address = PUBLIC) -> MemoryStore:
    store = MemoryStore(100_000)
    for client in clients:
        assert store.put(encode_path(client, proxy), FlowEntry(1, 0.0))
    return store


def test_known_are_our_own_clients() -> None:
    store = store_of(("192.0.2.1", 1), ("2001:db8::1", 2))
    store.put(encode_path(("192.0.2.9", 1), ("203.0.113.2", 3478)), FlowEntry(1, 0.0))
    assert known_sources(store, PUBLIC) == [("192.0.2.1", 1), ("2001:db8::1", 2)]


def test_too_many_are_not_listed() -> None:
    store = store_of(*((f"10.0.{number >> 8}.{number & 255}", 1) for number in range(5_000)))
    known = known_sources(store, PUBLIC)
    assert known is not None
    assert len(known) == 5_000
    for number in range(MAX_SOURCES):
        store.put(encode_path(("192.0.2.1", number), PUBLIC), FlowEntry(1, 0.0))
    assert known_sources(store, PUBLIC) is None


class System:
    """The kernel's part: a count of drops, and filters up to a length."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drops = 0
        self.room = bpf.MAX_INSTRUCTIONS
        self.error = errno.ENOMEM
        self.filters: list[Program | None] = []
        monkeypatch.setattr(gatekeeper, "attach", self.attach)
        monkeypatch.setattr(gatekeeper, "detach", lambda _sock: self.filters.append(None))
        monkeypatch.setattr(gatekeeper, "kernel_drops", lambda _sock: self.drops)

    def attach(self, _sock: socket.socket, program: Program) -> None:
        if len(program) > self.room:
            raise OSError(self.error, "refused")
        self.filters.append(program)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


def flood_gate(gate: SocketGate, system: System, *, seconds: float = 1.0) -> None:
    for number in range(round(seconds / TICK)):
        system.drops += 10_000
        gate.tick({Drop.RATE_LIMIT: number * 10_000, Drop.NOT_OWNER: 5}, now=number * TICK)


def test_every_socket_gets_the_filter(system: System, sock: socket.socket) -> None:
    gate = SocketGate([sock, sock], store_of(("192.0.2.1", 1)), public=PUBLIC)
    flood_gate(gate, system)
    assert gate.statistics().closed
    assert gate.statistics().closings == 1
    assert system.filters[0]
    assert system.filters[0] is system.filters[1]
    for number in range(80):
        gate.tick({}, now=10.0 + number * TICK)
    assert not gate.statistics().closed
    assert system.filters[-2:] == [None, None]


def test_a_filter_is_made_shorter_where_there_is_no_room(
    system: System, sock: socket.socket
) -> None:
    system.room = 1_100
    clients = ((f"10.0.{number >> 8}.{number & 255}", 1) for number in range(2_000))
    gate = SocketGate([sock], store_of(*clients), public=PUBLIC)
    flood_gate(gate, system)
    last = system.filters[-1]
    assert last is not None
    assert 900 < len(last) <= 1_100


@pytest.mark.parametrize(("error", "room"), [(errno.ENOMEM, 10), (errno.EPERM, 0)])
def test_where_there_are_no_filters_the_gate_stays_open(
    system: System, sock: socket.socket, error: int, room: int
) -> None:
    system.error, system.room = error, room
    gate = SocketGate([sock], store_of(("192.0.2.1", 1)), public=PUBLIC)
    flood_gate(gate, system)
    assert system.filters[-1] is None
    assert not gate.statistics().closed
    made = gate.statistics().filters
    flood_gate(gate, system)
    assert gate.statistics().filters == made


async def test_it_is_kept_until_cancelled(
    system: System, sock: socket.socket, autojump_clock: Clock
) -> None:
    gate = SocketGate([sock], store_of(("192.0.2.1", 1)), public=PUBLIC)
    drops = 0

    def relay_drops() -> dict[Drop, int]:
        nonlocal drops
        drops += 10_000
        system.drops += 10_000
        return {Drop.RATE_LIMIT: drops}

    async with trio.open_nursery() as nursery:
        await nursery.start(gate.run, relay_drops)
        await trio.sleep(0.25)
        assert gate.statistics().closed
        assert system.filters[-1]
        nursery.cancel_scope.cancel()
    assert system.filters[-1] is None, "who serves the socket next begins without a filter"
