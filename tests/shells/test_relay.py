"""The relay on a virtual network: who reaches whom, and above all who does not."""

from __future__ import annotations

import random

import pytest
import structlog
import trio
from trio.abc import Clock

from edge.errors import Drop
from edge.registry.protocol import FlowRecord, Slot
from edge.routing import OWNER_QUIET
from edge.token import TokenKey, TokenSealer
from edge.wire import stun
from edge.wire.spp import encode_path, split
from tests.support.clock import VirtualClock
from tests.support.net import Link, VirtualNetwork, open_network, receive, silence
from tests.support.relay_rig import (
    CLUSTER,
    DTLS,
    IDLE,
    RTP,
    UNIX,
    Rig,
    open_rig,
    record,
    relay_carries_a_call,
    token,
)

# The way of a call.


async def test_relay_carries_a_call(autojump_clock: Clock, net: VirtualNetwork) -> None:
    await relay_carries_a_call(net)


async def test_every_request_goes_by_its_token(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    request = rig.request(token(2))
    client.send(request, rig.public)
    [framed] = await receive(rig.transceivers[2])
    assert split(framed)[1] == request
    assert await silence(rig.transceivers[1])


async def test_a_call_survives_a_bad_network(autojump_clock: Clock) -> None:
    link = Link(latency=0.02, jitter=0.02, loss=0.2, duplicate=0.2, reorder=0.2)
    async with open_network(seed=3, link=link) as net, open_rig(net) as rig:
        client = rig.client()

        async def answer_all() -> None:
            while True:
                await rig.answer(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_all)
            while rig.relay.statistics().flows == 0:
                client.send(rig.request(token(1)), rig.public)
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        for _ in range(100):
            rig.to_client(1, client.address, RTP)
        await trio.sleep(1.0)
        got = len([one for one in await receive(client) if one == RTP])
        assert 20 < got < 200
        assert set(rig.drops()) == set()


async def test_a_client_that_moves_goes_on_after_its_next_check(
    autojump_clock: Clock, net: VirtualNetwork, rig: Rig
) -> None:
    client = net.socket(("127.0.0.1", 0))
    await rig.connect(client, 1)
    client.rebind(("127.0.0.1", 0))
    client.send(RTP, rig.public)
    assert await silence(rig.transceivers[1])
    await rig.connect(client, 1)
    client.send(RTP, rig.public)
    assert split((await receive(rig.transceivers[1]))[0])[1] == RTP


# What strangers send.


@pytest.mark.parametrize(
    "bad",
    [
        token(1, expiry=UNIX),
        TokenSealer(TokenKey.derive("some other secret")).seal(1, CLUSTER, UNIX + 60, 1),
        "A" * 23,
        "",
        "short",
        "é" * 23,
        "x" * 300,
    ],
)
async def test_bad_tokens_are_dropped_and_nobody_is_told(
    autojump_clock: Clock, rig: Rig, bad: str
) -> None:
    client = rig.client()
    client.send(rig.request(bad), rig.public)
    assert await silence(rig.transceivers[1])
    assert await silence(client)
    assert rig.drops() == {Drop.BAD_TOKEN: 1}
    assert rig.relay.statistics().provisional_flows == 0


async def test_flipped_bits_in_a_token(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    request = rig.request(token(1))
    start = request.index(token(1).encode())
    for bit in range(23 * 8):
        changed = bytearray(request)
        changed[start + bit // 8] ^= 1 << bit % 8
        client.send(bytes(changed), rig.public)
    assert await silence(rig.transceivers[1])
    assert await silence(client)
    drops = rig.drops()
    assert drops.pop(Drop.BAD_TOKEN) + drops.pop(Drop.MALFORMED, 0) == 23 * 8
    assert drops == {}


async def test_a_token_for_nobody(autojump_clock: Clock, net: VirtualNetwork) -> None:
    async with open_rig(net) as rig:
        for slot in (1, 2):
            rig.fleet.remove(slot)
        rig.client().send(rig.request(token(99)), rig.public)
        await trio.sleep(0.1)
        assert rig.drops() == {Drop.UNKNOWN_SLOT: 1}
        assert rig.fleet.hints > 0
        assert rig.relay.statistics().provisional_flows == 0


async def test_a_token_of_a_cluster_without_relays(autojump_clock: Clock, rig: Rig) -> None:
    rig.client().send(rig.request(token(1, cluster=CLUSTER + 1)), rig.public)
    await trio.sleep(0.1)
    assert rig.drops() == {Drop.UNKNOWN_SLOT: 1}
    assert rig.fleet.hints == 1
    assert await silence(rig.transceivers[1])


async def test_a_forged_source_that_is_the_relay_itself(
    autojump_clock: Clock, net: VirtualNetwork, rig: Rig
) -> None:
    net.transmit(rig.request(token(1)), rig.public, rig.public)
    assert await silence(rig.transceivers[1])
    assert rig.drops() == {Drop.MALFORMED: 1}


@pytest.mark.parametrize(
    ("datagram", "drop"),
    [
        (b"", Drop.MALFORMED),
        (b"\x00", Drop.MALFORMED),
        (b"\x00\x01" + bytes(18), Drop.MALFORMED),
        (b"\xff" * 65_507, Drop.MALFORMED),
        (b"\xff" * 1_200, Drop.UNKNOWN_KIND),
        (b"\x04", Drop.UNKNOWN_KIND),
        (DTLS, Drop.UNKNOWN_FLOW),
        (RTP, Drop.UNKNOWN_FLOW),
        (stun.encode_success(bytes(12), ("192.0.2.1", 1), password="p"), Drop.UNKNOWN_FLOW),
    ],
)
async def test_datagrams_of_strangers_are_dropped(
    autojump_clock: Clock, rig: Rig, datagram: bytes, drop: Drop
) -> None:
    client = rig.client()
    client.send(datagram, rig.public)
    assert await silence(rig.transceivers[1])
    assert await silence(client)
    assert rig.drops() == {drop: 1}


async def test_a_request_that_is_not_answered_opens_nothing(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    client.send(rig.request(token(1)), rig.public)
    await receive(rig.transceivers[1])
    client.send(DTLS, rig.public)
    assert await silence(rig.transceivers[1])
    rig.to_client(1, client.address, DTLS)
    assert await silence(client)
    assert rig.relay.statistics().flows == 0


async def test_an_error_answer_reaches_the_client_and_opens_nothing(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    transaction = rig.transaction()
    client.send(rig.request(token(1), transaction), rig.public)
    await receive(rig.transceivers[1])
    error = stun.encode_error(transaction, 487, "Role Conflict", password="p")
    rig.to_client(1, client.address, error)
    assert await receive(client) == [error]
    rig.to_client(1, client.address, error)
    assert await silence(client)
    assert rig.relay.statistics().flows == 0


async def test_a_flood_of_provisional_flows_leaves_running_calls_alone(
    autojump_clock: Clock, net: VirtualNetwork, rig: Rig
) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    for number in range(500):
        net.transmit(rig.request(token(2)), (f"198.51.100.{number % 250}", number + 1), rig.public)
        if number % 250 == 249:  # no more at once than the queue for strangers holds
            await trio.sleep(0.1)
    client.send(RTP, rig.public)
    assert split((await receive(rig.transceivers[1]))[0])[1] == RTP
    statistics = rig.relay.statistics()
    assert (statistics.flows, statistics.provisional_flows) == (1, 16)
    assert statistics.drops == {Drop.TABLE_FULL: 500 - 16}


async def test_noise_raises_nothing_and_is_answered_by_nothing(
    autojump_clock: Clock, net: VirtualNetwork, rig: Rig
) -> None:
    rng = random.Random(5)
    client, stranger = rig.client(), rig.client()
    await rig.connect(client, 1)
    framed = encode_path(client.address, rig.public)
    seeds = [rig.request(token(1)), DTLS, RTP, framed + RTP, framed + rig.request(token(1)), framed]
    for number in range(3_000):
        datagram = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            datagram[rng.randrange(len(datagram))] = rng.randrange(256)
        del datagram[rng.randrange(len(datagram) + 1) :]
        target = rig.public if number % 2 else rig.internal
        sender = stranger if number % 3 else rig.transceivers[2]
        sender.send(bytes(datagram), target)
        if number % 100 == 0:
            await trio.sleep(0.01)
    await trio.sleep(2.0)
    assert Drop.BUG not in rig.drops()
    assert await silence(stranger)
    assert await silence(client)
    await rig.connect(rig.client(), 2)


# What transceivers may not do.


async def test_a_transceiver_may_not_name_a_foreign_client(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    for payload in (DTLS, rig.request("x"), stun.encode_error(bytes(12), 400, "", password=None)):
        rig.to_client(2, client.address, payload)
    rig.to_client(2, client.address, b"")
    assert await silence(client)
    assert rig.drops() == {Drop.NOT_OWNER: 4}
    client.send(RTP, rig.public)
    assert split((await receive(rig.transceivers[1]))[0])[1] == RTP


async def test_a_transceiver_may_not_answer_what_it_can_not_have_seen(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    client.send(rig.request(token(1)), rig.public)
    await receive(rig.transceivers[1])
    success = stun.encode_success(rig.transaction(), ("::1", 1), password="p")
    rig.to_client(2, client.address, success)
    assert await silence(client, seconds=0.1)
    assert rig.relay.statistics().flows == 0


async def test_a_transceiver_may_not_reach_third_parties(autojump_clock: Clock, rig: Rig) -> None:
    victim = rig.client()
    rig.to_client(1, victim.address, DTLS)
    success = stun.encode_success(bytes(12), ("192.0.2.1", 1), password="p")
    rig.to_client(1, victim.address, success)
    assert await silence(victim)
    # A header of another relay, and none at all.
    foreign = encode_path(rig.client().address, ("192.0.2.77", 3478))
    rig.transceivers[1].send_framed(foreign, DTLS, rig.internal)
    rig.transceivers[1].send(DTLS, rig.internal)
    assert await silence(victim)
    assert rig.drops() == {Drop.UNKNOWN_FLOW: 2, Drop.UNKNOWN_RELAY: 1, Drop.MALFORMED: 1}
    assert rig.registry.asked == [victim.address]


async def test_the_internal_port_obeys_no_stranger(autojump_clock: Clock, rig: Rig) -> None:
    client, stranger = rig.client(), rig.client()
    await rig.connect(client, 1)
    for payload in (DTLS, RTP, b""):
        stranger.send_framed(encode_path(client.address, rig.public), payload, rig.internal)
    stranger.send(rig.request(token(1)), rig.internal)
    assert await silence(client)
    assert await silence(stranger)
    assert rig.drops() == {Drop.UNKNOWN_SLOT: 4}
    assert rig.fleet.hints == 4


async def test_the_public_port_obeys_no_transceiver(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    rig.transceivers[1].send_framed(encode_path(client.address, rig.public), RTP, rig.public)
    assert await silence(client)
    assert rig.drops() == {Drop.UNKNOWN_KIND: 1}


# One client address, two sessions.


async def test_a_forged_source_takes_no_live_call_over(
    autojump_clock: Clock, net: VirtualNetwork, rig: Rig
) -> None:
    """Even with a call of his own, whose transceiver answers the forged check."""
    victim = rig.client()
    await rig.connect(victim, 1)
    for second in range(60):
        net.transmit(rig.request(token(2)), victim.address, rig.public)
        await rig.answer(2)
        await receive(victim)
        if second % 5 == 0:
            await rig.connect(victim, 1)
        victim.send(RTP, rig.public)
        assert split((await receive(rig.transceivers[1]))[0])[1] == RTP
        await receive(rig.transceivers[2])
        rig.to_client(1, victim.address, RTP)
        assert await receive(victim) == [RTP]
        await trio.sleep(1.0)
    # The registry still knows the owner, and the attacker is forgotten when he stops.
    assert {record.slot for record in rig.registry.saved} == {1}
    await trio.sleep(OWNER_QUIET)
    await rig.connect(victim, 1)
    rig.to_client(2, victim.address, RTP)
    assert await silence(victim)


async def test_a_forged_source_without_an_answer_changes_nothing(
    autojump_clock: Clock, net: VirtualNetwork, rig: Rig
) -> None:
    victim = rig.client()
    await rig.connect(victim, 1)
    for _ in range(20):
        net.transmit(rig.request(token(2)), victim.address, rig.public)
    await receive(rig.transceivers[2], 20)
    victim.send(RTP, rig.public)
    assert split((await receive(rig.transceivers[1]))[0])[1] == RTP
    assert await silence(rig.transceivers[2])


async def test_a_new_call_on_an_old_address_reaches_the_new_session_at_once(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    await rig.connect(client, 2)
    client.send(DTLS, rig.public)
    assert split((await receive(rig.transceivers[2]))[0])[1] == DTLS
    rig.to_client(2, client.address, DTLS)
    assert await receive(client) == [DTLS]


async def test_a_new_call_inherits_the_address_of_one_that_has_ended(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    await rig.connect(client, 2)
    rig.to_client(1, client.address, b"")
    await trio.sleep(0.1)
    rig.to_client(1, client.address, RTP)
    assert await silence(client)
    client.send(DTLS, rig.public)
    assert split((await receive(rig.transceivers[2]))[0])[1] == DTLS
    assert await silence(rig.transceivers[1])
    assert rig.registry.removed == []
    await rig.connect(client, 2)
    assert rig.registry.saved[-1].slot == 2


async def test_a_new_call_inherits_the_address_of_one_that_went_quiet(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    await trio.sleep(OWNER_QUIET)
    await rig.connect(client, 2)
    client.send(DTLS, rig.public)
    assert split((await receive(rig.transceivers[2]))[0])[1] == DTLS
    assert await silence(rig.transceivers[1])
    assert rig.registry.saved[-1].slot == 2


# Time and records.


async def test_media_does_not_keep_a_flow(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    for _ in range(int(IDLE) - 1):
        client.send(RTP, rig.public)
        await receive(rig.transceivers[1])
        await trio.sleep(1.0)
    await trio.sleep(2.0)
    assert rig.relay.statistics().flows == 0
    client.send(RTP, rig.public)
    assert await silence(rig.transceivers[1], seconds=0.2)


async def test_answered_checks_keep_a_flow_and_renew_its_record_now_and_then(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = rig.client()
    for _ in range(40):
        await rig.connect(client, 1)
        await trio.sleep(2.5)
    assert rig.relay.statistics().flows == 1
    saved = FlowRecord(public=rig.public, client=client.address, cluster=CLUSTER, slot=Slot(1))
    assert set(rig.registry.saved) == {saved}
    assert 4 <= len(rig.registry.saved) <= 6  # 100 s at one in 20 s


async def test_a_flow_given_back_is_gone_from_the_registry(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    await rig.connect(client, 1)
    rig.to_client(1, client.address, b"")
    await trio.sleep(0.1)
    assert rig.relay.statistics().flows == 0
    assert rig.registry.removed == [client.address]
    client.send(RTP, rig.public)
    assert await silence(rig.transceivers[1])


# Ends.


async def test_a_bug_costs_one_datagram(autojump_clock: Clock, rig: Rig) -> None:
    client = rig.client()
    rig.registry.broken = True
    with structlog.testing.capture_logs() as logs:
        await rig.connect(client, 1)
    rig.registry.broken = False
    rig.to_client(1, client.address, DTLS)
    assert await receive(client) == [DTLS]
    assert rig.drops() == {Drop.BUG: 1}
    assert logs == [{"event": "bug in the relay", "exc_info": True, "log_level": "error"}]


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope when its tasks have made some steps."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._steps = steps
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps -= 1
        if self._steps == 0:
            self._scope.cancel()


async def scenario() -> None:
    async with open_network() as net, open_rig(net) as rig:
        client, other = rig.client(), rig.client()
        record(rig, other, 1)
        rig.registry.seconds = 0.01
        other.send(RTP, rig.public)
        await rig.connect(client, 2)
        client.send(RTP, rig.public)
        await receive(rig.transceivers[1])
        await receive(rig.transceivers[2])


def run_cancelled(steps: int) -> bool:
    """Run the scenario until cancelled; returns whether it was. A task left would hang it."""

    async def main() -> bool:
        with trio.CancelScope() as scope:
            trio.lowlevel.add_instrument(CancelAfter(steps, scope))
            await scenario()
        return scope.cancelled_caught

    return trio.run(main, clock=VirtualClock())


def test_a_relay_ends_when_cancelled_at_any_step() -> None:
    steps = 1
    while run_cancelled(steps):
        steps += 1
    assert steps > 40


async def test_a_cancelled_relay_forgets_what_waits(
    autojump_clock: Clock, net: VirtualNetwork
) -> None:
    async with open_rig(net) as rig:
        rig.registry.seconds = 30.0
        rig.client().send(RTP, rig.public)
        await trio.sleep(0.1)
        assert rig.relay.statistics().waiting_lookups == 1
    assert rig.relay.statistics().waiting_lookups == 0
