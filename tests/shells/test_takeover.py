"""Where strays go: the rules of a ``TakeOver``, with a custody that says what it is told."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing

from edge.address import Address
from edge.errors import Drop
from edge.registry.protocol import Slot, TransceiverRecord
from edge.registry.sessions import Claim, Lead, path_lead
from edge.transceiver.custody import Custody
from edge.transceiver.keeper import Keeper
from edge.transceiver.takeover import TakeOver
from edge.wire.spp import HEADER_BYTES, MAGIC, Path

Clock = trio.testing.MockClock

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
        self.living = {OTHER}
        self.claimed: list[Claim] = []
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

    async def owner_of(self, session: str) -> Claim | None:
        return self.held

    async def claim(self, wanted: Claim) -> Claim | None:
        self.claimed.append(wanted)
        return None

    def keeper(self, session: str) -> Keeper | None:
        return None

    def has_ended(self, held: Claim) -> bool:
        return False

    def transceiver(self, slot: Slot) -> TransceiverRecord | None:
        if slot not in self.living:
            return None
        return TransceiverRecord(slot=slot, cluster=0, address=ELSEWHERE, http_url="")

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


@pytest.fixture
async def world(autojump_clock: Clock) -> World:
    return World()


async def test_what_was_claimed_for_us_is_claimed_under_an_epoch_of_our_own(world: World) -> None:
    world.held = Claim(session="call", owner=OWN, epoch=3)
    assert world.take() is None
    await world.settle()
    assert world.claimed == [Claim(session="call", owner=OWN, epoch=4)]


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
    world.held = Claim(session="call", owner=OWN, epoch=3)
    assert world.take(PATH, own=False) is None
    await world.settle()
    assert world.claimed
