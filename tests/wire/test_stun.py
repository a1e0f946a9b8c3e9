from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Callable
from functools import partial

import pytest
from aioice import stun as aioice_stun
from hypothesis import given
from hypothesis import strategies as st

from edge.address import Address
from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.wire import stun, stun_peek
from edge.wire.stun import BindingError, BindingRequest, BindingSuccess
from edge.wire.stun_peek import MessageClass

TRANSACTION = bytes(range(12))
PASSWORD = "VOkJxbRl1RmTxUk/WvJxBt"

# RFC 5769, sections 2.1 to 2.3 (short-term credential PASSWORD).
RFC_TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
RFC_REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
RFC_RESPONSE_V4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RFC_RESPONSE_V6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def message(*attributes: bytes, message_type: int = 0x0001) -> bytes:
    body = b"".join(attributes)
    return struct.pack("!HHI", message_type, len(body), 0x2112A442) + TRANSACTION + body


def resized(datagram: bytes) -> bytes:
    return datagram[:2] + struct.pack("!H", len(datagram) - 20) + datagram[4:]


def signed(datagram: bytes, password: str = PASSWORD) -> bytes:
    """An independent MESSAGE-INTEGRITY (RFC 8489, 14.5)."""
    covered = datagram[:2] + struct.pack("!H", len(datagram) + 4) + datagram[4:]
    return resized(datagram + attribute(8, hmac.digest(password.encode(), covered, "sha1")))


def fingerprinted(datagram: bytes) -> bytes:
    """An independent FINGERPRINT (RFC 8489, 14.7)."""
    covered = datagram[:2] + struct.pack("!H", len(datagram) - 12) + datagram[4:]
    crc = zlib.crc32(covered) ^ 0x5354554E
    return resized(datagram + attribute(0x8028, struct.pack("!I", crc)))


USERNAME = attribute(0x0006, b"evtj:h6vY")
PRIORITY = attribute(0x0024, struct.pack("!I", 1_853_824_767))
CHROMIUM_REQUEST = fingerprinted(
    signed(
        message(
            attribute(0x0006, b"A" * 23 + b":h6vY"),
            attribute(0xC057, bytes.fromhex("00010032")),  # GOOG-NETWORK-INFO
            attribute(0x802A, bytes.fromhex("932ff9b151263b36")),
            attribute(0x0025, b""),
            attribute(0xC05C, bytes(8)),  # GOOG-DELTA and its like
            attribute(0xC059, b""),
            attribute(0x8023, bytes(8)),
            PRIORITY,
        )
    )
)

SIGNED = (RFC_REQUEST, RFC_RESPONSE_V4, RFC_RESPONSE_V6, CHROMIUM_REQUEST)
GOLDEN = {
    "RFC 5769 request": RFC_REQUEST,
    "RFC 5769 response, IPv4": RFC_RESPONSE_V4,
    "RFC 5769 response, IPv6": RFC_RESPONSE_V6,
    "Chromium request": CHROMIUM_REQUEST,
    "error 487": stun.encode_error(TRANSACTION, 487, "Role Conflict", password=PASSWORD),
    "error 420": stun.encode_error(TRANSACTION, 420, "", password=None, unknown=(0x7777, 0x1234)),
    "indication": message(message_type=0x0011),
}


decode_request = partial(stun.decode_request, password=PASSWORD)
decode_response = partial(stun.decode_response, password=PASSWORD)


def refused(decode: Callable[[bytes], object], datagram: bytes) -> Drop:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(datagram)
    return caught.value.drop


# Known messages.


def test_rfc_5769_request() -> None:
    assert stun_peek.peek(RFC_REQUEST) == (MessageClass.REQUEST, RFC_TRANSACTION)
    assert stun_peek.peek_username(RFC_REQUEST) == "evtj:h6vY"
    assert decode_request(RFC_REQUEST) == BindingRequest(
        transaction_id=RFC_TRANSACTION,
        username="evtj:h6vY",
        priority=0x6E0001FF,
        use_candidate=False,
        controlling=None,
        controlled=0x932FF9B151263B36,
        unknown_required=(),
    )


@pytest.mark.parametrize(
    ("datagram", "host"),
    [
        (RFC_RESPONSE_V4, "192.0.2.1"),
        (RFC_RESPONSE_V6, "2001:db8:1234:5678:11:2233:4455:6677"),
    ],
)
def test_rfc_5769_responses(datagram: bytes, host: str) -> None:
    expected = BindingSuccess(RFC_TRANSACTION, (host, 32_853))
    assert decode_response(datagram) == expected


def test_chromium_request_with_attributes_nobody_knows() -> None:
    request = decode_request(CHROMIUM_REQUEST)
    assert request.username == stun_peek.peek_username(CHROMIUM_REQUEST) == "A" * 23 + ":h6vY"
    assert request.use_candidate
    assert request.controlling == 0x932FF9B151263B36
    assert request.controlled is None
    assert request.unknown_required == ()


def test_no_secret_in_a_repr() -> None:
    request = decode_request(CHROMIUM_REQUEST)
    response = decode_response(RFC_RESPONSE_V4)
    assert "h6vY" not in repr(request)
    assert "192.0.2.1" not in repr(response)


# Round trips.


@given(
    transaction_id=st.binary(min_size=12, max_size=12),
    username=st.text(alphabet="abcXYZ019+/:", min_size=1, max_size=513),
    password=st.text(alphabet="abcXYZ019+/", min_size=22, max_size=64),
    priority=st.integers(0, 2**32 - 1),
    use_candidate=st.booleans(),
    controlling=st.none() | st.integers(0, 2**64 - 1),
    controlled=st.none() | st.integers(0, 2**64 - 1),
)
def test_request_round_trip(
    transaction_id: bytes,
    username: str,
    password: str,
    priority: int,
    use_candidate: bool,
    controlling: int | None,
    controlled: int | None,
) -> None:
    datagram = stun.encode_request(
        transaction_id,
        username=username,
        password=password,
        priority=priority,
        use_candidate=use_candidate,
        controlling=controlling,
        controlled=controlled,
    )
    assert stun_peek.peek(datagram) == (MessageClass.REQUEST, transaction_id)
    assert stun_peek.peek_username(datagram) == username
    assert stun.decode_request(datagram, password=password) == BindingRequest(
        transaction_id, username, priority, use_candidate, controlling, controlled, ()
    )
    assert aioice_stun.parse_message(datagram).attributes["USERNAME"] == username


HOSTS = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str).filter(
    lambda host: not host.startswith("::ffff:")
)


@given(st.binary(min_size=12, max_size=12), st.tuples(HOSTS, st.integers(0, 65_535)))
def test_success_round_trip(transaction_id: bytes, mapped: Address) -> None:
    datagram = stun.encode_success(transaction_id, mapped, password=PASSWORD)
    expected = BindingSuccess(transaction_id, mapped)
    assert decode_response(datagram) == expected


@given(
    st.integers(300, 699),
    st.text(max_size=20),
    st.none() | st.just(PASSWORD),
    st.lists(st.integers(0, 65_535), max_size=8),
)
def test_error_round_trip(code: int, reason: str, password: str | None, unknown: list[int]) -> None:
    datagram = stun.encode_error(TRANSACTION, code, reason, password=password, unknown=unknown)
    expected = BindingError(TRANSACTION, code)
    assert decode_response(datagram) == expected


def test_error_names_the_unknown_attributes() -> None:
    datagram = GOLDEN["error 420"]
    assert attribute(0x000A, bytes.fromhex("77771234")) in datagram


def test_a_v4_mapped_answer_is_plain_ipv4() -> None:
    datagram = stun.encode_success(TRANSACTION, ("::ffff:192.0.2.1", 9), password=PASSWORD)
    response = decode_response(datagram)
    assert response == BindingSuccess(TRANSACTION, ("192.0.2.1", 9))


def test_aioice_accepts_what_we_write() -> None:
    datagram = stun.encode_success(TRANSACTION, ("192.0.2.1", 9), password=PASSWORD)
    parsed = aioice_stun.parse_message(datagram)
    assert parsed.check_message_integrity(PASSWORD.encode())
    assert parsed.attributes["XOR-MAPPED-ADDRESS"] == ("192.0.2.1", 9)


def test_a_wrong_transaction_id_is_ours_to_blame() -> None:
    with pytest.raises(LocalProtocolError):
        stun.encode_success(b"short", ("192.0.2.1", 9), password=PASSWORD)


# Header.


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        RFC_REQUEST[:19],
        RFC_REQUEST[:-1],
        RFC_REQUEST + b"\0",
        RFC_REQUEST + bytes(4),
        RFC_REQUEST[:4] + b"\x21\x12\xa4\x43" + RFC_REQUEST[8:],
        b"\x00\x03" + RFC_REQUEST[2:],  # Allocate
        b"\x40\x01" + RFC_REQUEST[2:],
        message() + b"\0\0",
        resized(message() + b"\0\0"),
        bytes(65_507),
    ],
)
def test_a_wrong_header_is_malformed(datagram: bytes) -> None:
    assert refused(stun_peek.peek, datagram) is Drop.MALFORMED
    assert refused(stun_peek.peek_username, datagram) is Drop.MALFORMED
    assert refused(decode_request, datagram) is Drop.MALFORMED
    assert refused(decode_response, datagram) is Drop.MALFORMED


def test_classes() -> None:
    for message_class in MessageClass:
        datagram = message(message_type=message_class.value)
        assert stun_peek.peek(datagram) == (message_class, TRANSACTION)


def test_a_request_is_no_response_and_back() -> None:
    assert refused(decode_response, RFC_REQUEST) is Drop.MALFORMED
    assert refused(decode_request, RFC_RESPONSE_V4) is Drop.MALFORMED


# Integrity.


def test_integrity_is_required_and_checked() -> None:
    unsigned = message(USERNAME, PRIORITY)
    for datagram in (
        unsigned,
        fingerprinted(unsigned),
        signed(unsigned, "another password"),
        signed(unsigned)[:-1] + bytes([signed(unsigned)[-1] ^ 1]),
    ):
        drop = refused(decode_request, datagram)
        assert drop is Drop.BAD_INTEGRITY
    assert decode_request(signed(unsigned)).username == "evtj:h6vY"


def test_any_flipped_bit_is_refused() -> None:
    for datagram, decode in ((RFC_REQUEST, decode_request), (RFC_RESPONSE_V6, decode_response)):
        fingerprint = len(datagram) - 8
        for bit in range(len(datagram) * 8):
            flipped = bytearray(datagram)
            flipped[bit // 8] ^= 1 << bit % 8
            if bit // 8 in (fingerprint, fingerprint + 1):  # now an attribute that is ignored
                assert decode(bytes(flipped)) == decode(datagram)
            else:
                refused(decode, bytes(flipped))


def test_a_wrong_fingerprint_is_refused_and_none_is_fine() -> None:
    good = signed(message(USERNAME))
    bad = resized(good + attribute(0x8028, bytes(4)))
    short = resized(good + attribute(0x8028, b"\0"))
    for datagram in (bad, short):
        drop = refused(decode_request, datagram)
        assert drop is Drop.BAD_INTEGRITY
    assert decode_request(good)


def test_an_error_may_lack_integrity_but_not_lie() -> None:
    value = attribute(0x0009, bytes([0, 0, 4, 87]))
    plain = message(value, message_type=0x0111)
    assert decode_response(plain) == BindingError(TRANSACTION, 487)
    forged = signed(plain, "another password")
    assert refused(decode_response, forged) is Drop.BAD_INTEGRITY


def test_a_success_needs_integrity() -> None:
    plain = message(attribute(0x0020, bytes.fromhex("0001a147e112a643")), message_type=0x0101)
    assert refused(decode_response, plain) is Drop.BAD_INTEGRITY
    assert decode_response(signed(plain))


# Attributes.


def test_a_second_username_or_integrity_is_refused() -> None:
    doubled = signed(message(USERNAME, USERNAME))
    assert refused(stun_peek.peek_username, doubled) is Drop.MALFORMED
    assert refused(decode_request, doubled) is Drop.MALFORMED
    twice_signed = signed(signed(message(USERNAME)))
    assert refused(decode_request, twice_signed) is Drop.MALFORMED


def test_what_follows_integrity_counts_for_nothing() -> None:
    trailing = (
        attribute(0x0006, b"evil:evil"),
        attribute(0x0025, b""),
        attribute(0x7777, b"required by nobody"),
        attribute(0x0024, bytes(4)),
        attribute(0x001C, bytes(32)),  # MESSAGE-INTEGRITY-SHA256
    )
    plain = signed(message(USERNAME, PRIORITY))
    datagram = fingerprinted(resized(plain + b"".join(trailing)))
    assert decode_request(datagram) == decode_request(plain)
    assert stun_peek.peek_username(datagram) == "evtj:h6vY"
    only_after = resized(signed(message(PRIORITY)) + USERNAME)
    assert refused(stun_peek.peek_username, only_after) is Drop.MALFORMED
    assert refused(decode_request, only_after) is Drop.MALFORMED


def test_fingerprint_is_last() -> None:
    datagram = resized(fingerprinted(signed(message(USERNAME))) + PRIORITY)
    assert refused(decode_request, datagram) is Drop.MALFORMED
    before = signed(fingerprinted(message(USERNAME)))
    assert refused(decode_request, before) is Drop.MALFORMED


def test_of_other_repeated_attributes_the_first_counts() -> None:
    second = attribute(0x0024, bytes(4))
    request = decode_request(signed(message(USERNAME, PRIORITY, second)))
    assert request.priority == 1_853_824_767


def test_unknown_required_attributes_are_named() -> None:
    datagram = signed(
        message(
            attribute(0x7FFF, b"x"), USERNAME, attribute(0x0003, bytes(4)), attribute(0x8000, b"")
        )
    )
    request = decode_request(datagram)
    assert request.unknown_required == (0x7FFF, 0x0003)


@pytest.mark.parametrize(
    "bad",
    [
        attribute(0x0024, b"abc"),
        attribute(0x0025, b"abcd"),
        attribute(0x8029, bytes(4)),
        attribute(0x802A, bytes(9)),
    ],
)
def test_a_value_of_a_wrong_length_is_malformed(bad: bytes) -> None:
    datagram = signed(message(USERNAME, bad))
    assert refused(decode_request, datagram) is Drop.MALFORMED


@pytest.mark.parametrize(
    "value", [b"", b"\0\0\4", bytes([0, 0, 2, 0]), bytes([0, 0, 7, 0]), bytes([0, 0, 4, 100])]
)
def test_a_wrong_error_code_is_malformed(value: bytes) -> None:
    datagram = message(attribute(0x0009, value), message_type=0x0111)
    assert refused(decode_response, datagram) is Drop.MALFORMED


@pytest.mark.parametrize(
    "value", [b"", bytes(3), bytes(8), b"\0\1" + bytes(5), b"\0\2" + bytes(6), b"\0\1" + bytes(18)]
)
def test_a_wrong_mapped_address_is_malformed(value: bytes) -> None:
    datagram = signed(message(attribute(0x0020, value), message_type=0x0101))
    assert refused(decode_response, datagram) is Drop.MALFORMED


def test_lying_lengths_are_malformed() -> None:
    for length in (10, 13, 500, 65_535):
        datagram = message(struct.pack("!HH", 0x0006, length) + b"evtj:h6v")
        assert refused(stun_peek.peek_username, datagram) is Drop.MALFORMED
        assert refused(decode_request, datagram) is Drop.MALFORMED


def test_username_bounds() -> None:
    longest = message(attribute(0x0006, b"a" * 513))
    assert stun_peek.peek_username(longest) == "a" * 513
    for value in (b"a" * 514, b"\xff\xfe"):
        datagram = message(attribute(0x0006, value))
        assert refused(stun_peek.peek_username, datagram) is Drop.MALFORMED
    assert refused(stun_peek.peek_username, message(PRIORITY)) is Drop.MALFORMED


def test_the_walk_is_bounded() -> None:
    at_the_limit = message(USERNAME, *[attribute(0xC000, b"")] * (stun_peek.MAX_ATTRIBUTES - 1))
    assert stun_peek.peek_username(at_the_limit) == "evtj:h6vY"
    over = message(USERNAME, *[attribute(0xC000, b"")] * stun_peek.MAX_ATTRIBUTES)
    largest = message(*[attribute(0xC000, b"")] * 16_371)
    for datagram in (over, largest):
        assert refused(stun_peek.peek_username, datagram) is Drop.MALFORMED
        assert refused(decode_request, datagram) is Drop.MALFORMED


# Any bytes.


# DTLS inside.


@given(
    st.one_of(st.none(), st.binary(max_size=1_100)),
    st.lists(st.integers(0, 2**32 - 1), max_size=stun.MAX_ACKNOWLEDGED),
)
def test_what_is_carried_is_read_again(data: bytes | None, acknowledged: list[int]) -> None:
    carried = stun.CarriedDtls(data, tuple(acknowledged))
    request = stun.encode_request(
        bytes(12), username="a:b", password="x", priority=1, carried=carried
    )
    assert decode_request(request, password="x").carried == carried
    assert stun_peek.peek_username(request) == "a:b"
    success = stun.encode_success(bytes(12), ("192.0.2.1", 1), password="x", carried=carried)
    answer = decode_response(success, password="x")
    assert isinstance(answer, BindingSuccess)
    assert answer.carried == carried


def test_without_either_attribute_nothing_is_carried() -> None:
    request = stun.encode_request(bytes(12), username="a:b", password="x", priority=1)
    assert decode_request(request, password="x").carried is None


@pytest.mark.parametrize("listed", [bytes(3), bytes(5), bytes(20)])
def test_a_malformed_acknowledgement_acknowledges_nothing(listed: bytes) -> None:
    attributes = [(0x0006, b"a:b"), (0xC071, listed), (0xC070, b"\x16data")]
    request = stun._encode(stun_peek.MessageClass.REQUEST, bytes(12), attributes, "x")
    assert decode_request(request, password="x").carried == stun.CarriedDtls(b"\x16data")


def test_what_is_carried_is_in_no_repr() -> None:
    assert "secret" not in repr(stun.CarriedDtls(b"secret"))


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A golden packet with bytes changed, cut, repeated or appended, its length mostly right."""
    data = bytearray(draw(st.sampled_from(sorted(GOLDEN.values()))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "cut", "repeat", "insert"])):
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(4, 40))]
            case _:
                data[at:at] = draw(st.binary(max_size=8))
    if len(data) >= 20 and draw(st.booleans()):
        del data[20 + (len(data) - 20 & ~3) :]
        data[2:4] = struct.pack("!H", len(data) - 20)
    return bytes(data)


@given(st.one_of(mutants(), st.binary(max_size=120)))
def test_any_bytes_give_a_value_or_a_remote_error(datagram: bytes) -> None:
    username = None
    for decode in (
        stun_peek.peek,
        stun_peek.peek_username,
        decode_request,
        decode_response,
    ):
        try:
            value = decode(datagram)
        except RemoteProtocolError:
            continue
        if isinstance(value, str):
            username = value
        if isinstance(value, BindingRequest):
            assert value.username == username  # the relay and the agent see the same
