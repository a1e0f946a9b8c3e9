from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.address import Address
from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.wire.spp import (
    HEADER_BYTES,
    decode_give,
    decode_path,
    encode_give,
    encode_path,
    split,
)

HOSTS = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str).filter(
    lambda host: not host.startswith("::ffff:")
)
ADDRESSES = st.tuples(HOSTS, st.integers(0, 65_535))

GOLDEN = bytes.fromhex(
    "56ec"
    "00000000000000000000ffffc0000201"  # client 192.0.2.1
    "20010db8000000000000000000000001"  # proxy 2001:db8::1
    "d431"  # client port 54321
    "0d96"  # proxy port 3478
)


def test_the_layout_is_the_published_one() -> None:
    client, proxy = ("192.0.2.1", 54_321), ("2001:db8::1", 3478)
    assert encode_path(client, proxy) == GOLDEN
    assert decode_path(GOLDEN) == (client, proxy)


@given(ADDRESSES, ADDRESSES)
def test_round_trip(client: Address, proxy: Address) -> None:
    path = encode_path(client, proxy)
    assert len(path) == HEADER_BYTES
    assert decode_path(path) == (client, proxy)


def test_a_v4_mapped_host_is_the_ipv4_host() -> None:
    mapped = encode_path(("::ffff:192.0.2.1", 1), ("::ffff:192.0.2.2", 2))
    assert mapped == encode_path(("192.0.2.1", 1), ("192.0.2.2", 2))
    assert decode_path(mapped) == (("192.0.2.1", 1), ("192.0.2.2", 2))


@given(st.binary(max_size=100))
def test_split_gives_back_path_and_payload(payload: bytes) -> None:
    assert split(GOLDEN + payload) == (GOLDEN, payload)


@pytest.mark.parametrize(
    "datagram",
    [b"", GOLDEN[:-1], b"\x56", b"\x56\xed" + GOLDEN[2:], b"\xec\x56" + GOLDEN[2:], bytes(65_507)],
    ids=["empty", "truncated", "one byte", "magic", "byte order", "zeros"],
)
def test_what_is_not_spp_is_refused(datagram: bytes) -> None:
    for decode in (split, decode_path):
        with pytest.raises(RemoteProtocolError) as caught:
            decode(datagram)
        assert caught.value.drop is Drop.MALFORMED


def test_a_path_has_exactly_one_length() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_path(GOLDEN + b"\0")


@given(st.binary(max_size=80))
def test_any_bytes_give_a_value_or_a_remote_error(data: bytes) -> None:
    for decode in (split, decode_path):
        try:
            decode(data)
        except RemoteProtocolError:
            continue
    client, proxy = decode_path((GOLDEN[:2] + data.ljust(36, b"\0"))[:HEADER_BYTES])
    assert encode_path(client, proxy)[2:] == data.ljust(36, b"\0")[:36]


@pytest.mark.parametrize(
    "client", [("example.org", 1), ("192.0.2.1", -1), ("192.0.2.1", 65_536), ("", 0)]
)
def test_our_own_wrong_address_is_a_local_error(client: Address) -> None:
    with pytest.raises(LocalProtocolError):
        encode_path(client, ("192.0.2.1", 1))


@given(st.integers(1, 2**24 - 1))
def test_a_slot_that_is_given_round_trips(slot: int) -> None:
    payload = encode_give(slot)
    assert (len(payload), payload[0]) == (4, 0)
    assert decode_give(payload) == slot


@pytest.mark.parametrize("slot", [-1, 0, 2**24, 2**32])
def test_what_is_no_slot_is_not_given(slot: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_give(slot)


@given(st.binary(max_size=6) | st.binary(max_size=5).map(lambda tail: b"\x00" + tail))
def test_nothing_else_gives(payload: bytes) -> None:
    slot = decode_give(payload)
    assert slot is None or encode_give(slot) == payload
