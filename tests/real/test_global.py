"""Two regions of processes over one real Redis: every call hears itself, through every fault.

Each fault once, on one fleet; ``scripts/bench_faults`` does each twenty times and prints a table.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from edge.client import open_load
from tests.support.fault_runs import Scene, run_fault
from tests.support.faults import FAULTS
from tests.support.global_fleet import Call, global_fleet, open_calls
from tests.support.redis_server import running_redis

CALLS = 16
SLACK = 0.2
"""For a machine with other things to do, in seconds."""
SYDNEY = (("cf-iplatitude", "-33.87"), ("cf-iplongitude", "151.21"))


@asynccontextmanager
async def two_regions(calls: int) -> AsyncGenerator[Scene]:
    env = {"EDGE_GEO_HEADERS": "cloudflare"}
    with running_redis() as redis:
        async with global_fleet(redis.url, env=env) as fleet, open_load() as load:
            yield Scene(redis, fleet, load, await open_calls(load, fleet, calls))


def check_audio(call: Call) -> None:
    statistics = call.client.statistics()
    assert statistics.foreign == 0
    assert statistics.duplicates == 0
    assert statistics.rejected == 0


@pytest.mark.timeout(60)
async def test_every_call_hears_itself_wherever_it_enters() -> None:
    async with two_regions(CALLS) as scene:
        assert sum(call.way.crosses for call in scene.calls) == CALLS // 2
        assert {call.way.entry for call in scene.calls} == set(scene.fleet.relays)
        await trio.sleep(2.0)
        for call in scene.calls:
            check_audio(call)
            statistics = call.client.statistics()
            assert statistics.reordered == 0
            assert statistics.received >= 90

        paris, sydney = scene.fleet.regions
        far = await scene.load.open_call(paris.transceivers[0].http, headers=SYDNEY)
        near = await scene.load.open_call(sydney.transceivers[0].http, headers=SYDNEY)
        assert {far.server, near.server} <= {relay.udp for relay in sydney.relays}
        with trio.fail_after(5.0):
            await far.wait_received(25)
            await near.wait_received(25)


@pytest.mark.timeout(90)
async def test_every_fault_once() -> None:
    async with two_regions(CALLS) as scene:
        missed = []
        for fault in FAULTS:
            run = await run_fault(scene, fault, 0)
            print(f"{fault.name}: hole {run.hole:.2f} s, up again after {run.downtime:.2f} s")
            if run.lost or not fault.allows(run.hole, run.downtime, slack=SLACK):
                missed.append((fault.name, run))
        assert not missed
        for call in scene.calls:
            check_audio(call)
