"""The faults and their budgets: every row of the design's table of what breaks."""

from __future__ import annotations

import signal
import time
from functools import partial
from typing import Final

import trio

from chaos_rig.fleet import STALL_SECONDS
from chaos_rig.members import Member
from chaos_rig.overload import offer_too_much
from chaos_rig.runs import Budget, Fault, Injected
from chaos_rig.scene import Scene
from edge.backends.protocol import BACKEND_RESTARTED
from edge.client.caller import CHECK_SECONDS
from tests.support.egress import Waking
from tests.support.redis_server import RedisServer

ROUND_TRIP_SECONDS: Final = 0.02
DETECTION_SECONDS: Final = 0.75
FROZEN_SECONDS: Final = 3.0
"""How long an owner stands still, or is cut off: much longer than its lease."""
WAKING_SECONDS: Final = 2.0
"""How long it is listened for afterwards."""
REDIS_SECONDS: Final = 4.0
SLOW_SECONDS: Final = 0.3
BACKOFF_SECONDS: Final = 2.0
"""From the return of a backend to the next attempt to reach it."""


async def _nothing(scene: Scene, number: int) -> Injected:
    await trio.sleep(1.0)
    return Injected()


async def _kill_worker(scene: Scene, number: int) -> Injected:
    relay = scene.fleet.relays[number % len(scene.fleet.relays)]
    touched = [call for call in scene.calls if scene.entries[id(call)] is relay]
    relay.kill_worker()
    return Injected(touched=touched)


async def _restart_relay(scene: Scene, number: int) -> Injected:
    relay = scene.fleet.relays[number % len(scene.fleet.relays)]
    touched = [call for call in scene.calls if scene.entries[id(call)] is relay]
    began = time.monotonic()
    left = await relay.terminate()
    await relay.start()
    wrong = f"the relay's exit code was {left.code}" if left.code else ""
    return Injected(time.monotonic() - began, touched, wrong)


async def _restart_forgotten_relay(scene: Scene, number: int) -> Injected:
    relay = scene.fleet.relays[number % len(scene.fleet.relays)]
    began = time.monotonic()
    await relay.kill()
    await trio.to_thread.run_sync(_forget_flows, scene.fleet.redis)
    await relay.start()
    return Injected(time.monotonic() - began)


def _forget_flows(redis: RedisServer) -> None:
    with redis.client() as client:
        names = list(client.scan_iter("edge:*:flow:*", count=1_000))
        if names:
            client.delete(*names)


async def _move_clients(scene: Scene, number: int) -> Injected:
    for call in scene.calls:
        call.rebind()
    return Injected()


async def _drain(scene: Scene, number: int) -> Injected:
    victim = await scene.busiest()
    left = await victim.terminate()
    wrong = f"its exit code was {left.code}" if left.code else ""
    note = f"left after {left.seconds:.2f} s"
    return Injected(wrong=wrong, notes=(note,), mend=partial(_replace, scene, victim))


async def _kill_transceiver(scene: Scene, number: int) -> Injected:
    victim = await scene.busiest()
    await victim.kill()
    return Injected(mend=partial(_replace, scene, victim))


async def _replace(scene: Scene, victim: Member) -> None:
    await scene.fleet.retire(victim)
    await scene.fleet.add_transceiver()


async def _cut(scene: Scene, number: int) -> Injected:
    victim = await scene.busiest()
    await scene.fleet.network.cut(victim.pod)
    await trio.sleep(FROZEN_SECONDS)
    waking = scene.fleet.waking = Waking(victim.pod.address)
    await scene.fleet.network.mend(victim.pod)
    return await _listen_for(scene, waking)


async def _stop(scene: Scene, number: int) -> Injected:
    victim = await scene.busiest()
    victim.signal(signal.SIGSTOP)
    await trio.sleep(FROZEN_SECONDS)
    waking = scene.fleet.waking = Waking(victim.pod.address)
    victim.signal(signal.SIGCONT)
    return await _listen_for(scene, waking)


async def _listen_for(scene: Scene, waking: Waking) -> Injected:
    """Count what an owner of former times says when it is back."""
    await trio.sleep(WAKING_SECONDS)
    scene.fleet.waking = None
    note = f"{waking.sent} packets of the old owner, {waking.reached} reached a client"
    return Injected(wrong=note if waking.reached else "", notes=(note,))


async def _lose_redis(scene: Scene, number: int) -> Injected:
    await trio.to_thread.run_sync(scene.fleet.redis.kill)
    await trio.sleep(REDIS_SECONDS)
    await trio.to_thread.run_sync(scene.fleet.redis.start)
    await trio.sleep(REDIS_SECONDS)  # whoever were to be taken for dead would be so by now
    return Injected()


async def _hang_redis(scene: Scene, number: int) -> Injected:
    scene.fleet.redis.freeze()
    await trio.sleep(REDIS_SECONDS)
    scene.fleet.redis.thaw()
    await trio.sleep(REDIS_SECONDS)
    return Injected()


async def _slow_redis(scene: Scene, number: int) -> Injected:
    scene.fleet.redis_line.delay = SLOW_SECONDS
    await trio.sleep(2 * REDIS_SECONDS)
    scene.fleet.redis_line.delay = 0.0
    return Injected()


async def _empty_redis(scene: Scene, number: int) -> Injected:
    await trio.to_thread.run_sync(_flush, scene.fleet.redis)
    await trio.sleep(REDIS_SECONDS)
    return Injected()


def _flush(redis: RedisServer) -> None:
    with redis.client() as client:
        client.flushall()


async def _hang_backend(scene: Scene, number: int) -> Injected:
    """Another connection is tried meanwhile; a backend that knows the calls still goes on."""
    began = time.monotonic()
    scene.fleet.backend.signal(signal.SIGSTOP)
    await trio.sleep(STALL_SECONDS + 1.0)
    scene.fleet.backend.signal(signal.SIGCONT)
    return Injected(time.monotonic() - began)


async def _reset_backend(scene: Scene, number: int) -> Injected:
    told = {id(call): len(call.told) for call in scene.calls}
    began = time.monotonic()
    await scene.fleet.backend.kill()
    await scene.fleet.backend.start()
    return await _with_news(scene, told, time.monotonic() - began)


async def _with_news(scene: Scene, told: dict[int, int], downtime: float) -> Injected:
    """Every client must be told that its model is another one now."""
    with trio.move_on_after(BACKOFF_SECONDS + 2 * STALL_SECONDS):
        while any(BACKEND_RESTARTED not in call.told[told[id(call)] :] for call in scene.calls):
            await trio.sleep(0.05)
        return Injected(downtime)
    return Injected(downtime, wrong="not every client was told by an event")


LOSSLESS: Final = Budget("0 loss", lost=0.0)
_DEATH: Final = Budget("p95 1 s, worst 2 s", hole=2.0, p95=1.0)
_CHECK: Final = CHECK_SECONDS + ROUND_TRIP_SECONDS

FAULTS: Final = (
    Fault("none", "nothing at all", _nothing, LOSSLESS),
    Fault(
        "worker",
        "relay's worker killed (SIGKILL)",
        _kill_worker,
        Budget("200 ms, others 0", hole=0.2),
    ),
    Fault(
        "relay",
        "relay restarts, with records",
        _restart_relay,
        Budget("down + 20 ms", hole=ROUND_TRIP_SECONDS, after_downtime=True),
    ),
    Fault(
        "forgotten",
        "relay restarts, without records",
        _restart_forgotten_relay,
        Budget("down + 2.52 s", hole=_CHECK, after_downtime=True),
    ),
    Fault("moves", "clients change address", _move_clients, Budget("2.52 s", hole=_CHECK)),
    Fault("drain", "transceiver drains", _drain, Budget("0 loss, 20 ms", hole=0.02, lost=0.0)),
    Fault("dies", "transceiver killed (SIGKILL)", _kill_transceiver, _DEATH),
    Fault("cut", "transceiver cut off for 3 s", _cut, _DEATH),
    Fault("wakes", "transceiver stopped for 3 s, wakes", _stop, _DEATH),
    Fault("gone", "Redis killed, empty 4 s later", _lose_redis, LOSSLESS),
    Fault("hangs", "Redis hangs for 4 s", _hang_redis, LOSSLESS),
    Fault("slow", "Redis 0.6 s slower for 8 s", _slow_redis, LOSSLESS),
    Fault("emptied", "Redis emptied", _empty_redis, LOSSLESS),
    Fault(
        "backend-hangs",
        "backend hangs for 3 s",
        _hang_backend,
        Budget("down + 2 s", hole=BACKOFF_SECONDS, after_downtime=True, messages=False),
    ),
    Fault(
        "backend-resets",
        "backend killed, started again",
        _reset_backend,
        Budget("down + 2 s, event", hole=BACKOFF_SECONDS, after_downtime=True, messages=False),
    ),
    Fault(
        "overload",
        "more calls than it can carry",
        offer_too_much,
        Budget("503, 1 % loss", lost=0.01),
        {"EDGE_TRANSCEIVER_MAX_LOAD": "0.15", "EDGE_TRANSCEIVER_ENGINE": "pure"},
    ),
)
"""In the order of the design's table, after what the machine does by itself."""
