"""Whatever is cancelled, and after whichever step: nothing of it is left, and others go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from edge.errors import Drop, EndReason
from edge.transceiver.admission import Overloaded
from tests.support.edge_net import HOST, Phone, VirtualEdge, open_edge
from tests.support.net import VirtualNetwork, open_network
from tests.support.sweep import Cut, sweep

SAMPLES = 8
PROVISIONAL_SECONDS = 0.2
HOUSEKEEPING_SECONDS = 0.6


@asynccontextmanager
async def small_edge() -> AsyncIterator[VirtualEdge]:
    """An edge that forgets unanswered flows soon."""
    async with (
        open_network() as network,
        open_edge(network, provisional_seconds=PROVISIONAL_SECONDS) as edge,
    ):
        yield edge


async def talk(
    edge: VirtualEdge, *, dialled: Callable[[Phone], object] = lambda phone: None
) -> Phone | None:
    """Call, speak, say goodbye, as far as it goes; None when there was no room."""
    phone = Phone(edge.network.socket((HOST, 0)))
    try:
        await phone.dial(edge.transceivers[0])
        dialled(phone)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(phone.run)
            with trio.move_on_after(0.3):
                await phone.heard(3)
            phone.hang_up()
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    except Overloaded:
        return None
    finally:
        phone.socket.close()
    return phone


async def forgotten(edge: VirtualEdge) -> None:
    """Wait as long as it may take until unanswered flows are gone."""
    await trio.sleep(PROVISIONAL_SECONDS + HOUSEKEEPING_SECONDS)


def assert_empty(edge: VirtualEdge) -> None:
    """Nobody holds anything for any call."""
    for service in edge.transceivers:
        assert service.sessions == 0
        assert not service.roster.by_token
        assert not service.roster.paths
        assert not service.roster.paths._challengers
        assert not len(service._arrivals)
        assert service.totals.ended.total() == service.totals.opened
        assert not service.totals.drops()[Drop.BUG]
    statistics = edge.relay.statistics()
    assert statistics.flows == 0
    assert statistics.provisional_flows == 0
    assert statistics.waiting_lookups == 0
    assert not statistics.drops.get(Drop.BUG)
    assert len(edge.registry._flows) == 0


def bound(edge: VirtualEdge) -> int:
    """Sockets of the network that are open."""
    assert isinstance(edge.network, VirtualNetwork)
    return len(edge.network._sockets)


async def cancel_the_transceiver(cut: Cut) -> None:
    async with small_edge() as edge, edge.call() as phone:
        await phone.connected()
        cut.arm(edge.transceiver_scopes[0].cancel)
        await talk(edge)
        cut.disarm()
        edge.transceiver_scopes[0].cancel()
        await trio.sleep(0.2)
        assert phone.caller.closed  # it was told
        assert edge.relay.statistics().flows == 0
        assert len(edge.registry._flows) == 0
        assert not await edge.registry.transceivers()
        assert await edge.registry.relays()
        await forgotten(edge)
        assert_empty(edge)
        assert bound(edge) == 3  # the relay's two and the phone's
        with pytest.raises(Overloaded):
            await edge.transceivers[0].open_call(phone.caller.offer.encode())


def test_a_transceiver_cancelled_at_any_step_leaves_nothing() -> None:
    sweep(cancel_the_transceiver, samples=SAMPLES)


async def test_calls_that_nobody_has_started_yet_end_too(autojump_clock: object) -> None:
    async with small_edge() as edge:
        service = edge.transceivers[0]
        phones = [Phone(edge.network.socket((HOST, 0))) for _ in range(3)]

        async def dial(phone: Phone) -> None:
            await phone.dial(service)
            if all(each.call is not None for each in phones):
                edge.transceiver_scopes[0].cancel()  # before the service has had a turn

        async with trio.open_nursery() as nursery:
            for phone in phones:
                nursery.start_soon(dial, phone)
        await trio.sleep(0.2)
        assert service.totals.ended == {EndReason.SHUTDOWN: 3}
        await forgotten(edge)
        assert_empty(edge)


async def cancel_before_the_transceiver_has_started(cut: Cut) -> None:
    async with open_network() as network:
        with trio.CancelScope() as scope:
            cut.arm(scope.cancel)
            async with open_edge(network) as edge:
                await talk(edge)
        cut.disarm()
        assert not network._sockets


def test_an_edge_cancelled_at_any_step_closes_its_sockets() -> None:
    sweep(cancel_before_the_transceiver_has_started, samples=SAMPLES)


async def end_a_session(cut: Cut, *, by_scope: bool) -> None:
    async with small_edge() as edge, edge.call() as bystander:
        service = edge.transceivers[0]
        await bystander.connected()
        before = bystander.caller.journal.sent

        def arm(phone: Phone) -> None:
            assert phone.call is not None
            call_id = phone.call.call_id
            session = service.roster.by_call[call_id]
            cut.arm(session._scope.cancel if by_scope else lambda: service.hang_up(call_id))

        phone = await talk(edge, dialled=arm)
        cut.disarm()
        assert phone is not None
        assert service.sessions == 1
        assert service.totals.ended.total() == 1
        if cut.done:
            assert phone.caller.closed or not phone.caller.secured
            assert service.totals.ended[EndReason.INTERNAL_ERROR] == 0
        await forgotten(edge)
        statistics = edge.relay.statistics()
        assert (statistics.flows, statistics.provisional_flows) == (1, 0)
        assert len(service.roster.paths) == len(edge.registry._flows) == 1
        journal = bystander.caller.journal
        assert journal.sent >= before + 40
        assert journal.received >= journal.sent - 2  # two are on their way
        assert journal.rejected == 0
        await service.drain()
        await trio.sleep(0.1)
        assert_empty(edge)


async def cancel_a_session(cut: Cut) -> None:
    await end_a_session(cut, by_scope=True)


async def hang_a_session_up(cut: Cut) -> None:
    await end_a_session(cut, by_scope=False)


@pytest.mark.parametrize("scenario", [cancel_a_session, hang_a_session_up])
def test_a_session_ended_at_any_step_harms_no_other(scenario: Callable[[Cut], object]) -> None:
    sweep(scenario, samples=SAMPLES)  # type: ignore[arg-type]


async def cancel_the_relay(cut: Cut) -> None:
    async with small_edge() as edge:
        service = edge.transceivers[0]
        async with edge.call() as phone:
            await phone.connected()
            cut.arm(edge.relay_scope.cancel)
            await talk(edge)
            cut.disarm()
            edge.relay_scope.cancel()
            await trio.sleep(0.1)
            assert bound(edge) == 2  # the transceiver's and the phone's
            assert not await edge.registry.relays()
            assert len(await edge.registry.transceivers()) == 1
            assert edge.relay.statistics().waiting_lookups == 0
            assert not edge.relay.statistics().drops.get(Drop.BUG)
            with pytest.raises(Overloaded):
                await service.open_call(phone.caller.offer.encode())
        await service.drain()
        assert service.sessions == 0
        assert not service.roster.paths


def test_a_relay_cancelled_at_any_step_leaves_no_socket_and_no_record() -> None:
    sweep(cancel_the_relay, samples=SAMPLES)


async def cancel_a_drain(cut: Cut) -> None:
    async with small_edge() as edge, edge.call() as first, edge.call() as second:
        service = edge.transceivers[0]
        await first.connected()
        await second.connected()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, edge)
            await trio.sleep(0.02)
            with trio.CancelScope() as scope:
                cut.arm(scope.cancel)
                await service.drain()
            cut.disarm()
        await trio.sleep(0.1)
        assert first.caller.closed
        assert second.caller.closed
        await service.drain()
        await forgotten(edge)
        assert_empty(edge)


def test_a_drain_cancelled_at_any_step_still_ends_the_sessions() -> None:
    sweep(cancel_a_drain, samples=SAMPLES)
