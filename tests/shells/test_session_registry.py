"""Session claims and checkpoints in memory; the contract is ``tests.support.session_contract``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.abc import Clock

from edge.errors import Drop
from edge.registry.memory import MemoryRegistry
from edge.registry.memory_sessions import MemorySessions
from edge.registry.sessions import (
    MAX_LEADS,
    SESSION_SECONDS,
    Claim,
    SessionBook,
    Slot,
    StoreOutcome,
    token_lead,
)
from tests.support.session_contract import (
    CONTRACT,
    FIRST,
    PATH,
    TOKEN,
    who_was_forgotten_may_claim_anew,
)


@pytest.mark.parametrize("body", CONTRACT, ids=lambda body: body.__name__)
async def test_contract(body: Callable[[SessionBook], Awaitable[None]]) -> None:
    await body(MemoryRegistry().sessions)


async def test_who_was_forgotten_may_claim_anew() -> None:
    book = MemoryRegistry().sessions

    async def empty() -> None:
        book.empty()

    await who_was_forgotten_may_claim_anew(book, empty)


async def test_a_claim_lives_as_long_as_it_is_written(autojump_clock: Clock) -> None:
    book = MemoryRegistry().sessions
    await book.claim(FIRST)
    await trio.sleep(SESSION_SECONDS - 1)
    assert await book.store(FIRST, 1, b"one") is StoreOutcome.STORED
    await trio.sleep(SESSION_SECONDS - 1)
    assert await book.owner_of(FIRST.session) == FIRST
    await trio.sleep(2)
    assert await book.owner_of(FIRST.session) is None
    assert await book.store(FIRST, 2, b"two") is StoreOutcome.LOST


async def test_the_oldest_session_gives_way() -> None:
    drops: Counter[Drop] = Counter()
    book = MemorySessions(trio.current_time, drops, max_sessions=2)
    for name in ("a", "b", "c"):
        await book.claim(Claim(session=name, owner=Slot(1), epoch=1))
    held = await book.owners_of(["a", "b", "c"])
    assert [one is not None for one in held] == [False, True, True]
    assert drops == {Drop.TABLE_FULL: 1}


async def test_leads_live_like_a_checkpoint(autojump_clock: Clock) -> None:
    book = MemoryRegistry().sessions
    book.save_leads("rtc_a", [TOKEN, PATH])
    await trio.sleep(SESSION_SECONDS - 1)
    book.save_leads("rtc_a", [PATH])
    await trio.sleep(1)
    assert await book.find_session(TOKEN) is None
    assert await book.find_session(PATH) == "rtc_a"
    await trio.sleep(SESSION_SECONDS)
    assert await book.find_session(PATH) is None


async def test_leads_beyond_the_bound_are_counted() -> None:
    registry = MemoryRegistry()
    registry.sessions.save_leads("rtc_a", [token_lead(str(n)) for n in range(MAX_LEADS + 2)])
    assert registry.statistics().drops == {Drop.TABLE_FULL: 2}


async def test_a_clusters_sessions_are_its_own() -> None:
    one = MemoryRegistry(cluster=1)
    await one.sessions.claim(FIRST)
    assert await one.beside(2).sessions.owner_of(FIRST.session) is None
