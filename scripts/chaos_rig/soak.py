"""Kills of anything at random: all calls are heard again soon, and nothing is left at the end."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from chaos_rig.records import wait_written
from chaos_rig.scene import HEARD_SECONDS, Scene
from tests.support.redis_server import RedisServer

CONVERGE_SECONDS: Final = 5.0
"""From the moment that what was killed is back, or has been replaced."""
RECORD_SECONDS: Final = 60.0
"""What an ended call may leave in the registry is gone by then."""
CALLS_RECORDS: Final = ("session", "token", "path", "flow")
PAUSE_SECONDS: Final = (0.0, 1.5)
TERMINATE: Final = 0.3
"""Part of the transceivers that are told to leave and not killed."""


class Kill(msgspec.Struct, frozen=True):
    """One of them; seconds."""

    victim: str
    at: float
    heard_after: float
    calls_lost: int


class SoakResult(msgspec.Struct, frozen=True):
    """All of them, and what was left."""

    seed_calls: int
    seconds: float
    kills: list[Kill]
    records: int
    """Records of calls right after they hung up."""
    orphans: list[str]
    """Kinds of those that do not end within RECORD_SECONDS."""
    reused: int
    missed: int

    @property
    def passed(self) -> bool:
        """Whether all came back in time and nothing stays."""
        slow = any(k.calls_lost or k.heard_after > CONVERGE_SECONDS for k in self.kills)
        return not (slow or self.orphans or self.reused or self.missed)


async def soak(scene: Scene, seconds: float) -> SoakResult:
    """Kill for so long, hang up, and look at what is left."""
    began, calls = time.monotonic(), len(scene.calls)
    await scene.wait_calm()
    kills = []
    while time.monotonic() - began < seconds:
        kills.append(await _kill_something(scene, time.monotonic() - began))
        await trio.sleep(scene.random.uniform(*PAUSE_SECONDS))
    lived = time.monotonic() - began
    for call in tuple(scene.calls):
        scene.conversations.close(call)
    await trio.sleep(1.0)
    records, orphans = await trio.to_thread.run_sync(_look_for_orphans, scene.fleet.redis)
    egress, missed = scene.fleet.egress, scene.fleet.missed
    return SoakResult(calls, lived, kills, records, orphans, egress.reused.total(), missed)


async def _kill_something(scene: Scene, at: float) -> Kill:
    victims: tuple[tuple[str, Callable[[Scene], Awaitable[None]]], ...] = (
        ("transceiver", _lose_transceiver),
        ("relay", _lose_relay),
        ("redis", _lose_redis),
        ("backend", _lose_backend),
    )
    name, lose = scene.random.choices(victims, weights=(5, 2, 1, 1))[0]
    await lose(scene)
    back = time.monotonic()
    silent = await scene.wait_heard(scene.calls)
    with trio.move_on_after(HEARD_SECONDS):
        await wait_written(scene.fleet.redis, len(scene.calls) - len(silent))
    after = time.monotonic() - back
    await scene.replace(silent)
    return Kill(name, at, after, len(silent))


async def _lose_transceiver(scene: Scene) -> None:
    victim = scene.random.choice(scene.fleet.transceivers)
    if scene.random.random() < TERMINATE:
        await victim.terminate()
    else:
        await victim.kill()
    await scene.fleet.retire(victim)
    await scene.fleet.add_transceiver()


async def _lose_relay(scene: Scene) -> None:
    await scene.random.choice(scene.fleet.relays).restart()


async def _lose_redis(scene: Scene) -> None:
    await trio.to_thread.run_sync(scene.fleet.redis.kill)
    await trio.sleep(scene.random.uniform(0.0, 2.0))
    await trio.to_thread.run_sync(scene.fleet.redis.start)


async def _lose_backend(scene: Scene) -> None:
    await scene.fleet.backend.kill()
    await scene.fleet.backend.start()


def _look_for_orphans(redis: RedisServer) -> tuple[int, list[str]]:
    """Count the records of calls; name the kinds of those that stay too long."""
    with redis.client() as client:
        names = list(client.scan_iter("edge:*", count=1_000))
        lives = {name.decode(): client.pttl(name) / 1000 for name in names}
    records = {name: life for name, life in lives.items() if _kind(name) in CALLS_RECORDS}
    # -1: it never ends; -2: it has ended meanwhile
    stay = [name for name, life in records.items() if life > RECORD_SECONDS or -1.5 < life < 0]
    return len(records), sorted({_kind(name) for name in stay})


def _kind(name: str) -> str:
    found = re.match(r"edge:\d+:(\w+):", name)
    return found[1] if found else ""


def soak_table(result: SoakResult) -> str:
    """The result for a person."""
    slowest = sorted(result.kills, key=lambda kill: -kill.heard_after)[:5]
    lost = sum(kill.calls_lost for kill in result.kills)
    return "\n".join(
        [
            f"{result.seed_calls} calls, {len(result.kills)} kills in {result.seconds:.0f} s; "
            f"{lost} calls lost; all heard again within {CONVERGE_SECONDS:.0f} s of each: "
            f"{'yes' if not lost and slowest[0].heard_after <= CONVERGE_SECONDS else 'NO'}",
            *(
                f"  {kill.victim:<12} at {kill.at:>6.1f} s: heard after {kill.heard_after:.2f} s"
                f"{f', {kill.calls_lost} lost' if kill.calls_lost else ''}"
                for kill in slowest
            ),
            f"{result.records} records of calls after the hang-up, which end by themselves; "
            f"orphans: {', '.join(result.orphans) or 'none'}",
            f"nonces used twice: {result.reused}; not seen: {result.missed}",
            "pass" if result.passed else "FAIL",
        ]
    )
