"""Session claims and checkpoints in a real Redis: the contract, loss, delay and meddling."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import redis
import trio

from edge.errors import Drop
from edge.registry.protocol import FlowRecord, RegistryUnavailable, Slot
from edge.registry.records import RecordKeys
from edge.registry.redis import RedisRegistry, open_redis_registry
from edge.registry.sessions import MAX_CHECKPOINT_BYTES, Claim, SessionBook, StoreOutcome
from tests.support.handover_world import World
from tests.support.redis_server import RedisServer, running_redis
from tests.support.session_contract import (
    CONTRACT,
    FIRST,
    SECOND,
    who_was_forgotten_may_claim_anew,
)

SECRET = "s" * 32
OTHER_SECRET = "o" * 32
KEY = "edge:0:session:rtc_a"


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    with shared.client() as client:
        client.flushall()
        client.script_flush()
    return shared


@pytest.fixture
def raw(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@asynccontextmanager
async def opened(
    server: RedisServer, *, secret: str = SECRET, previous: str = "", cluster: int = 0
) -> AsyncIterator[RedisRegistry]:
    with trio.fail_after(20):
        async with open_redis_registry(
            server.url, secret=secret, previous_secret=previous, cluster=cluster
        ) as registry:
            yield registry


@pytest.mark.parametrize("body", CONTRACT, ids=lambda body: body.__name__)
async def test_contract(
    server: RedisServer, body: Callable[[SessionBook], Awaitable[None]]
) -> None:
    async with opened(server) as registry:
        await body(registry.sessions)


async def test_who_was_forgotten_may_claim_anew(server: RedisServer, raw: redis.Redis) -> None:
    async def empty() -> None:
        raw.flushall()

    async with opened(server) as registry:
        await who_was_forgotten_may_claim_anew(registry.sessions, empty)


async def claim(book: SessionBook, wanted: Claim, held: list[Claim | None]) -> None:
    held.append(await book.claim(wanted))


async def test_two_processes_fight_and_one_wins(server: RedisServer) -> None:
    async with opened(server) as one, opened(server) as other, opened(server, cluster=1) as far:
        assert await one.sessions.claim(FIRST) == FIRST
        assert await other.sessions.owner_of("rtc_a") == FIRST
        assert await far.sessions.owner_of("rtc_a") is None
        for epoch in range(2, 12):
            wanted = [Claim(session="rtc_a", owner=Slot(slot), epoch=epoch) for slot in (1, 2)]
            held: list[Claim | None] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(claim, one.sessions, wanted[0], held)
                nursery.start_soon(claim, other.sessions, wanted[1], held)
            assert held[0] == held[1]
            assert held[0] in wanted


async def test_a_claim_lives_as_long_as_it_is_written(
    server: RedisServer, raw: redis.Redis
) -> None:
    async with opened(server) as registry:
        await registry.sessions.claim(FIRST)
        assert 59_000 < raw.pttl(KEY) <= 60_000
        raw.pexpire(KEY, 100)
        await registry.sessions.store(FIRST, 1, b"one")
        assert 59_000 < raw.pttl(KEY) <= 60_000
        raw.pexpire(KEY, 20)
        await trio.sleep(0.03)
        assert await registry.sessions.owner_of("rtc_a") is None


async def test_what_others_write_makes_nobody_an_owner(
    server: RedisServer, raw: redis.Redis
) -> None:
    forged = RecordKeys(OTHER_SECRET).seal(KEY, SECOND, expires=time.time() + 60)
    moved = RecordKeys(SECRET).seal(KEY + "b", SECOND, expires=time.time() + 60)
    old = RecordKeys(SECRET).seal(KEY, SECOND, expires=time.time() - 60)
    async with opened(server) as registry:
        book = registry.sessions
        await book.claim(FIRST)
        for claim in (forged, moved, old, b"", b"x", bytes(1_000_000)):
            raw.hset(KEY, mapping={"epoch": 2, "owner": 8, "claim": claim})
            assert await book.owner_of("rtc_a") is None
            assert await book.store(FIRST, 1, b"one") is StoreOutcome.FENCED
        assert registry.statistics().drops == {
            Drop.BAD_AUTH: 2,
            Drop.REPLAY: 1,
            Drop.MALFORMED: 1,
        }


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": "nan", "owner": "x"},
        {"epoch": "1", "owner": "7", "written": "x", "writer": "7", "serial": "1"},
        {"epoch": "1", "owner": "7", "written": "2", "writer": "7", "serial": "1"},
        {"epoch": "1", "owner": "7", "written": "1", "writer": "-7", "serial": "1"},
        {"epoch": "1", "owner": "7", "written": "1", "writer": "7", "serial": "9" * 400},
    ],
)
async def test_nonsense_is_no_checkpoint(
    server: RedisServer, raw: redis.Redis, fields: dict[str, str]
) -> None:
    for field, value in {**fields, "checkpoint": "sealed"}.items():
        raw.hset(KEY, field, value)
    async with opened(server) as registry:
        assert await registry.sessions.load(FIRST) is None


async def test_what_is_too_long_is_not_read(server: RedisServer, raw: redis.Redis) -> None:
    async with opened(server) as registry:
        await registry.sessions.claim(FIRST)
        await registry.sessions.store(FIRST, 1, b"one")
        raw.hset(KEY, "checkpoint", bytes(MAX_CHECKPOINT_BYTES + 1))
        assert await registry.sessions.load(FIRST) is None


async def test_another_type_in_the_way_counts_as_nothing(
    server: RedisServer, raw: redis.Redis
) -> None:
    raw.lpush(KEY, "in the way")
    async with opened(server) as registry:
        book = registry.sessions
        assert await book.owner_of("rtc_a") is None
        assert await book.store(FIRST, 1, b"one") is StoreOutcome.LOST
        assert await book.load(FIRST) is None
        assert await book.claim(SECOND) is None
        assert await book.claim(FIRST) == FIRST
        assert await book.store(FIRST, 1, b"one") is StoreOutcome.STORED


async def test_a_redis_that_forgot_its_scripts_learns_them_again(
    server: RedisServer, raw: redis.Redis
) -> None:
    async with opened(server) as registry:
        await registry.sessions.claim(FIRST)
        raw.script_flush()
        assert list(await registry.sessions.owners_of(["rtc_a"] * 3)) == [FIRST] * 3
        before = registry.statistics().operations
        await registry.sessions.claim(SECOND)
        await registry.sessions.claim(SECOND)
        assert registry.statistics().operations - before == 3


async def test_a_redis_that_takes_no_writes_is_unavailable(
    server: RedisServer, raw: redis.Redis
) -> None:
    async with opened(server) as registry:
        await registry.sessions.claim(FIRST)
        raw.config_set("maxmemory", 1)
        try:
            with pytest.raises(RegistryUnavailable):
                await registry.sessions.store(FIRST, 1, b"one")
        finally:
            raw.config_set("maxmemory", 0)
        assert await registry.sessions.store(FIRST, 1, b"one") is StoreOutcome.STORED


async def test_without_redis_nothing_is_claimed() -> None:
    with running_redis() as server:
        async with opened(server) as registry:
            await registry.sessions.claim(FIRST)
            server.kill()
            for _ in range(2):
                with trio.fail_after(1.6), pytest.raises(RegistryUnavailable):
                    await registry.sessions.claim(SECOND)
            with pytest.raises(RegistryUnavailable):
                await registry.sessions.store(FIRST, 1, b"one")


async def test_tokens_and_flows_lead_to_sessions_after_a_rotation(
    server: RedisServer, raw: redis.Redis
) -> None:
    client = ("198.51.100.7", 1)
    flow = FlowRecord(
        public=("192.0.2.1", 3478), client=client, cluster=0, slot=Slot(7), session="rtc_a", epoch=2
    )
    async with opened(server) as registry:
        registry.sessions.save_token("ufrag", "rtc_a")
        registry.save_flow(flow, seconds=60.0)
        await registry.sessions.claim(FIRST)
    assert not any(b"ufrag" in key for key in raw.keys("*"))
    async with opened(server, secret=OTHER_SECRET, previous=SECRET) as registry:
        assert await registry.sessions.find_session("ufrag") == "rtc_a"
        assert await registry.sessions.find_session("other") is None
        assert await registry.find_flow(flow.public, client) == flow
        assert await registry.sessions.claim(SECOND) == SECOND


async def test_a_flow_of_an_earlier_version_has_no_session(
    server: RedisServer, raw: redis.Redis
) -> None:
    class OldFlow(msgspec.Struct, kw_only=True):
        public: tuple[str, int]
        client: tuple[str, int]
        cluster: int
        slot: int

    public, client = ("192.0.2.1", 3478), ("198.51.100.7", 1)
    keys = RecordKeys(SECRET)
    name = f"edge:0:flow:{keys.flow_names(public, client)[0]}"
    old = OldFlow(public=public, client=client, cluster=0, slot=7)
    raw.set(name, keys.seal(name, old, expires=time.time() + 60))
    async with opened(server) as registry:
        found = await registry.find_flow(public, client)
    assert found == FlowRecord(public=public, client=client, cluster=0, slot=Slot(7))
    new = FlowRecord(
        public=public, client=client, cluster=0, slot=Slot(7), session="rtc_a", epoch=1
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(new), type=OldFlow) == old


@pytest.mark.parametrize("seed", range(3))
async def test_no_epoch_and_no_index_is_used_twice_whatever_comes_between(
    server: RedisServer, seed: int
) -> None:
    """A sample of the worlds of tests/shells/test_handover_rules.py."""
    async with opened(server) as registry:
        world = World(registry.sessions, seed)
        await world.run(3_000)
        assert world.happened["taken over"] > 0
        assert world.happened["stored"] > 0
