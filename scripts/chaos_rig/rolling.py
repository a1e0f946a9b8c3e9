"""A rolling update as Kubernetes does it, stage by stage, and what all calls hear of each.

A Deployment's pod is replaced by one with another address: the new one comes up and is ready, the
old one gets SIGTERM and has its grace period. A DaemonSet's on the network of its node keeps the
address: the old process ends first, one node after the other.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import trio

from chaos_rig.members import Exit
from chaos_rig.results import percentile, verdict
from chaos_rig.scene import Scene, counts, mark

GAP_SECONDS: Final = 0.02
READY_SECONDS: Final = 1.0
"""``minReadySeconds``: from the readiness of one pod to the end of the next."""
DRAIN_SECONDS: Final = 5.0

HEAD: Final = (
    f"{'stage':<26}{'lost: calls':>12}{'packets':>9}{'messages':>10}{'holes up: median':>18}"
    f"{'p95':>6}{'worst':>7}{'down: median':>14}{'p95':>6}{'worst':>7}{'drain s':>9}"
    f"{'exits':>7}  verdict"
)


class Holes(msgspec.Struct, frozen=True):
    """The longest hole of each call in one direction, over all calls; milliseconds."""

    median: float
    p95: float
    worst: float

    @classmethod
    def sum_up(cls, seconds: Sequence[float]) -> Holes:
        """Nearest-rank percentiles."""
        values = [each * 1000 for each in seconds]
        return cls(percentile(values, 50), percentile(values, 95), max(values))


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """All processes of one kind were replaced."""

    name: str
    seconds: float
    calls_lost: int
    packets_lost: int
    packets_said: int
    messages_lost: int
    up: Holes
    down: Holes
    drains: list[float]
    """Seconds from SIGTERM to the exit of each."""
    exits: list[int]
    allowed_ms: float
    """The longest hole that there may be."""
    lossless: bool
    """No packet may be lost."""

    @property
    def passed(self) -> bool:
        """Whether all is within what the design promises."""
        return (
            not any((self.calls_lost, self.messages_lost, *self.exits))
            and not (self.lossless and self.packets_lost)
            and max(self.up.worst, self.down.worst) <= self.allowed_ms
            and max(self.drains) <= DRAIN_SECONDS
        )


Roll = Callable[[Scene], Awaitable[tuple[list[Exit], float]]]
"""Replaces all of a kind; gives how each left, and the longest time without one."""


async def roll_transceivers(scene: Scene) -> tuple[list[Exit], float]:
    """New pod up, old one told to leave, one after the other."""
    exits = []
    for old in tuple(scene.fleet.transceivers):
        await scene.fleet.add_transceiver()
        await trio.sleep(READY_SECONDS)
        exits.append(await old.terminate())
        await scene.fleet.retire(old)
    return exits, 0.0


async def roll_relays(scene: Scene) -> tuple[list[Exit], float]:
    """Each node's relay ends and comes up again at the same address."""
    exits, longest = [], 0.0
    for relay in scene.fleet.relays:
        began = time.monotonic()
        exits.append(await relay.terminate())
        await relay.start()
        longest = max(longest, time.monotonic() - began)
        await scene.fleet.wait_known()
        await trio.sleep(READY_SECONDS)
    return exits, longest


async def run_stage(scene: Scene, name: str, roll: Roll, *, lossless: bool, slack: float) -> Stage:
    """Replace all of one kind, and sum up what the calls heard."""
    await scene.wait_calm()
    calls = list(scene.calls)
    marks = [mark(call) for call in calls]
    began = time.monotonic()
    exits, downtime = await roll(scene)
    silent = await scene.wait_heard(calls)
    until = time.monotonic()
    missed = [
        [heard.lost(number) for heard, number in zip(counts(call), at.numbers, strict=True)]
        for call, at in zip(calls, marks, strict=True)
    ]
    return Stage(
        name=name,
        seconds=until - began,
        calls_lost=len(silent),
        packets_lost=sum(each[0] + each[1] for each in missed),
        packets_said=round(len(calls) * 2 * (until - began) / 0.02),
        messages_lost=sum(each[2] + each[3] for each in missed),
        up=Holes.sum_up([call.up.audio.longest_hole(began, until) for call in calls]),
        down=Holes.sum_up([call.down.audio.longest_hole(began, until) for call in calls]),
        drains=[each.seconds for each in exits],
        exits=[each.code for each in exits],
        allowed_ms=(downtime + GAP_SECONDS + slack) * 1000,
        lossless=lossless,
    )


def stage_line(stage: Stage) -> str:
    """One line of the table."""
    holes = "".join(
        f"{each.median:>{width}.0f}{each.p95:>6.0f}{each.worst:>7.0f}"
        for each, width in ((stage.up, 18), (stage.down, 14))
    )
    codes = "/".join(str(code) for code in sorted(set(stage.exits)))
    return (
        f"{stage.name:<26}{stage.calls_lost:>12}{stage.packets_lost:>9}{stage.messages_lost:>10}"
        f"{holes}{max(stage.drains):>9.2f}{codes:>7}  {verdict(stage.passed)}"
    )
