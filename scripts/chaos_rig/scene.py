"""A fleet with calls that are heard both ways, and how healthy it is."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from chaos_rig.fleet import Fleet
from chaos_rig.members import Member
from tests.support.numbered import Heard
from tests.support.numbered_calls import Conversations, NumberedCall

STEADY_FRAMES: Final = 10
STEADY_MESSAGES: Final = 2
"""New ones in both directions after which a call counts as heard."""
HEARD_SECONDS: Final = 10.0
"""A call that is not heard for so long after a fault is lost."""
CALM_SECONDS: Final = 0.6
"""Before each fault: as long as a checkpoint and the record of a flow take, and then some."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far each count of a call was; in the order of ``counts``."""

    numbers: tuple[int, ...]
    doubled: tuple[int, ...]
    told: int


def counts(call: NumberedCall) -> tuple[Heard, Heard, Heard, Heard]:
    """Audio up and down, messages up and down."""
    return call.up.audio, call.down.audio, call.up.messages, call.down.messages


def mark(call: NumberedCall) -> Mark:
    """Note how far a call is."""
    heard = counts(call)
    numbers, doubled = tuple(h.next for h in heard), tuple(h.doubled for h in heard)
    return Mark(numbers, doubled, len(call.told))


def is_heard(call: NumberedCall, since: float) -> bool:
    """Tell whether everything has come both ways for a while."""
    up, down, *messages = counts(call)
    return (
        min(up.came_after(since), down.came_after(since)) >= STEADY_FRAMES
        and min(each.came_after(since) for each in messages) >= STEADY_MESSAGES
    )


class Scene:
    """Who is there."""

    def __init__(self, fleet: Fleet, conversations: Conversations, *, seed: int) -> None:
        self.fleet = fleet
        self.random = random.Random(seed)
        self.conversations = conversations
        self.entries: dict[int, Member] = {}
        """The relay of each call, by its ``id``."""

    @property
    def calls(self) -> Sequence[NumberedCall]:
        """All calls."""
        return self.conversations.calls

    async def open_calls(self, count: int) -> None:
        """Open so many at all transceivers through all relays in turn."""
        for _ in range(count):
            await self.open_call()

    async def open_call(self) -> NumberedCall:
        """Open one more."""
        fleet, number = self.fleet, len(self.entries)
        relay = fleet.relays[number % len(fleet.relays)]
        way = number // len(fleet.relays) % len(fleet.transceivers)
        http = fleet.transceivers[way].http
        call = await self.conversations.open_call(http, relay.public)
        self.entries[id(call)] = relay
        return call

    async def wait_calm(self) -> None:
        """Wait until all is as it should be; replace the calls that are not heard."""
        await self.fleet.wait_known()
        await self.replace(await self.wait_heard(self.calls))
        await trio.sleep(CALM_SECONDS)

    async def wait_heard(
        self, calls: Iterable[NumberedCall], *, seconds: float = HEARD_SECONDS
    ) -> list[NumberedCall]:
        """Wait until all are heard both ways; gives those that never are."""
        since = time.monotonic()
        silent = list(calls)
        with trio.move_on_after(seconds):
            while silent := [call for call in silent if not is_heard(call, since)]:
                await trio.sleep(0.02)
        return silent

    async def replace(self, lost: Iterable[NumberedCall]) -> None:
        """Open new calls in the place of lost ones, and wait until they are heard."""
        opened = []
        for call in lost:
            self.conversations.close(call)
            opened.append(await self.open_call())
        silent = await self.wait_heard(opened)
        assert not silent, f"{len(silent)} new calls are not heard"

    async def busiest(self) -> Member:
        """The transceiver with the most sessions."""
        by_count = [(await each.sessions(), each) for each in self.fleet.transceivers]
        most = max(count for count, _ in by_count)
        return self.random.choice([each for count, each in by_count if count == most])
