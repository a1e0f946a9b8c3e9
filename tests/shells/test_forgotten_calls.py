"""Calls whose registry was emptied: it soon knows them again, and who owns them."""

from __future__ import annotations

import trio

from edge.errors import EndReason
from edge.registry.sessions import Claim
from edge.transceiver.mark import MARK, SETTLE_SECONDS, is_settled
from tests.support.clock import VirtualClock
from tests.support.edge_net import VirtualEdge
from tests.support.mobile_call import custody, mobile_call, name, owner, taken_over


async def is_stored(edge: VirtualEdge, claim: Claim) -> bool:
    again = await edge.registry.sessions.inherit(claim, claim.owner)
    return again.held == claim and again.stored is not None


async def test_who_owned_a_call_writes_it_back_at_once_and_its_heir_waits_for_the_mark(
    autojump_clock: VirtualClock,
) -> None:
    async with mobile_call() as (edge, phone):
        claim = await owner(edge, phone)
        assert claim is not None
        edge.registry.sessions.empty()
        emptied = trio.current_time()
        await trio.sleep(0.5)
        assert await owner(edge, phone) == claim
        assert await is_stored(edge, claim)
        await taken_over(edge, within=2 * SETTLE_SECONDS)
        assert trio.current_time() - emptied >= SETTLE_SECONDS
        await phone.heard(50)


async def test_a_registry_that_was_away_and_comes_back_empty_knows_the_call_again(
    autojump_clock: VirtualClock,
) -> None:
    async with mobile_call() as (edge, phone):
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
    async with mobile_call() as (edge, phone):
        keeper = custody(edge, 0).keeper(name(phone))
        assert keeper is not None
        await taken_over(edge)
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
