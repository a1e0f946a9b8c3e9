"""A transceiver that leaves with many calls: each is silent for its own time only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from edge.errors import EndReason
from edge.transceiver.mobility import Mobility
from edge.transceiver.session import Session
from edge.transceiver.voice import Voice
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import open_network

CALLS = 6
ANSWER_SECONDS = 0.004
"""How long the registry takes; each move asks it three times while nobody speaks."""
SILENT_SECONDS = 0.02 + 0.04
"""From one frame to the next; and three answers, of which each end of a frame costs up to 20 ms."""


@asynccontextmanager
async def busy_edge(calls: int = CALLS) -> AsyncIterator[tuple[VirtualEdge, list[Phone]]]:
    """Two transceivers with a slow registry, the first of which has these calls."""
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        AsyncExitStack() as stack,
    ):
        phones = [await stack.enter_async_context(edge.call()) for _ in range(calls)]
        for phone in phones:
            await phone.heard(60)
        for way in edge.ways:
            way.seconds = ANSWER_SECONDS
        yield edge, phones


async def gone(edge: VirtualEdge, phones: list[Phone]) -> float:
    """Drain the first one; all calls go on. Gives the seconds it took.

    Of each call one frame may be missing: the echo that its owner had not played yet.
    """
    began = trio.current_time()
    await edge.transceivers[0].drain()
    took = trio.current_time() - began
    assert edge.transceivers[0].totals.ended == {EndReason.MOVED: len(phones)}
    for phone in phones:
        await phone.heard(50)
        statistics = phone.caller.journal.statistics(now=trio.current_time())
        assert statistics.missing <= 1
        assert statistics.longest_silence <= SILENT_SECONDS
    return took


async def test_each_of_many_calls_is_silent_for_its_own_time_only(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with busy_edge() as (edge, phones):
        first, second = edge.transceivers
        silent: list[str] = []
        most = 0

        def withdraw(session: Session) -> None:
            nonlocal most
            silent.append(session.call.session)
            most = max(most, len(silent))
            withdrawn(session)

        def note_taken(session: str) -> None:
            silent.remove(session)
            assert second.roster.by_call[session].voice is Voice.FULL
            taken(session)

        mobility = first.mobility
        assert mobility is not None
        withdrawn, taken = first.withdraw, mobility._handover.note_taken
        monkeypatch.setattr(first, "withdraw", withdraw)
        monkeypatch.setattr(mobility._handover, "note_taken", note_taken)
        for way in edge.ways:
            way.asked.clear()
        took = await gone(edge, phones)
        assert most == 1
        assert took <= 0.2 + CALLS * 8 * ANSWER_SECONDS
        owner, heir = (way.asked for way in edge.ways)
        assert (owner["hand_over"], owner["claim"]) == (CALLS, 0)
        assert (heir["inherit"], heir["claim"]) == (CALLS, 0)


async def test_an_heir_that_does_not_say_that_he_has_them_holds_nothing_up_for_long(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with busy_edge(4) as (edge, phones):
        first = edge.transceivers[0].mobility
        assert isinstance(first, Mobility)
        first._handover.note_taken = lambda session: None  # type: ignore[method-assign]
        assert 0.2 <= await gone(edge, phones) <= 0.8


async def test_an_heir_that_is_told_nothing_finds_out_by_what_comes(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with busy_edge(2) as (edge, phones):
        second = edge.transceivers[1].mobility
        assert isinstance(second, Mobility)
        second.take_word = lambda *_, now: None  # type: ignore[method-assign]
        await gone(edge, phones)


async def test_who_leaves_waits_until_the_registry_knows_what_has_ended(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with busy_edge(1) as (edge, _):
        (call,) = edge.transceivers[0].roster.by_call
        edge.ways[0].seconds = 0.1
        edge.transceivers[0].hang_up(call)
        await trio.sleep(0.01)
        await edge.transceivers[0].drain()
        edge.transceiver_scopes[0].cancel()
        assert await edge.registry.sessions.owner_of(call) is None
