from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.address import Address, format_address, mask_address, parse_address

HOSTS = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).filter(
    lambda ip: isinstance(ip, IPv6Address) and ip.ipv4_mapped is None
).map(str)
ADDRESSES = st.tuples(HOSTS, st.integers(0, 65_535))


@given(ADDRESSES)
def test_what_is_formatted_parses_back(address: Address) -> None:
    assert parse_address(format_address(address)) == address


@given(HOSTS, st.integers(0, 65_535))
def test_a_bare_host_takes_the_default_port(host: str, port: int) -> None:
    assert parse_address(host, default_port=port) == (host, port)
    assert parse_address(f"[{host}]" if ":" in host else host, default_port=port) == (host, port)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:8080", ("127.0.0.1", 8080)),
        ("[::1]:3478", ("::1", 3478)),
        ("[2001:0DB8::0001]:65535", ("2001:db8::1", 65_535)),
        ("[::ffff:192.0.2.1]:80", ("192.0.2.1", 80)),
    ],
)
def test_text_forms(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":80",
        "[]:80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1: 80",
        "127.0.0.1:８０",
        "127.0.0.1:" + "9" * 5_000,
        "127.0.0.256:80",
        "[127.0.0.1:80",
        "127.0.0.1]:80",
        "[127.0.0.1]:80",
        "[[::1]]:80",
        "[::1:80",
        "::1]:80",
        "[::1]80",
        "::1",
        "[::1]",
        "[localhost]:80",
        "example.org:80",
        "fe80::1%eth0",
        "[fe80::1%eth0]:80",
    ],
)
def test_a_wrong_text_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port"):
        parse_address(text)


@given(st.text(alphabet="0123456789abcf:.[]% -", max_size=30), st.none() | st.just(3478))
def test_any_text_is_an_address_or_a_value_error(text: str, default_port: int | None) -> None:
    try:
        host, port = parse_address(text, default_port=default_port)
    except ValueError:
        return
    assert parse_address(format_address((host, port))) == (host, port)
    assert 0 <= port <= 65_535


@pytest.mark.parametrize("host", ["127.0.0.1", "2001:db8::1"])
def test_an_empty_port_is_no_default(host: str) -> None:
    text = format_address((host, 80)).removesuffix("80")
    with pytest.raises(ValueError, match="port"):
        parse_address(text, default_port=3478)


@given(ADDRESSES)
def test_a_mask_hides_host_and_port(address: Address) -> None:
    network, _, bits = mask_address(address).partition("/")
    if ":" in address[0]:
        assert bits == "48"
        assert int(IPv6Address(network)) == int(IPv6Address(address[0])) >> 80 << 80
    else:
        assert bits == "24"
        assert int(IPv4Address(network)) == int(IPv4Address(address[0])) >> 8 << 8


def test_masks() -> None:
    assert mask_address(("192.0.2.77", 1234)) == "192.0.2.0/24"
    assert mask_address(("2001:db8:1:2::77", 1234)) == "2001:db8:1::/48"
