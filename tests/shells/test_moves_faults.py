"""Sessions that move while something goes wrong: in the registry, in the call, or in the mover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
import trio.testing

from edge.backends.echo import Echo, EchoConversation
from edge.backends.protocol import Call, EventSink, Speaker
from edge.client.channel import CallerChannel
from edge.config import TransceiverConfig
from edge.errors import Drop, EndReason, LocalProtocolError
from edge.registry.heirs import heir
from edge.registry.protocol import RegistryUnavailable
from edge.registry.sessions import Slot
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.custody import Custody
from edge.transceiver.keeper import Keeper
from edge.transceiver.voice import Voice
from tests.support.clock import VirtualClock
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.mobile_call import custody, mobile_call, name, owner, taken_over, until
from tests.support.net import open_network
from tests.support.severed import Happens

Clock = VirtualClock


def missing(phone: Phone) -> int:
    return phone.caller.journal.statistics(now=trio.current_time()).missing


class Parting(Echo):
    """An echo that counts how its conversations part."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> EchoConversation:
        return _Conversation(self.counts, speaker)


class _Conversation(EchoConversation):
    def __init__(self, counts: Counter[str], speaker: Speaker) -> None:
        super().__init__(speaker, delay=0.0)
        self._counts = counts

    def watch(self, changed: Callable[[], None]) -> None:
        """There is no token that could change."""

    def resume_token(self) -> bytes:
        return b""

    def move(self) -> None:
        self._counts["moved"] += 1

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self._counts["over"] += 1


async def test_who_stood_still_parts_from_its_backend_before_it_is_over(
    autojump_clock: Clock,
) -> None:
    backend = Parting()
    async with mobile_call(backend=backend) as (edge, phone):
        await taken_over(edge)
        await phone.heard(20)
        autojump_clock.jump(0.6)
        await trio.sleep(0.01)
        edge.join_again(0)
        await until(lambda: edge.transceivers[0].totals.ended)
        assert edge.transceivers[0].totals.ended == {EndReason.FENCED: 1}
        assert backend.counts == {"moved": 1, "over": 1}
        await phone.heard(50)


async def test_nothing_leaves_when_it_is_noticed_late_that_we_stood_still(
    autojump_clock: Clock,
) -> None:
    async with mobile_call(1) as (edge, phone):
        edge.ways[0].after["claim"] = stands_still(edge, autojump_clock)
        async with edge.call():
            await is_silent_until_asked(edge, phone)


async def test_nothing_leaves_who_stood_still_while_it_asked(autojump_clock: Clock) -> None:
    async with mobile_call(1) as (edge, phone):
        edge.ways[0].after["owners_of"] = stands_still(edge, autojump_clock)
        edge.ways[0].cut = True
        await trio.sleep(1.0)
        edge.ways[0].cut = False
        await is_silent_until_asked(edge, phone)


def stands_still(edge: VirtualEdge, clock: Clock) -> Happens:
    async def stand_still() -> None:
        clock.jump(1.0)
        edge.ways[0].closed = True

    return stand_still


async def is_silent_until_asked(edge: VirtualEdge, phone: Phone) -> None:
    await until(lambda: edge.ways[0].closed)
    await trio.sleep(0.02)
    heard = phone.caller.journal.received
    await trio.sleep(1.0)
    assert phone.caller.journal.received == heard
    edge.ways[0].closed = False
    await phone.heard(50)


async def test_who_is_fenced_by_an_answer_says_nothing_more(autojump_clock: Clock) -> None:
    async with mobile_call() as (edge, phone):
        keeper = custody(edge, 0).keeper(name(phone))
        assert keeper is not None
        other = keeper.claim.next_of(edge.transceivers[1].slot)
        assert await edge.registry.sessions.claim(other) == other
        keeper.change(at_once=True)
        await until(lambda: keeper.session.reason)
        assert keeper.session.reason is EndReason.FENCED
        await trio.sleep(0.5)
        assert keeper.session.voice is Voice.NONE


async def test_an_old_answer_ends_no_session_that_has_come_back(autojump_clock: Clock) -> None:
    async with mobile_call() as (edge, phone):
        late = trio.Event()
        edge.ways[0].before["store"] = late.wait
        keeper = custody(edge, 0).keeper(name(phone))
        assert keeper is not None
        keeper.change(at_once=True)
        await until(lambda: "store" not in edge.ways[0].before)
        await taken_over(edge)
        edge.join_again(0)
        await until(lambda: edge.transceivers[0].totals.ended)
        await edge.transceivers[1].drain()
        assert edge.transceivers[0].sessions == 1
        late.set()
        await phone.heard(50)
        assert edge.transceivers[0].totals.ended == {EndReason.FENCED: 1}


async def test_a_call_that_ends_while_it_is_claimed_anew_leaves_no_claim(
    autojump_clock: Clock,
) -> None:
    async with mobile_call(1) as (edge, phone):
        edge.registry.sessions.empty()

        async def hang_up() -> None:
            edge.transceivers[0].hang_up(name(phone))
            await trio.sleep(0.1)

        edge.ways[0].before["claim"] = hang_up
        await until(lambda: edge.transceivers[0].totals.ended, within=30.0)
        await trio.sleep(1.0)
        assert await owner(edge, phone) is None


async def test_a_call_that_ended_where_nobody_knew_better_may_come_back(
    autojump_clock: Clock,
) -> None:
    config = TransceiverConfig(consent_timeout_seconds=5.0)
    async with mobile_call(config=config) as (edge, phone):
        await taken_over(edge)
        await until(lambda: edge.transceivers[0].totals.ended, within=10.0)
        assert EndReason.FENCED not in edge.transceivers[0].totals.ended
        edge.join_again(0)
        await trio.sleep(1.0)
        assert edge.transceivers[1].sessions == 1
        await edge.transceivers[1].drain()
        await phone.heard(50)
        assert edge.transceivers[0].sessions == 1


async def test_a_drain_waits_for_a_registry_that_is_away_and_the_call_goes_on(
    autojump_clock: Clock,
) -> None:
    async with mobile_call() as (edge, phone), trio.open_nursery() as nursery:
        edge.ways[0].closed = True
        nursery.start_soon(edge.transceivers[0].drain)
        await phone.heard(150)
        edge.ways[0].closed = False
        await until(lambda: edge.transceivers[0].totals.ended)
        assert edge.transceivers[0].totals.ended == {EndReason.MOVED: 1}
        await phone.heard(50)
        assert missing(phone) == 0


async def test_a_drain_survives_a_registry_that_goes_midway(autojump_clock: Clock) -> None:
    async with mobile_call() as (edge, phone), trio.open_nursery() as nursery:

        async def go() -> None:
            edge.ways[0].closed = True

        keeper = custody(edge, 0).keeper(name(phone))
        assert keeper is not None
        await until(keeper.was_stored.is_set)
        edge.ways[0].before["hand_over"] = go
        nursery.start_soon(edge.transceivers[0].drain)
        await until(lambda: edge.ways[0].closed)
        await trio.sleep(1.0)
        edge.ways[0].closed = False
        await until(lambda: edge.transceivers[0].totals.ended)
        assert edge.transceivers[0].totals.ended == {EndReason.MOVED: 1}
        await phone.heard(50)
        assert edge.transceivers[1].sessions == 1


async def test_a_drain_with_an_emptied_registry_claims_anew_first(autojump_clock: Clock) -> None:
    async with mobile_call() as (edge, phone):
        edge.registry.sessions.empty()
        await edge.transceivers[0].drain()
        assert edge.transceivers[0].totals.ended == {EndReason.MOVED: 1}
        await phone.heard(50)
        assert missing(phone) == 0


async def test_a_call_that_is_hung_up_in_its_own_move_is_over(autojump_clock: Clock) -> None:
    async with mobile_call() as (edge, phone):

        async def hang_up() -> None:
            edge.transceivers[0].hang_up(name(phone))

        edge.ways[0].after["hand_over"] = hang_up
        await edge.transceivers[0].drain()
        await trio.sleep(1.0)
        assert edge.transceivers[0].totals.ended == {EndReason.HANGUP: 1}
        assert edge.transceivers[1].sessions == 0
        assert await owner(edge, phone) is None


async def test_an_owner_that_hears_of_the_claim_it_made_for_its_heir_leaves_him_the_call(
    autojump_clock: Clock,
) -> None:
    async with mobile_call() as (edge, phone):
        keeper = custody(edge, 0).keeper(name(phone))
        assert keeper is not None

        async def stand_still_and_ask() -> None:
            keeper.session.end(EndReason.FENCED)

        edge.ways[0].after["claim"] = stand_still_and_ask
        await edge.transceivers[0].drain()
        await phone.heard(50)
        assert edge.transceivers[1].sessions == 1
        assert missing(phone) == 0


async def test_a_call_that_ends_while_the_registry_is_away_is_forgotten_later(
    autojump_clock: Clock,
) -> None:
    async with mobile_call(1) as (edge, phone):
        edge.ways[0].cut = True
        phone.hang_up()
        await until(lambda: edge.transceivers[0].totals.ended)
        await trio.sleep(1.0)
        assert await owner(edge, phone) is not None
        edge.ways[0].cut = False
        await trio.sleep(1.0)
        assert await owner(edge, phone) is None


async def test_who_leaves_at_the_same_time_passes_on_what_it_was_given(
    autojump_clock: Clock,
) -> None:
    async with (
        open_network() as network,
        open_edge(network, transceivers=3, mobile=True) as edge,
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        first, second, last = edge.transceivers
        others = [first.slot, last.slot]
        phones = [await stack.enter_async_context(edge.call(0))]
        given = None
        while given != first.slot:
            phones.append(await stack.enter_async_context(edge.call(1)))
            given = heir(name(phones[-1]).encode(), others)
        for phone in phones:
            await phone.heard(30)
        edge.ways[0].before["put_transceiver"] = partial(trio.sleep, 0.3)  # so nobody knows yet
        nursery.start_soon(first.drain)
        await trio.sleep(0.1)
        await second.drain()
        await until(lambda: last.sessions == len(phones))
        for phone in phones:
            await phone.heard(30)


async def test_an_heir_that_lost_its_claim_while_it_loaded_serves_nobody(
    autojump_clock: Clock,
) -> None:
    async with mobile_call() as (edge, _):

        async def lose() -> None:
            edge.registry.sessions.empty()
            autojump_clock.jump(1.0)
            await trio.sleep(0.1)

        edge.ways[1].after["inherit"] = lose
        edge.cut_off(0)
        await until(lambda: "inherit" not in edge.ways[1].after)
        await trio.sleep(2.0)
        assert edge.transceivers[1].sessions == 0


async def test_what_a_client_says_in_a_take_over_is_acknowledged_at_once(
    autojump_clock: Clock,
) -> None:
    channel = CallerChannel("oai-events")
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call(audio=False, channel=channel) as phone,
    ):
        await until(lambda: channel.opened)
        phone.say("before")
        before = len(await phone.told(1))
        await trio.sleep(1.0)
        edge.cut_off(0)
        for number in range(100):
            phone.say(f"{number}")
            await trio.sleep(0.05)
        await phone.told(before + 100)
        assert not edge.transceivers[1].totals.drops()[Drop.NOT_OWNER]


async def test_a_flow_that_serves_somebody_who_stays_is_not_given_away(
    autojump_clock: Clock,
) -> None:
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call() as victim,
        edge.call() as attacker,
        trio.open_nursery() as nursery,
    ):
        await victim.heard(60)
        await attacker.heard(60)
        check = attacker.caller._make_check(trio.current_time())
        network.transmit(check, victim.socket.address, edge.public)
        await trio.sleep(0.5)
        stays = custody(edge, 0).keeper(name(victim))
        assert stays is not None
        stays.too_large = True
        nursery.start_soon(edge.transceivers[0].drain)
        await until(lambda: edge.transceivers[1].sessions)
        await victim.heard(100)
        assert edge.transceivers[0].sessions == 1
        assert missing(victim) == 0
        nursery.cancel_scope.cancel()


async def test_a_drain_that_runs_out_of_time_leaves_the_call_to_its_heir(
    autojump_clock: Clock,
) -> None:
    config = TransceiverConfig(drain_seconds=1)
    for method in "owner_of", "hand_over":
        async with (
            open_network() as network,
            open_edge(network, transceivers=2, mobile=True, config=config) as edge,
            edge.call() as phone,
        ):
            await phone.heard(60)
            edge.ways[0].before[method] = trio.Event().wait
            await edge.transceivers[0].drain()
            assert edge.transceivers[0].sessions == 0
            edge.transceiver_scopes[0].cancel()
            await phone.heard(50)
            assert edge.transceivers[0].totals.ended == {EndReason.MOVED: 1}


async def test_a_drain_that_runs_out_of_time_without_a_registry_ends_the_call(
    autojump_clock: Clock,
) -> None:
    config = TransceiverConfig(drain_seconds=1)
    async with mobile_call(config=config) as (edge, _):
        edge.ways[0].cut = True
        await trio.sleep(1.0)
        await edge.transceivers[0].drain()
        assert edge.transceivers[0].totals.ended == {EndReason.SHUTDOWN: 1}


async def test_what_does_not_fit_into_a_checkpoint_says_goodbye(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TransceiverConfig(drain_seconds=1)
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True, config=config) as edge,
        edge.call() as large,
    ):
        monkeypatch.setattr(custody(edge, 0).vault._keys, "seal", too_large)
        await large.heard(60)
        await edge.transceivers[0].drain()
        assert edge.transceivers[0].totals.ended == {EndReason.SHUTDOWN: 1}
        await until(lambda: large.caller.closed)


def too_large(checkpoint: Checkpoint) -> bytes:
    raise LocalProtocolError("the session is too large for a checkpoint")


async def test_a_bug_in_one_hand_over_keeps_no_other_call(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call() as one,
        edge.call() as other,
    ):
        await one.heard(60)
        await other.heard(60)
        keeper = custody(edge, 0).keeper(name(one))

        async def fail(custody: Custody, keeper_of: Keeper, heir: Slot) -> Checkpoint | None:
            if keeper_of is keeper:
                raise ZeroDivisionError
            return await hand_over(custody, keeper_of, heir)

        hand_over = Custody.hand_over
        monkeypatch.setattr(Custody, "hand_over", fail)
        await edge.transceivers[0].drain()
        assert edge.transceivers[0].totals.ended == {
            EndReason.INTERNAL_ERROR: 1,
            EndReason.MOVED: 1,
        }
        await other.heard(50)


async def test_a_registry_that_is_emptied_midway_costs_no_call(autojump_clock: Clock) -> None:
    async with mobile_call() as (edge, phone):

        async def empty() -> None:
            edge.registry.sessions.empty()

        edge.ways[0].after["owner_of"] = empty
        await edge.transceivers[0].drain()
        assert edge.transceivers[0].totals.ended == {EndReason.MOVED: 1}
        await phone.heard(50)


async def test_a_call_that_is_over_before_it_moves_is_over_for_its_backend(
    autojump_clock: Clock,
) -> None:
    backend = Parting()
    async with mobile_call(backend=backend) as (edge, phone):

        async def hang_up() -> None:
            edge.transceivers[0].hang_up(name(phone))

        edge.ways[0].after["owner_of"] = hang_up
        await edge.transceivers[0].drain()
        assert edge.transceivers[0].totals.ended == {EndReason.HANGUP: 1}
        assert backend.counts == {"over": 1}


async def test_a_claim_whose_answer_was_lost_is_not_held_on_to(autojump_clock: Clock) -> None:
    async with mobile_call() as (edge, phone):

        async def lose() -> None:
            edge.ways[1].closed = True
            raise RegistryUnavailable

        edge.ways[1].after["inherit"] = lose
        edge.cut_off(0)
        await until(lambda: edge.ways[1].closed)
        await trio.sleep(1.0)
        assert len(custody(edge, 1)._fence) == 0
        edge.ways[1].closed = False
        await phone.heard(50)
