"""Redundant audio: on the wire, and in the answer to an offer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RemoteProtocolError
from edge.wire.red import MAX_BLOCKS, RedBlock, decode_red
from edge.wire.sdp import Fingerprint, decode_offer, encode_answer, negotiate

CHROMIUM = (Path(__file__).parent / "golden/chromium_channel.sdp").read_bytes()

REDUNDANT = st.builds(
    RedBlock,
    payload_type=st.integers(0, 127),
    offset=st.integers(0, 2**14 - 1),
    payload=st.binary(max_size=40),
)
PRIMARY = st.builds(
    RedBlock, payload_type=st.integers(0, 127), offset=st.just(0), payload=st.binary(max_size=40)
)


def encode_red(blocks: list[RedBlock]) -> bytes:
    """RFC 2198, section 3, bit by bit."""
    bits = ""
    for block in blocks[:-1]:
        bits += f"1{block.payload_type:07b}{block.offset:014b}{len(block.payload):010b}"
    bits += f"0{blocks[-1].payload_type:07b}"
    headers = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    return headers + b"".join(block.payload for block in blocks)


def test_what_chromium_sends() -> None:
    """One block, 960 samples (20 ms) earlier, of 3 bytes; then the packet's own."""
    packet = bytes.fromhex("ef 0f0003 6f aabbcc 11223344")
    assert decode_red(packet) == (
        RedBlock(111, 960, b"\xaa\xbb\xcc"),
        RedBlock(111, 0, b"\x11\x22\x33\x44"),
    )


def test_a_primary_block_alone() -> None:
    assert decode_red(b"\x6f\x01") == (RedBlock(111, 0, b"\x01"),)
    assert decode_red(b"\x6f") == (RedBlock(111, 0, b""),)


@given(st.lists(REDUNDANT, max_size=4), PRIMARY)
def test_round_trip(redundant: list[RedBlock], primary: RedBlock) -> None:
    blocks = [*redundant, primary]
    assert decode_red(encode_red(blocks)) == tuple(blocks)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xef",  # a header cut short
        bytes.fromhex("ef0f00"),
        bytes.fromhex("ef0f0003"),  # no primary block
        bytes.fromhex("ef0f0003 6f aabb"),  # a block cut short
        bytes.fromhex("ef0f0000") * MAX_BLOCKS + b"\x6f",
    ],
)
def test_malformed(packet: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_red(packet)


def test_as_many_blocks_as_are_served() -> None:
    packet = bytes.fromhex("ef0f0000") * (MAX_BLOCKS - 1) + b"\x6f"
    assert len(decode_red(packet)) == MAX_BLOCKS


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: b"\xef\x0f\x00\x03" + rest))
def test_a_value_or_remote_protocol_error(packet: bytes) -> None:
    try:
        blocks = decode_red(packet)
    except RemoteProtocolError:
        return
    assert encode_red(list(blocks)) == packet


def test_no_payload_in_repr() -> None:
    assert "secret" not in repr(RedBlock(0, 0, b"secret"))


# --- Negotiation ---------------------------------------------------------------------------


def audio_lines(offer: bytes, *, red: bool) -> list[str]:
    answer = encode_answer(
        negotiate(decode_offer(offer), red=red),
        ufrag="A" * 23,
        password="p" * 24,
        fingerprint=Fingerprint("sha-256", ":".join(["AB"] * 32)),
        candidates=[("192.0.2.1", 3478)],
        ssrc=1,
        cname="cname",
        session_id=1,
    )
    starts = ("m=audio", "a=rtpmap", "a=fmtp")
    return [line for line in answer.split("\r\n") if line.startswith(starts)]


def test_red_is_what_the_client_sends_where_we_ask_for_it() -> None:
    assert audio_lines(CHROMIUM, red=True) == [
        "m=audio 3478 UDP/TLS/RTP/SAVPF 63 111",
        "a=rtpmap:63 red/48000/2",
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:63 111/111",
        "a=fmtp:111 minptime=10;useinbandfec=1",
    ]
    negotiated = negotiate(decode_offer(CHROMIUM), red=True)
    assert negotiated.audio.payload_type == 111
    assert negotiated.red is not None
    assert negotiated.red.payload_type == 63


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"a=fmtp:63 111/111\r\n", b""),
        (b"a=fmtp:63 111/111", b"a=fmtp:63 111/0"),  # of two codecs
        (b"a=fmtp:63 111/111", b"a=fmtp:63 "),
        (b"red/48000/2", b"red/8000"),
        (b"red/48000/2", b"rex/48000/2"),
    ],
)
def test_red_that_does_not_fit_is_not_answered(old: bytes, new: bytes) -> None:
    assert old in CHROMIUM
    offer = CHROMIUM.replace(old, new)
    assert audio_lines(offer, red=True) == audio_lines(CHROMIUM, red=False)
    assert audio_lines(offer, red=True)[0].endswith("SAVPF 111")
