"""The faults of a fleet and their budgets, DESIGN.md section 7.

What the machine itself does to the calls shows in the fault that is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from edge.client.caller import CHECK_SECONDS
from tests.support.edges import metric
from tests.support.fault_runs import Fault, Injected, Scene
from tests.support.global_fleet import Member
from tests.support.redis_server import RedisServer

LEASE_SECONDS: Final = 3.0
NOTICE_SECONDS: Final = 0.75
"""From the end of a relay's lease until its flows are with the next: refresh and housekeeping."""
FREEZE_SECONDS: Final = 5.0
ROUND_TRIP_SECONDS: Final = 0.02
PATH_SECONDS: Final = 0.02
"""For the first packet after a relay's restart."""


async def _nothing(scene: Scene, number: int) -> Injected:
    await trio.sleep(1.0)
    return Injected()


async def _restart_relay(scene: Scene, number: int) -> Injected:
    relays = scene.fleet.relays
    return Injected(await relays[number % len(relays)].restart())


async def _lose_inner_relay(scene: Scene, number: int) -> Injected:
    regions = scene.fleet.regions
    relays = regions[number % len(regions)].relays
    handed_on = [await _handed_on(scene, relay) for relay in relays]
    assert any(handed_on), "no call of this region comes through the other one"
    relay = relays[handed_on.index(max(handed_on))]
    await relay.kill()
    return Injected(without=(relay,))


async def _handed_on(scene: Scene, relay: Member) -> int:
    """How many flows a relay has from relays of the other region."""
    flows = await metric(relay.http, r'edge_relay_flows\{state="confirmed"\}')
    return flows - sum(call.way.entry is relay for call in scene.calls)


async def _restart_region(scene: Scene, number: int) -> Injected:
    regions = scene.fleet.regions
    return Injected(await _restart_all(regions[number % len(regions)].relays))


async def _restart_all(members: Sequence[Member]) -> float:
    """Restart all at once; gives the longest downtime."""
    downtimes: list[float] = []

    async def restart(member: Member) -> None:
        downtimes.append(await member.restart())

    async with trio.open_nursery() as nursery:
        for member in members:
            nursery.start_soon(restart, member)
    return max(downtimes)


async def _restart_redis(scene: Scene, number: int) -> Injected:
    killed_at = trio.current_time()
    await trio.to_thread.run_sync(scene.redis.kill)
    await trio.to_thread.run_sync(scene.redis.start)
    downtime = trio.current_time() - killed_at
    await trio.sleep(LEASE_SECONDS + 0.5)  # whoever were to be taken for dead would be so by now
    return Injected(downtime)


async def _empty_redis(scene: Scene, number: int) -> Injected:
    await trio.to_thread.run_sync(_flush, scene.redis)
    return await _restart_relay(scene, number)


def _flush(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()


async def _freeze_redis(scene: Scene, number: int) -> Injected:
    scene.redis.freeze()
    try:
        await trio.sleep(FREEZE_SECONDS)
    finally:
        scene.redis.thaw()
    return Injected()


async def _move_clients(scene: Scene, number: int) -> Injected:
    for call in scene.calls:
        call.client.rebind()
    return Injected()


FAULTS: Final = (
    Fault("none", "nothing at all", _nothing, 0.0),
    Fault("relay", "one relay killed, restarted", _restart_relay, PATH_SECONDS, True, True),
    Fault(
        "region", "a region's relays killed, restarted", _restart_region, PATH_SECONDS, True, True
    ),
    Fault(
        "inner",
        "inner relay killed for good",
        _lose_inner_relay,
        LEASE_SECONDS + NOTICE_SECONDS + PATH_SECONDS,
    ),
    Fault("moves", "all clients change port", _move_clients, CHECK_SECONDS + ROUND_TRIP_SECONDS),
    Fault("frozen", f"Redis hangs for {FREEZE_SECONDS:.0f} s", _freeze_redis, 0.0),
    Fault("redis", "Redis killed, restarted empty", _restart_redis, 0.0),
    Fault(
        "emptied",
        "Redis emptied, relay restarted",
        _empty_redis,
        CHECK_SECONDS + ROUND_TRIP_SECONDS,
        True,
    ),
)
"""In this order: the last ones take the registry's flow records with them."""
