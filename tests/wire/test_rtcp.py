from __future__ import annotations

import struct

import pytest
from aiortc import rtp as aiortc_rtp
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.wire.rtcp import (
    MAX_NACKS,
    MAX_PACKETS,
    Bye,
    GenericNack,
    PictureLossIndication,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SenderReport,
    SourceDescription,
    UnknownRtcp,
    decode_rtcp,
    encode_rtcp,
)

WORD = st.integers(0, 2**32 - 1)
TEXT = st.text(max_size=40).filter(lambda text: len(text.encode()) <= 255)
BLOCKS = st.builds(
    ReportBlock,
    ssrc=WORD,
    fraction_lost=st.integers(0, 255),
    cumulative_lost=st.integers(-(2**23), 2**23 - 1),
    highest_sequence=WORD,
    jitter=WORD,
    last_sr=WORD,
    delay_since_last_sr=WORD,
)
REPORTS = st.lists(BLOCKS, max_size=3).map(tuple)
PACKETS: st.SearchStrategy[RtcpPacket] = st.one_of(
    st.builds(SenderReport, WORD, st.integers(0, 2**64 - 1), WORD, WORD, WORD, REPORTS),
    st.builds(ReceiverReport, WORD, REPORTS),
    st.builds(SourceDescription, st.lists(st.tuples(WORD, TEXT), max_size=4).map(tuple)),
    st.builds(Bye, st.lists(WORD, max_size=4).map(tuple), TEXT),
    st.builds(
        GenericNack,
        WORD,
        WORD,
        st.sets(st.integers(0, 0xFFFF), min_size=1, max_size=30).map(lambda s: tuple(sorted(s))),
    ),
    st.builds(PictureLossIndication, WORD, WORD),
    st.builds(
        UnknownRtcp,
        st.integers(207, 223),
        st.integers(0, 31),
        st.integers(0, 5).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)),
    ),
)
COMPOUNDS = st.lists(PACKETS, min_size=1, max_size=5).map(tuple)
RR = encode_rtcp((ReceiverReport(1),))


@given(COMPOUNDS)
def test_round_trip(packets: tuple[RtcpPacket, ...]) -> None:
    assert decode_rtcp(encode_rtcp(packets)) == packets


def test_aiortc_reads_what_we_write() -> None:
    block = ReportBlock(7, 25, -3, 70_000, 12, 0x11112222, 0x33334444)
    data = encode_rtcp(
        (
            SenderReport(5, 0x0102030405060708, 960, 10, 1000, (block,)),
            SourceDescription(((5, "cname"),)),
            GenericNack(5, 7, (65535, 0, 3, 40)),
            PictureLossIndication(5, 7),
            Bye((5,)),
        )
    )
    report, description, nack, pli, bye = aiortc_rtp.RtcpPacket.parse(data)
    assert isinstance(report, aiortc_rtp.RtcpSrPacket)
    assert report.sender_info.ntp_timestamp == 0x0102030405060708
    assert report.reports[0].packets_lost == -3
    assert report.reports[0].highest_sequence == 70_000
    assert isinstance(description, aiortc_rtp.RtcpSdesPacket)
    assert description.chunks[0].items == [(1, b"cname")]
    assert isinstance(nack, aiortc_rtp.RtcpRtpfbPacket)
    assert [lost & 0xFFFF for lost in nack.lost] == [65535, 0, 3, 40]  # it does not wrap
    assert isinstance(pli, aiortc_rtp.RtcpPsfbPacket)
    assert isinstance(bye, aiortc_rtp.RtcpByePacket)
    assert bye.sources == [5]


def test_sdes_keeps_the_cname_among_other_items() -> None:
    chunk = struct.pack(">I", 9) + b"\x02\x03bob" + b"\x01\x05cname" + b"\x08\x00" + b"\0"
    chunk = chunk.ljust(-(-len(chunk) // 4) * 4, b"\0")
    body = chunk + struct.pack(">I", 10) + b"\0\0\0\0"
    data = struct.pack(">BBH", 0x82, 202, len(body) // 4) + body
    assert decode_rtcp(data) == (SourceDescription(((9, "cname"), (10, ""))),)


def test_nack_wraps_with_the_sequence_numbers() -> None:
    nack = GenericNack(1, 2, (65_530, 65_535, 0, 9, 11))
    data = encode_rtcp((nack,))
    assert decode_rtcp(data) == (nack,)
    assert len(data) == 12 + 2 * 4


@pytest.mark.parametrize(
    ("items", "lost"),
    [
        ("00008085", (0, 1, 3, 8, 16)),
        (
            "ffdc8000 fffe0017 00140000 00640000",
            (0xFFDC, 0xFFEC, 0xFFFE, 0xFFFF, 0, 1, 3, 20, 100),
        ),
    ],
)
def test_nack_as_libwebrtc_writes_it(items: str, lost: tuple[int, ...]) -> None:
    """The packets of libwebrtc's unit test (nack_unittest.cc)."""
    body = bytes.fromhex("12345678 23456789" + items)
    data = struct.pack(">BBH", 0x81, 205, len(body) // 4) + body
    nack = GenericNack(0x12345678, 0x23456789, lost)
    assert decode_rtcp(data) == (nack,)
    assert encode_rtcp((nack,)) == data


@given(st.binary(min_size=4, max_size=4 * MAX_NACKS).filter(lambda items: len(items) % 4 == 0))
def test_a_nack_names_a_bounded_number_of_packets(items: bytes) -> None:
    head = struct.pack(">BBHII", 0x81, 205, 2 + len(items) // 4, 1, 2)
    (nack,) = decode_rtcp(head + items)
    assert isinstance(nack, GenericNack)
    assert len(items) // 4 <= len(nack.lost) <= 17 * MAX_NACKS
    assert all(0 <= sequence <= 0xFFFF for sequence in nack.lost)


def test_reduced_size_is_accepted() -> None:
    pli = PictureLossIndication(1, 2)
    assert decode_rtcp(encode_rtcp((pli,))) == (pli,)


def test_padding_on_the_last_packet_only() -> None:
    padded = b"\xa1\xcb\x00\x02" + struct.pack(">I", 77) + b"\0\0\0\4"
    assert decode_rtcp(RR + padded) == (ReceiverReport(1), Bye((77,)))
    with pytest.raises(RemoteProtocolError):
        decode_rtcp(padded + RR)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\xc9\x00",
        RR + b"\x80",  # trailing bytes
        b"\x40" + RR[1:],  # version
        b"\x80\xc9\x00\x02\x00\x00\x00\x01",  # longer than the datagram
        b"\x81" + RR[1:],  # a report block that is not there
        b"\x80\xc9\x00\x00",  # no SSRC
        b"\x80\xc8\x00\x01\x00\x00\x00\x01",  # SR without sender info
        b"\x81\xca\x00\x01\x00\x00\x00\x01",  # SDES chunk without its end
        b"\x81\xca\x00\x02\x00\x00\x00\x01\x01\x03ab",  # SDES item overruns
        b"\x81\xca\x00\x02\x00\x00\x00\x01\x01\x02ab",  # SDES chunk without a null
        b"\x82\xcb\x00\x01\x00\x00\x00\x01",  # BYE of two with one
        b"\x80\xcb\x00\x01\x04abc",  # BYE reason overruns
        b"\x81\xcd\x00\x02" + bytes(8),  # NACK of nothing
        b"\x81\xcd\x01\x00" + bytes(1024),  # NACK of too much
        b"\x81\xce\x00\x03" + bytes(12),  # PLI with a parameter
        b"\xa0\xc9\x00\x01\x00\x00\x00\x00",  # padding 0
        b"\xa0\xc9\x00\x01\x00\x00\x00\x08",  # padding longer than the body
        b"\xa0\xc9\x00\x02\x00\x00\x00\x01\x00\x00\x00\x03",  # padding not of words
        b"\xa0\xc9\x00\x00",  # padding of an empty packet
        RR * (MAX_PACKETS + 1),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_rtcp(data)


@given(COMPOUNDS, st.data())
def test_a_value_or_remote_protocol_error(
    packets: tuple[RtcpPacket, ...], data: st.DataObject
) -> None:
    mutated = bytearray(encode_rtcp(packets))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
    try:
        decoded = decode_rtcp(cut)
    except RemoteProtocolError:
        return
    assert 1 <= len(decoded) <= MAX_PACKETS


@pytest.mark.parametrize(
    "packet",
    [
        ReceiverReport(2**32),
        ReceiverReport(1, (ReportBlock(1, 256, 0, 0, 0, 0, 0),)),
        ReceiverReport(1, (ReportBlock(1, 0, 0, 0, 0, 0, 0),) * 32),
        SourceDescription(((1, "x" * 256),)),
        Bye((1,) * 32),
        GenericNack(1, 2, ()),
        GenericNack(1, 2, tuple(range(0, 17 * 254, 17))),
        UnknownRtcp(207, 32, b""),
    ],
)
def test_values_that_do_not_fit_are_the_callers_fault(packet: RtcpPacket) -> None:
    with pytest.raises(LocalProtocolError):
        encode_rtcp((packet,))


def test_no_text_of_the_peer_in_repr() -> None:
    assert "bob" not in repr(SourceDescription(((1, "bob@host"),)))
    assert "bob" not in repr(Bye((1,), "bob"))
