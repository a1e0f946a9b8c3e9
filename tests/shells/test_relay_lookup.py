"""A relay that was restarted asks the registry for flows that it does not know."""

from __future__ import annotations

import trio
from trio.abc import Clock

from edge.errors import Drop
from edge.lookup import MAX_DATAGRAMS, Outcome
from edge.rendezvous import weigh
from edge.wire.spp import encode_path, split
from tests.support.net import VirtualNetwork, receive, silence
from tests.support.relay_rig import (
    RTP,
    Rig,
    WatchedRegistry,
    open_rig,
    record,
)


def numbered(count: int) -> list[bytes]:
    return [RTP + bytes([number]) for number in range(count)]


async def test_waiting_datagrams_go_on_in_order_after_one_look_up(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    record(rig, client, 1)
    rig.registry.seconds = 0.1
    for datagram in numbered(MAX_DATAGRAMS):
        client.send(datagram, rig.public)
    got = await receive(rig.transceivers[1], MAX_DATAGRAMS)
    assert [split(one)[1] for one in got] == numbered(MAX_DATAGRAMS)
    assert rig.registry.asked == [client.address]
    assert rig.drops() == {}


async def test_of_too_many_waiting_datagrams_the_oldest_go(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    record(rig, client, 1)
    rig.registry.seconds = 0.1
    for datagram in numbered(MAX_DATAGRAMS + 3):
        client.send(datagram, rig.public)
    got = await receive(rig.transceivers[1], MAX_DATAGRAMS)
    assert [split(one)[1] for one in got] == numbered(MAX_DATAGRAMS + 3)[3:]
    assert rig.drops() == {Drop.QUEUE_FULL: 3}


async def test_a_transceivers_media_finds_its_flow_again(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    record(rig, client, 1)
    rig.to_client(1, client.address, RTP)
    assert await receive(client) == [RTP]


async def test_a_record_serves_its_own_slot_only(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    record(rig, client, 1)
    rig.to_client(2, client.address, RTP)
    assert await silence(client)
    assert rig.drops() == {Drop.NOT_OWNER: 1}


async def test_a_record_of_a_dead_slot_leads_to_its_heir(autojump_clock: Clock, rig: Rig) -> None:
    clients = [rig.client() for _ in range(16)]
    heirs = set()
    for client in clients:
        record(rig, client, 99)
        client.send(RTP, rig.public)
        await trio.sleep(0.1)
        path = encode_path(client.address, rig.public)
        heir = max((1, 2), key=lambda slot: weigh(str(slot), path))
        assert await receive(rig.transceivers[heir]) == [path + RTP]
        heirs.add(heir)
    assert heirs == {1, 2}
    assert rig.drops() == {}


async def test_a_client_that_is_not_known_is_looked_up_once_in_a_while(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    for _ in range(10):
        client.send(RTP, rig.public)
        await trio.sleep(Outcome.ABSENT.value / 20)
    assert len(rig.registry.asked) == 1
    assert rig.drops() == {Drop.UNKNOWN_FLOW: 10}
    await trio.sleep(Outcome.ABSENT.value)
    record(rig, client, 1)
    client.send(RTP, rig.public)
    await receive(rig.transceivers[1])
    assert len(rig.registry.asked) == 2


async def test_a_client_whose_transceiver_comes_back_soon_is_looked_up_soon(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    for slot in (1, 2):
        rig.fleet.remove(slot)
    record(rig, client, 3)
    client.send(RTP, rig.public)
    await trio.sleep(Outcome.WAITS.value + 0.05)
    transceiver = rig.add_transceiver(3)
    client.send(RTP, rig.public)
    await receive(transceiver, within=0.1)


async def test_look_ups_are_limited(autojump_clock: Clock, net: VirtualNetwork) -> None:
    async with open_rig(net, lookups_per_second=10.0) as rig:
        for number in range(200):
            net.transmit(RTP, ("198.51.100.1", number + 1), rig.public)
        await trio.sleep(0.1)
        assert len(rig.registry.asked) == 10
        assert rig.drops() == {Drop.UNKNOWN_FLOW: 10, Drop.RATE_LIMIT: 190}
        await trio.sleep(0.5)
        for number in range(200):
            net.transmit(RTP, ("198.51.100.2", number + 1), rig.public)
        await trio.sleep(0.1)
        assert 15 <= len(rig.registry.asked) <= 17


async def test_waiting_clients_are_limited(autojump_clock: Clock, net: VirtualNetwork) -> None:
    async with open_rig(net, lookups_per_second=1e6) as rig:
        rig.registry.seconds = 30.0  # hangs
        for number in range(700):
            net.transmit(RTP, ("198.51.100.1", number + 1), rig.public)
            if number % 250 == 249:  # no more at once than the queue for strangers holds
                await trio.sleep(0.1)
        await trio.sleep(0.1)
        assert rig.relay.statistics().waiting_lookups == 512
        assert rig.drops() == {Drop.TABLE_FULL: 700 - 512}
        await trio.sleep(100.0)
        assert rig.relay.statistics().waiting_lookups == 0
        assert rig.drops()[Drop.UNKNOWN_FLOW] == 512


async def test_without_a_registry_the_next_check_heals(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    rig.registry.down = True
    client.send(RTP, rig.public)
    await trio.sleep(0.1)
    assert rig.drops() == {Drop.UNKNOWN_FLOW: 1}
    await rig.connect(client, 1)
    client.send(RTP, rig.public)
    assert split((await receive(rig.transceivers[1]))[0])[1] == RTP


async def test_a_restarted_relay_goes_on(autojump_clock: Clock, net: VirtualNetwork) -> None:
    registry = WatchedRegistry()
    async with open_rig(net, registry=registry, public_port=3478) as rig:
        client = rig.client()
        await rig.connect(client, 1)
    async with open_rig(net, registry=registry, public_port=3478) as rig:
        client.send(RTP, rig.public)
        assert split((await receive(rig.transceivers[1]))[0])[1] == RTP
        rig.to_client(1, client.address, RTP)
        assert await receive(client) == [RTP]
