"""Session claims and checkpoints in a real Redis: the contract, loss, delay and meddling."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import redis
import trio

from edge.errors import Drop
from edge.registry.protocol import FlowRecord, RegistryUnavailable, Slot
from edge.registry.records import RecordKeys
from edge.registry.redis import RedisRegistry, open_redis_registry
from edge.registry.sessions import (
    MAX_CHECKPOINT_BYTES,
    MAX_LEADS,
    Claim,
    SessionBook,
    StoreOutcome,
    token_lead,
)
from tests.support.handover_world import World
from tests.support.redis_server import RedisServer, running_redis
from tests.support.session_contract import (
    CLIENT,
    CONTRACT,
    FIRST,
    PATH,
    PUBLIC,
    SECOND,
    TOKEN,
    leads,
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
        assert (await registry.sessions.inherit(FIRST, FIRST.owner)).stored is None


async def test_what_is_too_long_is_not_read(server: RedisServer, raw: redis.Redis) -> None:
    async with opened(server) as registry:
        await registry.sessions.claim(FIRST)
        await registry.sessions.store(FIRST, 1, b"one")
        raw.hset(KEY, "checkpoint", bytes(MAX_CHECKPOINT_BYTES + 1))
        assert (await registry.sessions.inherit(FIRST, FIRST.owner)).stored is None


async def test_another_type_in_the_way_counts_as_nothing(
    server: RedisServer, raw: redis.Redis
) -> None:
    raw.lpush(KEY, "in the way")
    async with opened(server) as registry:
        book = registry.sessions
        assert await book.owner_of("rtc_a") is None
        assert await book.store(FIRST, 1, b"one") is StoreOutcome.LOST
        assert await book.inherit(SECOND, FIRST.owner) == (None, None)
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


async def test_leads_and_flows_lead_to_sessions_after_a_rotation(
    server: RedisServer, raw: redis.Redis
) -> None:
    flow = FlowRecord(public=PUBLIC, client=CLIENT, cluster=0, slot=Slot(7))
    async with opened(server) as registry:
        registry.sessions.save_leads("rtc_a", [TOKEN, PATH])
        registry.save_flow(flow, seconds=60.0)
        await registry.sessions.claim(FIRST)
    check_leads_are_hidden(raw)
    async with opened(server, secret=OTHER_SECRET, previous=SECRET) as registry:
        assert await registry.sessions.find_session(TOKEN) == "rtc_a"
        assert await registry.sessions.find_session(PATH) == "rtc_a"
        assert await registry.find_flow(flow.public, CLIENT) == flow
        assert await registry.sessions.claim(SECOND) == SECOND


def check_leads_are_hidden(raw: redis.Redis) -> None:
    """Two leads, to live for a minute, tell neither what they are nor where they lead."""
    keys = list(raw.scan_iter("edge:0:lead:*"))
    assert len(keys) == 2
    told = (b"ufrag", PATH.removeprefix("path|").encode(), CLIENT[0].encode(), b"rtc_a")
    for key in keys:
        assert 59_000 < raw.pttl(key) <= 60_000
        value = raw.get(key)
        assert isinstance(value, bytes)
        assert not any(one in key + value for one in told)


async def test_the_last_leads_that_wait_count_in_one_write(server: RedisServer) -> None:
    async with opened(server) as registry:
        book = registry.sessions
        await book.claim(FIRST)
        before = registry.statistics().operations
        for _ in range(100):
            book.save_leads("rtc_a", [token_lead("former"), token_lead("other")])
        book.save_leads("rtc_a", [TOKEN, *(token_lead(str(n)) for n in range(MAX_LEADS))])
        await leads(book, TOKEN, "rtc_a")
        statistics = registry.statistics()
        assert statistics.drops == {Drop.TABLE_FULL: 1}
        assert statistics.operations - before < 150


async def test_forged_and_moved_leads_lead_nowhere(server: RedisServer, raw: redis.Redis) -> None:
    async with opened(server) as registry:
        book = registry.sessions
        book.save_leads("rtc_a", [TOKEN])
        await leads(book, TOKEN, "rtc_a")
        (key,) = raw.scan_iter("edge:0:lead:*")
        moved = f"edge:0:lead:{RecordKeys(SECRET).lead_names(PATH)[0]}"
        raw.rename(key, moved)
        assert await book.find_session(TOKEN) is None
        assert await book.find_session(PATH) is None
        assert registry.statistics().drops == {Drop.BAD_AUTH: 1}


@pytest.mark.parametrize("seed", [0, 2, 3])  # in each of these somebody is taken over
async def test_no_epoch_and_no_index_is_used_twice_whatever_comes_between(
    server: RedisServer, seed: int
) -> None:
    """A sample of the worlds of tests/shells/test_handover_rules.py."""
    async with opened(server) as registry:
        world = World(registry.sessions, seed)
        await world.run(3_000)
        assert world.happened["taken over"] > 0
        assert world.happened["stored"] > 0
