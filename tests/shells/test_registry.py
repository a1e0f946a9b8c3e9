"""The memory registry, sealed records, the directory and heartbeats, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.abc import Clock

from edge.address import Address
from edge.errors import ConfigError, Drop, RemoteProtocolError
from edge.registry.directory import HINT_SECONDS, LATE_SECONDS, Directory
from edge.registry.heartbeat import keep_relay, keep_transceiver
from edge.registry.lease import LEASE_SECONDS, RENEW_SECONDS, Lease
from edge.registry.memory import MemoryRegistry, Watcher
from edge.registry.protocol import (
    MAX_SLOT,
    FlowRecord,
    Registry,
    RegistryUnavailable,
    RelayListener,
    RelayRecord,
    Slot,
    TransceiverRecord,
)
from edge.registry.records import ALLOWED_SKEW, MAX_SEALED_BYTES, RecordKeys

SECRET = "s" * 32
OTHER_SECRET = "o" * 32
PUBLIC = ("192.0.2.1", 3478)
CLIENT = ("198.51.100.7", 50_000)
FLOW = FlowRecord(public=PUBLIC, client=CLIENT, cluster=0, slot=Slot(7))


def transceiver(slot: int, *, host: str = "10.0.0.1", port: int | None = None) -> TransceiverRecord:
    address = (host, 10_000 + slot if port is None else port)
    return TransceiverRecord(slot=Slot(slot), cluster=0, address=address, http_url="http://t")


def relay(name: str, *, port: int = 4000, cluster: int = 0) -> RelayRecord:
    return RelayRecord(name=name, cluster=cluster, public=PUBLIC, internal=("10.0.0.9", port))


class FlakyRegistry(MemoryRegistry):
    """A registry that can be away, and does not push changes."""

    def __init__(self) -> None:
        super().__init__(lease_seconds=3.0)
        self.away = False
        self.asked = 0
        self.seconds = 0.0
        """How long an answer takes."""
        self.was_renewed = False

    @contextmanager
    def watch(self, changed: Watcher) -> Iterator[None]:
        yield

    async def transceivers(self) -> Sequence[TransceiverRecord]:
        self.asked += 1
        self._check()
        await trio.sleep(self.seconds)
        return await super().transceivers()

    async def put_transceiver(self, record: TransceiverRecord) -> None:
        self._check()
        self.was_renewed = True
        await super().put_transceiver(record)

    async def put_relay(self, record: RelayRecord) -> None:
        self._check()
        await super().put_relay(record)

    async def empty(self) -> None:
        for record in await MemoryRegistry.transceivers(self):
            await self.remove_transceiver(record.slot)
        for one in await self.relays():
            await self.remove_relay(one.name)

    def _check(self) -> None:
        if self.away:
            raise RegistryUnavailable


# The memory registry.


async def test_leases_end_unless_renewed(autojump_clock: Clock) -> None:
    registry = MemoryRegistry(lease_seconds=3.0)
    await registry.put_transceiver(transceiver(1))
    await registry.put_transceiver(transceiver(2))
    await trio.sleep(2.0)
    await registry.put_transceiver(transceiver(2))
    await trio.sleep(1.5)
    assert await registry.transceivers() == [transceiver(2)]
    await registry.remove_transceiver(Slot(2))
    assert await registry.transceivers() == []


async def test_relays_have_leases_too(autojump_clock: Clock) -> None:
    registry = MemoryRegistry(lease_seconds=3.0)
    await registry.put_relay(relay("a"))
    await registry.put_relay(relay("b"))
    await registry.remove_relay("a")
    assert await registry.relays() == [relay("b")]
    await trio.sleep(3.0)
    assert await registry.relays() == []


async def test_a_relay_may_have_a_longer_lease(autojump_clock: Clock) -> None:
    registry = MemoryRegistry(lease_seconds=0.5, relay_lease_seconds=3.0)
    for each in (registry, registry.beside(1)):
        await each.put_transceiver(transceiver(1))
        await each.put_relay(relay("a"))
        await trio.sleep(2.9)
        assert await each.transceivers() == []
        assert relay("a") in await each.relays()
        await trio.sleep(0.2)
        assert await each.relays() == []


class FormerRelayRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay wrote before it had several listeners."""

    name: str
    cluster: int
    public: Address
    internal: Address


def test_records_are_read_by_the_version_before_and_after() -> None:
    keys, tcp = RecordKeys(SECRET), RelayListener(transport="tcp", public=PUBLIC, internal=CLIENT)
    former = FormerRelayRecord(name="a", cluster=0, public=PUBLIC, internal=("10.0.0.9", 4000))
    sealed = keys.seal("a", former, expires=9.0)
    assert keys.open("a", sealed, RelayRecord, now=1.0).record == relay("a")
    present = msgspec.structs.replace(relay("a"), more=(tcp,))
    sealed = keys.seal("a", present, expires=9.0)
    assert keys.open("a", sealed, RelayRecord, now=1.0).record == present
    assert keys.open("a", sealed, FormerRelayRecord, now=1.0).record == former


async def test_each_listener_of_a_relay_is_known_inside(autojump_clock: Clock) -> None:
    registry = MemoryRegistry()
    directory = Directory(registry)
    changes: list[int] = []
    tcp = RelayListener(transport="tcp", public=PUBLIC, internal=("10.0.0.9", 4001))
    assert tcp.proxy == tcp.internal, "UDP may have the same public address"
    with directory.watch(lambda: changes.append(len(directory.relays))):
        for record in relay("a"), msgspec.structs.replace(relay("a"), more=(tcp,)):
            await registry.put_relay(record)
            await directory.refresh()
    assert changes == [0, 1, 1]
    assert directory.is_relay(("10.0.0.9", 4000))
    assert directory.is_relay(("10.0.0.9", 4001))


async def test_clusters_side_by_side_share_relays_alone(autojump_clock: Clock) -> None:
    one = MemoryRegistry(cluster=1)
    two = one.beside(2)
    seen: list[int] = []
    with two.watch(lambda transceivers, relays: seen.append(len(relays))):
        await one.put_relay(relay("a", cluster=1))
        await two.put_relay(relay("a", cluster=2))
        await one.put_transceiver(transceiver(1))
    assert seen == [0, 1, 2]
    for registry in (one, two):
        assert await registry.relays() == [relay("a", cluster=1), relay("a", cluster=2)]
    assert await two.transceivers() == []
    await two.remove_relay("a")
    assert await one.relays() == [relay("a", cluster=1)], "each takes out its own"


async def test_slots_are_distinct_and_pass_over_the_living() -> None:
    registry = MemoryRegistry(entropy=lambda n: (MAX_SLOT - 2).to_bytes(n, "big"))
    await registry.put_transceiver(transceiver(1))
    slots = [await registry.claim_slot() for _ in range(4)]
    assert slots == [MAX_SLOT - 1, MAX_SLOT, 2, 3]


async def test_flows_are_found_until_their_time_is_over(autojump_clock: Clock) -> None:
    registry = MemoryRegistry()
    registry.save_flow(FLOW, seconds=5.0)
    assert await registry.find_flow(PUBLIC, CLIENT) == FLOW
    assert await registry.find_flow(PUBLIC, ("198.51.100.7", 50_001)) is None
    await trio.sleep(5.0)
    assert await registry.find_flow(PUBLIC, CLIENT) is None
    registry.save_flow(FLOW, seconds=5.0)
    registry.remove_flow(PUBLIC, CLIENT)
    assert await registry.find_flow(PUBLIC, CLIENT) is None


async def test_the_oldest_flow_gives_way() -> None:
    registry = MemoryRegistry(max_flows=2)
    flows = [msgspec.structs.replace(FLOW, client=("198.51.100.7", port)) for port in (1, 2, 3)]
    for flow in flows:
        registry.save_flow(flow, seconds=5.0)
    assert await registry.find_flow(PUBLIC, ("198.51.100.7", 1)) is None
    assert await registry.find_flow(PUBLIC, ("198.51.100.7", 3)) == flows[2]
    assert registry.statistics().drops == {Drop.TABLE_FULL: 1}


# Sealed records.


def drop_of(keys: RecordKeys, name: str, sealed: bytes, *, now: float = 0.0) -> Drop:
    with pytest.raises(RemoteProtocolError) as caught:
        keys.open(name, sealed, FlowRecord, now=now)
    return caught.value.drop


def test_a_record_opens_with_either_live_secret() -> None:
    sealed = RecordKeys(SECRET).seal("n", FLOW, expires=100.0)
    for keys in (RecordKeys(SECRET), RecordKeys(OTHER_SECRET, SECRET)):
        assert keys.open("n", sealed, FlowRecord, now=99.0).record == FLOW
    assert drop_of(RecordKeys(OTHER_SECRET), "n", sealed) is Drop.BAD_AUTH


def test_a_tombstone_opens_as_no_record() -> None:
    keys = RecordKeys(SECRET)
    lease = keys.open("n", keys.seal("n", None, expires=100.0), FlowRecord, now=0.0)
    assert (lease.record, lease.expires) == (None, 100.0)


def test_a_record_hides_its_addresses() -> None:
    keys = RecordKeys(SECRET)
    for text in (keys.seal("n", FLOW, expires=1.0), keys.flow_names(PUBLIC, CLIENT)[0].encode()):
        assert b"198.51" not in text
        assert b"50000" not in text


def test_bad_records_have_names() -> None:
    keys = RecordKeys(SECRET)
    sealed = keys.seal("n", FLOW, expires=100.0)
    assert drop_of(keys, "moved", sealed) is Drop.BAD_AUTH
    assert drop_of(keys, "n", sealed, now=100.0 + ALLOWED_SKEW) is Drop.REPLAY
    assert drop_of(keys, "n", b"\x01" + sealed[1:]) is Drop.MALFORMED
    assert drop_of(keys, "n", bytes(MAX_SEALED_BYTES + 1)) is Drop.MALFORMED
    assert drop_of(keys, "n", keys.seal("n", relay("a"), expires=9.0)) is Drop.MALFORMED
    assert drop_of(keys, "n", keys.seal("n", FLOW, expires=float("inf"))) is Drop.MALFORMED


@given(st.data())
def test_a_changed_record_never_opens(data: st.DataObject) -> None:
    keys = RecordKeys(SECRET, OTHER_SECRET)
    sealed = bytearray(keys.seal("n", FLOW, expires=100.0))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(sealed) - 1))
        sealed[place] ^= data.draw(st.integers(1, 255))
    else:
        del sealed[data.draw(st.integers(0, len(sealed) - 1)) :]
    assert drop_of(keys, "n", bytes(sealed)) in (Drop.BAD_AUTH, Drop.MALFORMED)


@given(st.binary(max_size=200))
def test_garbage_never_opens(garbage: bytes) -> None:
    assert drop_of(RecordKeys(SECRET), "n", garbage) in (Drop.BAD_AUTH, Drop.MALFORMED)


def test_a_short_secret_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        RecordKeys("short-secret")
    assert "short-secret" not in str(caught.value)


# The directory.


async def test_a_directory_sees_memory_changes_at_once(autojump_clock: Clock) -> None:
    registry = MemoryRegistry()
    directory = Directory(registry)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        await registry.put_transceiver(transceiver(1))
        await registry.put_relay(relay("a"))
        assert directory.transceiver(Slot(1)) == transceiver(1)
        assert directory.is_relay(("10.0.0.9", 4000))
        assert not directory.is_relay(PUBLIC)
        assert directory.relays == (relay("a"),)
        await registry.remove_transceiver(Slot(1))
        assert directory.transceivers == ()
        await trio.sleep(3.3)  # an ended lease is no change: the next refresh sees it
        assert not directory.relays
        nursery.cancel_scope.cancel()
    await registry.put_transceiver(transceiver(2))
    assert directory.transceivers == (), "nobody is told after the end"


async def test_a_directory_knows_all_relays_and_trusts_its_own(
    autojump_clock: Clock,
) -> None:
    registry = MemoryRegistry(cluster=1)
    directory = Directory(registry, cluster=1)
    await registry.beside(2).put_relay(relay("b", port=4002, cluster=2))
    await directory.refresh()
    assert [one.name for one in directory.relays] == ["b"]
    assert not directory.has_own_relay
    await registry.put_relay(relay("a", port=4001, cluster=1))
    await directory.refresh()
    assert {one.name for one in directory.relays} == {"a", "b"}
    assert directory.has_own_relay
    assert directory.is_relay(("10.0.0.9", 4001))
    assert not directory.is_relay(("10.0.0.9", 4002)), "for transceivers it is a stranger"


async def test_a_watcher_is_told_who_is_there_and_where_and_nothing_else() -> None:
    registry = FlakyRegistry()
    directory = Directory(registry)
    calls: list[tuple[int, int]] = []

    async def step(*records: RelayRecord | TransceiverRecord) -> int:
        for record in records:
            if isinstance(record, RelayRecord):
                await registry.put_relay(record)
            else:
                await registry.put_transceiver(record)
        before = len(calls)
        await directory.refresh()
        return len(calls) - before

    def changed() -> None:
        calls.append((len(directory.transceivers), len(directory.relays)))

    replace = msgspec.structs.replace
    with directory.watch(changed):
        assert calls == [(0, 0)]
        assert await step() == 0
        assert await step(relay("a"), transceiver(1)) == 1
        assert calls[-1] == (1, 1), "the new view is there already"
        assert await step(replace(relay("a"), flows=5), replace(transceiver(1), sessions=9)) == 0
        assert [one.flows for one in directory.relays] == [5]
        assert await step(relay("a", port=5000)) == 1
        assert await step(replace(relay("a", port=5000), public=("192.0.2.2", 1))) == 1
        assert await step(transceiver(1, port=7)) == 1
        assert await step(replace(transceiver(1, port=7), draining=True)) == 1
        assert await step(relay("a", cluster=3)) == 1
        await registry.remove_transceiver(Slot(1))
        assert await step() == 1
    assert await step(transceiver(2)) == 0, "nobody is told after the end"


async def test_a_directory_logs_who_comes_and_goes() -> None:
    registry = MemoryRegistry()
    directory = Directory(registry)
    with capture_logs() as lines:
        await registry.put_relay(relay("10.0.0.5:4000"))
        for _ in range(2):
            await directory.refresh()
        await registry.remove_relay("10.0.0.5:4000")
        await directory.refresh()
    assert [(line["event"], line["part"], line["id"]) for line in lines] == [
        ("part found", "relay", "10.0.0.5:4000"),
        ("part gone", "relay", "10.0.0.5:4000"),
    ]


async def test_a_hint_makes_a_refresh_early_but_not_often(autojump_clock: Clock) -> None:
    registry = FlakyRegistry()
    directory = Directory(registry, interval_seconds=1.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        await trio.sleep(0.5)
        await registry.put_transceiver(transceiver(1))
        directory.hint_stale()
        await trio.sleep(HINT_SECONDS / 2)
        assert directory.transceiver(Slot(1)) is not None
        before = registry.asked
        with trio.move_on_after(0.2):
            while True:
                directory.hint_stale()
                await trio.sleep(0.001)
        assert 8 <= registry.asked - before <= 10
        nursery.cancel_scope.cancel()


async def test_known_transceivers_stay_while_the_registry_is_away(
    autojump_clock: Clock,
) -> None:
    registry = FlakyRegistry()
    await registry.put_transceiver(transceiver(1))
    directory = Directory(registry, interval_seconds=0.25)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        registry.away = True
        await trio.sleep(60.0)
        assert directory.transceiver(Slot(1)) is not None
        assert directory.statistics().stale
        assert directory.statistics().failures > 100
        nursery.cancel_scope.cancel()


async def test_an_emptied_registry_takes_no_route_down_for_a_lease_time(
    autojump_clock: Clock,
) -> None:
    registry = FlakyRegistry()
    for slot in (1, 2):
        await registry.put_transceiver(transceiver(slot))
    await registry.put_relay(relay("a"))
    directory = Directory(registry, interval_seconds=0.25, lease_seconds=3.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        registry.away = True
        await trio.sleep(1.0)
        await registry.empty()
        registry.away = False
        await trio.sleep(0.5)
        assert not directory.statistics().stale
        assert {record.slot for record in directory.transceivers} == {1, 2}
        assert directory.is_relay(("10.0.0.9", 4000))
        await registry.put_transceiver(transceiver(2))
        await registry.put_transceiver(transceiver(3))
        await trio.sleep(0.5)
        assert {record.slot for record in directory.transceivers} == {1, 2, 3}
        await registry.put_transceiver(transceiver(2))
        await trio.sleep(2.9)
        assert {record.slot for record in directory.transceivers} == {2}
        assert directory.relays == ()
        nursery.cancel_scope.cancel()


async def test_who_was_seen_again_after_an_outage_is_kept_no_longer_than_ever(
    autojump_clock: Clock,
) -> None:
    """A process that was cut off takes over from others as soon as those that never were."""
    registry = FlakyRegistry()
    directory = Directory(registry, interval_seconds=0.25, lease_seconds=3.0)
    for slot in (1, 2):
        await registry.put_transceiver(transceiver(slot))
    await directory.refresh()
    registry.away = True
    await directory.refresh()
    registry.away = False
    await registry.remove_transceiver(Slot(2))
    for kept in (True, True, False):  # only what was seen after a lease time proves a renewal
        await directory.refresh()
        assert directory.transceiver(Slot(1)) is not None
        if kept:
            await trio.sleep(LEASE_SECONDS / 2)
    await registry.remove_transceiver(Slot(1))
    await directory.refresh()
    assert [record.slot for record in directory.transceivers] == [2]
    await trio.sleep(3.0)
    await directory.refresh()
    assert directory.transceivers == ()


class ForeseeingRegistry(FlakyRegistry):
    """One that knows when leases end."""

    end = 10.0

    def next_end(self) -> float:
        return self.end - trio.current_time()


async def test_a_directory_looks_when_a_lease_ends(autojump_clock: Clock) -> None:
    registry = ForeseeingRegistry()
    registry.end = end = trio.current_time() + 0.7
    directory = Directory(registry, interval_seconds=0.5)
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        await trio.sleep_until(end - 0.01)
        assert registry.asked == 2, "at once, and after its interval"
        await trio.sleep_until(end + HINT_SECONDS)
        assert registry.asked == 3
        await trio.sleep(1.5 * HINT_SECONDS)
        assert 4 <= registry.asked <= 5, "a record that is still there is soon looked for again"
        registry.away = True
        before = registry.asked
        await trio.sleep(2.0)
        assert registry.asked - before <= 5, "no end is known while the registry is away"
        nursery.cancel_scope.cancel()


async def test_an_answer_that_was_long_in_coming_takes_nobody_out(
    autojump_clock: Clock,
) -> None:
    registry = FlakyRegistry()
    await registry.put_transceiver(transceiver(1))
    directory = Directory(registry)
    await directory.refresh()
    await registry.empty()
    registry.seconds = LATE_SECONDS + 0.01
    await directory.refresh()
    registry.seconds = 0.0
    for _ in range(2):
        assert directory.transceiver(Slot(1)) is not None
        await trio.sleep(LEASE_SECONDS * 0.6)
        await directory.refresh()
    assert directory.transceiver(Slot(1)) is None


async def test_what_stands_at_an_address(autojump_clock: Clock) -> None:
    registry = FlakyRegistry()
    directory = Directory(registry)
    tcp = RelayListener(transport="tcp", public=PUBLIC, internal=("10.0.0.9", 4001))
    await registry.put_transceiver(transceiver(1))
    await registry.put_transceiver(msgspec.structs.replace(transceiver(2), draining=True))
    await registry.put_relay(msgspec.structs.replace(relay("a"), more=(tcp,)))
    await MemoryRegistry.put_relay(registry.beside(9), relay("far", port=4009, cluster=9))
    await directory.refresh()
    for slot in (1, 2):
        assert directory.is_transceiver(transceiver(slot).address)
    assert not directory.is_transceiver(("10.0.0.9", 4000))
    assert directory.relay_serving(PUBLIC) == ("10.0.0.9", 4000)
    assert directory.relay_serving(tcp.proxy) == tcp.internal
    assert directory.relay_serving(("192.0.2.9", 1)) is None
    await registry.empty()
    await directory.refresh()
    assert not directory.is_transceiver(transceiver(1).address)
    assert directory.relay_serving(PUBLIC) is None


@pytest.mark.parametrize("names", ["ab", "ba"])
async def test_of_relays_that_share_an_address_the_one_that_stays_serves(names: str) -> None:
    registry = FlakyRegistry()
    directory = Directory(registry)
    for name in names:
        draining = name == "b"
        port = 4000 if name == "a" else 4001
        await registry.put_relay(msgspec.structs.replace(relay(name, port=port), draining=draining))
    await directory.refresh()
    assert directory.relay_serving(PUBLIC) == ("10.0.0.9", 4000)
    assert directory.is_relay(("10.0.0.9", 4001))


@pytest.mark.parametrize(("older", "newer"), [(5, 6), (MAX_SLOT, 1), (MAX_SLOT - 3, 2)])
async def test_a_reused_address_belongs_to_the_newer_slot(older: int, newer: int) -> None:
    registry = FlakyRegistry()
    for slot in (newer, older):
        await registry.put_transceiver(transceiver(slot, port=10_000))
    directory = Directory(registry)
    await directory.refresh()
    assert directory.transceiver(Slot(newer)) is not None
    assert directory.transceiver(Slot(older)) is None


# Heartbeats.


async def test_a_heartbeat_keeps_a_record_and_takes_it_out(autojump_clock: Clock) -> None:
    registry = FlakyRegistry()
    async with trio.open_nursery() as nursery:

        async def keep(*, task_status: trio.TaskStatus[None]) -> None:
            await keep_transceiver(registry, lambda: transceiver(1), task_status=task_status)

        async def keep_a(*, task_status: trio.TaskStatus[None]) -> None:
            await keep_relay(registry, lambda: relay("a"), task_status=task_status)

        await nursery.start(keep)
        await nursery.start(keep_a)
        await trio.sleep(30.0)
        registry.away = True
        await trio.sleep(2.0)
        registry.away = False
        await trio.sleep(30.0)
        assert await registry.transceivers() == [transceiver(1)]
        assert await registry.relays() == [relay("a")]
        nursery.cancel_scope.cancel()
    assert await registry.transceivers() == []
    assert await registry.relays() == []


async def test_who_was_taken_for_dead_looks_around_before_it_says_that_it_lives(
    autojump_clock: Clock,
) -> None:
    registry = FlakyRegistry()
    lease = Lease(now=trio.current_time())
    there: list[bool] = []

    async def look_around() -> None:
        there.append(registry.was_renewed)
        registry.was_renewed = False
        if len(there) == 1:
            raise RegistryUnavailable

    lease.returning = look_around
    async with trio.open_nursery() as nursery:

        async def keep(*, task_status: trio.TaskStatus[None]) -> None:
            await keep_transceiver(
                registry,
                lambda: transceiver(1),
                interval=RENEW_SECONDS,
                lease=lease,
                task_status=task_status,
            )

        await nursery.start(keep)
        registry.away = True
        await trio.sleep(LEASE_SECONDS - 0.01)
        assert there == []
        registry.away, registry.was_renewed = False, False
        lease.until = trio.current_time()
        await trio.sleep(5.0)
        assert there == [False, False], "again, as it could not ask; not while the lease lasts"
        assert registry.was_renewed
        nursery.cancel_scope.cancel()


async def test_a_heartbeat_renews_a_lease(autojump_clock: Clock) -> None:
    registry = FlakyRegistry()
    lease = Lease(now=trio.current_time())
    async with trio.open_nursery() as nursery:

        async def keep(*, task_status: trio.TaskStatus[None]) -> None:
            await keep_transceiver(
                registry,
                lambda: transceiver(1),
                interval=RENEW_SECONDS,
                lease=lease,
                task_status=task_status,
            )

        await nursery.start(keep)
        for _ in range(50):
            assert not lease.lapsed(now=trio.current_time())
            await trio.sleep(0.03)
        registry.away = True
        await trio.sleep(LEASE_SECONDS)
        assert lease.lapsed(now=trio.current_time())
        registry.away = False
        await trio.sleep(2 * RENEW_SECONDS)
        assert not lease.lapsed(now=trio.current_time())
        assert lease.breaks == 1
        nursery.cancel_scope.cancel()


async def test_a_heartbeat_fails_at_the_start_only(autojump_clock: Clock) -> None:
    registry = FlakyRegistry()
    registry.away = True
    with pytest.raises(RegistryUnavailable):
        await keep_transceiver(registry, lambda: transceiver(1))


async def test_a_goodbye_is_bounded(autojump_clock: Clock) -> None:
    class Stuck(FlakyRegistry):
        async def remove_transceiver(self, slot: Slot) -> None:
            await trio.sleep_forever()

    started = trio.current_time()
    with trio.move_on_after(5.0):
        await keep_transceiver(Stuck(), lambda: transceiver(1))
    assert trio.current_time() - started == pytest.approx(6.0)


def test_the_memory_registry_is_a_registry() -> None:
    registry: Registry = MemoryRegistry()
    assert registry is not None
