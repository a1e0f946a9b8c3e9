"""Properties of the DTLS machine and its record layer under damaged datagrams."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RemoteProtocolError
from edge.webrtc.dtls import DtlsClosed, DtlsData
from edge.webrtc.dtls_records import (
    ContentType,
    Record,
    decode_message_sequences,
    decode_records,
    pack,
)
from tests.support.examples import examples
from tests.webrtc.dtls_pair import Pair, datagrams, events


@lru_cache
def recorded() -> tuple[tuple[int, bytes], ...]:
    """(receiver, datagram) of one handshake, some data and a goodbye; replayed into others."""
    pair, log = Pair(), []
    flight, receiver = pair.start(), 1
    while flight:
        log += [(receiver, datagram) for datagram in flight]
        outputs = [o for d in flight for o in pair.machines[receiver].receive(d, now=0.0)]
        flight, receiver = datagrams(outputs), 1 - receiver
    for sender, machine in enumerate(pair.machines):
        log += [(1 - sender, d) for d in datagrams(machine.send(b"data") + machine.close())]
    return tuple(log)


Mutation = tuple[int, int, int]


def mutate(datagram: bytes, mutation: Mutation) -> bytes:
    kind, position, value = mutation
    position %= len(datagram)
    match kind:
        case 0:
            return datagram[:position] + bytes([value]) + datagram[position + 1 :]
        case 1:
            return datagram[:position]
        case 2:
            return datagram[:position] + bytes([value]) * 3 + datagram[position:]
        case _:
            return datagram + datagram[position:]


mutations = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 699), st.integers(0, 255)), min_size=1, max_size=6
)


@examples(20)
@given(mutations, st.integers(0, 3))
def test_mutated_datagrams_never_raise(changes: list[Mutation], good: int) -> None:
    """``good`` whole flights, then damage at every later step."""
    pair = Pair()
    flight, receiver = pair.start(), 1
    for step in range(4):
        damaged = [mutate(d, change) for d in flight for change in changes if step >= good]
        outputs = [o for d in damaged for o in pair.machines[receiver].receive(d, now=0.0)]
        outputs += [o for d in flight for o in pair.machines[receiver].receive(d, now=0.0)]
        flight = pair.note(receiver, outputs)
        receiver = 1 - receiver
    for machine in pair.machines:
        while machine.deadline < 1.0:
            machine.tick(now=machine.deadline)
        machine.close()


@examples(15)
@given(mutations)
def test_an_established_pair_is_unharmed_by_damage(changes: list[Mutation]) -> None:
    pair = Pair()
    pair.connect()
    for receiver, datagram in recorded():
        for change in changes:
            damaged = mutate(datagram, change)
            assert events(pair.machines[receiver].receive(damaged, now=9.0)) == []
    pair.transfer(0, datagrams(pair.client.send(b"unharmed")))
    assert pair.server_events[-1] == DtlsData(b"unharmed")
    pair.transfer(1, datagrams(pair.server.close()))
    assert pair.client_events[-1] == DtlsClosed()


records = st.builds(
    Record,
    st.sampled_from(ContentType),
    st.sampled_from([0xFEFF, 0xFEFD]),
    st.integers(0, 0xFFFF),
    st.integers(0, (1 << 48) - 1),
    st.binary(min_size=1, max_size=300),
)


@given(st.lists(records, min_size=1, max_size=12), st.integers(64, 1200))
def test_packed_records_come_back(chain: list[Record], mtu: int) -> None:
    packed = pack(chain, mtu)
    assert [record for datagram in packed for record in decode_records(datagram)] == chain
    assert all(len(d) <= mtu or len(decode_records(d)) == 1 for d in packed)


@given(st.binary(min_size=1, max_size=200))
def test_decoders_yield_a_value_or_blame_the_peer(data: bytes) -> None:
    for decode in (decode_records, decode_message_sequences):
        with suppress(RemoteProtocolError):
            assert decode(data)
