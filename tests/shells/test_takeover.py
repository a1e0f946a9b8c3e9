"""Where strays go: the rules of a ``TakeOver``, with a custody that says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
import trio
import trio.testing

from edge.address import Address
from edge.errors import Drop
from edge.lookup import Outcome
from edge.registry.protocol import Slot, TransceiverRecord
from edge.registry.sessions import Claim, Lead, path_lead
from edge.transceiver.custody import Custody
from edge.transceiver.keeper import Keeper
from edge.transceiver.mark import MARK
from edge.transceiver.takeover import TakeOver
from edge.transceiver.vault import Inherited
from edge.wire.spp import HEADER_BYTES, MAGIC, Path

Clock = trio.abc.Clock

OWN, OTHER = Slot(1), Slot(2)
PATH = Path(MAGIC.ljust(HEADER_BYTES, b"\x01"))
LEAD = path_lead(PATH)
MEDIA = PATH + b"\x80 media"
ELSEWHERE: Address = ("127.0.0.1", 5000)


class World:
    """Custody, vault and the other transceivers in one: what is known, and what was asked for."""

    def __init__(self) -> None:
        self.slot = OWN
        self.held: Claim | None = None
        self.mark: Claim | None = Claim(session=MARK, owner=OTHER, epoch=2)
        self.living = {OTHER}
        self.claimed: list[Claim] = []
        self.given_up: list[Claim] = []
        self.granted = self.unread = False
        self.passed_on: list[bytes] = []
        self.again: list[float] = []
        self.takeover = TakeOver(
            cast(Custody, self),
            self,
            revive=self.never,
            pass_on=lambda datagram, address: self.passed_on.append(datagram),
            clock=trio.current_time,
        )

    @property
    def vault(self) -> World:
        return self

    async def never(self, *arguments: object) -> None:
        raise AssertionError("there is nothing to restore")

    async def find_session(self, lead: Lead) -> str | None:
        return "call"

    async def owners_of(self, sessions: Sequence[str]) -> Sequence[Claim | None]:
        known = {"call": self.held, MARK: self.mark}
        return [known[session] for session in sessions]

    async def inherit(self, wanted: Claim, former: Slot) -> Inherited:
        self.claimed.append(wanted)
        return Inherited(wanted if self.granted or self.unread else None, unread=self.unread)

    async def claim(self, wanted: Claim) -> Claim | None:
        self.claimed.append(wanted)
        return wanted

    async def give_up(self, claim: Claim) -> None:
        self.given_up.append(claim)

    def let_go(self, claim: Claim) -> None:
        """Nothing is ever held here."""

    def keeper(self, session: str) -> Keeper | None:
        return None

    def has_ended(self, held: Claim) -> bool:
        return False

    @property
    def transceivers(self) -> list[TransceiverRecord]:
        return [_record(slot) for slot in self.living]

    def transceiver(self, slot: Slot) -> TransceiverRecord | None:
        return _record(slot) if slot in self.living else None

    async def lives(self, slot: Slot) -> bool:
        return slot in self.living

    def hint_stale(self) -> None:
        """Nothing is ever stale here."""

    def take(self, datagram: bytes = MEDIA, *, own: bool = True) -> Drop | None:
        now = trio.current_time()
        return self.takeover.take(LEAD, datagram, self.again.append, own=own, now=now)

    async def settle(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.takeover.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


def _record(slot: Slot) -> TransceiverRecord:
    return TransceiverRecord(slot=slot, cluster=0, address=ELSEWHERE, http_url="")


@pytest.fixture
async def world(autojump_clock: Clock) -> World:
    return World()


async def test_what_was_claimed_for_us_is_claimed_under_an_epoch_of_our_own(world: World) -> None:
    world.held = Claim(session="call", owner=OWN, epoch=3)
    assert world.take() is None
    await world.settle()
    assert world.claimed == [Claim(session="call", owner=OWN, epoch=4)]


async def test_nothing_is_taken_over_while_the_registry_may_have_forgotten(world: World) -> None:
    world.mark = Claim(session=MARK, owner=OTHER, epoch=1)
    world.held = Claim(session="call", owner=OTHER, epoch=1)
    world.living.clear()
    assert world.take() is None
    await world.settle()
    assert world.claimed == []
    await trio.sleep(Outcome.WAITS.value)
    world.mark = Claim(session=MARK, owner=OTHER, epoch=2)
    assert world.take() is None
    await world.settle()
    assert world.claimed == [Claim(session="call", owner=OWN, epoch=2)]


async def test_a_place_whose_transceiver_is_gone_keeps_nobody_from_taking_over(
    world: World,
) -> None:
    world.held = Claim(session="call", owner=OTHER, epoch=1)
    world.takeover.note_place(LEAD, OTHER)
    assert world.take() is None
    assert world.passed_on == [MEDIA]
    world.living.clear()
    assert world.take() is None
    await world.settle()
    assert world.claimed == [Claim(session="call", owner=OWN, epoch=2)]


async def test_what_is_passed_on_to_us_goes_no_further(world: World) -> None:
    world.held = Claim(session="call", owner=OTHER, epoch=1)
    assert world.take(own=False) is None
    await world.settle()
    assert world.again
    assert world.take(own=False) is Drop.LOOP
    assert not world.passed_on


async def test_an_owner_who_says_that_it_is_ours_is_believed_before_what_we_remember(
    world: World,
) -> None:
    world.takeover.note_place(LEAD, OTHER)
    left = Claim(session="call", owner=OWN, epoch=3)
    done: list[float] = []
    assert world.takeover.take_up(left, LEAD, done.append, now=trio.current_time()) is None
    assert world.take(own=False) is None, "it waits, and is no loop"
    await world.settle()
    assert world.claimed[0] == Claim(session="call", owner=OWN, epoch=4)
    assert done, "its owner waits for us"


async def test_what_another_version_wrote_is_left_to_the_next_who_may_read_it(
    world: World,
) -> None:
    world.held = Claim(session="call", owner=OWN, epoch=3)
    world.unread = True
    assert world.take() is None
    await world.settle()
    ours = Claim(session="call", owner=OWN, epoch=4)
    assert world.claimed == [ours, ours.next_of(OTHER)]
    assert world.given_up == []
    assert world.take() is None
    assert world.passed_on == [MEDIA]


async def test_what_nobody_else_can_read_is_not_forgotten_either(world: World) -> None:
    world.held = Claim(session="call", owner=OTHER, epoch=3)
    world.living.clear()
    world.unread = True
    assert world.take() is None
    await world.settle()
    assert world.claimed == [Claim(session="call", owner=OWN, epoch=4)]
    assert world.given_up == []


async def test_what_can_not_be_opened_is_lost(world: World) -> None:
    world.held = Claim(session="call", owner=OWN, epoch=3)
    world.granted = True
    assert world.take() is None
    await world.settle()
    assert world.given_up == world.claimed == [Claim(session="call", owner=OWN, epoch=4)]
