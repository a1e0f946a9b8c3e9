"""One fault after the other in one fleet, and what its calls hear of each.

A hole is the longest run of numbered packets of one call that never came back, as audio time; that
of a run is the longest of all calls. Every run starts from health: all members know each other and
all calls are heard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from edge.client import Load
from edge.client.journal import FRAME_SECONDS
from tests.support.global_fleet import Call, GlobalFleet, Member, open_call
from tests.support.redis_server import RedisServer

STEADY_PACKETS: Final = 10
"""Echoes of every call after which it counts as heard again."""
HEARD_SECONDS: Final = 12.0
"""A call that is not heard for so long after a fault is lost."""
RECORDS_SECONDS: Final = 30.0
"""A relay writes the record of a flow again within a third of its 60 s."""
FRESH_SECONDS: Final = 10.0


@dataclass(slots=True)
class Scene:
    """A healthy fleet with calls."""

    redis: RedisServer
    fleet: GlobalFleet
    load: Load
    calls: list[Call]
    former: list[Call] = field(default_factory=list)
    """Calls that were lost, each replaced by a new one."""

    async def wait_records(self) -> None:
        """Wait until every flow has its records, none of which ends soon."""
        names = [name for call in self.calls for name in call.records]
        with trio.fail_after(RECORDS_SECONDS):
            while await trio.to_thread.run_sync(self._shortest_life, names) < FRESH_SECONDS:
                await trio.sleep(0.1)

    def _shortest_life(self, names: Sequence[str]) -> float:
        with self.redis.client() as client, client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.pttl(name)
            return float(min(pipeline.execute())) / 1000

    async def heard(self, calls: Iterable[Call]) -> list[Call]:
        """Wait until every call is heard; gives those that never are."""
        wanted = [(call, call.client.received + STEADY_PACKETS) for call in calls]
        with trio.move_on_after(HEARD_SECONDS):
            for call, count in wanted:
                await call.client.wait_received(count)
        return [call for call, count in wanted if call.client.received < count]

    async def replace(self, lost: Sequence[Call]) -> None:
        """Open new calls in the place of lost ones."""
        for call in lost:
            self.former.append(call)
            call.client.close()
            self.calls[self.calls.index(call)] = await open_call(self.load, call.way)


@dataclass(frozen=True, slots=True)
class Injected:
    """What was done."""

    downtime: float = 0.0
    """Seconds from the kill until the process was ready again."""
    without: tuple[Member, ...] = ()
    """Relays that are still down; whoever enters at one has to go elsewhere by itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and its budget: the longest hole, beside the downtime or not."""

    name: str
    title: str
    inject: Callable[[Scene, int], Awaitable[Injected]]
    seconds: float
    after_downtime: bool = False
    from_records: bool = False
    """The cure is in the registry's flow records: they are waited for."""

    @property
    def budget(self) -> str:
        """For a person."""
        if not self.seconds:
            return "0 loss"
        allowed = f"{self.seconds * 1000:.0f} ms"
        return f"down + {allowed}" if self.after_downtime else allowed

    def allows(self, hole: float, downtime: float, *, slack: float = 0.0) -> bool:
        """Tell whether a hole is within the budget; it is a multiple of a frame."""
        allowed = self.seconds + (downtime if self.after_downtime else 0.0) + slack
        return hole < allowed + FRAME_SECONDS if allowed else not hole


@dataclass(frozen=True, slots=True)
class Run:
    """One injection; seconds."""

    hole: float
    downtime: float
    lost: int
    reordered: int
    """Packets that came out of order."""
    reached: bool


async def run_fault(scene: Scene, fault: Fault, number: int) -> Run:
    """Inject a fault once, and leave the scene healthy."""
    await scene.fleet.wait_known()
    if fault.from_records:
        await scene.wait_records()
    marks = {id(call): call.client.sent for call in scene.calls}
    reordered = sum(call.client.reordered for call in scene.calls)
    injected = await fault.inject(scene, number)
    calls = [call for call in scene.calls if call.way.entry not in injected.without]
    lost = await scene.heard(calls)
    marks_of = [(call, marks[id(call)]) for call in calls if call not in lost]
    reordered = sum(call.client.reordered for call in scene.calls) - reordered
    holes = [call.client.longest_hole(since=mark) for call, mark in marks_of]
    if injected.without:
        for member in injected.without:
            await member.start()
        lost += await scene.heard(call for call in scene.calls if call not in lost)
    await scene.replace(lost)
    hole = max(holes, default=0.0)
    reached = not lost and fault.allows(hole, injected.downtime)
    return Run(hole, injected.downtime, len(lost), reordered, reached)
