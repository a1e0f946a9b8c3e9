"""The gate's filter, run by an interpreter; tests/real/test_gate.py runs it in the kernel."""

from __future__ import annotations

import os
import random
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.address import Address
from edge.forwarder.bpf import KEEP, MAX_INSTRUCTIONS, Program
from edge.forwarder.gate import Mix, compile_gate
from edge.wire.stun import CarriedDtls, encode_request
from tests.support.bpf import packet, run

CHECK = encode_request(bytes(12), username="A" * 23 + ":abcd", password="x", priority=1)
RTP = b"\x80\x6f" + bytes(150)
PAYLOADS = {"rtp": RTP, "dtls": b"\x16\xfe\xfd" + bytes(60), "short": b"\x80", "empty": b""}

ports = st.integers(1, 65_535)
hosts = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number))),
    st.integers(1 << 64, 2**128 - 1).map(lambda number: str(IPv6Address(number))),
)
addresses = st.tuples(hosts, ports)
keys = st.integers(0, 2**64 - 1)


def sources(count: int, *, seed: int = 1) -> list[Address]:
    rng = random.Random(seed)
    return [(str(IPv4Address(rng.getrandbits(32))), rng.randrange(1, 65_536)) for _ in range(count)]


def passes(program: Program, source: Address, payload: bytes = RTP, *, lot: float = 0.5) -> bool:
    verdict = run(program, packet(source, payload), random=int(lot * 2**32))
    assert verdict in {0, KEEP}
    return verdict == KEEP


@given(st.lists(addresses, max_size=40), addresses, keys)
def test_known_sources_pass_and_no_others(known: list[Address], other: Address, key: int) -> None:
    program = compile_gate(known, share=0.0, key=key)
    for source in known:
        assert all(passes(program, source, payload) for payload in (*PAYLOADS.values(), CHECK))
    mix = Mix(key)
    assert passes(program, other) == (mix(other) in {mix(source) for source in known})


@given(st.lists(addresses, min_size=1, max_size=60), keys)
def test_a_bloom_filter_forgets_nobody(known: list[Address], key: int) -> None:
    many = [*known, *sources(250)]
    program = compile_gate(many, share=0.0, key=key, limit=256)
    assert len(program) <= 256
    assert all(passes(program, source) for source in many)


@pytest.mark.parametrize(
    ("count", "most"),
    [(0, 0.0), (1, 0.0), (1_000, 0.0), (3_200, 0.0), (5_000, 0.1), (10_000, 0.22)],
)
def test_how_many_strangers_are_taken_for_known(count: int, most: float) -> None:
    known = sources(count)
    program = compile_gate(known, share=0.2, key=7)
    assert len(program) <= MAX_INSTRUCTIONS
    assert all(passes(program, source) for source in known[:300])
    strangers = sources(500, seed=2)
    assert sum(passes(program, source) for source in strangers) <= most * 500


def test_another_key_takes_others_for_known() -> None:
    known, strangers = sources(8_000), sources(400, seed=2)
    programs = [compile_gate(known, share=0.0, key=key) for key in (1, 2)]
    wrong = [{each for each in strangers if passes(program, each)} for program in programs]
    assert wrong[0]
    assert wrong[0] != wrong[1]


@given(st.floats(0.0, 1.0), st.floats(0.0, 0.999))
def test_a_share_of_the_binding_requests_passes(share: float, lot: float) -> None:
    program = compile_gate(sources(3), share=share, key=3)
    stranger = ("192.0.2.1", 5)
    expected = share > 0.0 and int(lot * 2**32) <= int(share * 2**32)
    assert passes(program, stranger, CHECK, lot=lot) == expected
    assert not passes(program, stranger, RTP, lot=lot)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_what_is_no_binding_request_is_dropped(host: str) -> None:
    program = compile_gate([], share=1.0, key=3)

    def passed(payload: bytes) -> bool:
        return passes(program, (host, 5), payload)

    assert passed(CHECK)
    assert not any(map(passed, PAYLOADS.values()))
    assert not passed(b"\x00\x11" + CHECK[2:]), "an indication"
    assert not passed(b"\x01\x01" + CHECK[2:]), "a response"
    assert not passed(CHECK[:4] + bytes(4) + CHECK[8:]), "another cookie"
    assert not passed(CHECK + bytes(4)), "a length that does not fit"
    assert not passed(CHECK[:2] + bytes(2) + CHECK[4:20]), "no USERNAME"
    assert not any(passed(CHECK[:cut]) for cut in range(len(CHECK)))
    long = CHECK[:2] + (1_184).to_bytes(2) + CHECK[4:20] + bytes(1_184)
    assert not passed(long), "longer than any"


def test_a_check_with_dtls_inside_passes_by_lot_too() -> None:
    """A client that never got it through could not be called while a flood lasts."""
    carried = CarriedDtls(bytes(900), (1, 2, 3, 4))
    check = encode_request(
        bytes(12), username="A" * 23 + ":abcd", password="x", priority=1, carried=carried
    )
    assert len(check) > 1_000
    assert passes(compile_gate([], share=1.0, key=3), ("192.0.2.1", 5), check)


@given(addresses, st.binary(max_size=80), keys)
def test_strangers_noise_is_dropped(source: Address, payload: bytes, key: int) -> None:
    assert not passes(compile_gate(sources(5), share=1.0, key=key), source, payload, lot=0.0)


@given(addresses, st.integers(0, 255), st.sampled_from([0, 1, 7, 8, 19, 20, 90]))
def test_without_known_sources_all_webrtc_passes(source: Address, first: int, more: int) -> None:
    program = compile_gate(None, share=0.5, key=3)
    assert passes(program, source, CHECK)
    media = 20 <= first <= 63 or 128 <= first <= 191
    assert passes(program, source, bytes([first]) + os.urandom(more)) == media


def test_without_known_sources_all_stun_passes() -> None:
    program = compile_gate(None, share=0.0, key=3)
    for kind in (0x0001, 0x0101, 0x0111):
        assert passes(program, ("192.0.2.1", 5), kind.to_bytes(2) + CHECK[2:])
    assert not passes(program, ("192.0.2.1", 5), CHECK[:4] + bytes(4) + CHECK[8:])
