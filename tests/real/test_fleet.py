"""Three processes over a real Redis: calls reach their owners, and outlive their relay."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from edge.client import Load, LoadClient, open_load
from edge.client.caller import CHECK_SECONDS
from tests.support.edges import FLEET_ENV, Fleet, fleet, wait_sessions
from tests.support.processes import edge
from tests.support.redis_server import RedisServer, running_redis

SESSIONS = 50
SLACK = 0.1


@dataclass(frozen=True, slots=True)
class Scene:
    """A fleet with calls that are heard."""

    redis: RedisServer
    fleet: Fleet
    calls: list[LoadClient]


@asynccontextmanager
async def fifty_calls() -> AsyncGenerator[Scene]:
    with running_redis() as redis:
        async with fleet(redis.url) as group, open_load() as load:
            calls = await open_calls(load, group)
            await wait_all_received(calls, 50, seconds=10.0)
            yield Scene(redis, group, calls)


async def open_calls(load: Load, group: Fleet) -> list[LoadClient]:
    """Open calls at the transceivers in turn, a few at a time."""
    calls: list[LoadClient] = []

    async def open_one(number: int) -> None:
        http = group.transceivers[number % len(group.transceivers)].http
        calls.append(await load.open_call(http))

    for first in range(0, SESSIONS, 5):
        async with trio.open_nursery() as nursery:
            for number in range(first, first + 5):
                nursery.start_soon(open_one, number)
    return calls


async def wait_all_received(calls: list[LoadClient], more: int, *, seconds: float) -> None:
    """Wait until every call got so many packets beyond what it has."""
    wanted = [call.received + more for call in calls]
    with trio.fail_after(seconds):
        for call, count in zip(calls, wanted, strict=True):
            await call.wait_received(count)


def flow_keys(redis: RedisServer) -> list[bytes]:
    """Names of all flow records."""
    with redis.client() as client:
        return list(client.scan_iter("edge:*:flow:*", count=1000))


@pytest.mark.timeout(120)
async def test_fifty_sessions_spread_over_two_each_reach_their_owner() -> None:
    async with fifty_calls() as scene:
        for transceiver in scene.fleet.transceivers:
            await wait_sessions(transceiver.http, SESSIONS // 2)
        for call in scene.calls:
            statistics = call.statistics()
            assert statistics.longest_hole <= SLACK
            assert statistics.rejected == 0
            assert statistics.duplicates == 0
            call.close()
        for transceiver in scene.fleet.transceivers:
            await wait_sessions(transceiver.http, 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("forget", "allowance"),
    [(False, SLACK), (True, CHECK_SECONDS + SLACK)],
    ids=["with-records", "records-deleted"],
)
async def test_a_killed_relay_comes_back(forget: bool, allowance: float) -> None:
    async with fifty_calls() as scene:
        with trio.fail_after(3.0):  # records are written behind the packets' back
            while len(await trio.to_thread.run_sync(flow_keys, scene.redis)) < SESSIONS:
                await trio.sleep(0.1)

        calls = scene.calls
        marks = [call.sent for call in calls]
        killed_at = trio.current_time()
        await scene.fleet.relay.child.kill()
        if forget:
            with scene.redis.client() as client:
                assert client.delete(*flow_keys(scene.redis)) == SESSIONS
        async with edge(*scene.fleet.relay_flags, env=FLEET_ENV) as relay:
            downtime = trio.current_time() - killed_at
            assert relay.udp == scene.fleet.relay.udp
            await trio.sleep(allowance + 1.0)  # until the holes have ended and count
            await wait_all_received(calls, 10, seconds=5.0)
            holes = [
                call.statistics(since=mark).longest_hole
                for call, mark in zip(calls, marks, strict=True)
            ]
            print(f"downtime {downtime:.3f} s, holes {min(holes):.3f} to {max(holes):.3f} s")
            assert min(holes) > 0.0
            assert max(holes) <= downtime + allowance
            assert not any(call.closed for call in calls)
            for call in calls:
                call.close()
