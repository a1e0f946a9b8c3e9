"""Whether the registry remembers, as one process sees it."""

from __future__ import annotations

import pytest

from edge.registry.sessions import Claim, Slot
from edge.transceiver.mark import MARK, REFRESH_SECONDS, SETTLE_SECONDS, Mark, is_settled

US = Slot(7)
YOUNG = Claim(session=MARK, owner=Slot(3), epoch=1)
SETTLED = YOUNG.next_of(Slot(5))


@pytest.fixture
def mark() -> Mark:
    return Mark(US, entropy=lambda size: b"\x01" * size)


def test_who_misses_it_claims_it_and_says_when_it_counts(mark: Mark) -> None:
    assert mark.note(None, asked=1.0)
    young = mark.wanted(None, now=1.0)
    assert young == Claim(session=MARK, owner=Slot(0x010102), epoch=1)
    assert mark.note(young, asked=1.2), "by who claimed it, nothing is told"
    assert not mark.note(young, asked=1.4)
    assert mark.wanted(young, now=1.1 + SETTLE_SECONDS) is None
    assert mark.wanted(young, now=1.2 + SETTLE_SECONDS) == young.next_of(US)


def test_a_registry_that_forgets_again_begins_again(mark: Mark) -> None:
    mark.note(YOUNG, asked=1.0)
    other = Claim(session=MARK, owner=Slot(4), epoch=1)
    assert mark.note(other, asked=3.0)
    assert mark.wanted(other, now=1.0 + SETTLE_SECONDS) is None
    assert mark.wanted(other, now=3.0 + SETTLE_SECONDS) == other.next_of(US)
    assert mark.note(None, asked=5.0)


def test_what_was_written_back_is_sure_when_the_mark_counts(mark: Mark) -> None:
    assert mark.follows(None)
    assert not mark.follows(0.0)
    assert not mark.note(SETTLED, asked=1.0)
    assert mark.follows(1.0)
    assert not mark.follows(1.1)
    mark.note(YOUNG, asked=2.0)
    assert not mark.follows(0.5)
    assert [is_settled(held) for held in (None, YOUNG, SETTLED)] == [False, False, True]


def test_it_is_kept_alive(mark: Mark) -> None:
    mark.note(SETTLED, asked=1.0)
    assert mark.wanted(SETTLED, now=1.0) == SETTLED.next_of(US)
    assert mark.wanted(SETTLED, now=0.9 + REFRESH_SECONDS) is None
    assert mark.wanted(SETTLED, now=1.0 + REFRESH_SECONDS) is not None
