"""The Redis registry against a real redis-server: loss, stalls, emptying and meddling."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
import redis
import trio

from edge.errors import ConfigError, Drop
from edge.registry.directory import Directory
from edge.registry.heartbeat import keep_relay, keep_transceiver
from edge.registry.protocol import (
    MAX_SLOT,
    FlowRecord,
    Registry,
    RegistryUnavailable,
    RelayRecord,
    Slot,
    TransceiverRecord,
)
from edge.registry.records import RecordKeys
from edge.registry.redis import RedisRegistry, open_redis_registry
from tests.support.redis_server import RedisServer, running_redis

SECRET = "s" * 32
OTHER_SECRET = "o" * 32
PUBLIC = ("192.0.2.1", 3478)
PROMPT = 1.6  # seconds; how long a caller may be kept waiting, with some for a busy machine


def transceiver(slot: int) -> TransceiverRecord:
    return TransceiverRecord(
        slot=Slot(slot), cluster=0, address=("10.0.0.1", 10_000 + slot), http_url="http://t"
    )


def relay(name: str, *, cluster: int = 0) -> RelayRecord:
    return RelayRecord(name=name, cluster=cluster, public=PUBLIC, internal=("10.0.0.9", 4000))


def flow(port: int) -> FlowRecord:
    return FlowRecord(public=PUBLIC, client=("198.51.100.7", port), cluster=0, slot=Slot(7))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def absent_server() -> Iterator[RedisServer]:
    """One that the test may start."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@asynccontextmanager
async def opened(
    server: RedisServer,
    *,
    secret: str = SECRET,
    previous_secret: str = "",
    lease: float = 3.0,
    cluster: int = 0,
    peers: Sequence[RedisServer] = (),
) -> AsyncIterator[RedisRegistry]:
    with trio.fail_after(20):
        async with open_redis_registry(
            server.url,
            secret=secret,
            previous_secret=previous_secret,
            lease_seconds=lease,
            cluster=cluster,
            peer_urls=[peer.url for peer in peers],
        ) as registry:
            yield registry


async def written(registry: RedisRegistry) -> None:
    """Wait until no write waits any more."""
    await until(lambda: registry.statistics().waiting_writes == 0)


def redis_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "edge-redis"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert redis_threads() == []


async def until(true: Callable[[], bool], *, seconds: float = 5.0) -> float:
    """Wait for something to become true; how long that took."""
    started = trio.current_time()
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.01)
    return trio.current_time() - started


async def test_records_are_written_listed_and_taken_out(
    server: RedisServer, raw: redis.Redis
) -> None:
    async with opened(server) as writer, opened(server) as reader:
        await writer.put_transceiver(transceiver(1))
        await writer.put_transceiver(transceiver(2))
        await writer.put_relay(relay("a"))
        assert sorted(one.slot for one in await reader.transceivers()) == [1, 2]
        assert await reader.relays() == [relay("a")]
        assert 0 < raw.pttl("edge:0:transceiver:1") <= 3000
        await writer.remove_transceiver(Slot(1))
        await writer.remove_relay("a")
        assert await reader.transceivers() == [transceiver(2)]
        assert await reader.relays() == []
        assert reader.statistics().drops == {}


async def test_a_lease_ends(server: RedisServer) -> None:
    async with opened(server, lease=0.3) as writer, opened(server) as reader:
        await writer.put_transceiver(transceiver(1))
        assert await reader.transceivers() == [transceiver(1)]
        await trio.sleep(0.35)
        assert await reader.transceivers() == []


async def test_slots_are_distinct_and_pass_over_the_living(
    server: RedisServer, raw: redis.Redis
) -> None:
    async with opened(server) as one, opened(server) as other:
        slots = [await registry.claim_slot() for registry in (one, other) * 10]
        assert len(set(slots)) == 20
        assert all(1 <= slot <= MAX_SLOT for slot in slots)
        await one.put_transceiver(transceiver(1))
        raw.set("edge:0:slot", MAX_SLOT - 1)
        assert [await other.claim_slot() for _ in range(2)] == [MAX_SLOT, 2]


async def test_flows_are_found_by_a_later_process(server: RedisServer, raw: redis.Redis) -> None:
    async with opened(server) as registry:
        registry.save_flow(flow(1), seconds=60.0)
        registry.save_flow(flow(2), seconds=60.0)
        registry.remove_flow(flow(2).public, flow(2).client)
    names = b" ".join(raw.keys("*"))  # type: ignore[arg-type]
    assert b"198.51" not in names
    async with opened(server) as registry:
        assert await registry.find_flow(PUBLIC, flow(1).client) == flow(1)
        assert await registry.find_flow(PUBLIC, flow(2).client) is None


async def test_a_rotated_secret_finds_what_the_previous_one_wrote(server: RedisServer) -> None:
    async with opened(server) as registry:
        registry.save_flow(flow(1), seconds=60.0)
        await registry.put_transceiver(transceiver(1))
    async with opened(server, secret=OTHER_SECRET, previous_secret=SECRET) as registry:
        assert await registry.find_flow(PUBLIC, flow(1).client) == flow(1)
        assert await registry.transceivers() == [transceiver(1)]
        registry.remove_flow(PUBLIC, flow(1).client)
    async with opened(server) as registry:
        assert await registry.find_flow(PUBLIC, flow(1).client) is None


async def test_a_name_is_claimed_once_in_its_cluster(server: RedisServer, raw: redis.Redis) -> None:
    async with opened(server) as one, opened(server) as other, opened(server, cluster=1) as far:
        assert [await each.claim_once("a", 60.0) for each in (one, other, one)] == [
            *(True, False, False)
        ]
        assert await far.claim_once("a", 60.0)
        assert 59_000 < raw.pttl("edge:0:claim:a") <= 60_000
        await other.release_claim("a")
        assert await one.claim_once("a", 0.1)
        await trio.sleep(0.15)
        assert await other.claim_once("a", 60.0)
        raw.delete("edge:0:claim:a")
        raw.lpush("edge:0:claim:a", "in the way")
        assert not await one.claim_once("a", 60.0)
        server.kill()
        with pytest.raises(RegistryUnavailable):
            await one.claim_once("b", 60.0)


async def test_bad_records_are_counted_and_passed_over(
    server: RedisServer, raw: redis.Redis
) -> None:
    keys = RecordKeys(SECRET)
    name = "edge:0:transceiver:{}".format
    good = keys.seal(name(1), transceiver(1), expires=time.time() + 60)
    bad = {
        2: good,  # moved from another name
        3: RecordKeys(OTHER_SECRET).seal(name(3), transceiver(3), expires=time.time() + 60),
        4: keys.seal(name(4), transceiver(4), expires=time.time() - 60),
        5: good[:-1] + bytes([good[-1] ^ 1]),
        6: good[:10],
        7: bytes(1_000_000),
        8: b"\x01" + good[1:],
    }
    raw.set(name(1), good)
    for slot, value in bad.items():
        raw.set(name(slot), value)
    raw.lpush(name(9), "a list")
    raw.zadd("edge:0:transceivers", {str(slot): math.inf for slot in range(1, 10)})
    raw.zadd("edge:0:transceivers", {b"\xff\xfe": math.inf, b"n" * 1000: math.inf, b"": math.inf})
    async with opened(server) as registry:
        assert await registry.transceivers() == [transceiver(1)]
        assert registry.statistics().drops == {
            Drop.BAD_AUTH: 3,
            Drop.REPLAY: 1,
            Drop.MALFORMED: 6,
        }


async def test_other_types_under_our_names_are_replaced(
    server: RedisServer, raw: redis.Redis
) -> None:
    async with opened(server) as registry:
        registry.save_flow(flow(1), seconds=60.0)
        await written(registry)
        await registry.put_transceiver(transceiver(1))
        assert await registry.transceivers() == [transceiver(1)]
        (flow_name,) = raw.keys("edge:0:flow:*")
        for name in (flow_name, "edge:0:transceivers", "edge:0:transceiver:1", "edge:0:slot"):
            raw.delete(name)
            raw.hset(name, "a", "b")
        assert await registry.find_flow(PUBLIC, flow(1).client) is None
        assert await registry.transceivers() == [transceiver(1)], "known, and not over yet"
        await registry.put_transceiver(transceiver(1))
        registry.save_flow(flow(1), seconds=60.0)
        await written(registry)
        assert await registry.claim_slot() >= 1
        assert await registry.find_flow(PUBLIC, flow(1).client) == flow(1)
    async with opened(server) as fresh:
        assert await fresh.transceivers() == [transceiver(1)]


async def test_nobody_is_taken_for_dead_while_redis_takes_no_writes(
    server: RedisServer, raw: redis.Redis
) -> None:
    async with opened(server) as registry:
        await registry.put_transceiver(transceiver(1))
        raw.config_set("maxmemory", 1)
        with pytest.raises(RegistryUnavailable):
            await registry.put_transceiver(transceiver(1))
        with pytest.raises(RegistryUnavailable):
            await registry.transceivers()
        raw.config_set("maxmemory", 0)
        assert await registry.transceivers() == [transceiver(1)]


async def test_calls_fail_promptly_without_a_server(absent_server: RedisServer) -> None:
    async with opened(absent_server) as registry:
        for call in (registry.claim_slot, registry.transceivers, registry.relays):
            with trio.fail_after(PROMPT), pytest.raises(RegistryUnavailable):
                await call()
        assert not registry.statistics().up


async def test_flows_saved_while_it_is_away_are_written_when_it_is_back(
    server: RedisServer,
) -> None:
    async with opened(server) as registry:
        await registry.put_transceiver(transceiver(1))
        server.kill()
        with trio.fail_after(PROMPT), pytest.raises(RegistryUnavailable):
            await registry.transceivers()
        registry.save_flow(flow(1), seconds=0.5)
        registry.save_flow(flow(2), seconds=60.0)
        registry.save_flow(msgspec.structs.replace(flow(2), slot=Slot(8)), seconds=60.0)
        await trio.sleep(0.6)
        assert registry.statistics().waiting_writes == 2
        server.start()
        assert await until(lambda: registry.statistics().up) < 2.5
        await written(registry)
        found = await registry.find_flow(PUBLIC, flow(2).client)
        assert found is not None
        assert found.slot == 8, "the latest wins"
        assert await registry.find_flow(PUBLIC, flow(1).client) is None, "its time was over"
        assert registry.statistics().failures >= 2


async def test_the_write_buffer_is_bounded(absent_server: RedisServer) -> None:
    url = absent_server.url
    with trio.fail_after(10):
        async with open_redis_registry(url, secret=SECRET, max_waiting_flows=10) as registry:
            await until(lambda: registry.statistics().failures > 0)
            for port in range(300):
                registry.save_flow(flow(port), seconds=60.0)
            await until(lambda: registry.statistics().drops[Drop.QUEUE_FULL] == 290)
            assert registry.statistics().waiting_writes == 10
            absent_server.start()
            await written(registry)
            assert await registry.find_flow(PUBLIC, flow(299).client) == flow(299)
            assert await registry.find_flow(PUBLIC, flow(0).client) is None


async def test_a_hanging_server_is_an_absent_one(server: RedisServer) -> None:
    async with opened(server) as registry:
        await registry.put_transceiver(transceiver(1))
        server.freeze()
        for _ in range(3):
            with trio.fail_after(PROMPT), pytest.raises(RegistryUnavailable):
                await registry.transceivers()
        server.thaw()
        await until(lambda: registry.statistics().up)
        await registry.put_transceiver(transceiver(2))
        assert transceiver(2) in await registry.transceivers()


async def test_a_cancelled_waiter_leaves_the_connection_in_order(server: RedisServer) -> None:
    async with opened(server) as registry:
        for port in range(50):
            registry.save_flow(flow(port), seconds=60.0)
        await written(registry)
        server.freeze()
        async with trio.open_nursery() as nursery:
            for port in range(25):
                nursery.start_soon(registry.find_flow, PUBLIC, flow(port).client)
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        server.thaw()
        for port in range(25, 50):
            assert await registry.find_flow(PUBLIC, flow(port).client) == flow(port)
        assert registry.statistics().failures == 0


async def test_a_cancel_at_any_moment_mixes_no_replies_up(server: RedisServer) -> None:
    async with opened(server) as registry:
        for port in range(20):
            registry.save_flow(flow(port), seconds=60.0)
        await written(registry)
        for turn in range(200):
            with trio.move_on_after(turn * 5e-6):
                await registry.find_flow(PUBLIC, flow(turn % 20).client)
            wanted = flow((turn + 7) % 20)
            assert await registry.find_flow(PUBLIC, wanted.client) == wanted


async def test_leaving_is_bounded_while_the_server_hangs(server: RedisServer) -> None:
    started = time.monotonic()
    async with opened(server) as registry:
        await registry.transceivers()
        server.freeze()
        registry.save_flow(flow(1), seconds=60.0)
        await trio.sleep(0.05)
        started = time.monotonic()
    assert time.monotonic() - started < 3.0
    server.thaw()


async def test_what_waits_is_sent_before_leaving_even_when_cancelled(server: RedisServer) -> None:
    with trio.CancelScope() as scope:
        async with opened(server) as registry:
            await registry.transceivers()
            for port in range(1000):
                registry.save_flow(flow(port), seconds=60.0)
            scope.cancel()
            await trio.sleep_forever()
    async with opened(server) as registry:
        for port in (0, 500, 999):
            assert await registry.find_flow(PUBLIC, flow(port).client) == flow(port)


async def keep_three(nursery: trio.Nursery, registry: Registry) -> Directory:
    for slot in (1, 2, 3):

        async def keep_slot(slot: int = slot, *, task_status: trio.TaskStatus[None]) -> None:
            await keep_transceiver(
                registry, lambda: transceiver(slot), interval=0.2, task_status=task_status
            )

        await nursery.start(keep_slot)
    directory = Directory(registry, interval_seconds=0.05)
    await nursery.start(directory.run)
    return directory


async def watch_directory(directory: Directory, seconds: float) -> int:
    """Look often; the fewest transceivers that were seen."""
    fewest = 3
    deadline = trio.current_time() + seconds
    while trio.current_time() < deadline:
        fewest = min(fewest, len(directory.transceivers))
        await trio.sleep(0.005)
    return fewest


async def test_no_route_goes_when_redis_is_emptied(server: RedisServer, raw: redis.Redis) -> None:
    async with opened(server) as registry, trio.open_nursery() as nursery:
        directory = await keep_three(nursery, registry)
        raw.flushall()
        assert await watch_directory(directory, 1.0) == 3
        assert raw.exists("edge:0:transceiver:1", "edge:0:transceiver:2") == 2
        raw.flushall()
        async with opened(server) as late:
            assert await late.claim_slot() not in (1, 2, 3)
        nursery.cancel_scope.cancel()


async def test_no_route_goes_when_redis_restarts_empty(server: RedisServer) -> None:
    async with opened(server, lease=0.6) as registry, trio.open_nursery() as nursery:
        directory = await keep_three(nursery, registry)
        server.kill()
        assert await watch_directory(directory, 1.5) == 3
        assert directory.statistics().stale
        server.start()
        assert await watch_directory(directory, 3.0) == 3
        assert not directory.statistics().stale
        nursery.cancel_scope.cancel()
    async with opened(server) as registry:
        assert await registry.transceivers() == [], "each took itself out"


# Several clusters.


async def test_clusters_on_one_redis_share_relays_alone(
    server: RedisServer, raw: redis.Redis
) -> None:
    async with opened(server, cluster=1) as one, opened(server, cluster=2) as two:
        for cluster, registry in ((1, one), (2, two)):
            await registry.put_relay(relay("a", cluster=cluster))
            await registry.put_transceiver(transceiver(cluster))
        for cluster, registry in ((1, one), (2, two)):
            assert {record.cluster for record in await registry.relays()} == {1, 2}
            assert await registry.transceivers() == [transceiver(cluster)]
        assert raw.exists("edge:relay:1:a", "edge:relay:2:a") == 2
        await two.remove_relay("a")
        assert await one.relays() == [relay("a", cluster=1)]


async def relays_of(registry: Registry, names: set[str], *, seconds: float = 5.0) -> None:
    """Wait until these relays are known."""
    with trio.fail_after(seconds):
        while {one.name for one in await registry.relays()} != names:
            await trio.sleep(0.02)


async def keep(nursery: trio.Nursery, registry: Registry, record: RelayRecord) -> None:
    await nursery.start(partial(keep_relay, registry, lambda: record, interval=0.1))


@pytest.mark.parametrize("end", ["kill", "freeze"])
async def test_a_dying_peer_leaves_its_last_view_and_disturbs_nothing(
    server: RedisServer, absent_server: RedisServer, end: str
) -> None:
    absent_server.start()
    async with (
        opened(server, cluster=1, lease=0.6, peers=[absent_server]) as near,
        opened(absent_server, cluster=2, lease=0.6) as far,
        trio.open_nursery() as nursery,
        trio.open_nursery() as far_nursery,
    ):
        await keep(nursery, near, relay("n", cluster=1))
        await keep(far_nursery, far, relay("f", cluster=2))
        await relays_of(near, {"n", "f"})
        assert (near.statistics().peers, near.statistics().peers_up) == (1, 1)
        getattr(absent_server, end)()
        await until(lambda: near.statistics().peers_up == 0)
        for _ in range(20):
            started = trio.current_time()
            assert {one.name for one in await near.relays()} == {"n", "f"}
            assert trio.current_time() - started < 0.2, "nobody waits for a peer"
            await trio.sleep(0.05)
        assert near.statistics().up
        assert near.statistics().failures == 0
        if end == "freeze":
            absent_server.thaw()
        else:
            absent_server.start()
        await until(lambda: near.statistics().peers_up == 1 and far.statistics().up)
        await keep(far_nursery, far, relay("g", cluster=2))
        until_then = trio.current_time() + 1.0
        while trio.current_time() < until_then:
            assert {one.name for one in await near.relays()} >= {"n", "f"}
            await trio.sleep(0.02)
        await relays_of(near, {"n", "f", "g"})
        far_nursery.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_back_empty_gets_a_lease_time_to_fill(
    server: RedisServer, absent_server: RedisServer
) -> None:
    absent_server.start()
    async with (
        opened(absent_server, cluster=2, lease=0.3) as far,
        opened(server, cluster=1, lease=1.2, peers=[absent_server]) as near,
    ):
        await far.put_relay(relay("f", cluster=2))
        await relays_of(near, {"f"})
        absent_server.kill()
        await until(lambda: near.statistics().peers_up == 0)
        await trio.sleep(0.3)
        absent_server.start()
        await until(lambda: near.statistics().peers_up == 1)
        await trio.sleep(0.6)
        assert await near.relays() == [relay("f", cluster=2)]
        await relays_of(near, set())


async def test_our_own_redis_is_right_about_what_peers_say_too(
    server: RedisServer, absent_server: RedisServer
) -> None:
    absent_server.start()
    moved = msgspec.structs.replace(relay("a", cluster=1), internal=("10.0.0.10", 4000))
    async with (
        opened(absent_server, cluster=1) as other,
        opened(server, cluster=1, peers=[absent_server]) as registry,
    ):
        await other.put_relay(relay("a", cluster=1))
        await relays_of(registry, {"a"})
        await registry.put_relay(moved)
        assert await registry.relays() == [moved]


async def test_a_peer_with_another_secret_tells_nothing(
    server: RedisServer, absent_server: RedisServer
) -> None:
    absent_server.start()
    async with (
        opened(absent_server, cluster=2, secret=OTHER_SECRET) as far,
        opened(server, cluster=1, peers=[absent_server]) as near,
    ):
        await far.put_relay(relay("f", cluster=2))
        await until(lambda: near.statistics().drops[Drop.BAD_AUTH] > 0)
        assert await near.relays() == []


async def test_leaving_is_bounded_while_peers_hang(
    server: RedisServer, absent_server: RedisServer
) -> None:
    absent_server.start()
    started = time.monotonic()
    async with opened(server, peers=[absent_server, absent_server]) as registry:
        await until(lambda: registry.statistics().peers_up == 2)
        absent_server.freeze()
        await trio.sleep(0.6)
        started = time.monotonic()
    assert time.monotonic() - started < 3.2
    absent_server.thaw()


async def test_a_password_is_used_and_never_told(capfd: pytest.CaptureFixture[str]) -> None:
    with running_redis(password="hush-hush") as server:
        async with opened(server) as registry:
            await registry.put_transceiver(transceiver(1))
            assert "hush" not in repr(registry)
        async with opened(server, peers=[server]) as registry:
            await until(lambda: registry.statistics().peers_up == 1)
        wrong = server.url.replace("hush-hush", "wrong-one")
        async with open_redis_registry(server.url, secret=SECRET, peer_urls=[wrong]) as registry:
            await until(lambda: registry.statistics().up)
            await trio.sleep(0.1)
            assert registry.statistics().peers_up == 0
        async with open_redis_registry(wrong, secret=SECRET) as registry:
            with pytest.raises(RegistryUnavailable) as caught:
                await registry.transceivers()
            assert "wrong-one" not in str(caught.value)
            assert caught.value.__cause__ is None
    with pytest.raises(ConfigError) as refused:
        async with open_redis_registry("redis://:hush-hush@host:port/0", secret=SECRET):
            pass
    assert "hush" not in str(refused.value)
    out, err = capfd.readouterr()
    assert "hush" not in out + err
    assert "wrong-one" not in out + err
