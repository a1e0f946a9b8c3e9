from __future__ import annotations

import base64
import struct
from contextlib import suppress
from time import process_time

import pytest
from aiortc import rtcsctptransport as aiortc_sctp
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.wire.dcep import (
    MAX_TEXT,
    ChannelAck,
    ChannelOpen,
    decode_dcep,
    decode_user_data,
    encode_dcep,
    encode_user_data,
)
from edge.wire.sctp import Packet, decode_packet, encode_packet
from edge.wire.sctp_chunks import (
    BEGIN,
    END,
    Abort,
    Chunk,
    CookieAck,
    CookieEcho,
    Data,
    ForwardTsn,
    Heartbeat,
    Init,
    Reconfig,
    Sack,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    UnknownChunk,
)
from edge.wire.sctp_codec import decode_init, encode_chunk
from edge.wire.sctp_parameters import (
    IncomingReset,
    InitParameters,
    OtherRequest,
    OutgoingReset,
    ResetResponse,
)

SNAP_OFFER = base64.b64decode("AQAAHols3R0AUAAA/////+B5ZR3AAAAEgAgABoLA")
SNAP_ANSWER = base64.b64decode("AQAAHl+zdHQAUAAA/////6Gq3HTAAAAEgAgABoLA")
"""The examples of draft-hancke-tsvwg-snap-00."""

WORD = st.integers(0, 2**32 - 1)
HALF = st.integers(0, 2**16 - 1)
SMALL = st.binary(max_size=40)
STREAMS = st.lists(HALF, max_size=5).map(tuple)
PARAMETERS = st.builds(
    InitParameters,
    forward_tsn=st.booleans(),
    zero_checksum=st.integers(0, 3),
    extensions=SMALL,
)


def init(parameters: st.SearchStrategy[InitParameters]) -> st.SearchStrategy[Init]:
    some = st.integers(1, 2**16 - 1)
    return st.builds(Init, st.integers(1, 2**32 - 1), WORD, some, some, WORD, parameters)


def gaps(steps: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found, at = [], 1
    for distance, length in steps:
        found.append((at + distance, at + distance + length))
        at += distance + length
    return tuple(found)


CHUNKS: st.SearchStrategy[Chunk] = st.one_of(
    st.builds(Data, WORD, HALF, HALF, WORD, st.integers(0, 15), st.binary(min_size=1, max_size=60)),
    init(PARAMETERS),
    init(st.builds(InitParameters, cookie=st.binary(max_size=30), forward_tsn=st.booleans())),
    st.builds(
        Sack,
        WORD,
        WORD,
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=9).map(gaps),
        st.lists(WORD, max_size=4).map(tuple),
    ),
    st.builds(Heartbeat, SMALL, st.booleans()),
    st.builds(
        Abort, st.lists(st.tuples(HALF, SMALL), max_size=3).map(tuple), st.booleans(), st.booleans()
    ),
    st.builds(Shutdown, WORD),
    st.just(ShutdownAck()),
    st.builds(ShutdownComplete, st.booleans()),
    st.builds(CookieEcho, SMALL),
    st.just(CookieAck()),
    st.builds(
        Reconfig,
        st.lists(
            st.one_of(
                st.builds(OutgoingReset, WORD, WORD, WORD, STREAMS),
                st.builds(IncomingReset, WORD, STREAMS),
                st.builds(ResetResponse, WORD, WORD),
                st.builds(OtherRequest, st.sampled_from((15, 17, 18)), WORD),
            ),
            min_size=1,
            max_size=2,
        ).map(tuple),
    ),
    st.builds(ForwardTsn, WORD, st.lists(st.tuples(HALF, HALF), max_size=5).map(tuple)),
    st.builds(UnknownChunk, st.sampled_from((12, 64, 128, 193)), st.integers(0, 255), SMALL),
)
PACKETS = st.lists(CHUNKS, min_size=1, max_size=5)


def packet(*chunks: Chunk, zero_checksum: bool = False) -> bytes:
    return encode_packet(5000, 5001, 77, map(encode_chunk, chunks), zero_checksum=zero_checksum)


def resealed(data: bytes) -> bytes:
    """The packet with a right checksum."""
    data = data[:8] + bytes(4) + data[12:]
    return data[:8] + struct.pack("<I", crc32c(data)) + data[12:]


@given(PACKETS)
def test_round_trip(chunks: list[Chunk]) -> None:
    data = packet(*chunks)
    assert len(data) % 4 == 0
    assert decode_packet(data) == Packet(5000, 5001, 77, tuple(chunks))


@given(PACKETS, st.data())
def test_a_value_or_remote_protocol_error(chunks: list[Chunk], data: st.DataObject) -> None:
    mutated = bytearray(packet(*chunks))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(12, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
    try:
        decoded = decode_packet(resealed(cut) if len(cut) >= 12 else cut)
    except RemoteProtocolError:
        return
    assert decoded.chunks


def test_the_drafts_inits_are_read_and_written_byte_by_byte() -> None:
    offer, answer = decode_init(SNAP_OFFER), decode_init(SNAP_ANSWER)
    assert (offer.tag, offer.tsn, offer.window) == (0x896CDD1D, 0xE079651D, 0x500000)
    assert (answer.tag, answer.tsn) == (0x5FB37474, 0xA1AADC74)
    assert offer.parameters == InitParameters(forward_tsn=True, extensions=b"\x82\xc0")
    assert encode_chunk(offer)[: len(SNAP_OFFER)] == SNAP_OFFER
    assert decode_init(SNAP_OFFER + b"\0\0") == offer  # with its padding


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SNAP_OFFER[:3],
        SNAP_OFFER[:-1],
        SNAP_OFFER + bytes(4),
        b"\2" + SNAP_OFFER[1:],
        b"\1\0\0\0" + SNAP_OFFER[4:],
        SNAP_OFFER[:4] + bytes(4) + SNAP_OFFER[8:],
        SNAP_OFFER.ljust(3000, b"\0"),
    ],
)
def test_what_is_no_init_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_init(data)


def test_the_checksum_is_crc32c_with_its_low_byte_first() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    data = packet(CookieAck())
    assert data.hex() == "138813890000004d" + "84c8644a" + "0b000004"
    assert data == aiortc_sctp.serialize_packet(5000, 5001, 77, aiortc_sctp.CookieAckChunk())


def test_aiortc_reads_what_we_write() -> None:
    data = packet(
        Sack(8, 1000, ((2, 3), (5, 5)), (4,)),
        Data(9, 1, 2, 51, BEGIN | END, b"hello"),
        ForwardTsn(12, ((1, 3),)),
        Reconfig((OutgoingReset(1, 2, 3, (4, 5, 6)), ResetResponse(1, 1))),
    )
    source, destination, tag, chunks = aiortc_sctp.parse_packet(data)
    assert (source, destination, tag) == (5000, 5001, 77)
    sack, hello, forward, reconfig = chunks
    assert isinstance(sack, aiortc_sctp.SackChunk)
    assert (sack.gaps, sack.duplicates) == ([(2, 3), (5, 5)], [4])
    assert isinstance(hello, aiortc_sctp.DataChunk)
    assert (hello.tsn, hello.protocol, hello.user_data) == (9, 51, b"hello")
    assert isinstance(forward, aiortc_sctp.ForwardTsnChunk)
    assert forward.streams == [(1, 3)]
    assert isinstance(reconfig, aiortc_sctp.ReconfigChunk)
    first = aiortc_sctp.StreamResetOutgoingParam.parse(reconfig.params[0][1])
    assert (first.last_tsn, first.streams) == (3, [4, 5, 6])
    assert reconfig.params[1][0] == 16


def test_we_read_what_aiortc_writes() -> None:
    chunk = aiortc_sctp.InitAckChunk()
    chunk.initiate_tag, chunk.advertised_rwnd, chunk.initial_tsn = 5, 1024, 6
    chunk.outbound_streams = chunk.inbound_streams = 65535
    chunk.params = [(0xC000, b""), (0x8008, b"\xc0\x82"), (7, b"cookie")]
    data = aiortc_sctp.serialize_packet(5000, 5000, 9, chunk)
    parameters = InitParameters(b"cookie", forward_tsn=True, extensions=b"\xc0\x82")
    assert decode_packet(data).chunks == (Init(5, 1024, 65535, 65535, 6, parameters),)


def test_a_zero_checksum_only_where_it_was_agreed() -> None:
    data = packet(CookieAck(), zero_checksum=True)
    assert data[8:12] == bytes(4)
    assert decode_packet(data, zero_checksum=True).chunks == (CookieAck(),)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_packet(data)
    assert caught.value.drop is Drop.BAD_INTEGRITY
    wrong = data[:8] + b"\1\0\0\0" + data[12:]
    with pytest.raises(RemoteProtocolError):
        decode_packet(wrong, zero_checksum=True)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "00",
        "0b0000",
        "0b000000",  # length zero: no loop
        "0b000003",
        "0b000008",
        "00030010 00000001 0001 0002 00000033",  # DATA without user data
        "03000010 00000001 00000001 0001 0000",  # a SACK with fewer gaps than it says
        "0100001400000000000010000001000100000001",  # INIT with tag 0
        "0100001400000001000010000000000100000001",  # without streams
        "02000014000000010000100000010001 00000001",  # INIT ACK without a cookie
        "c0000006 0000",
        "c000000a 00000001 0001",
        "82000004",
        "82000008 000d0004",
        "82000008 00ff0004",
        "06000008 00010003",  # a cause with a lying length
        "06000008 00010009",
    ],
)
def test_malformed(body: str) -> None:
    data = bytes.fromhex("13881388 0000004d 00000000" + body)
    with pytest.raises(RemoteProtocolError):
        decode_packet(data, zero_checksum=True)


def test_unknown_parameters_follow_their_top_bits() -> None:
    def read(parameters: str) -> InitParameters:
        body = bytes.fromhex(parameters)
        head = struct.pack(">BBHIIHHI", 1, 0, 20 + len(body), 1, 2, 3, 4, 5)
        return decode_init(head + body).parameters

    forward = "c0000004"
    assert read("80ff0004" + forward) == InitParameters(forward_tsn=True)
    assert read("c0ff0004" + forward).reported.hex() == "c0ff0004"
    assert read("c0ff0004" + forward).forward_tsn
    assert read("40ff0004" + forward) == InitParameters(reported=bytes.fromhex("40ff0004"))
    assert read("00ff0004" + forward) == InitParameters()


def test_gap_blocks_count_only_as_far_as_they_are_in_order() -> None:
    data = packet(Sack(1, 2, ((2, 3), (9, 9), (5, 6), (12, 13))))
    assert decode_packet(data).chunks == (Sack(1, 2, ((2, 3), (9, 9))),)


def test_cpu_is_linear_in_the_input() -> None:
    started = process_time()
    for body in (
        encode_chunk(CookieAck()) * 16_000,
        encode_chunk(Data(1, 1, 1, 51, 3, b"x")) * 3_000,
        encode_chunk(Abort(((1, b""),) * 16_000)),
        encode_chunk(Sack(1, 1, ((2, 2),) * 15_000)),
    ):
        for _ in range(10):
            with suppress(RemoteProtocolError):
                decode_packet(bytes(12) + body, zero_checksum=True)
    assert process_time() - started < 1.0


@pytest.mark.parametrize("chunk", [Sack(2**32, 0), Data(1, 2**16, 0, 0, 3, b"x"), Shutdown(-1)])
def test_values_that_do_not_fit_are_the_callers_fault(chunk: Chunk) -> None:
    with pytest.raises((LocalProtocolError, struct.error)):
        packet(chunk)


def test_no_payload_and_no_tag_in_repr() -> None:
    secret = [Data(1, 1, 1, 51, 3, b"secret"), CookieEcho(b"secret"), decode_init(SNAP_OFFER)]
    secret += [UnknownChunk(12, 0, b"secret"), Abort(((1, b"secret"),))]
    text = repr(secret) + repr(ChannelOpen("secret"))
    assert "secret" not in text
    assert str(0x896CDD1D) not in text


# DCEP.

TEXT = st.text(max_size=30)
SETTINGS = st.one_of(
    st.builds(ChannelOpen, TEXT, TEXT, st.booleans(), st.none(), st.none(), HALF),
    st.builds(ChannelOpen, TEXT, TEXT, st.booleans(), WORD, st.none(), HALF),
    st.builds(ChannelOpen, TEXT, TEXT, st.booleans(), st.none(), WORD, HALF),
)


@given(SETTINGS)
def test_channel_settings_round_trip(settings: ChannelOpen) -> None:
    assert decode_dcep(encode_dcep(settings)) == settings


@given(SETTINGS, st.data())
def test_dcep_gives_a_value_or_remote_protocol_error(
    settings: ChannelOpen, data: st.DataObject
) -> None:
    mutated = bytearray(encode_dcep(settings))
    mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RemoteProtocolError):
        decode_dcep(bytes(mutated[: data.draw(st.integers(0, len(mutated)))]))


def test_the_open_that_browsers_send() -> None:
    data = bytes.fromhex("03000000 00000000 000a 0000") + b"oai-events"
    assert decode_dcep(data) == ChannelOpen("oai-events", priority=0)
    assert decode_dcep(b"\x02") == ChannelAck()
    assert encode_dcep(ChannelAck()) == b"\x02"


def test_limits_of_channel_settings() -> None:
    with pytest.raises(LocalProtocolError):
        encode_dcep(ChannelOpen("x" * (MAX_TEXT + 1)))
    with pytest.raises(LocalProtocolError):
        encode_dcep(ChannelOpen("x", max_retransmits=1, lifetime=1))
    data = struct.pack(">BBHIHH", 3, 0, 0, 0, MAX_TEXT + 1, 0) + bytes(MAX_TEXT + 1)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_dcep(data)
    assert caught.value.drop is Drop.TOO_LONG


@pytest.mark.parametrize("data", ["text", "", b"bytes", b"", "käse"])
def test_user_data_round_trip(data: str | bytes) -> None:
    ppid, payload = encode_user_data(data)
    assert payload
    assert decode_user_data(ppid, payload) == data


def test_user_data_that_is_neither_text_nor_binary() -> None:
    for ppid, payload in ((51, b"\xff"), (0, b"x"), (52, b"x")):
        with pytest.raises(RemoteProtocolError):
            decode_user_data(ppid, payload)
