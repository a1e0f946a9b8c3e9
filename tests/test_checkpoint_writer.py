"""When checkpoints are written, and how far an owner may count meanwhile."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import LocalProtocolError
from edge.registry.sessions import StoreOutcome
from edge.transceiver.checkpoint import MAX_AGE
from edge.transceiver.checkpoint_writer import (
    AGE_MARGIN,
    BURST_WRITES,
    CHANGE_SECONDS,
    CONSENT_SECONDS,
    HEIR_SECONDS,
    MAX_WRITES,
    REFRESH_SECONDS,
    SPACING_SECONDS,
    UNLIMITED,
    UNSURE_SECONDS,
    Answer,
    CheckpointWriter,
)
from edge.webrtc.reserve import HEIR_SKIPS, OWNER_USES, RENEW_AFTER, Reserve
from edge.webrtc.streams import MAX_JUMP, MIN_SKIP

START = Reserve(rtp=100, rtcp=5, dtls=3)


def numbers(reserve: Reserve) -> tuple[int, int, int, int]:
    return reserve.rtp, reserve.rtcp, reserve.dtls, reserve.tsn


def at(packets: int) -> Reserve:
    return START.plus(Reserve(rtp=packets))


def stored(writer: CheckpointWriter, used: Reserve, *, now: float, seconds: float = 0.0) -> None:
    serial = writer.begin(used, now=now)
    writer.end(serial, Answer.STORED, now=now + seconds)


def test_the_reserves_fit_each_other_and_what_browsers_follow() -> None:
    kinds = zip(*map(numbers, (HEIR_SKIPS, OWNER_USES, RENEW_AFTER)), strict=True)
    for skipped, used, renewed in kinds:
        assert skipped >= used + 2 * renewed, "two checkpoints may be lost by the registry"
        assert used >= 2 * renewed
    assert HEIR_SKIPS.rtp >= MIN_SKIP
    assert 2 * HEIR_SKIPS.rtp < MAX_JUMP


def test_nothing_is_written_before_something_matters() -> None:
    writer = CheckpointWriter(now=0.0)
    assert writer.deadline == inf
    assert not writer.look(at(10_000_000), now=1_000.0)
    assert writer.room(at(10_000_000), now=1_000.0).least > 2**40, "nobody can take it over"


def test_changes_are_gathered() -> None:
    writer = CheckpointWriter(now=0.0)
    for now in (1.0, 1.1, 1.2):
        writer.change(now=now)
    assert writer.deadline == 1.0 + CHANGE_SECONDS
    assert not writer.look(START, now=1.2)
    assert writer.look(START, now=1.25)


def test_who_waits_is_served_at_once_but_not_without_end() -> None:
    writer, begun = CheckpointWriter(now=1.0), Counter[int]()
    for millisecond in range(5_000):
        now = 1.0 + millisecond / 1_000
        writer.change(now=now, within=0.0)
        if writer.look(START, now=now):
            begun[int(now)] += 1
            stored(writer, START, now=now)
        if millisecond < BURST_WRITES:
            assert begun[1] == millisecond + 1
    assert begun[1] == pytest.approx(1 / SPACING_SECONDS + BURST_WRITES, abs=1)
    assert begun[5] == pytest.approx(1 / SPACING_SECONDS, abs=1)


def test_one_write_at_a_time_and_what_changes_meanwhile_is_written_next() -> None:
    writer = CheckpointWriter(now=0.0)
    writer.change(now=0.0, within=0.0)
    serial = writer.begin(START, now=0.0)
    writer.change(now=0.1, within=0.0)
    assert writer.deadline == inf
    assert not writer.look(at(5_000), now=0.2)
    with pytest.raises(LocalProtocolError):
        writer.begin(START, now=0.2)
    writer.end(serial + 1, Answer.STORED, now=0.2)
    assert writer.deadline == inf, "another write's answer is nothing"
    writer.end(serial, Answer.STORED, now=0.3)
    assert writer.look(START, now=0.3)
    assert writer.begin(START, now=0.3) == serial + 1


def test_a_quiet_session_is_written_before_its_checkpoint_ends() -> None:
    writer = CheckpointWriter(now=0.0)
    stored(writer, START, now=0.0)
    now, looks = 0.0, 0
    while not writer.look(START, now=now):
        assert writer.deadline > now
        now, looks = writer.deadline, looks + 1
    assert now == REFRESH_SECONDS
    assert looks < 10


@pytest.mark.parametrize("rate", [50, 100, 400])
def test_talk_is_written_when_a_part_of_the_reserve_is_used(rate: int) -> None:
    writer = CheckpointWriter(now=0.0)
    stored(writer, at(0), now=0.0)
    writes, now = [0.0], 0.0
    while now < 120.0:
        now = writer.deadline
        used = at(int(now * rate))
        assert writer.room(used, now=now).rtp > OWNER_USES.rtp - 2 * RENEW_AFTER.rtp
        if writer.look(used, now=now):
            writes.append(now)
            stored(writer, used, now=now)
    gaps = [later - earlier for earlier, later in pairwise(writes)]
    wanted = min(RENEW_AFTER.rtp / rate, REFRESH_SECONDS)
    assert wanted <= min(gaps)
    assert max(gaps) <= wanted + 0.6


def test_a_burst_after_a_pause_is_seen_in_time() -> None:
    writer = CheckpointWriter(now=0.0)
    stored(writer, at(0), now=0.0)
    now = 0.0
    while not writer.look(at(int(max(0.0, now - 7.0) * 400)), now=now):
        now = writer.deadline
    assert now <= 7.0 + RENEW_AFTER.rtp / 400 + 5.0
    assert writer.room(at(int((now - 7.0) * 400)), now=now).rtp > 0


def test_the_owner_must_stop_at_the_end_of_its_reserve() -> None:
    writer = CheckpointWriter(now=0.0)
    stored(writer, at(0), now=0.0)
    assert writer.room(at(OWNER_USES.rtp - 1), now=0.0).rtp == 1
    now = 0.0
    for _ in range(20):
        now = max(now, writer.deadline)
        assert writer.look(at(1_000), now=now) or writer.deadline > now
        if writer.look(at(1_000), now=now):
            writer.end(writer.begin(at(1_000), now=now), Answer.UNKNOWN, now=now)
    assert writer.room(at(OWNER_USES.rtp), now=now).rtp == 0
    assert writer.room(at(OWNER_USES.rtp + 5), now=now).rtp == 0
    stored(writer, at(OWNER_USES.rtp), now=now + 3)
    assert writer.room(at(OWNER_USES.rtp), now=now + 3).rtp == OWNER_USES.rtp


def test_failures_are_repeated_ever_more_slowly() -> None:
    writer = CheckpointWriter(now=0.0)
    writer.change(now=0.0, within=0.0)
    pauses, now = [], 0.0
    for _ in range(7):
        assert writer.look(START, now=now)
        writer.end(writer.begin(START, now=now), Answer.UNKNOWN, now=now)
        writer.change(now=now, within=0.0)
        pauses.append(round(writer.deadline - now, 3))
        now = writer.deadline
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert writer.statistics().failed == 7


def test_before_the_first_answer_the_first_write_is_the_limit() -> None:
    writer = CheckpointWriter(now=0.0)
    serial = writer.begin(at(0), now=0.0)
    assert writer.room(at(400), now=0.0).rtp == OWNER_USES.rtp - 400
    writer.end(serial, Answer.UNKNOWN, now=1.4)
    serial = writer.begin(at(500), now=2.0)
    writer.end(serial, Answer.of(StoreOutcome.LOST), now=2.1)
    assert writer.room(at(600), now=2.1).rtp == OWNER_USES.rtp - 600, "the first one may be there"


def test_a_checkpoint_that_was_refused_leaves_the_session_free() -> None:
    writer = CheckpointWriter(now=0.0)
    serial = writer.begin(at(0), now=0.0)
    writer.end(serial, Answer.of(StoreOutcome.TOO_LONG), now=0.1)
    assert writer.room(at(0), now=0.1) == at(0).left_of(UNLIMITED)


def test_who_freezes_says_nothing_more() -> None:
    writer = CheckpointWriter(now=0.0)
    stored(writer, at(0), now=0.0)
    under_way = writer.begin(at(900), now=1.0)
    last = writer.freeze(at(1_000), now=1.01)
    assert writer.room(at(1_000), now=200.0).rtp == 0
    writer.end(under_way, Answer.STORED, now=1.02)
    assert writer.room(at(1_000), now=200.0).rtp == 0
    writer.end(last, Answer.UNKNOWN, now=1.1)
    assert not writer.look(at(1_000), now=1.15)
    assert writer.deadline == pytest.approx(1.2)
    now = writer.deadline
    assert writer.look(at(1_000), now=now)
    with pytest.raises(LocalProtocolError):
        writer.begin(at(1_000), now=now)
    again = writer.freeze(at(1_000), now=now)
    assert again > last
    writer.end(again, Answer.STORED, now=1.3)
    assert writer.room(at(1_000), now=200.0).rtp == 0
    assert writer.deadline == inf
    assert not writer.look(at(1_000), now=60.0)


def test_an_heir_says_nothing_before_its_own_checkpoint_is_stored() -> None:
    writer = CheckpointWriter.for_heir(START, now=5.0)
    assert writer.deadline == 5.0
    assert writer.room(START, now=5.2) == Reserve()
    assert writer.look(START, now=5.0)
    serial = writer.begin(START, now=5.0)
    assert writer.room(START, now=5.2) == Reserve()
    writer.end(serial, Answer.UNKNOWN, now=5.1)
    assert writer.room(START, now=5.2) == Reserve()
    serial = writer.begin(START, now=5.2)
    writer.end(serial, Answer.STORED, now=5.25)
    assert writer.room(START, now=5.25) == OWNER_USES
    assert writer.statistics().longest == pytest.approx(0.05)
    assert writer.deadline == pytest.approx(5.25 + HEIR_SECONDS), "the next heir's jump is its own"
    stored(writer, START, now=6.25)
    assert writer.deadline > 7.0


def limit(writer: CheckpointWriter, *, now: float) -> int:
    """The first index that may not be used."""
    return writer.room(at(0), now=now).rtp


FREE = UNLIMITED.rtp - START.rtp
FORGOTTEN = MAX_AGE + CONSENT_SECONDS + AGE_MARGIN


def test_a_checkpoint_that_opens_nowhere_bounds_nobody() -> None:
    writer = CheckpointWriter(now=0.0)
    stored(writer, at(0), now=0.0)
    first = writer.begin(at(500), now=20.0)
    writer.end(first, Answer.UNKNOWN, now=22.0)
    writer.end(writer.begin(at(800), now=30.0), Answer.REFUSED, now=32.0)
    assert limit(writer, now=FORGOTTEN) == OWNER_USES.rtp
    assert limit(writer, now=FORGOTTEN + 0.1) == 500 + OWNER_USES.rtp, "it may be there"
    assert limit(writer, now=FORGOTTEN + 20.0) == 500 + OWNER_USES.rtp
    assert limit(writer, now=FORGOTTEN + 20.1) == FREE
    writer.begin(at(90_000), now=FORGOTTEN + 30.0)
    assert limit(writer, now=FORGOTTEN + 30.0) == 90_000 + OWNER_USES.rtp, "until it begins anew"
    assert limit(writer, now=2 * FORGOTTEN + 30.1) == FREE, "even while its answer is waited for"


def test_a_long_consent_makes_a_checkpoint_count_for_longer() -> None:
    writer = CheckpointWriter(now=0.0, consent_seconds=90.0)
    stored(writer, at(0), now=0.0)
    assert limit(writer, now=FORGOTTEN + 60.0) == OWNER_USES.rtp
    assert limit(writer, now=FORGOTTEN + 60.1) == FREE


def test_an_heir_that_has_stored_nothing_stays_silent_however_long_it_takes() -> None:
    writer = CheckpointWriter.for_heir(START, now=0.0)
    writer.end(writer.begin(START, now=0.0), Answer.UNKNOWN, now=2.0)
    assert limit(writer, now=1_000.0) == 0
    stored(writer, START, now=1_000.0)
    assert limit(writer, now=1_000.0) == OWNER_USES.rtp


def test_what_is_kept_of_unknown_writes_is_bounded_and_their_oldest_numbers_count() -> None:
    writer = CheckpointWriter(now=0.0)
    for number in range(2 * MAX_WRITES):
        now = number / MAX_WRITES
        writer.end(writer.begin(at(number), now=now), Answer.UNKNOWN, now=now)
    assert len(writer._findable) == MAX_WRITES
    late = writer.begin(at(1_000), now=3.0)
    assert limit(writer, now=2.0 + FORGOTTEN) == MAX_WRITES - 1 + OWNER_USES.rtp
    writer.end(late, Answer.REFUSED, now=3.0)
    assert limit(writer, now=2.0 + FORGOTTEN) == MAX_WRITES - 1 + OWNER_USES.rtp


@pytest.mark.parametrize("rate", [50, 100])
def test_a_registry_that_is_away_for_an_hour_stops_no_talk(rate: int) -> None:
    writer = CheckpointWriter(now=0.0)
    stored(writer, at(0), now=0.0)
    now, begun = 0.0, -1
    while now < 3_600.0:
        now += 0.25
        used = at(int(now * rate))
        assert writer.room(used, now=now).rtp > rate
        if begun > 0 and now % 2 == 0:
            writer.end(begun, Answer.UNKNOWN, now=now)
        if now >= writer.deadline and writer.look(used, now=now):
            begun = writer.begin(used, now=now)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Answer]), st.floats(0.0, 1.5), st.integers(0, 3_000), st.booleans()
        ),
        max_size=30,
    )
)
def test_the_limit_never_passes_what_an_heir_would_skip(
    steps: list[tuple[Answer, float, int, bool]],
) -> None:
    """``landed`` says whether a write of unknown end did reach the registry."""
    writer, now, used = CheckpointWriter(now=0.0), 0.0, 0
    newest: int | None = None
    for answer, seconds, packets, landed in steps:
        now = now + 1.0
        begun = used
        serial = writer.begin(at(begun), now=now)
        used += min(packets, writer.room(at(used), now=now).rtp)
        if answer is Answer.STORED or (answer is Answer.UNKNOWN and landed):
            newest = begun
        assert newest is None or used <= newest + OWNER_USES.rtp
        writer.end(serial, answer, now=now + seconds)
        used += min(packets, writer.room(at(used), now=now + seconds).rtp)
        assert newest is None or used <= newest + OWNER_USES.rtp


# A registry that forgot.


def test_what_may_not_be_the_last_word_extends_nothing_and_is_soon_written_again() -> None:
    writer = CheckpointWriter(now=0.0)
    stored(writer, START, now=0.0)
    bound = writer.room(START, now=0.1)
    serial = writer.begin(at(1_000), now=10.0)
    writer.end(serial, Answer.UNSURE, now=10.0)
    assert writer.room(START, now=10.0) == bound
    assert writer.statistics().failed == 0
    assert not writer.look(at(1_000), now=10.0 + UNSURE_SECONDS - 0.01)
    assert writer.look(at(1_000), now=10.0 + UNSURE_SECONDS)
    stored(writer, at(1_000), now=12.0)
    assert writer.room(at(1_000), now=12.0) == bound


def test_what_failure_has_put_off_is_written_when_the_registry_is_back() -> None:
    writer = CheckpointWriter(now=0.0)
    now = 0.0
    for _ in range(8):
        writer.end(writer.begin(START, now=now), Answer.UNKNOWN, now=now)
        now = max(now, writer.deadline)
    writer.end(writer.begin(START, now=now), Answer.REFUSED, now=now)
    assert not writer.look(START, now=now + 1.0)
    writer.retry(now=now + 1.0)
    assert writer.look(START, now=now + 1.0)
