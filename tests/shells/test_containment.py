"""What goes wrong in one session ends that session; a stalled process and a jumping clock none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest
import trio
import trio.testing

from edge.backends.echo import Echo
from edge.backends.protocol import (
    AudioFormat,
    AudioFrame,
    Call,
    Conversation,
    EventSink,
    Speaker,
)
from edge.config import TransceiverConfig
from edge.errors import Drop, EndReason
from tests.support import edge_net
from tests.support.clock import VirtualClock
from tests.support.edge_net import VirtualEdge, open_edge
from tests.support.net import Link, open_network

Clock = VirtualClock


class FirstIs:
    """A backend whose first conversation is a broken one; the others echo."""

    def __init__(self, broken: Callable[[Speaker], Conversation]) -> None:
        self._broken: Callable[[Speaker], Conversation] | None = broken

    def wants(self, codec: AudioFormat) -> AudioFormat:
        return codec

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> Conversation:
        broken, self._broken = self._broken, None
        return broken(speaker) if broken is not None else Echo().open(call, speaker, events)


class PlaysNoBytes:
    """Hands the pacer a frame that can not be sent."""

    def __init__(self, speaker: Speaker) -> None:
        self.drops: Counter[Drop] = Counter()
        self._speaker = speaker

    def hear(self, frame: AudioFrame) -> None:
        self._speaker.play(AudioFrame(cast(bytes, None), 0.02))

    def receive_event(self, event: bytes) -> None:
        pass

    async def run(self) -> None:
        await trio.sleep_forever()


class BreaksWhenCancelled:
    """Fails in its clean-up, beside tasks that are cancelled as they should be."""

    def __init__(self, speaker: Speaker) -> None:
        self.drops: Counter[Drop] = Counter()

    def hear(self, frame: AudioFrame) -> None:
        pass

    def receive_event(self, event: bytes) -> None:
        pass

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ConnectionResetError


async def ended(edge: VirtualEdge, reason: EndReason) -> None:
    with trio.fail_after(2.0):
        while not edge.transceivers[0].totals.ended[reason]:
            await trio.sleep(0.01)


async def test_a_frame_that_can_not_be_sent_ends_its_session_only(autojump_clock: Clock) -> None:
    backend = FirstIs(PlaysNoBytes)
    async with (
        open_network() as network,
        open_edge(network, backend=backend) as edge,
        edge.call(),
        edge.call() as other,
    ):
        await ended(edge, EndReason.INTERNAL_ERROR)
        await other.heard(50)
        assert other.caller.journal.rejected == 0


@pytest.mark.parametrize("how", ["hang_up", "cancel"])
async def test_a_backend_that_breaks_while_it_is_cancelled(autojump_clock: Clock, how: str) -> None:
    """The service ends as if nothing had happened: no exception group comes out of it."""
    backend = FirstIs(BreaksWhenCancelled)
    async with open_network() as network, open_edge(network, backend=backend) as edge:
        service = edge.transceivers[0]
        async with edge.call() as phone:
            with trio.fail_after(2.0):
                while not phone.caller.secured:
                    await trio.sleep(0.01)
            await trio.sleep(0.1)
            if how == "hang_up":
                assert phone.call is not None
                assert service.hang_up(phone.call.call_id)
            else:
                edge.transceiver_scopes[0].cancel()
            await trio.sleep(0.3)
            assert service.totals.ended.total() == 1
            assert service.sessions == 0
            assert phone.caller.closed


async def test_a_process_that_was_stopped_goes_on(autojump_clock: Clock) -> None:
    """All leases have run out meanwhile; the next heartbeat, which is overdue, renews them."""
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(20)
        autojump_clock.jump(10.0)
        await trio.sleep(0.6)
        assert len(await edge.registry.transceivers()) == 1
        assert len(await edge.registry.relays()) == 1
        await phone.heard(100, within=2.5 + 2.5)
        async with edge.call() as second:
            await second.connected()
        assert edge.transceivers[0].sessions == 2
        assert not phone.caller.closed


@pytest.mark.parametrize("seconds", [-1e9, 5 * 3600.0])
async def test_a_wall_clock_that_jumps_ends_no_call(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    config = TransceiverConfig(consent_timeout_seconds=6.0)
    async with (
        open_network() as network,
        open_edge(network, config=config) as edge,
        edge.call() as phone,
    ):
        await phone.heard(20)
        monkeypatch.setattr(edge_net, "UNIX_OFFSET", edge_net.UNIX_OFFSET + seconds)
        await trio.sleep(10.0)
        assert phone.caller.checks_answered >= 4
        await phone.heard(50, within=1.5)
        async with edge.call() as second:
            await second.connected()


async def test_a_relay_that_came_back_empty_takes_a_flow_back_too(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(20)
        network.set_link(phone.socket.address, edge.public, Link(loss=1.0))
        await trio.sleep(0.1)
        edge.relay._flows.drop_hop(edge.transceivers[0].slot, lambda path: 0)  # as after a restart
        assert len(edge.registry._flows) == 1
        assert phone.call is not None
        edge.transceivers[0].hang_up(phone.call.call_id)
        await trio.sleep(0.1)
        assert phone.caller.closed
        assert edge.relay.statistics().flows == 0
        assert len(edge.registry._flows) == 0
