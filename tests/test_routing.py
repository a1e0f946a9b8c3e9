"""The flow table's rules (DESIGN 6), each by itself, and a model of them under random events."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.address import Address
from edge.errors import Drop
from edge.routing import EXPIRE_BATCH, MAX_TRANSACTIONS, OWNER_QUIET, Flow, FlowTable
from edge.wire.spp import Path, encode_path

PUBLIC = ("203.0.113.1", 3478)
CLIENT = ("198.51.100.7", 50_000)
PATH = encode_path(CLIENT, PUBLIC)
PROVISIONAL = 5.0
IDLE = 60.0


def new_table(max_flows: int = 100, max_provisional: int = 10) -> FlowTable:
    return FlowTable(
        PUBLIC,
        max_flows=max_flows,
        max_provisional=max_provisional,
        provisional_seconds=PROVISIONAL,
        idle_seconds=IDLE,
    )


def client(number: int) -> Address:
    return (f"198.51.{number >> 8}.{number & 255}", 50_000)


def transaction(number: int) -> bytes:
    return number.to_bytes(12)


def answer(
    table: FlowTable, slot: int, number: int = 1, *, success: bool = True, now: float = 0.0
) -> Flow | Drop:
    return table.outbound_response(PATH, slot, transaction(number), success=success, now=now)


def confirm(table: FlowTable, address: Address, slot: int, *, now: float = 0.0) -> Flow | Drop:
    path = table.client_request(address, slot, transaction(99), now=now)
    return table.outbound_response(path, slot, transaction(99), success=True, now=now)


def owner(table: FlowTable) -> int | None:
    flow = table.lookup(CLIENT)
    return None if flow is None else flow.slot


# Provisional flows.


def test_a_request_alone_confirms_nothing() -> None:
    table = new_table()
    assert table.client_request(CLIENT, 1, transaction(1), now=0.0) == PATH
    assert table.lookup(CLIENT) is None
    assert table.outbound(PATH, 1) is Drop.UNKNOWN_FLOW
    assert (len(table), table.provisional) == (0, 1)


def test_success_to_that_very_transaction_confirms() -> None:
    table = new_table()
    table.client_request(CLIENT, 1, transaction(1), now=0.0)
    assert answer(table, 1, 2) is Drop.UNKNOWN_FLOW
    assert answer(table, 2, 1) is Drop.UNKNOWN_FLOW
    flow = answer(table, 1, 1)
    assert isinstance(flow, Flow)
    assert (flow.client, flow.path, flow.slot) == (CLIENT, PATH, 1)
    assert table.lookup(CLIENT) is flow
    assert table.outbound(PATH, 1) is flow
    assert (len(table), table.provisional) == (1, 0)


def test_an_error_passes_once_and_confirms_nothing() -> None:
    table = new_table()
    table.client_request(CLIENT, 1, transaction(1), now=0.0)
    assert isinstance(answer(table, 1, success=False), Flow)
    assert answer(table, 1, success=False) is Drop.UNKNOWN_FLOW
    assert answer(table, 1) is Drop.UNKNOWN_FLOW
    assert table.lookup(CLIENT) is None


def test_a_late_success_confirms_nothing() -> None:
    table = new_table()
    table.client_request(CLIENT, 1, transaction(1), now=0.0)
    assert answer(table, 1, now=PROVISIONAL + 0.1) is Drop.UNKNOWN_FLOW
    table.expire(now=PROVISIONAL + 0.1)
    assert table.provisional == 0


def test_transactions_of_a_flow_are_bounded_and_the_oldest_goes() -> None:
    table = new_table()
    for number in range(MAX_TRANSACTIONS + 1):
        table.client_request(CLIENT, 1, transaction(number), now=0.0)
    assert answer(table, 1, 0) is Drop.UNKNOWN_FLOW
    assert isinstance(answer(table, 1, 1), Flow)
    assert isinstance(answer(table, 1, MAX_TRANSACTIONS), Flow)


def test_a_flood_of_provisional_flows_is_capped_and_touches_no_confirmed_one() -> None:
    table = new_table(max_provisional=10)
    confirm(table, CLIENT, 1)
    for number in range(1_000):
        table.client_request(client(number), 1, transaction(number), now=0.0)
    assert (len(table), table.provisional) == (1, 10)
    assert table.drops[Drop.TABLE_FULL] == 990
    assert owner(table) == 1
    # The oldest have gone, the youngest are there.
    path = encode_path(client(999), PUBLIC)
    assert isinstance(
        table.outbound_response(path, 1, transaction(999), success=True, now=0.0), Flow
    )
    path = encode_path(client(989), PUBLIC)
    assert (
        table.outbound_response(path, 1, transaction(989), success=True, now=0.0)
        is Drop.UNKNOWN_FLOW
    )


def test_a_full_table_refuses_new_flows_and_keeps_the_old_ones() -> None:
    table = new_table(max_flows=2)
    for number in range(2):
        confirm(table, client(number), 1)
    assert confirm(table, client(2), 1) is Drop.TABLE_FULL
    assert table.restore(client(3), 1, now=0.0) is Drop.TABLE_FULL
    assert table.lookup(client(0)) is not None
    assert table.lookup(client(2)) is None
    assert isinstance(confirm(table, client(1), 1), Flow)


# Two slots for one address.


def test_a_request_without_success_never_touches_a_flow_of_another_slot() -> None:
    table = new_table()
    confirm(table, CLIENT, 1)
    for number in range(100):
        table.client_request(CLIENT, 2, transaction(number), now=0.0)
    flow = table.lookup(CLIENT)
    assert flow is not None
    assert (flow.slot, flow.challenger) == (1, None)
    assert table.outbound(PATH, 2) is Drop.NOT_OWNER
    assert answer(table, 2, 1_000) is Drop.NOT_OWNER


def test_a_flood_for_another_slot_does_not_push_out_the_owners_transactions() -> None:
    table = new_table()
    confirm(table, CLIENT, 1)
    table.client_request(CLIENT, 1, transaction(1), now=40.0)
    for number in range(100, 200):
        table.client_request(CLIENT, 2, transaction(number), now=40.0)
    answer(table, 1, 1, now=40.0)
    table.expire(now=40.0 + IDLE)
    assert owner(table) == 1


def test_a_challenger_is_served_beside_a_living_owner() -> None:
    table = new_table()
    first = confirm(table, CLIENT, 1)
    second = confirm(table, CLIENT, 2, now=1.0)
    assert isinstance(first, Flow)
    assert first.challenger is second
    assert table.lookup(CLIENT) is first
    assert table.outbound(PATH, 1) is first
    assert table.outbound(PATH, 2) is second
    assert table.outbound(PATH, 3) is Drop.NOT_OWNER
    assert len(table) == 1


def test_a_challenger_never_takes_an_address_whose_owner_goes_on_answering() -> None:
    table = new_table()
    confirm(table, CLIENT, 1)
    for second in range(1, 200):
        confirm(table, CLIENT, 2, now=float(second))
        if second % 12 == 0:  # every other consent check is lost
            confirm(table, CLIENT, 1, now=float(second))
        table.expire(now=float(second))
        assert owner(table) == 1


def test_a_challenger_inherits_from_a_quiet_owner() -> None:
    table = new_table()
    confirm(table, CLIENT, 1)
    confirm(table, CLIENT, 2, now=1.0)
    confirm(table, CLIENT, 2, now=OWNER_QUIET + 0.1)
    assert owner(table) == 2
    assert table.outbound(PATH, 1) is Drop.NOT_OWNER
    assert (len(table), set(table.slots)) == (1, {2})


def test_a_quiet_challenger_is_forgotten() -> None:
    table = new_table()
    flow = confirm(table, CLIENT, 1)
    confirm(table, CLIENT, 2, now=1.0)
    confirm(table, CLIENT, 1, now=2.0)
    assert table.outbound(PATH, 2) is not Drop.NOT_OWNER
    confirm(table, CLIENT, 1, now=OWNER_QUIET + 1.1)
    assert table.lookup(CLIENT) is flow
    assert table.outbound(PATH, 2) is Drop.NOT_OWNER


def test_an_owner_that_gives_its_flow_back_leaves_it_to_the_challenger() -> None:
    table = new_table()
    first = confirm(table, CLIENT, 1)
    second = confirm(table, CLIENT, 2)
    assert table.release(PATH, 3) is Drop.NOT_OWNER
    assert table.release(PATH, 1) is first
    assert table.lookup(CLIENT) is second
    assert table.outbound(PATH, 1) is Drop.NOT_OWNER
    assert table.release(PATH, 2) is second
    assert table.outbound(PATH, 2) is Drop.UNKNOWN_FLOW
    assert table.release(PATH, 2) is Drop.UNKNOWN_FLOW
    assert (len(table), set(table.slots)) == (0, set())


def test_a_challenger_that_gives_its_flow_back_leaves_the_owner() -> None:
    table = new_table()
    first = confirm(table, CLIENT, 1)
    second = confirm(table, CLIENT, 2)
    assert table.release(PATH, 2) is second
    assert table.lookup(CLIENT) is first
    assert table.outbound(PATH, 2) is Drop.NOT_OWNER


def test_a_slot_that_is_gone_takes_its_flows_along() -> None:
    table = new_table()
    confirm(table, client(1), 1)
    confirm(table, client(2), 2)
    confirm(table, CLIENT, 1)
    heir = confirm(table, CLIENT, 2)
    confirm(table, client(2), 1)
    assert set(table.slots) == {1, 2}
    assert table.drop_slot(1) == 2
    assert table.lookup(client(1)) is None
    assert table.lookup(CLIENT) is heir
    flow = table.lookup(client(2))
    assert flow is not None
    assert flow.challenger is None
    assert set(table.slots) == {2}
    assert table.drop_slot(1) == 0


# Time.


def test_only_authenticated_answers_keep_a_flow() -> None:
    table = new_table()
    confirm(table, CLIENT, 1)
    for second in range(1, int(IDLE) + 1):
        now = float(second)
        table.client_request(CLIENT, 1, transaction(second), now=now)
        table.lookup(CLIENT)
        table.outbound(PATH, 1)
        answer(table, 1, second, success=False, now=now)
        answer(table, 1, 10_000 + second, now=now)  # answers nothing that was asked
    assert table.expire(now=IDLE) == 0
    assert table.expire(now=IDLE + 0.1) == 1
    assert table.lookup(CLIENT) is None


def test_an_answer_keeps_a_flow() -> None:
    table = new_table()
    confirm(table, CLIENT, 1)
    confirm(table, client(2), 1, now=1.0)
    confirm(table, CLIENT, 1, now=50.0)
    assert table.expire(now=61.1) == 1
    assert owner(table) == 1
    assert table.expire(now=110.1) == 1


def test_expiry_is_done_in_bounded_steps() -> None:
    table = new_table(max_flows=10_000)
    for number in range(EXPIRE_BATCH + 1):
        confirm(table, client(number), 1)
    assert table.expire(now=IDLE + 1) == EXPIRE_BATCH
    assert table.expire(now=IDLE + 1) == 1
    assert (len(table), set(table.slots)) == (0, set())


# The registry.


def test_a_restored_flow_is_confirmed() -> None:
    table = new_table()
    flow = table.restore(CLIENT, 1, now=0.0)
    assert table.lookup(CLIENT) is flow
    assert table.outbound(PATH, 1) is flow


def test_what_was_learnt_wins_over_a_record() -> None:
    table = new_table()
    flow = confirm(table, CLIENT, 1)
    assert table.restore(CLIENT, 2, now=0.0) is flow
    assert table.outbound(PATH, 2) is Drop.NOT_OWNER


@pytest.mark.parametrize("host", ["192.0.2.9", "2001:db8::9"])
def test_no_address_in_a_repr(host: str) -> None:
    table = new_table()
    flow = confirm(table, (host, 4_711), 1)
    assert host not in repr(flow)
    assert "4711" not in repr(flow)


# All of it, against a model that knows the rules and none of the machinery.


@dataclass
class Model:
    asked: dict[tuple[Address, int, bytes], float] = field(default_factory=dict)
    answered: dict[tuple[Address, int], float] = field(default_factory=dict)
    """When a slot last answered one of a client's requests with success."""

    def may_send(self, address: Address, slot: int) -> bool:
        return (address, slot) in self.answered


CLIENTS = [client(number) for number in range(3)]
PATHS: dict[Address, Path] = {address: encode_path(address, PUBLIC) for address in CLIENTS}

events = st.tuples(
    st.sampled_from(["request", "success", "error", "media", "expire"]),
    st.sampled_from(CLIENTS),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.1, 2.0, 6.0, 20.0]),
)


@given(st.lists(events, max_size=60))
def test_no_slot_ever_sends_to_a_client_it_has_not_answered(
    script: list[tuple[str, Address, int, int, float]],
) -> None:
    table, model, now = new_table(max_flows=2, max_provisional=2), Model(), 0.0
    for kind, address, slot, number, pause in script:
        now += pause
        before = {one: table.lookup(one) for one in CLIENTS}
        tid = transaction(number)
        if kind == "request":
            table.client_request(address, slot, tid, now=now)
            model.asked[address, slot, tid] = now
            assert {one: table.lookup(one) for one in CLIENTS} == before
        elif kind == "expire":
            table.expire(now=now)
        elif kind == "media":
            flow = table.outbound(PATHS[address], slot)
            if isinstance(flow, Flow):
                assert (flow.client, flow.slot) == (address, slot)
                assert model.may_send(address, slot)
        else:
            asked = now - model.asked.pop((address, slot, tid), -1e9) <= PROVISIONAL
            flow = table.outbound_response(
                PATHS[address], slot, tid, success=kind == "success", now=now
            )
            if isinstance(flow, Flow):
                assert (flow.client, flow.slot) == (address, slot)
                assert asked or model.may_send(address, slot)
                if asked and kind == "success":
                    model.answered[address, slot] = now
            _check_owners(table, model, before, now)
        assert len(table) <= 2
        assert table.provisional <= 2


def _check_owners(
    table: FlowTable, model: Model, before: dict[Address, Flow | None], now: float
) -> None:
    """A living owner is never taken over, and nobody owns what he has not answered for."""
    for address, former in before.items():
        flow = table.lookup(address)
        if former is not None and now - model.answered[address, former.slot] <= OWNER_QUIET:
            assert flow is former
        if flow is not None:
            assert model.may_send(address, flow.slot)
