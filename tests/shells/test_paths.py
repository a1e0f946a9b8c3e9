"""Whose a path is: the rules one by one, then any order of them against the invariants."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge.address import Address
from edge.routing import OWNER_QUIET
from edge.transceiver.paths import MAX_PATHS, PathTable
from edge.transceiver.session import Session
from edge.wire.spp import Path
from tests.support.examples import examples

RELAY: Address = ("127.0.0.1", 4000)
PATHS = [Path(bytes([number]) * 36) for number in range(MAX_PATHS + 4)]
PATH = PATHS[0]


@dataclass(eq=False)
class FakeSession:
    """What the table looks at; ``heard`` stands for ICE's memory."""

    relays: dict[Path, Address] = field(default_factory=dict)
    heard: dict[Path, float] = field(default_factory=dict)

    @property
    def peer(self) -> FakeSession:
        return self

    @property
    def ice(self) -> FakeSession:
        return self

    @property
    def paths(self) -> FakeSession:
        return self

    def heard_at(self, path: Path) -> float:
        return self.heard.get(path, -inf)

    def knows(self, path: Path) -> bool:
        return path in self.heard


class Table:
    """The table with sessions that do as the service does."""

    def __init__(self) -> None:
        self.paths = PathTable()
        self.now = 100.0

    def check(self, session: FakeSession, path: Path = PATH) -> list[tuple[Path, Address]]:
        """A valid check comes in; tells which paths nobody has any more."""
        session.heard[path] = self.now
        session.relays[path] = RELAY
        return self.paths.claim(path, cast(Session, session), now=self.now)

    def end(self, session: FakeSession) -> dict[Path, bool]:
        """The session ends; tells of which paths it was the last."""
        return {
            path: self.paths.release(path, cast(Session, session)) for path in list(session.relays)
        }

    def owner(self, path: Path = PATH) -> FakeSession | None:
        return cast(FakeSession | None, self.paths.owner(path))

    def challenger(self, path: Path = PATH) -> FakeSession | None:
        return cast(FakeSession | None, self.paths.challenger(path))


@pytest.fixture
def table() -> Table:
    return Table()


def sessions(count: int) -> list[FakeSession]:
    return [FakeSession() for _ in range(count)]


def test_the_first_check_takes_a_path_and_the_end_gives_it_back(table: Table) -> None:
    (one,) = sessions(1)
    assert table.owner() is None
    table.check(one)
    table.check(one)
    assert table.owner() is one
    assert table.challenger() is None
    assert table.end(one) == {PATH: True}
    assert table.owner() is None
    assert not table.paths


def test_a_live_owner_keeps_its_path_beside_a_challenger(table: Table) -> None:
    owner, other = sessions(2)
    table.check(owner)
    table.now += OWNER_QUIET
    table.check(other)
    assert (table.owner(), table.challenger()) == (owner, other)
    assert table.end(other) == {PATH: False}
    assert (table.owner(), table.challenger()) == (owner, None)


def test_a_challenger_inherits_from_an_owner_that_ends(table: Table) -> None:
    owner, other = sessions(2)
    table.check(owner)
    table.check(other)
    assert table.end(owner) == {PATH: False}
    assert (table.owner(), table.challenger()) == (other, None)
    assert table.end(other) == {PATH: True}


def test_a_challenger_takes_over_from_an_owner_that_is_quiet(table: Table) -> None:
    owner, other = sessions(2)
    table.check(owner)
    table.check(other)
    table.now += OWNER_QUIET + 0.1
    table.check(other)
    assert (table.owner(), table.challenger()) == (other, None)
    assert owner.relays == {}
    assert table.end(owner) == {}
    assert table.end(other) == {PATH: True}


def test_the_younger_of_two_challengers_counts(table: Table) -> None:
    owner, older, younger = sessions(3)
    for session in (owner, older, younger):
        table.check(session)
    assert (table.owner(), table.challenger()) == (owner, younger)
    assert older.relays == {}


def test_who_takes_a_quiet_path_over_displaces_its_challenger(table: Table) -> None:
    owner, challenger, third = sessions(3)
    table.check(owner)
    table.check(challenger)
    table.now += OWNER_QUIET + 0.1
    table.check(third)
    assert (table.owner(), table.challenger()) == (third, None)
    assert owner.relays == {}
    assert challenger.relays == {}


def test_an_owner_that_comes_back_challenges(table: Table) -> None:
    owner, other = sessions(2)
    table.check(owner)
    table.now += OWNER_QUIET + 0.1
    table.check(other)
    table.check(owner)
    assert (table.owner(), table.challenger()) == (other, owner)


def test_a_path_that_ice_forgot_is_anybodys(table: Table) -> None:
    owner, other = sessions(2)
    table.check(owner)
    del owner.heard[PATH]
    table.check(other)
    assert table.owner() is other
    assert owner.relays == {}


def test_a_session_that_wanders_keeps_a_bounded_number_of_paths(table: Table) -> None:
    wanderer, other = sessions(2)
    for path in PATHS[:MAX_PATHS]:
        table.check(wanderer, path)
    table.check(other, PATHS[1])
    for path in PATHS[: MAX_PATHS - 2]:
        del wanderer.heard[path]
    forgotten = table.check(wanderer, PATHS[MAX_PATHS])
    assert forgotten == [(PATHS[0], RELAY), *((path, RELAY) for path in PATHS[2 : MAX_PATHS - 2])]
    assert list(wanderer.relays) == PATHS[MAX_PATHS - 2 : MAX_PATHS + 1]
    assert table.owner(PATHS[0]) is None
    assert table.owner(PATHS[1]) is other


class AnyOrder(RuleBasedStateMachine):
    """Checks, ends, silence and forgetting in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.sessions = sessions(4)

    one = st.integers(0, 3)
    path = st.integers(0, 2).map(PATHS.__getitem__)

    @rule(number=one, path=path)
    def check(self, number: int, path: Path) -> None:
        self.table.check(self.sessions[number], path)

    @rule(number=one)
    def end(self, number: int) -> None:
        self.table.end(self.sessions[number])
        self.sessions[number] = FakeSession()

    @rule(seconds=st.sampled_from([1.0, OWNER_QUIET, OWNER_QUIET + 1.0]))
    def wait(self, seconds: float) -> None:
        self.table.now += seconds

    @rule(number=one, path=path)
    def forget(self, number: int, path: Path) -> None:
        self.sessions[number].heard.pop(path, None)

    @invariant()
    def sessions_and_table_name_the_same_paths(self) -> None:
        table = self.table
        held = {(path, id(each)) for each in self.sessions for path in each.relays}
        owned = {(path, id(table.owner(path))) for path in PATHS if table.owner(path)}
        claimed = {(path, id(table.challenger(path))) for path in PATHS if table.challenger(path)}
        assert not owned & claimed
        assert {path for path, _ in claimed} <= {path for path, _ in owned}
        assert held == owned | claimed
        assert len(table.paths) == len(owned)

    def teardown(self) -> None:
        for each in self.sessions:
            self.table.end(each)
        assert not self.table.paths
        assert not self.table.paths._challengers


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(examples(15), stateful_step_count=30)
