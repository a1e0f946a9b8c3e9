"""Counts of events over the deaths of transceivers, against a client that repeats itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.backends.frames.opening import Left
from edge.backends.frames.tally import (
    MAX_BYTES,
    MAX_EVENTS,
    REPEAT_SECONDS,
    ReceivedEvents,
    SentEvents,
)
from edge.backends.protocol import MAX_RESUME_BYTES, MAX_TOKEN_BYTES

COUNTS = st.integers(0, 2**53)


def numbered(start: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, end)]


def sent(count: int, before: int = 0) -> SentEvents:
    events = SentEvents(before)
    for event in numbered(before, before + count):
        events.add(event)
    return events


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8))
def test_whatever_was_not_taken_is_sent_again(deaths: list[tuple[int, int]]) -> None:
    events, count = SentEvents(), 0
    for more, unknown in deaths:
        for event in numbered(count, count + more):
            events.add(event)
        count += more
        taken = max(count - unknown, 0)
        assert events.resume(taken) == numbered(taken, count)
        assert events.count == count


def test_a_later_death_may_go_back_further() -> None:
    """A transceiver that lost its connection knew more than its checkpoint did."""
    events = sent(10)
    assert events.resume(10) == []
    assert events.resume(6) == numbered(6, 10)


def test_what_is_kept_is_bounded_and_what_is_not_is_counted() -> None:
    events = sent(MAX_EVENTS + 5)
    again = events.resume(2)
    assert again == numbered(5, MAX_EVENTS + 5)
    assert events.lost == 3
    assert events.count == 2 + MAX_EVENTS  # as the transceiver will count them
    assert events.resume(2 + MAX_EVENTS) == []


def test_bytes_are_bounded() -> None:
    events, size = SentEvents(), MAX_BYTES // 4
    for number in range(6):
        events.add(bytes([number]) * size)
    assert [event[0] for event in events.resume(0)] == [2, 3, 4, 5]


def test_a_backend_that_knows_less_counts_on_from_what_it_is_told() -> None:
    events = sent(3)
    assert events.resume(7) == []
    events.add(b"7")
    assert (events.count, events.resume(7)) == (8, [b"7"])


def takes(events: ReceivedEvents, *several: bytes, now: float = 0.0) -> list[bytes]:
    return [event for event in several if events.take(event, now=now)]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8))
def test_a_client_that_repeats_itself_is_taken_once(deaths: list[tuple[int, int]]) -> None:
    """Each transceiver passes on some events, of which its last checkpoint knows a part."""
    events, said, taken = ReceivedEvents(), 0, list[bytes]()
    begin = 0  # what the checkpoint knows, and where the client begins again
    for passed, stored in deaths:
        end = begin + passed
        taken += takes(events, *numbered(begin, end))
        said = max(said, end)
        begin += min(stored, passed)
        events.resume(begin, now=0.0)
    assert taken == numbered(0, said)


def test_what_nobody_repeats_costs_no_other_event() -> None:
    events = ReceivedEvents()
    assert takes(events, b"sideband", b"1") == [b"sideband", b"1"]
    events.resume(0, now=0.0)
    assert takes(events, b"1", b"2", b"3") == [b"2", b"3"]
    assert events.doubled == 1


def test_equal_events_are_told_apart_by_their_number() -> None:
    events = ReceivedEvents()
    assert len(takes(events, *[b"commit"] * 3)) == 3
    events.resume(1, now=0.0)
    assert len(takes(events, *[b"commit"] * 3)) == 1


def test_what_comes_late_is_no_repetition() -> None:
    for after, expected in ((REPEAT_SECONDS, []), (REPEAT_SECONDS + 0.1, [b"1"])):
        events = ReceivedEvents()
        events.take(b"1", now=0.0)
        events.resume(0, now=5.0)
        assert takes(events, b"1", now=5.0 + after) == expected


def test_what_was_never_repeated_is_forgotten_with_the_next_death() -> None:
    events = ReceivedEvents()
    events.take(b"1", now=0.0)
    events.resume(0, now=0.0)
    events.resume(0, now=REPEAT_SECONDS + 1.0)
    assert takes(events, b"1", now=REPEAT_SECONDS + 1.0) == [b"1"]


def test_a_client_may_begin_further_back_after_a_later_death() -> None:
    events = ReceivedEvents()
    takes(events, *numbered(0, 3))
    events.resume(2, now=0.0)
    events.resume(0, now=0.0)
    assert takes(events, *numbered(0, 4)) == [b"3"]


def test_what_the_former_transceiver_owes_is_taken_and_no_more() -> None:
    events = ReceivedEvents()
    assert not events.take_owed()
    events.take(b"1", now=0.0)
    events.resume(3, now=0.0)
    assert [events.take_owed() for _ in range(3)] == [True, True, False]
    events.resume(3, now=0.0)
    assert not events.take_owed()


@given(st.binary(max_size=MAX_TOKEN_BYTES), COUNTS, COUNTS)
def test_what_is_left_to_the_next_one(token: bytes, heard: int, said: int) -> None:
    left = Left(token, heard, said)
    assert len(left.pack()) <= MAX_RESUME_BYTES
    assert Left.unpack(left.pack()) == left


@given(st.binary(max_size=40))
def test_anything_else_is_a_token(packed: bytes) -> None:
    left = Left.unpack(b"\xff" + packed)
    assert left == Left(b"\xff" + packed)
    assert isinstance(Left.unpack(packed), Left)
    assert len(Left(bytes(MAX_TOKEN_BYTES), 2**53, 2**53).pack()) <= MAX_RESUME_BYTES
