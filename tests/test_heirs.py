"""Who takes over: the same for all who look, those that drain last, and in the end everybody."""

from __future__ import annotations

from edge.registry.heirs import able, heir, next_heir
from edge.registry.protocol import Slot, TransceiverRecord

SLOTS = [Slot(number) for number in range(1, 8)]
KEYS = [f"rtc_{number}".encode() for number in range(100)]


def record(slot: Slot, *, draining: bool = False) -> TransceiverRecord:
    return TransceiverRecord(
        slot=slot, cluster=0, address=("192.0.2.1", 1), http_url="", draining=draining
    )


def test_who_drains_takes_over_when_all_do() -> None:
    assert able([record(SLOTS[0]), record(SLOTS[1], draining=True)]) == (SLOTS[0],)
    assert able(record(slot, draining=True) for slot in SLOTS) == tuple(SLOTS)
    assert able([]) == ()


def test_all_propose_the_same_and_only_the_sessions_of_the_gone_move() -> None:
    before = [heir(key, SLOTS) for key in KEYS]
    assert before == [heir(key, reversed(SLOTS)) for key in KEYS]
    assert set(before) == set(SLOTS)
    after = [heir(key, SLOTS[1:]) for key in KEYS]
    moved = [was for was, now in zip(before, after, strict=True) if was != now]
    assert set(moved) == {SLOTS[0]}
    assert heir(b"rtc", []) is None


def test_who_can_not_asks_the_next_until_everybody_was_asked() -> None:
    for key in KEYS[:10]:
        first = heir(key, SLOTS)
        assert first is not None
        asked = [first]
        while (own := next_heir(key, SLOTS, asked[-1])) != first:
            assert own is not None
            asked.append(own)
        assert sorted(asked) == SLOTS
    assert next_heir(b"rtc", [], SLOTS[0]) is None
    assert next_heir(b"rtc", SLOTS[:1], SLOTS[0]) is None
