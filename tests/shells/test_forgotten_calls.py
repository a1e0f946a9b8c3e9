"""Calls whose registry was emptied: it soon knows them again, and who owns them."""

from __future__ import annotations

import trio

from edge.errors import EndReason
from edge.registry.sessions import Claim
from edge.transceiver.mark import MARK, SETTLE_SECONDS, is_settled
from tests.support.clock import VirtualClock
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import open_network


async def owner(edge: VirtualEdge, phone: Phone) -> Claim | None:
    assert phone.call is not None
    return await edge.registry.sessions.owner_of(phone.call.call_id)


async def is_stored(edge: VirtualEdge, claim: Claim) -> bool:
    again = await edge.registry.sessions.inherit(claim, claim.owner)
    return again.held == claim and again.stored is not None


async def test_who_owned_a_call_writes_it_back_at_once_and_its_heir_waits_for_the_mark(
    autojump_clock: VirtualClock,
) -> None:
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call() as phone,
    ):
        await phone.heard(60)
        claim = await owner(edge, phone)
        assert claim is not None
        edge.registry.sessions.empty()
        emptied = trio.current_time()
        await trio.sleep(0.5)
        assert await owner(edge, phone) == claim
        assert await is_stored(edge, claim)
        edge.cut_off(0)
        with trio.fail_after(2 * SETTLE_SECONDS):
            while not edge.transceivers[1].sessions:
                await trio.sleep(0.01)
        assert trio.current_time() - emptied >= SETTLE_SECONDS
        await phone.heard(50)


async def test_a_registry_that_was_away_and_comes_back_empty_knows_the_call_again(
    autojump_clock: VirtualClock,
) -> None:
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call() as phone,
    ):
        await phone.heard(60)
        claim = await owner(edge, phone)
        assert claim is not None
        for way in edge.ways:
            way.cut = True
        await trio.sleep(8.0)
        edge.registry.sessions.empty()
        for way in edge.ways:
            way.cut = False
        await trio.sleep(0.3)
        assert await owner(edge, phone) == claim
        assert await is_stored(edge, claim)
        await trio.sleep(2 * SETTLE_SECONDS)
        assert is_settled(await edge.registry.sessions.owner_of(MARK))
        assert edge.transceivers[0].sessions == 1


async def test_who_was_taken_over_ends_before_a_relay_knows_of_it_again(
    autojump_clock: VirtualClock,
) -> None:
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call() as phone,
    ):
        await phone.heard(60)
        mobility = edge.transceivers[0].mobility
        assert mobility is not None
        assert phone.call is not None
        keeper = mobility.custody.keeper(phone.call.call_id)
        assert keeper is not None
        edge.cut_off(0)
        with trio.fail_after(5.0):
            while not edge.transceivers[1].sessions:
                await trio.sleep(0.01)
        ended: list[EndReason | None] = []

        async def look() -> None:
            if edge.ways[0].cut:
                edge.ways[0].before["put_transceiver"] = look
            else:
                ended.append(keeper.session.reason)

        edge.ways[0].before["put_transceiver"] = look
        edge.join_again(0)
        await phone.heard(50)
        assert ended == [EndReason.FENCED]
