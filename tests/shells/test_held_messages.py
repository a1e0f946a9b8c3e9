"""Messages to a client leave when a checkpoint holds them, and soon where none can be stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import trio

from edge.client.channel import CallerChannel
from edge.transceiver.session import Session
from edge.webrtc.sctp_hold import HOLD_SECONDS
from tests.support.clock import VirtualClock
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import open_network


class Call:
    """A call on the first of two transceivers, whose backend is the echo: the test speaks."""

    def __init__(self, edge: VirtualEdge, phone: Phone, channel: CallerChannel) -> None:
        self.edge, self.phone, self.channel = edge, phone, channel
        self._numbers = count()

    def session(self, transceiver: int = 0) -> Session:
        (session,) = self.edge.transceivers[transceiver].roster.by_call.values()
        return session

    def tell(self) -> str:
        event = f'{{"type": "told", "number": {next(self._numbers)}}}'
        assert self.session().events.send_event(event.encode())
        return event

    async def comes(self, event: str, *, within: float = 2.0) -> float:
        """How long the client waits for it."""
        start = trio.current_time()
        with trio.fail_after(within):
            while event not in self.channel.received:
                await trio.sleep(0.001)
        return trio.current_time() - start


@asynccontextmanager
async def call() -> AsyncIterator[Call]:
    channel = CallerChannel("oai-events")
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call(channel=channel) as phone,
    ):
        await phone.told(1)  # session.created
        await trio.sleep(1.0)
        yield Call(edge, phone, channel)


async def test_a_message_leaves_when_it_is_stored(autojump_clock: VirtualClock) -> None:
    async with call() as one:
        usual = await one.comes(one.tell())
        one.edge.ways[0].seconds = 0.1
        assert 0.1 < await one.comes(one.tell()) < 0.1 + usual + 0.03
        one.edge.ways[0].seconds = 0.0
        stored = one.edge.ways[0].asked["store"]
        events = [one.tell() for _ in range(10)]
        for event in events:
            await one.comes(event)
        assert one.edge.ways[0].asked["store"] == stored + 1, "of one moment: one checkpoint"


async def test_a_slow_registry_holds_nothing_for_long(autojump_clock: VirtualClock) -> None:
    async with call() as one:
        one.edge.ways[0].seconds = 1.0
        assert HOLD_SECONDS <= await one.comes(one.tell()) < HOLD_SECONDS + 0.05
        assert await one.comes(one.tell()) < 0.05, "the next one does not wait"


async def test_a_registry_that_is_away_holds_nothing(autojump_clock: VirtualClock) -> None:
    async with call() as one:
        one.edge.ways[0].closed = True
        await one.comes(one.tell(), within=HOLD_SECONDS + 0.05)
        for _ in range(20):
            assert await one.comes(one.tell()) < 0.05
            await trio.sleep(0.1)
        one.edge.ways[0].closed = False
        await trio.sleep(3.0)
        stored = one.edge.ways[0].asked["store"]
        await one.comes(one.tell())
        assert one.edge.ways[0].asked["store"] > stored, "it is held again"


async def test_what_was_delivered_comes_not_again_from_the_heir(
    autojump_clock: VirtualClock,
) -> None:
    async with call() as one:
        event = one.tell()
        await one.comes(event)
        one.edge.cut_off(0)
        with trio.fail_after(5.0):
            while not one.edge.transceivers[1].sessions:
                await trio.sleep(0.05)
        await trio.sleep(2.0)
        assert one.channel.received.count(event) == 1
        assert sum("session.created" in str(each) for each in one.channel.received) == 1
        last = '{"type": "told by the heir"}'
        assert one.session(1).events.send_event(last.encode())
        await one.comes(last)
