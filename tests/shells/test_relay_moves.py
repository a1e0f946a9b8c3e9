"""The relay while sessions move: it knows none of them, and follows the three signs there are."""

from __future__ import annotations

import pytest
import trio
from trio.abc import Clock

from edge.datagram import Datagrams
from edge.errors import Drop
from edge.forwarder.protocol import Raised
from edge.registry.protocol import MAX_SLOT, RelayRecord
from edge.rendezvous import weigh
from edge.wire import stun, stun_peek
from edge.wire.spp import Path, encode_give, encode_path
from tests.shells.test_relay_global import FAR, connect, introduce
from tests.support.net import VirtualNetwork, receive, silence
from tests.support.relay_rig import CLUSTER, DTLS, IDLE, RTP, Rig, open_rig, record, token

AT_ONCE = 0.05
"""Seconds; less than any housekeeping takes."""


@pytest.fixture
def third(rig: Rig) -> Datagrams:
    """One more transceiver, slot 3."""
    return rig.add_transceiver(3)


def path_of(rig: Rig, client: Datagrams) -> Path:
    return encode_path(client.address, rig.public)


def heir_of(rig: Rig, client: Datagrams, *slots: int) -> int:
    return max(slots, key=lambda slot: weigh(str(slot), path_of(rig, client)))


async def heard(rig: Rig, client: Datagrams, payload: bytes = RTP) -> set[int]:
    """Send something; returns the slots that hear it."""
    client.send(payload, rig.public)
    told = set()
    for slot, sock in rig.transceivers.items():
        with trio.move_on_after(AT_ONCE):
            assert await receive(sock) == [path_of(rig, client) + payload]
            told.add(slot)
    return told


def saved(rig: Rig) -> list[int]:
    return [record.slot for record in rig.registry.saved]


async def refused(rig: Rig, client: Datagrams, slot: int) -> bool:
    """Whether a transceiver may not send to a client."""
    before = rig.drops().get(Drop.NOT_OWNER, 0)
    rig.to_client(slot, client.address, RTP)
    return await silence(client) and rig.drops()[Drop.NOT_OWNER] == before + 1


async def give(rig: Rig, client: Datagrams, giver: int, slot: int) -> None:
    rig.to_client(giver, client.address, encode_give(slot))
    await trio.sleep(AT_ONCE)


# An owner that is gone.


async def test_flows_of_a_transceiver_that_is_gone_go_to_heirs_at_once(
    autojump_clock: Clock, rig: Rig, third: Datagrams
) -> None:
    clients = [rig.client() for _ in range(16)]
    for client in clients:
        await rig.connect(client, 1)
    rig.fleet.remove(1)
    await trio.sleep(0.001)
    heirs = [heir_of(rig, client, 2, 3) for client in clients]
    assert [await heard(rig, client) for client in clients] == [{heir} for heir in heirs]
    assert set(heirs) == {2, 3}
    assert rig.relay.statistics().flows == len(clients)


async def test_who_drains_inherits_last(autojump_clock: Clock, rig: Rig, third: Datagrams) -> None:
    clients = [rig.client() for _ in range(8)]
    for client in clients:
        await rig.connect(client, 1)
    rig.fleet.add(2, rig.transceivers[2].address, draining=True)
    rig.fleet.remove(1)
    assert [await heard(rig, client) for client in clients] == [{3}] * len(clients)
    rig.fleet.remove(3)
    assert [await heard(rig, client) for client in clients] == [{2}] * len(clients)


async def test_a_challenger_inherits_first(
    autojump_clock: Clock, rig: Rig, third: Datagrams
) -> None:
    client = rig.client()
    challenger = next(slot for slot in (2, 3) if slot != heir_of(rig, client, 2, 3))
    await rig.connect(client, 1)
    await rig.connect(client, challenger)
    rig.fleet.remove(1)
    assert await heard(rig, client) == {challenger}


async def test_flows_wait_for_a_transceiver_that_comes(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    for slot in (2, 1):
        rig.fleet.remove(slot)
    await trio.sleep(IDLE / 2)
    assert rig.relay.statistics().flows == 1
    rig.add_transceiver(3)
    await trio.sleep(0.001)
    assert await heard(rig, client) == {3}


async def test_flows_do_not_wait_for_ever(autojump_clock: Clock, rig: Rig) -> None:
    await rig.connect(rig.client(), 1)
    for slot in (2, 1):
        rig.fleet.remove(slot)
    await trio.sleep(IDLE + 2.0)
    assert rig.relay.statistics().flows == 0


async def test_a_successor_at_a_dead_slots_address_inherits_as_itself(
    autojump_clock: Clock, rig: Rig
) -> None:
    """What reaches it is what the relay gives to its own slot: the calls of a restarted one."""
    client, successor = rig.client(), rig.transceivers[1]
    await rig.connect(client, 1)
    rig.fleet.remove(2)
    rig.fleet.remove(1)
    client.send(RTP, rig.public)
    client.send(rig.request(token(1)), rig.public)
    assert await silence(successor)
    assert rig.drops()[Drop.UNKNOWN_SLOT] == 2
    rig.fleet.add(3, successor.address)
    client.send(RTP, rig.public)
    assert await receive(successor) == [path_of(rig, client) + RTP]


async def test_a_stopped_owner_that_goes_on_reaches_nobody(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    client.send(rig.request(token(1)), rig.public)
    await trio.sleep(AT_ONCE)  # it is asked, and stands still
    address = rig.transceivers[1].address
    rig.fleet.remove(1)
    await trio.sleep(AT_ONCE)
    rig.fleet.add(1, address)
    await rig.answer(1)
    assert await silence(client)
    assert await refused(rig, client, 1)
    assert await heard(rig, client) == {2}


async def test_a_check_that_comes_before_the_walk_finds_the_heir(
    autojump_clock: Clock, rig: Rig, third: Datagrams
) -> None:
    """Who asked is noted for the heir that has the flow, so that its answer counts."""
    client = rig.client()
    await rig.connect(client, 1)
    rig.fleet.remove(1)
    heir, path = heir_of(rig, client, 2, 3), path_of(rig, client)
    request = Raised(path, rig.request(token(1)), 0)
    assert rig.relay._route(request, trio.current_time()) is None
    await rig.answer(heir, by=5 - heir)
    await receive(client)
    assert await heard(rig, client) == {5 - heir}


async def test_what_was_raised_before_its_sender_went_counts_no_more(
    autojump_clock: Clock, rig: Rig
) -> None:
    client, transaction = rig.client(), rig.transaction()
    client.send(rig.request(token(1), transaction), rig.public)
    await receive(rig.transceivers[1])
    rig.fleet.remove(1)
    success = stun.encode_success(transaction, ("192.0.2.1", 1), password="of the server")
    answer = Raised(path_of(rig, client), success, 1)
    assert rig.relay._route(answer, trio.current_time()) is Drop.UNKNOWN_SLOT
    assert rig.relay.statistics().flows == 0


# Who answers for another.


async def test_a_check_for_a_slot_that_is_gone_goes_to_the_flows_owner(
    autojump_clock: Clock, rig: Rig, third: Datagrams
) -> None:
    for slot in (2, 3):
        client = rig.client()
        await rig.connect(client, slot)
        hints = rig.fleet.hints
        assert await heard(rig, client, rig.request(token(99))) == {slot}
        assert rig.fleet.hints == hints + 1


async def test_a_check_for_a_slot_that_is_gone_goes_to_the_paths_heir(
    autojump_clock: Clock, rig: Rig
) -> None:
    for _ in range(8):
        client = rig.client()
        heir = heir_of(rig, client, 1, 2)
        assert await heard(rig, client, rig.request(token(99))) == {heir}


async def test_who_answers_for_an_heir_gets_the_flow(
    autojump_clock: Clock, rig: Rig, third: Datagrams
) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    rig.fleet.remove(1)
    heir = heir_of(rig, client, 2, 3)
    owner = 5 - heir
    assert await heard(rig, client) == {heir}
    client.send(rig.request(token(1)), rig.public)
    await rig.answer(heir, by=owner)
    assert stun_peek.peek((await receive(client))[0])[0] is stun_peek.MessageClass.SUCCESS
    assert await heard(rig, client) == {owner}
    assert saved(rig) == [1, owner]
    assert await refused(rig, client, heir)
    client.send(rig.request(token(1)), rig.public)
    await rig.answer(owner)


async def test_a_new_flow_begins_with_who_answers(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    client.send(rig.request(token(1)), rig.public)
    await rig.answer(1, by=2)
    await receive(client)
    assert await heard(rig, client) == {2}
    assert saved(rig) == [2]
    assert await refused(rig, client, 1)


async def test_a_check_of_a_caller_who_was_moved_takes_no_call_of_his_former_transceiver(
    autojump_clock: Clock, net: VirtualNetwork, rig: Rig
) -> None:
    """His own session went from 1 to 2; he forges the address of a client that 1 still serves."""
    victim = rig.client()
    await rig.connect(victim, 1)
    for second in range(40):
        net.transmit(rig.request(token(1)), victim.address, rig.public)
        await rig.answer(1, by=2)
        await receive(victim)
        if second % 5 == 0:
            await rig.connect(victim, 1)
        assert 1 in await heard(rig, victim)
        rig.to_client(1, victim.address, RTP)
        assert await receive(victim) == [RTP]
        await trio.sleep(1.0)
    assert set(saved(rig)) == {1}


# What is given.


async def test_an_owner_gives_its_flow(autojump_clock: Clock, rig: Rig, third: Datagrams) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    await give(rig, client, 1, 3)
    assert await heard(rig, client) == {3}
    assert saved(rig) == [1, 3]
    assert await refused(rig, client, 1)
    rig.to_client(3, client.address, RTP)
    assert await receive(client) == [RTP]


async def test_nobody_gives_what_is_not_his(
    autojump_clock: Clock, rig: Rig, third: Datagrams
) -> None:
    client, stranger = rig.client(), rig.client()
    await rig.connect(client, 1)
    await give(rig, client, 2, 2)
    stranger.send_framed(path_of(rig, client), encode_give(2), rig.internal)
    client.send(encode_give(2), rig.public)
    assert await heard(rig, client) == {1}
    assert rig.drops() == {Drop.NOT_OWNER: 1, Drop.UNKNOWN_SLOT: 1, Drop.MALFORMED: 1}
    assert saved(rig) == [1]


@pytest.mark.parametrize("slot", [4, MAX_SLOT])
async def test_nothing_is_given_to_who_is_not_there(
    autojump_clock: Clock, rig: Rig, slot: int
) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    await give(rig, client, 1, slot)
    assert await heard(rig, client) == {1}
    assert rig.drops() == {Drop.UNKNOWN_SLOT: 1}
    assert rig.fleet.hints == 1


async def test_a_challenger_gives_its_place(
    autojump_clock: Clock, rig: Rig, third: Datagrams
) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    await rig.connect(client, 2)
    await give(rig, client, 2, 3)
    assert await heard(rig, client) == {1, 3}
    assert saved(rig) == [1]


async def test_a_relay_that_was_restarted_looks_up_what_is_given(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    record(rig, client, 1)
    await give(rig, client, 1, 2)
    assert saved(rig) == [1, 2]
    assert await heard(rig, client) == {2}
    assert rig.drops() == {}


# Through a relay of another cluster.


async def test_a_flow_of_another_clusters_client_is_given(
    autojump_clock: Clock, net: VirtualNetwork
) -> None:
    """Its relay hears nothing of it, and may not do so itself."""
    async with (
        open_rig(net, cluster=FAR) as inner,
        open_rig(net, public_port=3478) as outer,
    ):
        introduce(outer, inner, FAR, "inner")
        introduce(inner, outer, CLUSTER, "outer")
        client = outer.client()
        await connect(client, outer, inner)
        path = path_of(outer, client)
        inner.transceivers[1].send_framed(path, encode_give(2), inner.internal)
        client.send(DTLS, outer.public)
        assert await receive(inner.transceivers[2]) == [path + DTLS]
        inner.transceivers[2].send_framed(path, RTP, inner.internal)
        assert await receive(client) == [RTP]
        assert [one.slot for one in inner.registry.saved] == [1, 2]
        assert inner.drops() == outer.drops() == {}
        inner.fleet.remove(2)
        client.send(RTP, outer.public)
        assert await receive(inner.transceivers[1]) == [path + RTP]


async def test_a_relay_of_another_cluster_gives_nothing(autojump_clock: Clock, rig: Rig) -> None:
    """Not even what leads to itself: its own transceivers are no slots of ours."""
    client, peer = rig.client(), rig.client()
    rig.fleet.add_relay(
        RelayRecord(name="far", cluster=FAR, public=("192.0.2.9", 1), internal=peer.address)
    )
    transaction = rig.transaction()
    client.send(rig.request(token(1, cluster=FAR), transaction), rig.public)
    await receive(peer)
    success = stun.encode_success(transaction, ("192.0.2.1", 1), password="of the server")
    for payload in (success, encode_give(2)):
        peer.send_framed(path_of(rig, client), payload, rig.internal)
        await trio.sleep(AT_ONCE)
    client.send(RTP, rig.public)
    assert await receive(peer) == [path_of(rig, client) + RTP]
    assert rig.drops() == {Drop.NOT_OWNER: 1}
