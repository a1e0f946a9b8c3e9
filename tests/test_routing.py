"""The flow table's rules (DESIGN 6), each by itself, and a model of them under random events."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from edge.errors import Drop
from edge.forwarder.protocol import FIRST_PEER, FlowEntry
from edge.forwarder.store import MemoryStore
from edge.routing import DUE, OWNER_QUIET, SCAN_PLACES, FlowTable
from edge.transactions import MAX_TRANSACTIONS
from edge.wire.spp import Path, encode_path

PUBLIC = ("203.0.113.1", 3478)
PROVISIONAL = 5.0
IDLE = 60.0


def new_table(max_flows: int = 100, max_provisional: int = 10) -> FlowTable:
    return FlowTable(
        MemoryStore(max_flows),
        max_flows=max_flows,
        max_provisional=max_provisional,
        provisional_seconds=PROVISIONAL,
        idle_seconds=IDLE,
    )


def path_of(number: int) -> Path:
    return encode_path((f"198.51.{number >> 8}.{number & 255}", 50_000), PUBLIC)


PATH = path_of(7)


def transaction(number: int) -> bytes:
    return number.to_bytes(12)


def answer(
    table: FlowTable, hop: int, number: int = 1, *, success: bool = True, now: float = 0.0
) -> Drop | None:
    return table.outbound_response(PATH, hop, transaction(number), success=success, now=now)


def confirm(table: FlowTable, path: Path, hop: int, *, now: float = 0.0) -> Drop | None:
    table.client_request(path, hop, transaction(99), now=now)
    return table.outbound_response(path, hop, transaction(99), success=True, now=now)


def owners(table: FlowTable, path: Path = PATH) -> tuple[int, int]:
    """The owner and its challenger; 0 for nobody."""
    entry = table.lookup(path)
    return (0, 0) if entry is None else (entry.owner, entry.challenger)


def no_heir(path: Path) -> int:
    return 0


def test_a_request_alone_confirms_nothing() -> None:
    table = new_table()
    table.client_request(PATH, 1, transaction(1), now=0.0)
    assert table.lookup(PATH) is None
    assert table.outbound(PATH, 1) is Drop.UNKNOWN_FLOW
    assert (len(table), table.provisional) == (0, 1)


def test_success_to_that_very_transaction_confirms() -> None:
    table = new_table()
    table.client_request(PATH, 1, transaction(1), now=0.0)
    assert answer(table, 1, 2) is Drop.UNKNOWN_FLOW
    assert answer(table, FIRST_PEER, 1) is Drop.UNKNOWN_FLOW
    assert answer(table, 1, 1) is None
    assert owners(table) == (1, 0)
    assert table.outbound(PATH, 1) is None
    assert (len(table), table.provisional) == (1, 0)


def test_an_error_passes_once_and_confirms_nothing() -> None:
    table = new_table()
    table.client_request(PATH, 1, transaction(1), now=0.0)
    assert answer(table, 1, success=False) is None
    assert answer(table, 1, success=False) is Drop.UNKNOWN_FLOW
    assert answer(table, 1) is Drop.UNKNOWN_FLOW
    assert table.lookup(PATH) is None


def test_a_late_success_confirms_nothing() -> None:
    table = new_table()
    table.client_request(PATH, 1, transaction(1), now=0.0)
    assert answer(table, 1, now=PROVISIONAL + 0.1) is Drop.UNKNOWN_FLOW
    table.expire(now=PROVISIONAL + 0.1)
    assert table.provisional == 0


def test_provisional_flows_expire() -> None:
    table = new_table()
    table.client_request(PATH, 1, transaction(1), now=0.0)
    table.client_request(PATH, 2, transaction(1), now=2.0)
    table.client_request(PATH, 1, transaction(2), now=3.0)
    table.expire(now=PROVISIONAL + 2.5)
    assert table.provisional == 1
    assert answer(table, 1, 2, now=PROVISIONAL + 2.5) is None


def test_transactions_of_a_flow_are_bounded_and_the_oldest_goes() -> None:
    table = new_table()
    for number in range(MAX_TRANSACTIONS + 1):
        table.client_request(PATH, 1, transaction(number), now=0.0)
    assert answer(table, 1, 0) is Drop.UNKNOWN_FLOW
    assert answer(table, 1, 1) is None
    assert answer(table, 1, MAX_TRANSACTIONS, now=1.0) is None
    entry = table.lookup(PATH)
    assert entry is not None
    assert entry.heard == 1.0  # what was noted before the confirmation counts after it


def test_a_flood_of_provisional_flows_is_capped_and_touches_no_confirmed_one() -> None:
    table = new_table(max_provisional=10)
    confirm(table, PATH, 1)
    for number in range(1_000, 2_000):
        table.client_request(path_of(number), 1, transaction(number), now=0.0)
    assert (len(table), table.provisional) == (1, 10)
    assert table.drops[Drop.TABLE_FULL] == 990
    assert owners(table) == (1, 0)
    for number, drop in ((1_999, None), (1_989, Drop.UNKNOWN_FLOW)):  # the oldest have gone
        got = table.outbound_response(
            path_of(number), 1, transaction(number), success=True, now=0.0
        )
        assert got is drop


def test_a_full_table_refuses_new_flows_and_keeps_the_old_ones() -> None:
    table = new_table(max_flows=2)
    for number in range(2):
        confirm(table, path_of(number), 1)
    assert confirm(table, path_of(2), 1) is Drop.TABLE_FULL
    assert table.restore(path_of(3), 1, now=0.0) is Drop.TABLE_FULL
    assert owners(table, path_of(0)) == (1, 0)
    assert table.lookup(path_of(2)) is None
    assert confirm(table, path_of(1), 1) is None


# Two hops for one client.


def test_a_request_without_success_never_touches_a_flow_of_another_hop() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    for number in range(100):
        table.client_request(PATH, 2, transaction(number), now=0.0)
    assert owners(table) == (1, 0)
    assert table.outbound(PATH, 2) is Drop.NOT_OWNER
    assert answer(table, 2, 1_000) is Drop.NOT_OWNER


def test_a_flood_for_another_hop_does_not_push_out_the_owners_transactions() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    table.client_request(PATH, 1, transaction(1), now=40.0)
    for number in range(100, 200):
        table.client_request(PATH, 2, transaction(number), now=40.0)
    answer(table, 1, 1, now=40.0)
    table.expire(now=40.0 + IDLE)
    assert owners(table) == (1, 0)


def test_a_challenger_is_served_beside_a_living_owner() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    confirm(table, PATH, 2, now=1.0)
    assert owners(table) == (1, 2)
    assert table.outbound(PATH, 1) is None
    assert table.outbound(PATH, 2) is None
    assert table.outbound(PATH, 3) is Drop.NOT_OWNER
    assert len(table) == 1


def test_a_challenger_never_takes_a_client_whose_owner_goes_on_answering() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    for second in range(1, 200):
        confirm(table, PATH, 2, now=float(second))
        if second % 12 == 0:  # every other consent check is lost
            confirm(table, PATH, 1, now=float(second))
        table.expire(now=float(second))
        assert owners(table) == (1, 2)


def test_a_challenger_inherits_from_a_quiet_owner() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    confirm(table, PATH, 2, now=1.0)
    confirm(table, PATH, 2, now=OWNER_QUIET + 0.1)
    assert owners(table) == (2, 0)
    assert table.outbound(PATH, 1) is Drop.NOT_OWNER
    assert len(table) == 1


def test_a_quiet_challenger_is_forgotten() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    confirm(table, PATH, 2, now=1.0)
    confirm(table, PATH, 1, now=2.0)
    assert table.outbound(PATH, 2) is None
    confirm(table, PATH, 1, now=OWNER_QUIET + 1.1)
    assert owners(table) == (1, 0)
    assert table.outbound(PATH, 2) is Drop.NOT_OWNER


def test_an_owner_that_gives_its_flow_back_leaves_it_to_the_challenger() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    confirm(table, PATH, 2)
    assert table.release(PATH, 3) is Drop.NOT_OWNER
    assert table.release(PATH, 1) is None
    assert owners(table) == (2, 0)
    assert table.outbound(PATH, 1) is Drop.NOT_OWNER
    assert table.release(PATH, 2) is None
    assert table.outbound(PATH, 2) is Drop.UNKNOWN_FLOW
    assert table.release(PATH, 2) is Drop.UNKNOWN_FLOW
    assert len(table) == 0


def test_a_challenger_that_gives_its_flow_back_leaves_the_owner() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    confirm(table, PATH, 2)
    assert table.release(PATH, 2) is None
    assert owners(table) == (1, 0)
    assert table.outbound(PATH, 2) is Drop.NOT_OWNER


def test_a_hop_that_is_gone_leaves_its_flows_to_challengers_and_heirs() -> None:
    table = new_table()
    for number, hops in enumerate([(1,), (2,), (1, 2), (2, 1), (1,)]):
        for hop in hops:
            confirm(table, path_of(number), hop)
    heirs = {path_of(4): 3}
    assert table.drop_hop(1, lambda path: heirs.get(path, 0)) == 0
    left = [owners(table, path_of(number)) for number in range(5)]
    assert left == [(0, 0), (2, 0), (2, 0), (2, 0), (3, 0)]
    assert table.outbound(path_of(4), 1) is Drop.NOT_OWNER


def test_a_hop_is_dropped_in_bounded_steps() -> None:
    table = new_table(max_flows=2 * SCAN_PLACES)
    for number in range(SCAN_PLACES + 1):
        table.restore(path_of(number), 1, now=0.0)
    cursor = table.drop_hop(1, no_heir)
    assert cursor
    assert len(table) == 1
    while cursor:
        cursor = table.drop_hop(1, no_heir, cursor=cursor)
    assert len(table) == 0


def test_heirs_are_named_for_those_alone_that_have_none() -> None:
    """Rendezvous hashing costs a hash for each transceiver that lives."""
    table = new_table()
    for number, hops in enumerate([(1,), (1, 2), (2, 1)]):
        for hop in hops:
            confirm(table, path_of(number), hop)
    asked: list[Path] = []

    def heir(path: Path) -> int:
        asked.append(path)
        return 3

    table.drop_hop(1, heir)
    assert asked == [path_of(0)]


# Sessions that move: who answers for whom. Slots 1 and 2 serve, 3 is a third.


def ask(table: FlowTable, hop: int, number: int = 1, *, token: int = 0, now: float = 1.0) -> None:
    table.client_request(PATH, hop, transaction(number), token=token, now=now)


def inherited(hop: int, *, now: float = 1.0) -> FlowTable:
    """A table whose flow an heir has on trust."""
    table = new_table()
    confirm(table, PATH, 9, now=now)
    table.drop_hop(9, lambda path: hop)
    return table


def test_a_new_flow_begins_with_who_answers() -> None:
    table = new_table()
    ask(table, 1)
    assert answer(table, 2, now=1.0) is None
    assert owners(table) == (2, 0)
    assert table.save_due(PATH, 2, now=1.0)
    assert answer(table, 1, now=1.0) is Drop.NOT_OWNER


def test_who_answers_for_an_owner_on_trust_takes_the_flow() -> None:
    for table in (inherited(1), new_table()):
        if not len(table):
            table.restore(PATH, 1, now=1.0)
        ask(table, 1, 1)
        ask(table, 1, 2)
        assert answer(table, 2, 1, now=1.0) is None
        assert owners(table) == (2, 0)
        assert table.save_due(PATH, 2, now=1.0)
        assert table.outbound(PATH, 1) is Drop.NOT_OWNER
        assert answer(table, 1, 2, now=1.0) is Drop.NOT_OWNER  # it was asked, and is too late
        assert answer(table, 2, 2, now=1.0) is None  # that just passes


def test_who_answers_for_an_owner_that_answers_itself_challenges_it() -> None:
    """The owner may have passed on what a caller has forged whose session has left it."""
    table = inherited(1)
    ask(table, 1, 1)
    assert answer(table, 1, 1, now=1.0) is None
    ask(table, 1, 2)
    assert answer(table, 2, 2, now=1.0) is None
    assert owners(table) == (1, 2)


def test_who_answers_for_another_than_the_owner_challenges_it() -> None:
    for table in (inherited(1), new_table()):
        confirm(table, PATH, 1, now=1.0) if not len(table) else None
        ask(table, 3)
        assert answer(table, 2, now=1.0) is None
        assert owners(table) == (1, 2)


def test_an_owner_that_answers_for_another_goes_on() -> None:
    table = new_table()
    confirm(table, PATH, 1, now=1.0)
    ask(table, 3, now=40.0)
    assert answer(table, 1, now=40.0) is None
    table.expire(now=1.0 + IDLE + 1.0)
    assert owners(table) == (1, 0)


def test_the_challenger_of_an_owner_on_trust_stays_one() -> None:
    table = inherited(1)
    confirm(table, PATH, 3, now=1.0)
    ask(table, 1)
    assert answer(table, 2, now=1.0) is None
    assert owners(table) == (2, 3)
    table = inherited(1)
    confirm(table, PATH, 2, now=1.0)
    ask(table, 1)
    assert answer(table, 2, now=1.0) is None
    assert owners(table) == (2, 0)


def test_an_error_of_another_than_was_asked_does_not_pass() -> None:
    table = inherited(1)
    ask(table, 1)
    assert answer(table, 2, success=False, now=1.0) is Drop.NOT_OWNER
    assert answer(table, 1, success=False, now=1.0) is None


def test_relays_of_other_clusters_answer_for_nobody_else() -> None:
    for asked, answers in ((1, FIRST_PEER), (FIRST_PEER, 1), (FIRST_PEER, FIRST_PEER + 1)):
        table = new_table()
        table.restore(PATH, asked, now=1.0)
        ask(table, asked)
        assert answer(table, answers, now=1.0) is Drop.NOT_OWNER
        assert owners(table) == (asked, 0)


def test_a_late_answer_of_a_hop_that_was_gone_confirms_nothing() -> None:
    table = new_table()
    confirm(table, PATH, 1, now=1.0)
    ask(table, 1)
    table.drop_hop(1, lambda path: 2)
    assert answer(table, 1, now=1.0) is Drop.NOT_OWNER
    assert owners(table) == (2, 0)


def test_one_flow_goes_to_its_heir_before_the_walk() -> None:
    table = new_table()
    for number in (7, 8):
        confirm(table, path_of(number), 1, now=1.0)
    table.drop_hop_of(PATH, 1, lambda path: 2)
    table.drop_hop_of(PATH, 1, lambda path: 3)
    assert (owners(table), owners(table, path_of(8))) == ((2, 0), (1, 0))


def test_one_token_does_not_push_out_the_requests_of_another() -> None:
    """Whoever forges an address has a token of his own, and both may lead to one heir."""
    table = new_table()
    confirm(table, PATH, 1, now=1.0)
    ask(table, 1, 1, token=1, now=20.0)
    for number in range(2, 100):
        ask(table, 1, number, token=2, now=20.0)
    assert answer(table, 1, 1, now=20.0) is None
    assert table.lookup(PATH) == FlowEntry(1, 20.0, save_at=DUE)


def test_only_who_holds_a_flow_gives_it() -> None:
    table = new_table()
    assert table.give(PATH, 1, 2, now=1.0) is Drop.UNKNOWN_FLOW
    confirm(table, PATH, 1, now=1.0)
    ask(table, 1, 1)
    assert table.give(PATH, 2, 2, now=1.0) is Drop.NOT_OWNER
    assert table.give(PATH, 1, 2, now=1.0) is None
    assert owners(table) == (2, 0)
    assert table.outbound(PATH, 1) is Drop.NOT_OWNER
    assert answer(table, 1, 1, now=1.0) is Drop.NOT_OWNER
    assert table.give(PATH, 1, 1, now=1.0) is Drop.NOT_OWNER


def test_a_flow_that_was_given_is_not_held_on_trust() -> None:
    table = inherited(9)
    table.give(PATH, 9, 1, now=1.0)
    ask(table, 1)
    assert answer(table, 2, now=1.0) is None
    assert owners(table) == (1, 2)


def test_giving_with_a_challenger() -> None:
    for giver, other, left in ((1, 3, (3, 2)), (1, 2, (2, 0)), (2, 3, (1, 3)), (2, 1, (1, 0))):
        table = new_table()
        confirm(table, PATH, 1, now=1.0)
        confirm(table, PATH, 2, now=1.0)
        assert table.give(PATH, giver, other, now=1.0) is None
        assert owners(table) == left


# Time.


def test_only_authenticated_answers_keep_a_flow() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    for second in range(1, int(IDLE) + 1):
        now = float(second)
        table.client_request(PATH, 1, transaction(second), now=now)
        table.lookup(PATH)
        table.outbound(PATH, 1)
        answer(table, 1, second, success=False, now=now)
        answer(table, 1, 10_000 + second, now=now)  # answers nothing that was asked
    table.expire(now=IDLE)
    assert owners(table) == (1, 0)
    table.expire(now=IDLE + 0.2)
    assert table.lookup(PATH) is None


def test_an_answer_keeps_a_flow() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    confirm(table, path_of(2), 1, now=1.0)
    confirm(table, PATH, 1, now=50.0)
    table.expire(now=61.2)
    assert (owners(table), len(table)) == ((1, 0), 1)
    table.expire(now=110.2)
    assert len(table) == 0


def test_a_living_challenger_inherits_from_an_idle_owner() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    confirm(table, PATH, 2, now=10.0)
    table.expire(now=IDLE + 5.0)
    assert owners(table) == (2, 0)


def test_expiry_is_done_in_bounded_steps() -> None:
    table = new_table(max_flows=2 * SCAN_PLACES)
    for number in range(SCAN_PLACES + 1):
        table.restore(path_of(number), 1, now=0.0)
    table.expire(now=IDLE + 1)
    assert len(table) == 1
    for _ in range(3):
        table.expire(now=IDLE + 1)
    assert len(table) == 0


# The registry.


def test_a_restored_flow_is_confirmed() -> None:
    table = new_table()
    assert table.restore(PATH, 1, now=0.0) is None
    assert owners(table) == (1, 0)
    assert table.outbound(PATH, 1) is None
    assert table.save_due(PATH, 1, now=1.0)  # its record may be about to end


def test_what_was_learnt_wins_over_a_record() -> None:
    table = new_table()
    confirm(table, PATH, 1)
    assert table.restore(PATH, 2, now=0.0) is None
    assert owners(table) == (1, 0)


def test_a_record_is_due_a_few_times_in_a_flows_life_time() -> None:
    table = new_table()
    assert not table.save_due(PATH, 1, now=0.0)
    confirm(table, PATH, 1)
    assert not table.save_due(PATH, 2, now=0.0)
    due = [now for now in range(60) if table.save_due(PATH, 1, now=float(now))]
    assert due == [0, 20, 40]


# All of it, against a model that knows the rules and none of the machinery.


@dataclass
class Model:
    asked: dict[tuple[Path, bytes], tuple[int, float]] = field(default_factory=dict)
    """Who was asked, and when."""
    answered: dict[tuple[Path, int], float] = field(default_factory=dict)
    """When a hop last answered one of a client's requests with success, since it has the flow."""
    named: set[tuple[Path, int]] = field(default_factory=set)
    """Heirs, and those to whom a flow was given."""

    def forget(self, path: Path) -> None:
        self.asked = {key: one for key, one in self.asked.items() if key[0] != path}

    def name(self, path: Path, hop: int) -> None:
        self.named.add((path, hop))
        self.answered.pop((path, hop), None)


PATHS = [path_of(number) for number in range(3)]
HOPS = 3

events = st.tuples(
    st.sampled_from(["request", "request", "success", "success", "error", "media", "expire"])
    | st.sampled_from(["give", "gone"]),
    st.sampled_from(PATHS),
    st.integers(1, HOPS),
    st.integers(1, HOPS),
    st.integers(0, 1),
    st.sampled_from([0.0, 0.1, 2.0, 6.0, 20.0]),
)
Event = tuple[str, Path, int, int, int, float]


@given(st.lists(events, max_size=60))
def test_no_hop_ever_sends_to_a_client_it_has_not_answered(script: list[Event]) -> None:
    table, model, now = new_table(max_flows=2, max_provisional=2), Model(), 1.0
    for event in script:
        now += event[-1]
        before = {one: table.lookup(one) for one in PATHS}
        _play(table, model, event, now)
        _check_owners(table, model, event, before, now)
        assert len(table) <= 2
        assert table.provisional <= 2


def _play(table: FlowTable, model: Model, event: Event, now: float) -> None:
    kind, path, hop, other, number, _ = event
    tid = transaction(10 * other + number)
    match kind:
        case "request":
            before = {one: table.lookup(one) for one in PATHS}
            table.client_request(path, other, tid, now=now)
            model.asked[path, tid] = other, now
            assert {one: table.lookup(one) for one in PATHS} == before
        case "expire":
            table.expire(now=now)
        case "media":
            known = {(path, hop)} & (model.answered.keys() | model.named)
            assert table.outbound(path, hop) is not None or known
        case "give":
            if table.give(path, hop, other, now=now) is None:
                model.forget(path)
                model.name(path, other)
        case "gone":
            _leave(table, model, hop)
        case _:
            _answer(table, model, event, tid, now)


def _leave(table: FlowTable, model: Model, hop: int) -> None:
    heir = hop % HOPS + 1
    left = [path for path in PATHS if hop in owners(table, path)]
    alone = [path for path in left if owners(table, path) == (hop, 0)]
    assert table.drop_hop(hop, lambda path: heir) == 0
    for path in left:
        model.forget(path)
        assert hop not in owners(table, path)
    for path in alone:
        model.name(path, heir)
        assert owners(table, path) == (heir, 0)


def _answer(table: FlowTable, model: Model, event: Event, tid: bytes, now: float) -> None:
    kind, path, hop, *_ = event
    owner = owners(table, path)[0]
    asked, at = model.asked.get((path, tid), (0, -1e9))
    good = now - at <= PROVISIONAL and (kind == "success" or asked == hop)
    on_trust = (path, owner) in model.named and (path, owner) not in model.answered
    drop = table.outbound_response(path, hop, tid, success=kind == "success", now=now)
    if drop is None:
        assert good or (path, hop) in model.answered.keys() | model.named
    if good or asked == hop:
        model.asked.pop((path, tid), None)
    if drop is None and good and kind == "success":
        model.answered[path, hop] = now
        if on_trust and asked == owner != hop:
            model.forget(path)


def _check_owners(
    table: FlowTable,
    model: Model,
    event: Event,
    before: dict[Path, FlowEntry | None],
    now: float,
) -> None:
    """A living owner is never taken over, and nobody owns what is not his."""
    for path, former in before.items():
        entry = table.lookup(path)
        heard = model.answered.get((path, former.owner), -1e9) if former else -1e9
        if former is not None and event[0] not in ("give", "gone") and now - heard <= OWNER_QUIET:
            assert entry is not None
            assert entry.owner == former.owner
        if entry is not None:
            known = model.answered.keys() | model.named
            assert (path, entry.owner) in known
            assert not entry.challenger or (path, entry.challenger) in known
