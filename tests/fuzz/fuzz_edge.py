"""Mutated datagrams through a relay and a transceiver that serve calls meanwhile.

    python -m tests.fuzz.fuzz_edge --runs 1000000 --seed 7 [--json FILE]

The seeds are what a real call has put on the wire: checks with a valid token, DTLS flights, SRTP
and SRTCP. Mutants come from strangers, from the callers' own addresses, from the relay's place and
from a transceiver's place. A thief, who is a transceiver without a call, a stranger and the callers
themselves tell the relay meanwhile to give the calls' flows to the thief. What must hold: no
exception, no answer to a stranger, and every call hears every packet.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter

import structlog
import trio

from edge.address import Address
from edge.errors import Drop, RemoteProtocolError
from edge.registry.protocol import MAX_SLOT, Slot, TransceiverRecord
from edge.wire.spp import HEADER_BYTES, encode_give, encode_path
from edge.wire.stun import decode_request
from tests.fuzz.fuzz_wire import mutate_bytes
from tests.support.clock import VirtualClock
from tests.support.edge_net import HOST, Phone, VirtualEdge, open_edge
from tests.support.net import Link, VirtualNetwork, VirtualSocket, open_network

CALLS = 4
STRANGERS = 8
BATCH = 50
BATCH_SECONDS = 0.02
"""Virtual time in which a batch is sent: 2,500 mutants a second beside the calls."""
HARVEST = 400


@dataclass
class Result:
    """What a run has shown."""

    runs: int
    seconds: float
    answers_to_strangers: int
    bugs: int
    calls_alive: int
    packets_sent: int
    packets_lost: int
    relay_drops: dict[str, int] = field(default_factory=dict)
    transceiver_drops: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        harm = self.answers_to_strangers + self.bugs + self.packets_lost
        return not harm and self.calls_alive == CALLS


class Tap(VirtualNetwork):
    """A network that keeps the first datagrams of every kind as seeds."""

    def __init__(self) -> None:
        super().__init__(link=Link(latency=0.001))
        self.seeds: list[bytes] = []

    def transmit(self, data: bytes, source: Address, destination: Address) -> None:
        if len(self.seeds) < HARVEST:
            self.seeds.append(data)
        super().transmit(data, source, destination)


class Thief:
    """A transceiver that serves nobody and claims the flows of others."""

    def __init__(self, network: VirtualNetwork, edge: VirtualEdge, internal: Address) -> None:
        self._network, self._public, self._internal = network, edge.public, internal
        self._socket = network.socket((HOST, 0))
        self.record = TransceiverRecord(
            slot=Slot(MAX_SLOT), cluster=0, address=self._socket.address, http_url=""
        )

    def claim(self, rng: random.Random, client: Address, stranger: Address) -> None:
        """Say that a client's flow is the thief's: as himself, as the client, as a stranger."""
        give = encode_give(MAX_SLOT)
        framed = encode_path(client, self._public) + give
        match rng.randrange(3):
            case 0:
                self._network.transmit(framed, self._socket.address, self._internal)
            case 1:
                self._network.transmit(give, client, self._public)
            case _:
                self._network.transmit(framed, stranger, self._internal)


async def attack(runs: int, seed: int) -> Result:
    """Serve calls and send ``runs`` mutants meanwhile."""
    started = perf_counter()
    async with open_network(network=Tap()) as network, open_edge(network) as edge:
        assert isinstance(network, Tap)
        async with AsyncExitStack() as stack:
            phones = [await stack.enter_async_context(edge.call()) for _ in range(CALLS)]
            for phone in phones:
                await phone.connected()
            await trio.sleep(2.0)  # the echo leaves out what a call begins with too much
            settled = _missing(phones)
            strangers = [network.socket((HOST, 0)) for _ in range(STRANGERS)]
            await _bombard(network, edge, phones, strangers, runs, random.Random(seed))
            await trio.sleep(0.5)
            return _judge(edge, phones, strangers, runs, perf_counter() - started, settled)


async def _bombard(
    network: Tap,
    edge: VirtualEdge,
    phones: Sequence[Phone],
    strangers: Sequence[VirtualSocket],
    runs: int,
    rng: random.Random,
) -> None:
    transceiver = (await edge.registry.transceivers())[0].address
    internal = (await edge.registry.relays())[0].internal
    clients = [phone.socket.address for phone in phones]
    paths = [encode_path(client, edge.public) for client in clients]
    thief = Thief(network, edge, internal)
    await edge.registry.put_transceiver(thief.record)
    for number in range(runs):
        data = mutate_bytes(rng, rng.choice(network.seeds))
        thief.claim(rng, rng.choice(clients), rng.choice(strangers).address)
        match rng.randrange(4):
            case 0 if not _is_authentic(data, phones):
                rng.choice(strangers).send(data, edge.public)
            case 1:
                network.transmit(data, rng.choice(clients), edge.public)
            case 2:
                network.transmit(rng.choice(paths) + data, internal, transceiver)
            case _ if len(data) > HEADER_BYTES:  # a bare header gives a flow back, rightly
                network.transmit(data, transceiver, internal)
            case _:
                pass
        if number % BATCH == BATCH - 1:
            await trio.sleep(BATCH_SECONDS)
            await edge.registry.put_transceiver(thief.record)


def _is_authentic(data: bytes, phones: Sequence[Phone]) -> bool:
    """Whether a mutation has left a check valid: then a transceiver rightly answers it."""
    for phone in phones:
        assert phone.caller._answer is not None
        try:
            decode_request(data, password=phone.caller._answer.password)
        except RemoteProtocolError:
            continue
        return True
    return False


def _missing(phones: Sequence[Phone]) -> int:
    now = trio.current_time()
    return sum(phone.caller.journal.statistics(now=now).missing for phone in phones)


def _judge(
    edge: VirtualEdge,
    phones: Sequence[Phone],
    strangers: Sequence[VirtualSocket],
    runs: int,
    seconds: float,
    settled: int,
) -> Result:
    relay = edge.relay.statistics().drops
    transceiver = edge.transceivers[0].totals.drops()
    now = trio.current_time()
    calls = [phone.caller.journal.statistics(now=now) for phone in phones]
    return Result(
        runs=runs,
        seconds=round(seconds, 1),
        answers_to_strangers=sum(each.unread for each in strangers),
        bugs=relay.get(Drop.BUG, 0) + transceiver[Drop.BUG],
        calls_alive=sum(not phone.caller.closed for phone in phones),
        packets_sent=sum(call.sent for call in calls),
        packets_lost=_missing(phones) - settled,
        relay_drops=_named(relay),
        transceiver_drops=_named(transceiver),
    )


def _named(drops: object) -> dict[str, int]:
    assert isinstance(drops, dict | Counter)
    return {drop.value: count for drop, count in sorted(drops.items())}


def run(runs: int, seed: int) -> Result:
    """One attack on Trio's virtual clock."""
    return trio.run(attack, runs, seed, clock=VirtualClock())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    result = run(options.runs, options.seed)
    for name, value in asdict(result).items():
        if isinstance(value, dict):
            for drop, count in value.items():
                print(f"{name + ' ' + drop:<44}{count:>12,}")
        else:
            print(f"{name:<44}{value:>12,}")
    print("passed" if result.passed else f"FAILED, seed {options.seed}")
    if options.json:
        options.json.write_text(json.dumps(asdict(result) | {"passed": result.passed}, indent=2))
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
