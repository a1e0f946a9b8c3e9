"""Mutated datagrams through the native loop: all accounted for, and handled as the twin does."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import trio

from edge.address import Address
from edge.datagram import bind_udp
from edge.errors import Drop
from edge.forwarder.protocol import FIRST_PEER, FlowEntry
from edge.wire.spp import Path, encode_give, encode_path, split
from tests.support import forwarder_rig as contract
from tests.support.forwarder_rig import ASKED, DTLS, ERROR, NOISE, RTP, SUCCESS, UNASKED, UNSOUND
from tests.support.native_rig import HOP, HOST, Rig, open_rig
from tests.support.net import open_loopback

LONG: Final = RTP.ljust(2_030), RTP.ljust(2_100)
NAMES: Final = (
    contract.stun(0x0001, contract.USERNAME, contract.USERNAME),
    contract.stun(0x0001, b"\x00\x06\x02\x01" + bytes(516)),
    contract.stun(0x0001, b"\x00\x06\x02\x02" + bytes(516)),
)
GIVES: Final = encode_give(HOP), encode_give(1 << 16)
SEEDS: Final = (*UNSOUND, *UNASKED, *ASKED, *NAMES, *GIVES, SUCCESS, ERROR, RTP, DTLS, NOISE, *LONG)
ROUNDS: Final = 500
BATCH: Final = 200
FAR: Final[Address] = "192.0.2.1", 3478


def mutate(dice: random.Random, seed: bytes) -> bytes:
    """Change some bytes, cut, repeat or extend."""
    data = bytearray(seed)
    for _ in range(dice.randrange(4)):
        if data:
            data[dice.randrange(min(len(data), 64))] = dice.choice((0, 1, 4, 6, 255, 0x56, 0x11))
    match dice.randrange(6):
        case 0:
            del data[dice.randrange(len(data) + 1) :]
        case 1:
            data *= dice.randrange(1, 4)
        case 2:
            data += dice.randbytes(dice.choice((1, 4, 38, 1_900)))
    return bytes(data)


DECIDED: Final = {
    Drop.MALFORMED,
    Drop.UNKNOWN_KIND,
    Drop.UNKNOWN_RELAY,
    Drop.NOT_OWNER,
    Drop.LOOP,
}


async def test_both_loops_decide_alike() -> None:
    """The twin is the measure: what goes where, and what is dropped for which reason."""
    outcomes = []
    for kind in ("pure", "native"):
        dice, taken = random.Random(5), Counter[str]()
        async with open_loopback() as net:
            opened = contract.rig_opener(net, contract.MAKERS[kind], HOST)(strangers_per_second=1e6)
            async with opened as rig, trio.open_nursery() as nursery:
                nursery.start_soon(take_all, rig, taken)
                for wait in send_mutated(rig, dice, 6_000):
                    await trio.sleep(wait)
                await trio.sleep(0.1)
                now = rig.forwarder.statistics()
                nursery.cancel_scope.cancel()
        outcomes.append((taken, dict(now.drops), replace(now, wakes=0, drops={})))
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0][1]) == DECIDED


def send_mutated(rig: contract.Rig, dice: random.Random, count: int) -> Iterator[float]:
    """Send, slowly, from everybody to both sockets; yields what to sleep."""
    owner, other, (peer, outside) = rig.transceiver(3), rig.transceiver(4), rig.peer(FIRST_PEER)
    _, of_another = rig.peer(FIRST_PEER + 1)
    paths = [encode_path(rig.client.address, a) for a in (rig.public, outside, of_another)]
    stranger = rig.socket()
    for path in paths[:2]:
        rig.flow(3, path=path)
    for number in range(count):
        data, sender = mutate(dice, dice.choice(SEEDS)), dice.choice((0, 1, 2, 3, 4))
        if sender < 2:
            (rig.client, stranger)[sender].send(data, rig.public)
        else:
            framed = mutate_path(dice, dice.choice(paths)) + data
            (owner, other, peer)[sender - 2].send(framed, rig.internal)
        if number % 20 == 19:
            yield 0.004


def mutate_path(dice: random.Random, path: Path) -> bytes:
    """Cut it, or change the magic or the proxy, now and then."""
    match dice.randrange(12):
        case 0:
            return path[: dice.randrange(30)]  # no port: those differ from run to run
        case 1:
            return b"\x56\xed" + path[2:]
        case 2:
            return path[:33] + bytes([path[33] ^ 1]) + path[34:]
    return path


async def take_all(rig: Rig | contract.Rig, taken: Counter[str]) -> None:
    while True:
        for raised in await rig.forwarder.receive():
            assert split(raised.path + raised.payload) == (raised.path, raised.payload)
            assert raised.sender in (0, HOP, 4, FIRST_PEER)
            taken["raised"] += 1
            taken[f"from {raised.sender}"] += 1


def accounted(rig: Rig, taken: Counter[str]) -> int:
    now = rig.forwarder.statistics()
    forwarded = now.packets_to_transceivers + now.packets_to_clients
    return forwarded + taken["raised"] + sum(now.drops.values())


async def test_every_datagram_is_accounted_for() -> None:
    """100,000 mutated ones, from a client, a stranger, a transceiver and a peer."""
    dice, taken, sent = random.Random(11), Counter[str](), 0
    async with open_rig() as rig, trio.open_nursery() as nursery:
        nursery.start_soon(take_all, rig, taken)
        socks = client, stranger, hop, peer = [bind_udp((HOST, 0)) for _ in range(4)]
        with contextlib.ExitStack() as stack:
            for sock in socks:
                stack.enter_context(sock)
            rig.forwarder.set_hop(HOP, hop.getsockname(), group=HOP, public=None)
            rig.forwarder.set_hop(FIRST_PEER, peer.getsockname(), group=FIRST_PEER, public=FAR)
            paths = [encode_path(client.getsockname(), proxy) for proxy in (rig.public, FAR)]
            for path in paths:
                assert rig.forwarder.flows.put(path, FlowEntry(HOP, 1.0))
            for _ in range(ROUNDS):
                for _ in range(BATCH):
                    data, sock = mutate(dice, dice.choice(SEEDS)), dice.choice(socks)
                    if sock in (client, stranger):
                        sock.sendto(data, rig.public)
                    else:
                        sock.sendto(mutate(dice, dice.choice(paths) + data), rig.internal)
                sent += BATCH
                with trio.fail_after(5):
                    while accounted(rig, taken) < sent:
                        await trio.sleep(0.0005)
            assert accounted(rig, taken) == sent
            assert len(rig.forwarder.flows) == 2
            drops = rig.forwarder.statistics().drops
            assert set(drops) == DECIDED - {Drop.LOOP}
            assert min(drops.values()) > 1_000
            nursery.cancel_scope.cancel()
