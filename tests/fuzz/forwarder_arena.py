"""A forwarder between roles whose sockets are ours, and the rounds of mutants that they send.

A round depends on its seed and number alone, and can be kept as a file.
"""

from __future__ import annotations

import json
import random
import socket
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path as File
from typing import Final

import trio

from edge.address import Address
from edge.forwarder.protocol import FIRST_PEER, FlowEntry, Forwarder
from edge.wire.spp import Path, encode_give, encode_path
from tests.fuzz.fuzz_wire import CRASHERS, RTCP, RTP, STUN, mutate_bytes
from tests.support.forwarder_rig import Rig
from tests.support.net import LoopbackNetwork
from tests.wire.test_stun import resized

HOSTS: Final = {"native": "127.88.0.1", "pure": "127.88.0.2"}
FIRST_PORT: Final = 21_001
BURST: Final = 200
"""Less than any queue on the way takes."""
BURSTS: Final = 5
ROUND: Final = BURST * BURSTS
PAYLOADS: Final = 400
MEMBERS: Final = 8
"""Of each role."""
SENTINEL_HOP: Final = 99
MAX_FLOWS: Final = 64
TAKING: Final = 5
"""Turns of the scheduler in which a batch is taken, if there is one."""
SETTLE_SECONDS: Final = 0.002
STUCK_SECONDS: Final = 20.0
DTLS: Final = (
    bytes.fromhex("16feff0000000000000000003a0100002e000000000000002efefd") + bytes(40),
    bytes.fromhex("17fefd000100000000000500100001000000000005") + bytes(8),
)
GIVES: Final = encode_give(1), encode_give(1 << 16)
SEEDS: Final = (*STUN, *DTLS, *RTP, *RTCP, *GIVES)
ROLES: Final = ("client", "transceiver", "peer", "nobody")
HEARERS: Final[Mapping[str, frozenset[str]]] = {
    "client": frozenset({"transceiver", "peer"}),
    "transceiver": frozenset({"client", "peer"}),
    "peer": frozenset({"client", "transceiver"}),
    "nobody": frozenset(),
}
"""Who may hear what a role sends."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A datagram to be: ``way`` chooses the path in front of it, None for none."""

    member: int
    way: int | None
    data: bytes = field(repr=False)


Round = list[tuple[str, list[Mutant]]]
"""Bursts, each of one role."""


# What is sent.


def make_round(seed: int, number: int) -> Round:
    """Make the bursts of a round, which share their payloads: several roles send the same."""
    rng = random.Random(f"{seed}:{number}")
    payloads = [_payload(rng) for _ in range(PAYLOADS)]
    return [
        _burst(rng, role, payloads) for role in rng.choices(ROLES, weights=(4, 3, 2, 1), k=BURSTS)
    ]


def _burst(rng: random.Random, role: str, payloads: Sequence[bytes]) -> tuple[str, list[Mutant]]:
    members, ways = rng.randbytes(BURST), memoryview(rng.randbytes(2 * BURST)).cast("H")
    inside = role != "client"
    return role, [
        Mutant(member % MEMBERS, way if inside and member < 0xF0 else None, data)
        for member, way, data in zip(members, ways, rng.choices(payloads, k=BURST), strict=True)
    ]


def _payload(rng: random.Random) -> bytes:
    dice = rng.randrange(500)
    if dice < 3:
        return (b"", rng.randbytes(rng.randrange(3_000)), bytes(rng.randrange(65_000)))[dice]
    data = rng.choice(SEEDS)
    if dice > 50:
        data = mutate_bytes(rng, data)
    if dice & 1 and len(data) >= 20 and data[0] < 4:
        data = resized(data[: 20 + (len(data) - 20 & ~3)])
    return data


def saved_rounds() -> list[File]:
    """List the rounds that were kept."""
    return sorted(CRASHERS.glob("forwarder-*.json"))


def load_round(file: File) -> Round:
    """Read a round that was kept."""
    return [
        (role, [Mutant(member, way, bytes.fromhex(data)) for member, way, data in mutants])
        for role, mutants in json.loads(file.read_text())
    ]


def save_round(bursts: Round) -> None:
    """Keep a round."""
    CRASHERS.mkdir(exist_ok=True)
    text = json.dumps([(r, [(m.member, m.way, m.data.hex()) for m in ms]) for r, ms in bursts])
    (CRASHERS / f"forwarder-{zlib.crc32(text.encode()):08x}.json").write_text(text)


# Where.


class Arena:
    """A running forwarder between all roles, whose sockets stay the network's to close."""

    def __init__(self, rig: Rig, net: LoopbackNetwork, host: str) -> None:
        self.forwarder: Forwarder = rig.forwarder
        self._public, self._internal = rig.public, rig.internal
        ports = count(FIRST_PORT)  # the same for all engines, so that damage to them is the same
        self._sockets = {
            role: [net.raw((host, next(ports))) for _ in range(MEMBERS)] for role in ROLES
        }
        self._sentinels = net.raw((host, next(ports))), net.raw((host, next(ports)))
        self._host = host
        self._paths: list[Path] = []
        self._count = 0
        self.answers = 0
        self.raised = self._raised_sum = 0
        self.largest_batch = 0
        self._furnish()
        self.flows = self._all_flows()

    def _furnish(self) -> None:
        """Tell the forwarder of hops and flows; every other client is a stranger."""
        transceivers, peers = self._sockets["transceiver"], self._sockets["peer"]
        publics: list[Address] = [(self._host, 9 + number) for number in range(MEMBERS)]
        for number in range(MEMBERS):
            hop, peer = 1 + number, FIRST_PEER + number
            self.forwarder.set_hop(hop, _name(transceivers[number]), group=hop, public=None)
            self.forwarder.set_hop(
                peer, _name(peers[number]), group=FIRST_PEER, public=publics[number]
            )
        for number, sock in enumerate(self._sockets["client"]):
            own, far = (encode_path(_name(sock), at) for at in (self._public, publics[number]))
            if number % 2:
                owner = FIRST_PEER + number if number % 4 == 1 else 1 + number
                self.forwarder.flows.put(own, FlowEntry(owner, 1.0, 1 + number // 2, 1.0))
                self.forwarder.flows.put(far, FlowEntry(1 + number, 1.0))
            self._paths += (own, own, far)
        self._paths.append(encode_path(_name(self._sockets["client"][0]), (self._host, 1)))
        client, hop_socket = self._sentinels
        self.forwarder.set_hop(SENTINEL_HOP, _name(hop_socket), group=SENTINEL_HOP, public=None)
        self._sentinel_path = encode_path(_name(client), self._public)
        self.forwarder.flows.put(self._sentinel_path, FlowEntry(SENTINEL_HOP, 1.0))

    def _all_flows(self) -> list[tuple[Path, FlowEntry]]:
        return sorted(self.forwarder.flows.scan(0, 1 << 20)[1])

    def changed_flows(self) -> int:
        """How many flows are not as they were."""
        return len(set(self.flows) ^ set(self._all_flows()))

    async def burst(self, role: str, mutants: Sequence[Mutant]) -> None:
        """Send what a role sends, wait until it is through, and see who has heard of it."""
        sockets = self._sockets[role]
        to = self._public if role == "client" else self._internal
        for mutant in mutants:
            data = mutant.data
            if mutant.way is not None:
                data = self._framed(mutant.way, data)
            sockets[mutant.member].sendto(data[:65_507], to)
        await self._pass_sentinels()
        for hearer in ROLES:
            heard = sum(map(_drain, self._sockets[hearer]))
            if hearer not in HEARERS[role]:
                self.answers += heard

    def _framed(self, way: int, data: bytes) -> bytes:
        path = self._paths[way % len(self._paths)]
        match way >> 12:
            case 0:  # a damaged header
                header = bytearray(path)
                header[(way >> 6 & 63) % len(path)] ^= way & 63 or 64
                return bytes(header) + data
            case 1:
                return bytes(path) if way & 1024 else data
            case _:
                return path + data

    async def _pass_sentinels(self) -> None:
        """Queues are in order: what comes out last was sent last."""
        client, hop = self._sentinels
        self._count += 1
        mark = b"\x80\x6f" + self._count.to_bytes(8)
        client.sendto(mark, self._public)
        hop.sendto(self._sentinel_path + mark, self._internal)
        with trio.fail_after(STUCK_SECONDS):
            await _wait_for(hop, self._sentinel_path + mark)
            await _wait_for(client, mark)
        await self._wait_until_taken()

    async def _wait_until_taken(self) -> None:
        taken = -1
        while taken != self.raised:
            taken = self.raised
            for _ in range(TAKING):
                await trio.lowlevel.checkpoint()

    async def take_raised(self) -> None:
        """Take what is raised, for ever, as a relay does."""
        while True:
            batch = await self.forwarder.receive()
            self.largest_batch = max(self.largest_batch, len(batch))
            self.raised += len(batch)
            for each in batch:
                self._raised_sum += zlib.crc32(each.payload, each.sender)

    async def outcome(self) -> int:
        """Sum up what became of all so far, in a way that is the same for all engines."""
        await trio.sleep(SETTLE_SECONDS)
        now = self.forwarder.statistics()
        drops = sorted((drop.value, count) for drop, count in now.drops.items() if count)
        counts = replace(now, wakes=0, drops={})
        return zlib.crc32(f"{counts} {drops} {self._raised_sum}".encode())


async def _wait_for(sock: socket.socket, wanted: bytes) -> None:
    while True:
        try:
            if sock.recv(4_096) == wanted:
                return
        except BlockingIOError:
            await trio.sleep(0.0002)


def _drain(sock: socket.socket) -> int:
    count = 0
    while True:
        try:
            sock.recv(64)
        except BlockingIOError:
            return count
        count += 1


def _name(sock: socket.socket) -> Address:
    name: Address = sock.getsockname()[:2]
    return name
