"""What every ``SessionBook`` must do; the same bodies run in memory and on a real Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio

from edge.errors import LocalProtocolError
from edge.registry.sessions import (
    MAX_CHECKPOINT_BYTES,
    MAX_EPOCH,
    MAX_LEADS,
    MAX_SERIAL,
    Claim,
    Lead,
    SessionBook,
    Slot,
    StoredCheckpoint,
    StoreOutcome,
    path_lead,
    token_lead,
)
from edge.wire.spp import encode_path

OWNER: Final = Slot(7)
HEIR: Final = Slot(8)
FIRST: Final = Claim(session="rtc_a", owner=OWNER, epoch=1)
SECOND: Final = FIRST.next_of(HEIR)
FIRST_OF_HEIR: Final = Claim(session="rtc_a", owner=HEIR, epoch=1)
NOBODY: Final = Slot(0)
CLIENT: Final = ("198.51.100.7", 40_000)
PUBLIC: Final = ("192.0.2.1", 3478)
TOKEN: Final = token_lead("ufrag")
PATH: Final = path_lead(encode_path(CLIENT, PUBLIC))


async def an_epoch_is_granted_once(book: SessionBook) -> None:
    assert await book.owner_of("rtc_a") is None
    assert await book.claim(SECOND) is None, "there is nothing to take over"
    assert await book.claim(FIRST) == FIRST
    assert await book.claim(FIRST) == FIRST, "the answer may have been lost"
    assert await book.claim(Claim(session="rtc_a", owner=HEIR, epoch=1)) == FIRST
    assert await book.claim(FIRST.next_of(HEIR).next_of(OWNER)) == FIRST, "no epoch is left out"
    assert await book.claim(SECOND) == SECOND
    assert await book.claim(FIRST.next_of(Slot(9))) == SECOND
    assert await book.claim(FIRST) == SECOND
    other = Claim(session="rtc_b", owner=OWNER, epoch=1)
    assert await book.claim(other) == other
    held = await book.owners_of(["rtc_b", "rtc_c", "not a name", "rtc_a"])
    assert list(held) == [other, None, None, SECOND]
    assert await book.owners_of([]) == []


async def of_many_who_claim_at_once_one_is_granted(book: SessionBook) -> None:
    await book.claim(FIRST)
    answers: list[tuple[Claim, Claim | None]] = []

    async def claim(wanted: Claim) -> None:
        answers.append((wanted, await book.claim(wanted)))

    async with trio.open_nursery() as nursery:
        for slot in range(10, 30):
            nursery.start_soon(claim, FIRST.next_of(Slot(slot)))
    assert sum(wanted == held for wanted, held in answers) == 1
    assert len({held for _, held in answers}) == 1, "all are told who"


async def stored(book: SessionBook, claim: Claim) -> StoredCheckpoint | None:
    """What is there for who holds a claim: he inherits again."""
    held, checkpoint = await book.inherit(claim, NOBODY)
    assert held == claim
    return checkpoint


async def a_checkpoint_is_there_for_the_next_owner(book: SessionBook) -> None:
    await book.claim(FIRST)
    assert await book.inherit(FIRST, NOBODY) == (FIRST, None)
    assert await book.store(FIRST, 1, b"one") is StoreOutcome.STORED
    assert await book.store(FIRST, 2, b"two") is StoreOutcome.STORED
    two = StoredCheckpoint(claim=FIRST, serial=2, sealed=b"two")
    assert await stored(book, FIRST) == two
    assert await book.inherit(SECOND, OWNER) == (SECOND, two)
    assert await book.inherit(SECOND, OWNER) == (SECOND, two), "the answer may have been lost"
    assert await book.inherit(FIRST, NOBODY) == (SECOND, None)
    assert await book.store(SECOND, 1, b"three") is StoreOutcome.STORED, "each counts for himself"
    assert await stored(book, SECOND) == StoredCheckpoint(claim=SECOND, serial=1, sealed=b"three")


async def who_is_not_next_inherits_nothing(book: SessionBook) -> None:
    assert await book.inherit(FIRST, NOBODY) == (None, None)
    assert await book.inherit(SECOND, OWNER) == (None, None)
    await book.claim(FIRST)
    await book.store(FIRST, 1, b"one")
    third = SECOND.next_of(Slot(9))
    for wanted, former in ((SECOND, Slot(9)), (third, OWNER), (third, HEIR), (FIRST_OF_HEIR, HEIR)):
        assert await book.inherit(wanted, former) == (FIRST, None)
    await book.inherit(SECOND, OWNER)
    assert await book.inherit(FIRST.next_of(Slot(9)), OWNER) == (SECOND, None)


async def who_leaves_hands_over_in_one(book: SessionBook) -> None:
    await book.claim(FIRST)
    await book.store(FIRST, 3, b"before")
    assert await book.hand_over(FIRST, 2, b"old", HEIR) is StoreOutcome.SUPERSEDED
    assert await book.owner_of("rtc_a") == FIRST
    assert await book.hand_over(FIRST, 4, b"last", HEIR) is StoreOutcome.STORED
    assert await book.owner_of("rtc_a") == SECOND
    assert await book.hand_over(FIRST, 5, b"last", HEIR) is StoreOutcome.STORED, "as it was"
    assert await book.hand_over(FIRST, 6, b"last", Slot(9)) is StoreOutcome.FENCED
    assert await book.store(FIRST, 7, b"zombie") is StoreOutcome.FENCED
    last = StoredCheckpoint(claim=FIRST, serial=4, sealed=b"last")
    third = SECOND.next_of(HEIR)
    assert await book.inherit(third, HEIR) == (third, last)
    assert await book.hand_over(FIRST, 8, b"late", HEIR) is StoreOutcome.FENCED


async def what_is_not_ones_own_is_not_handed_over(book: SessionBook) -> None:
    assert await book.hand_over(FIRST, 1, b"one", HEIR) is StoreOutcome.LOST
    await book.claim(FIRST)
    assert await book.hand_over(SECOND, 1, b"one", Slot(9)) is StoreOutcome.LOST
    assert await book.hand_over(FIRST_OF_HEIR, 1, b"one", Slot(9)) is StoreOutcome.FENCED
    await book.claim(SECOND)  # as a heir does, and not by a hand-over
    assert await book.hand_over(FIRST, 1, b"one", HEIR) is StoreOutcome.FENCED
    assert await stored(book, SECOND) is None


async def a_former_owner_stores_nothing(book: SessionBook) -> None:
    await book.claim(FIRST)
    await book.store(FIRST, 1, b"one")
    await book.claim(SECOND)
    assert await book.store(FIRST, 2, b"zombie") is StoreOutcome.FENCED
    rival = Claim(session="rtc_a", owner=Slot(9), epoch=2)
    assert await book.store(rival, 9, b"rival") is StoreOutcome.FENCED
    await book.forget(FIRST)
    await book.forget(rival)
    assert await stored(book, SECOND) == StoredCheckpoint(claim=FIRST, serial=1, sealed=b"one")


async def of_one_owners_checkpoints_the_newest_stays(book: SessionBook) -> None:
    await book.claim(FIRST)
    assert await book.store(FIRST, MAX_SERIAL, b"new") is StoreOutcome.STORED
    assert await book.store(FIRST, MAX_SERIAL - 1, b"late") is StoreOutcome.SUPERSEDED
    assert await book.store(FIRST, MAX_SERIAL, b"again") is StoreOutcome.STORED
    again = StoredCheckpoint(claim=FIRST, serial=MAX_SERIAL, sealed=b"again")
    assert await stored(book, FIRST) == again


async def a_session_that_is_forgotten_is_gone(book: SessionBook) -> None:
    await book.claim(FIRST)
    await book.store(FIRST, 1, b"one")
    await book.forget(FIRST)
    await book.forget(FIRST)
    assert await book.owner_of("rtc_a") is None
    assert await book.store(FIRST, 2, b"late") is StoreOutcome.LOST
    assert await book.claim(SECOND) is None
    assert await book.inherit(SECOND, OWNER) == (None, None)


async def who_was_forgotten_may_claim_anew(
    book: SessionBook, empty: Callable[[], Awaitable[None]]
) -> None:
    await book.claim(FIRST)
    await book.claim(SECOND)
    await empty()
    assert await book.store(SECOND, 1, b"one") is StoreOutcome.LOST
    anew = SECOND.next_of(HEIR)
    assert await book.claim(anew) is None
    assert await book.claim(anew, anew=True) == anew
    assert await book.store(anew, 1, b"one") is StoreOutcome.STORED
    assert await book.claim(SECOND, anew=True) == anew, "never back"
    await empty()
    await book.claim(FIRST)  # as a store does that has fallen back to an old copy
    assert await book.store(anew, 2, b"two") is StoreOutcome.LOST
    assert await book.claim(anew.next_of(HEIR), anew=True) == anew.next_of(HEIR)


async def what_a_former_owner_stored_does_not_outlive_a_claim_anew(book: SessionBook) -> None:
    await book.claim(FIRST)
    await book.store(FIRST, 1, b"one")
    assert await book.claim(FIRST, anew=True) == FIRST
    third = SECOND.next_of(OWNER)
    assert await book.claim(third, anew=True) == third
    assert await book.inherit(third.next_of(HEIR), OWNER) == (third.next_of(HEIR), None)
    await book.forget(third.next_of(HEIR))
    await book.claim(FIRST)
    await book.store(FIRST, 1, b"one")
    assert await book.claim(FIRST, anew=True) == FIRST
    held, stored = await book.inherit(SECOND, OWNER)
    assert held == SECOND
    assert stored is not None, "it is the same claim"


async def sizes_and_names_have_limits(book: SessionBook) -> None:
    await book.claim(FIRST)
    await book.store(FIRST, 1, bytes(MAX_CHECKPOINT_BYTES))
    too_long = bytes(MAX_CHECKPOINT_BYTES + 1)
    assert await book.store(FIRST, 2, too_long) is StoreOutcome.TOO_LONG
    assert await book.hand_over(FIRST, 2, too_long, HEIR) is StoreOutcome.TOO_LONG
    longest = await stored(book, FIRST)
    assert longest is not None
    assert (longest.serial, len(longest.sealed)) == (1, MAX_CHECKPOINT_BYTES)
    for session, owner, epoch in (
        *(("", OWNER, 1), ("a b", OWNER, 1), ("a" * 81, OWNER, 1), ("rtc_a\n", OWNER, 1)),
        *(("rtc_a", Slot(0), 1), ("rtc_a", OWNER, 0), ("rtc_a", OWNER, MAX_EPOCH + 1)),
    ):
        with pytest.raises(LocalProtocolError):
            await book.claim(Claim(session=session, owner=owner, epoch=epoch))
        with pytest.raises(LocalProtocolError):
            await book.inherit(Claim(session=session, owner=owner, epoch=epoch), OWNER)
    for serial in (0, MAX_SERIAL + 1):
        with pytest.raises(LocalProtocolError):
            await book.store(FIRST, serial, b"")
    for heir in (Slot(0), Slot(-1)):
        with pytest.raises(LocalProtocolError):
            await book.hand_over(FIRST, 3, b"", heir)
    assert await book.owner_of("a b") is None


async def a_token_or_a_path_leads_to_a_session(book: SessionBook) -> None:
    assert await book.find_session(TOKEN) is None
    book.save_leads("rtc_a", [TOKEN, PATH])
    await leads(book, TOKEN, "rtc_a")
    await leads(book, PATH, "rtc_a")
    for other in (encode_path(PUBLIC, CLIENT), encode_path((CLIENT[0], 40_001), PUBLIC)):
        assert await book.find_session(path_lead(other)) is None
    assert await book.find_session(token_lead("ufrag2")) is None
    book.save_leads("rtc_b", [PATH])
    await leads(book, PATH, "rtc_b")
    assert await book.find_session(TOKEN) == "rtc_a", "as it was"


async def a_session_has_so_many_leads(book: SessionBook) -> None:
    tokens = [token_lead(str(number)) for number in range(MAX_LEADS + 1)]
    book.save_leads("rtc_a", tokens)
    await leads(book, tokens[-2], "rtc_a")
    assert await book.find_session(tokens[-1]) is None


async def leads(book: SessionBook, lead: Lead, session: str) -> None:
    """Wait until a lead that was queued is there."""
    with trio.fail_after(5.0):
        while await book.find_session(lead) != session:
            await trio.sleep(0.001)


CONTRACT: Final = (
    an_epoch_is_granted_once,
    of_many_who_claim_at_once_one_is_granted,
    a_checkpoint_is_there_for_the_next_owner,
    who_is_not_next_inherits_nothing,
    who_leaves_hands_over_in_one,
    what_is_not_ones_own_is_not_handed_over,
    a_former_owner_stores_nothing,
    of_one_owners_checkpoints_the_newest_stays,
    a_session_that_is_forgotten_is_gone,
    what_a_former_owner_stored_does_not_outlive_a_claim_anew,
    sizes_and_names_have_limits,
    a_token_or_a_path_leads_to_a_session,
    a_session_has_so_many_leads,
)
