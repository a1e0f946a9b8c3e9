"""Where requests about a call go that is not here: by its claim, by its id, or nowhere yet."""

from __future__ import annotations

from typing import Final

import pytest
import trio
from trio.abc import Clock

from edge.config import HttpConfig
from edge.http.keys import name_key
from edge.http.owners import CLAIM_SECONDS, SETTLING_LOOKS, SETTLING_PAUSE, Owners
from edge.http.problem import Cause, Problem
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import RegistryUnavailable, Slot, TransceiverRecord
from edge.registry.sessions import Claim
from edge.transceiver.admission import Opener
from edge.transceiver.call_ids import make_call_id
from tests.shells.test_signaling import check_problem, client_of
from tests.support.http import OWN_SLOT, FakeService, make_app, make_fleet

OPENER: Final = Slot(2)
HEIR: Final = Slot(3)
GONE: Final = Slot(4)
"""Everybody else lives."""
MOMENT: Final = 3 * SETTLING_PAUSE
LOCKED: Final = HttpConfig(api_keys=("key-one-1",))
KEY: Final = {"Authorization": "Bearer key-one-1"}


def transceiver(slot: Slot) -> TransceiverRecord | None:
    if slot == GONE:
        return None
    address = ("192.0.2.9", int(slot))
    return TransceiverRecord(slot=slot, cluster=0, address=address, http_url=f"http://t{slot}")


def call_of(opener: Slot) -> str:
    return make_call_id(opener, bytes)


class Book:
    """Says who holds any session, once; counts how often it was asked."""

    def __init__(self, *answers: Slot | type[RegistryUnavailable] | None) -> None:
        """The last answer is for ever."""
        self.asked = 0
        self._answers = answers

    async def owner_of(self, session: str) -> Claim | None:
        await trio.lowlevel.checkpoint()
        answer = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        if isinstance(answer, type):
            raise answer
        return None if answer is None else Claim(session=session, owner=answer, epoch=2)

    def owners(self) -> Owners:
        return Owners(slot=OWN_SLOT, owner_of=self.owner_of, transceiver=transceiver)


async def find(book: Book, opener: Slot = OPENER, *, last_hop: bool = False) -> str | Cause | None:
    """Look for a call that is never here; a problem is given by its cause."""
    try:
        return await book.owners().find(call_of(opener), lambda: False, last_hop=last_hop)
    except Problem as problem:
        return cause_of(problem)


def cause_of(problem: Problem) -> Cause:
    """Tell why a request is to come again in a second."""
    assert (problem.status, problem.headers) == (503, {"Retry-After": "1"})
    return problem.cause


AWAY: Final = Cause.OWNER_UNREACHABLE
UNKNOWN: Final = Cause.REGISTRY_UNAVAILABLE


@pytest.mark.parametrize(
    ("opener", "holder", "first", "last"),
    [
        (OPENER, HEIR, "http://t3", AWAY),
        (OPENER, OPENER, "http://t2", AWAY),
        (OWN_SLOT, HEIR, "http://t3", AWAY),  # fenced: we have lost it
        (GONE, HEIR, "http://t3", AWAY),
        (GONE, GONE, AWAY, AWAY),  # nobody has taken it over yet
        (OPENER, GONE, AWAY, AWAY),
        (OPENER, None, "http://t2", None),
        (OWN_SLOT, None, None, None),
        (GONE, None, None, None),
        (OPENER, RegistryUnavailable, "http://t2", UNKNOWN),
        (OWN_SLOT, RegistryUnavailable, UNKNOWN, UNKNOWN),
        (GONE, RegistryUnavailable, UNKNOWN, UNKNOWN),
    ],
)
async def test_where_a_request_goes(
    opener: Slot,
    holder: Slot | type[RegistryUnavailable] | None,
    first: str | Cause | None,
    last: str | Cause | None,
) -> None:
    """``first`` from where it came in, ``last`` when it was passed on once."""
    book = Book(holder)
    assert await find(book, opener) == first
    assert await find(book, opener, last_hop=True) == last
    assert book.asked == 2, "one round trip each"


async def test_what_is_here_or_no_id_of_ours_asks_nobody() -> None:
    book = Book(HEIR)
    assert await book.owners().find(call_of(OPENER), lambda: True) is None
    for nonsense in ("", "rtc_1", call_of(OPENER) + "0", call_of(OPENER).upper()):
        assert await book.owners().find(nonsense, lambda: False) is None
    assert book.asked == 0


@pytest.mark.parametrize("last_hop", [False, True])
async def test_what_has_just_ended_here_is_nowhere(autojump_clock: Clock, last_hop: bool) -> None:
    """Its claim is about to be forgotten."""
    assert await find(Book(OWN_SLOT, OWN_SLOT, None), OWN_SLOT, last_hop=last_hop) is None


async def test_what_is_being_taken_over_is_soon_here(autojump_clock: Clock) -> None:
    taken = trio.current_time() + MOMENT
    book = Book(OWN_SLOT)
    found = await book.owners().find(call_of(OPENER), lambda: trio.current_time() >= taken)
    assert found is None
    assert trio.current_time() == pytest.approx(taken)


async def test_what_is_never_taken_over_is_to_come_again(autojump_clock: Clock) -> None:
    book = Book(OWN_SLOT)
    started = trio.current_time()
    assert await find(book) == AWAY
    assert book.asked == SETTLING_LOOKS
    assert trio.current_time() - started == pytest.approx(SETTLING_LOOKS * SETTLING_PAUSE)


async def test_what_another_takes_while_we_wait_goes_there(autojump_clock: Clock) -> None:
    assert await find(Book(OWN_SLOT, OWN_SLOT, HEIR)) == "http://t3"


async def test_a_slow_registry_is_as_good_as_none(autojump_clock: Clock) -> None:
    async def never(session: str) -> Claim | None:
        await trio.sleep_forever()
        raise AssertionError

    owners = Owners(slot=OWN_SLOT, owner_of=never, transceiver=transceiver)
    started = trio.current_time()
    assert await owners.find(call_of(OPENER), lambda: False) == "http://t2"
    assert trio.current_time() - started == pytest.approx(CLAIM_SECONDS)


async def book_of(*claims: Claim) -> MemoryRegistry:
    registry = MemoryRegistry()
    for claim in claims:
        assert await registry.sessions.claim(claim, anew=True) == claim
    return registry


Ask = tuple[str, str, dict[str, str]]
HANGUP: Final[Ask] = ("POST", "/v1/realtime/calls/{}/hangup", {})
DELETE: Final[Ask] = ("DELETE", "/whip/{}", {})
PATCH: Final[Ask] = (
    "PATCH",
    "/whip/{}",
    {"If-Match": "*", "Content-Type": "application/trickle-ice-sdpfrag"},
)


@pytest.mark.parametrize("ask", [HANGUP, DELETE, PATCH], ids=lambda ask: ask[0])
async def test_a_call_between_two_owners_is_503_everywhere(ask: Ask) -> None:
    method, path, headers = ask
    call_id = call_of(OPENER)
    registry = await book_of(Claim(session=call_id, owner=GONE, epoch=2))
    # Nobody listens where its opener was.
    fleet = make_fleet(registry=registry, others={OPENER: "http://127.0.0.1:9"})
    service = FakeService()
    async with client_of(make_app(service, LOCKED, fleet=fleet)) as client:
        url, headers = path.format(call_id), {**headers, **KEY}
        refused = await client.request(method, url, headers=headers)
        check_problem(refused, 503, "owner_unreachable")
        assert refused.headers["retry-after"] == "1"
        assert "has changed or is gone" in refused.text, "the opener was not asked"
        unknown = await client.request(method, path.format(call_of(GONE)), headers=headers)
        check_problem(unknown, 404, "call_not_found")


async def test_a_call_that_is_here_is_served_whoever_opened_it() -> None:
    call_id = call_of(OPENER)
    registry = await book_of(Claim(session=call_id, owner=HEIR, epoch=2))
    fleet = make_fleet(registry=registry, others={OPENER: "http://127.0.0.1:9"})
    service = FakeService()
    async with client_of(make_app(service, LOCKED, fleet=fleet)) as client:
        service.take_over(call_id, Opener(name_key(b"key-one-1")))
        hangup = await client.post(f"/v1/realtime/calls/{call_id}/hangup", headers=KEY)
        assert hangup.status_code == 200
    assert not service.open
