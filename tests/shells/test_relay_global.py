"""Relays of different clusters that forward for each other, on a virtual network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.abc import Clock

from edge.datagram import Datagrams
from edge.errors import Drop
from edge.registry.protocol import FlowRecord, RelayListener, RelayRecord, Slot
from edge.relay import HOUSEKEEPING_SECONDS
from edge.wire import stun_peek
from edge.wire.spp import encode_path, split
from tests.support.net import VirtualNetwork, receive, silence
from tests.support.relay_rig import (
    CLUSTER,
    DTLS,
    RTP,
    Rig,
    WatchedRegistry,
    open_rig,
    token,
)

FAR = CLUSTER + 1


def introduce(rig: Rig, other: Rig, cluster: int, name: str) -> None:
    """Make a relay known to another."""
    record = RelayRecord(name=name, cluster=cluster, public=other.public, internal=other.internal)
    rig.fleet.add_relay(record)


@asynccontextmanager
async def open_outer(
    net: VirtualNetwork, inner: Rig, registry: WatchedRegistry | None = None
) -> AsyncIterator[Rig]:
    """A relay of CLUSTER that knows the inner one, of FAR, and is known to it."""
    async with open_rig(net, registry=registry, public_port=3478) as outer:
        introduce(outer, inner, FAR, "inner")
        introduce(inner, outer, CLUSTER, "outer")
        yield outer


@pytest.fixture
async def pair(net: VirtualNetwork) -> AsyncIterator[tuple[Rig, Rig]]:
    async with open_rig(net, cluster=FAR) as inner, open_outer(net, inner) as outer:
        yield outer, inner


async def connect(client: Datagrams, outer: Rig, inner: Rig, slot: int = 1) -> None:
    client.send(outer.request(token(slot, cluster=FAR)), outer.public)
    await inner.answer(slot)
    [answer] = await receive(client)
    assert stun_peek.peek(answer)[0] is stun_peek.MessageClass.SUCCESS


async def test_a_call_through_two_relays(autojump_clock: Clock, pair: tuple[Rig, Rig]) -> None:
    outer, inner = pair
    client, transceiver = outer.client(), inner.transceivers[1]
    await connect(client, outer, inner)
    path = encode_path(client.address, outer.public)
    for datagram in (DTLS, RTP, bytes([255]) * 1200):
        client.send(datagram, outer.public)
        assert await receive(transceiver) == [path + datagram]
        transceiver.send_framed(path, datagram, inner.internal)
        assert await receive(client) == [datagram]
    for rig in pair:
        statistics = rig.relay.statistics()
        assert (statistics.flows, statistics.provisional_flows) == (1, 0)
        assert statistics.packets_to_transceivers == statistics.packets_to_clients == 4
        assert statistics.drops == {}


async def test_every_listener_of_a_relay_may_hand_on(
    autojump_clock: Clock, net: VirtualNetwork
) -> None:
    """The outer one is not the first of its relay: others send to the first, and answer this."""
    async with open_rig(net, cluster=FAR) as inner, open_rig(net, public_port=3478) as outer:
        introduce(outer, inner, FAR, "inner")
        listener = RelayListener(transport="udp", public=outer.public, internal=outer.internal)
        elsewhere = ("192.0.2.99", 9)
        inner.fleet.add_relay(
            RelayRecord(
                name="outer",
                cluster=CLUSTER,
                public=elsewhere,
                internal=elsewhere,
                more=(listener,),
            )
        )
        client, transceiver = outer.client(), inner.transceivers[1]
        await connect(client, outer, inner)
        path = encode_path(client.address, outer.public)
        transceiver.send_framed(path, RTP, inner.internal)
        assert await receive(client) == [RTP]
        assert inner.relay.statistics().drops == outer.relay.statistics().drops == {}


async def test_each_relay_writes_a_record_for_its_own_cluster(
    autojump_clock: Clock, pair: tuple[Rig, Rig]
) -> None:
    outer, inner = pair
    client = outer.client()
    await connect(client, outer, inner)
    expected = {"public": outer.public, "client": client.address, "cluster": FAR}
    assert outer.registry.saved == [FlowRecord(**expected, slot=Slot(0))]  # type: ignore[arg-type]
    assert inner.registry.saved == [FlowRecord(**expected, slot=Slot(1))]  # type: ignore[arg-type]


async def test_a_flow_given_back_is_gone_from_both(
    autojump_clock: Clock, pair: tuple[Rig, Rig]
) -> None:
    outer, inner = pair
    client = outer.client()
    await connect(client, outer, inner)
    path = encode_path(client.address, outer.public)
    inner.transceivers[1].send_framed(path, b"", inner.internal)
    await trio.sleep(0.1)
    for rig in pair:
        assert rig.relay.statistics().flows == 0
        assert rig.registry.removed == [client.address]


async def test_a_request_alone_opens_nothing_in_either(
    autojump_clock: Clock, pair: tuple[Rig, Rig]
) -> None:
    outer, inner = pair
    client = outer.client()
    client.send(outer.request(token(1, cluster=FAR)), outer.public)
    await receive(inner.transceivers[1])
    client.send(RTP, outer.public)
    assert await silence(inner.transceivers[1])
    assert [rig.relay.statistics().flows for rig in pair] == [0, 0]


# A datagram crosses two relays at most.


async def test_nothing_goes_on_to_a_third_relay(
    autojump_clock: Clock, net: VirtualNetwork, pair: tuple[Rig, Rig]
) -> None:
    outer, inner = pair
    third = net.socket(("127.0.0.1", 0))
    for rig in pair:
        rig.fleet.add_relay(
            RelayRecord(name="third", cluster=9, public=("192.0.2.9", 1), internal=third.address)
        )
    client = outer.client()
    for path in (
        encode_path(client.address, outer.public),
        encode_path(client.address, ("192.0.2.9", 1)),
    ):
        request = outer.request(token(1, cluster=FAR))
        third.send_framed(path, request, outer.internal)
    assert await silence(inner.transceivers[1])
    assert await silence(third)
    # The first names our own public address, and so is no client's; the second would need a third.
    assert outer.drops() == {Drop.UNKNOWN_FLOW: 1, Drop.LOOP: 1}


async def test_a_relay_may_not_speak_for_another(
    autojump_clock: Clock, net: VirtualNetwork, pair: tuple[Rig, Rig]
) -> None:
    outer, inner = pair
    client = outer.client()
    await connect(client, outer, inner)
    other = net.socket(("127.0.0.1", 0))
    for rig in pair:
        rig.fleet.add_relay(
            RelayRecord(name="other", cluster=9, public=("192.0.2.9", 1), internal=other.address)
        )
    path = encode_path(client.address, outer.public)
    other.send_framed(path, RTP, outer.internal)  # to a client that another cluster serves
    other.send_framed(path, RTP, inner.internal)  # as if it were the outer relay
    assert await silence(client)
    assert await silence(inner.transceivers[1])
    assert outer.drops() == {Drop.NOT_OWNER: 1}
    assert inner.drops() == {Drop.LOOP: 1}


# When one of them is gone.


async def test_an_outer_relay_that_restarts_goes_on(
    autojump_clock: Clock, net: VirtualNetwork
) -> None:
    registry = WatchedRegistry()
    client = net.socket(("127.0.0.1", 0))
    async with open_rig(net, cluster=FAR) as inner:
        transceiver = inner.transceivers[1]
        async with open_outer(net, inner, registry) as outer:
            await connect(client, outer, inner)
        async with open_outer(net, inner, registry) as outer:
            client.send(RTP, outer.public)
            path = encode_path(client.address, outer.public)
            assert await receive(transceiver) == [path + RTP]
            transceiver.send_framed(path, DTLS, inner.internal)
            assert await receive(client) == [DTLS]
            assert len(registry.asked) == 1


async def test_the_clients_of_a_lost_inner_relay_move_to_the_next(
    autojump_clock: Clock, net: VirtualNetwork
) -> None:
    shared = WatchedRegistry()
    async with (
        open_rig(net) as outer,
        open_rig(net, cluster=FAR, registry=shared) as first,
        open_rig(net, cluster=FAR, registry=shared) as second,
    ):
        inner = {"first": first, "second": second}
        for name, rig in inner.items():
            introduce(outer, rig, FAR, name)
            introduce(rig, outer, CLUSTER, "outer")
        clients = [outer.client() for _ in range(16)]
        served: dict[str, list[Datagrams]] = {"first": [], "second": []}
        for client in clients:
            client.send(outer.request(token(1, cluster=FAR)), outer.public)
            await trio.sleep(0.1)
            name = next(n for n, rig in inner.items() if rig.relay.statistics().provisional_flows)
            await inner[name].answer(1)
            await receive(client)
            served[name].append(client)
        assert all(served.values())  # the hash uses both

        outer.fleet.remove_relay("first")
        await trio.sleep(HOUSEKEEPING_SECONDS + 0.1)
        for client in clients:
            client.send(RTP, outer.public)
            [framed] = await receive(second.transceivers[1])
            assert split(framed) == (encode_path(client.address, outer.public), RTP)
        assert outer.relay.statistics().flows == len(clients)


async def test_flows_wait_for_a_cluster_whose_relays_are_all_gone(
    autojump_clock: Clock, pair: tuple[Rig, Rig]
) -> None:
    outer, inner = pair
    client = outer.client()
    await connect(client, outer, inner)
    outer.fleet.remove_relay("inner")
    await trio.sleep(2 * HOUSEKEEPING_SECONDS)
    client.send(RTP, outer.public)
    assert await silence(inner.transceivers[1])
    assert outer.relay.statistics().flows == 1
    introduce(outer, inner, FAR, "restarted under another name")
    await trio.sleep(HOUSEKEEPING_SECONDS + 0.1)
    client.send(RTP, outer.public)
    assert split((await receive(inner.transceivers[1]))[0])[1] == RTP
