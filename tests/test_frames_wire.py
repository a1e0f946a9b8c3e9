"""The frames protocol without I/O: bytes, windows, turns, signs of life."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.address import parse_stream_address
from edge.backends.frames.connection import MAX_WAITING, Connection, Outgoing
from edge.backends.frames.wire import (
    FORMATS,
    MAX_PAYLOAD,
    Close,
    Frame,
    FrameDecoder,
    Kind,
    Open,
    Place,
    audio_samples,
    decode_close,
    decode_event,
    decode_milliseconds,
    decode_open,
    encode_frame,
    encode_milliseconds,
    encode_open,
)
from edge.backends.protocol import MAX_TOKEN_BYTES
from edge.errors import Drop, RemoteProtocolError
from edge.session_config import MAX_SESSION_BYTES

OPEN = Open(version=1, call="rtc_1", audio="pcm16/24000", window_ms=30_000)
FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=300))
PIECE = bytes(960)  # 20 ms of pcm16/24000
SAMPLES = 480


def test_the_layout_is_the_documented_one() -> None:
    assert encode_frame(Kind.AUDIO, 7, b"\x01\x02") == bytes.fromhex("00000002 02 00000007 0102")
    assert encode_milliseconds(1_500) == bytes.fromhex("000005dc")
    assert [kind.value for kind in Kind] == list(range(1, 15))


@given(st.lists(FRAMES, max_size=8), st.randoms())
def test_frames_come_whole_however_the_stream_is_cut(
    frames: list[Frame], rng: random.Random
) -> None:
    stream = b"".join(encode_frame(_kind(f.kind), f.session, f.payload) for f in frames)
    decoder, out = FrameDecoder(), []
    while stream:
        size = rng.choice((1, 2, 9, 64, 1_000))
        out += decoder.decode(stream[:size])
        stream = stream[size:]
    assert out == frames


def _kind(number: int) -> Kind:
    kind = int.__new__(Kind, number)  # one that we do not know is encoded like any other
    kind._value_ = number
    return kind


@given(st.binary(max_size=400))
def test_any_bytes_give_frames_or_a_remote_error(data: bytes) -> None:
    decoder = FrameDecoder()
    try:
        frames = decoder.decode(data)
    except RemoteProtocolError:
        assert len(data) >= 9
        return
    for frame in frames:
        for decode in (decode_open, decode_close, decode_event, decode_milliseconds):
            _try(decode, frame.payload)


def _try(decode: object, payload: bytes) -> None:
    assert callable(decode)
    try:
        decode(payload)
    except RemoteProtocolError:
        return


@pytest.mark.parametrize("decode", [decode_open, decode_close, decode_event])
@pytest.mark.parametrize(
    "payload",
    [b"[]", b"{", b"nul", b'{"a":1}x', b'{"a":"\xff"}', b"[" * 60_000, b'{"a":' * 10_000, b"\0"],
    ids=range(8),
)
def test_json_that_is_no_object_is_refused(decode: object, payload: bytes) -> None:
    assert callable(decode)
    with pytest.raises(RemoteProtocolError):
        decode(payload)


@given(st.binary(max_size=60))
def test_any_payload_is_json_or_a_remote_error(payload: bytes) -> None:
    for decode in (decode_open, decode_close, decode_event):
        _try(decode, payload)


def test_a_frame_may_be_as_long_as_allowed_and_no_longer() -> None:
    whole = encode_frame(Kind.AUDIO, 1, bytes(MAX_PAYLOAD))
    assert len(FrameDecoder().decode(whole)[0].payload) == MAX_PAYLOAD
    with pytest.raises(RemoteProtocolError):
        FrameDecoder().decode((MAX_PAYLOAD + 1).to_bytes(4, "big") + whole[4:9])


def test_another_protocol_is_seen_at_once() -> None:
    for greeting in (
        b"HTTP/1.1 400 Bad Request\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\x02\0\x01\0\0\0",
    ):
        with pytest.raises(RemoteProtocolError):
            FrameDecoder().decode(greeting)


def test_open_of_another_version_or_format_is_refused() -> None:
    assert decode_open(msgspec.json.encode(OPEN)) == OPEN
    changes = (
        {"version": 2},
        {"audio": "mp3"},
        {"window_ms": -1},
        {"window_ms": 2**32},
        {"call": 1},
    )
    for change in changes:
        raw = msgspec.to_builtins(OPEN) | change
        with pytest.raises(RemoteProtocolError):
            decode_open(msgspec.json.encode(raw))


def test_the_longest_open_fits_into_a_frame() -> None:
    """A configuration may be longer when it is written anew: 1e15 is."""
    config = b'{"a":[' + b",".join([b"1e15"] * 6_550) + b"]}"
    assert MAX_SESSION_BYTES - 100 < len(config) <= MAX_SESSION_BYTES
    place = Place(epoch=2**32 - 1, played_ms=0, heard_ms=0, token=bytes(MAX_TOKEN_BYTES))
    payload = encode_open(msgspec.structs.replace(OPEN, resumed=place), config)
    assert len(payload) <= MAX_PAYLOAD
    read = decode_open(payload)
    assert read.resumed == place
    assert read.session == msgspec.json.decode(config)


def test_a_token_in_an_open_is_bounded() -> None:
    place = Place(epoch=2, played_ms=0, heard_ms=0, token=bytes(MAX_TOKEN_BYTES + 1))
    for wrong in (place, msgspec.structs.replace(place, token=b"", epoch=0)):
        with pytest.raises(RemoteProtocolError):
            decode_open(encode_open(msgspec.structs.replace(OPEN, resumed=wrong)))


def test_close_without_a_payload_is_done() -> None:
    assert decode_close(b"") == decode_close(b"{}") == Close(reason="done")
    assert decode_close(b'{"reason":"failed","more":1}').reason == "failed"


@pytest.mark.parametrize(
    ("name", "payload", "samples"),
    [
        ("pcm16/8000", bytes(320), 160),
        ("pcm16/48000", bytes(1_920), 960),
        ("pcmu", bytes(160), 160),
        ("pcma", bytes(1), 1),
        ("opus", b"\xfc\0", 960),
        ("pcm16/8000", bytes(3), None),
        ("pcm16/8000", b"", None),
        ("pcmu", b"", None),
        ("opus", b"", None),
        ("opus", b"\xff\0", None),
        ("opus", b"\xfc" + bytes(1_200), None),
    ],
)
def test_how_long_audio_plays(name: str, payload: bytes, samples: int | None) -> None:
    if samples is not None:
        assert audio_samples(FORMATS[name], payload) == samples
        return
    with pytest.raises(RemoteProtocolError):
        audio_samples(FORMATS[name], payload)


def test_stream_addresses() -> None:
    assert parse_stream_address("unix:/run/a.sock") == "/run/a.sock"
    assert parse_stream_address("backend.local:7000") == ("backend.local", 7000)
    assert parse_stream_address("[::1]:7000") == ("::1", 7000)
    for bad in (
        "",
        "unix:a",
        "unix:" + "/a" * 60,
        "host",
        "host:",
        ":1",
        "::1:7",
        "h:99999",
        "a b:1",
    ):
        with pytest.raises(ValueError, match=r"address|path"):
            parse_stream_address(bad)


# Windows, turns and bounds.


class Line:
    """A connection and what it would write."""

    def __init__(self) -> None:
        self.work = 0
        self.connection = Connection(stall_seconds=3.0, now=0.0, on_work=self._count)

    def _count(self) -> None:
        self.work += 1

    def session(self, *, queue_seconds: float = 1.0) -> Outgoing:
        outgoing = Outgoing(clock_rate=24_000, queue_seconds=queue_seconds, drops=Counter())
        outgoing.attach(self.connection, self.connection.next_session(), b"{}")
        return outgoing

    def written(self, limit: int = 1 << 30) -> list[Frame]:
        return FrameDecoder().decode(self.connection.take(limit))


def test_sessions_take_turns() -> None:
    line = Line()
    busy, quiet = line.session(), line.session()
    line.written()
    for _ in range(20):
        busy.add_audio(PIECE, SAMPLES)
    quiet.add_audio(b"q" * 960, SAMPLES)
    quiet.add_control(Kind.EVENT, b"{}")
    assert [(f.session, f.kind) for f in line.written()[:4]] == [(1, 2), (2, 3), (1, 2), (2, 2)]
    assert line.written() == []


def test_a_batch_is_bounded_and_nothing_is_lost_between_batches() -> None:
    line = Line()
    session = line.session()
    for number in range(40):
        session.add_audio(bytes([number]) * 960, SAMPLES)
    frames = []
    while batch := line.written(2_000):
        assert sum(9 + len(f.payload) for f in batch) < 2_000 + 969
        frames += batch
    assert [f.payload[0] for f in frames if f.kind == Kind.AUDIO] == list(range(40))


def test_audio_waits_for_the_window_and_the_oldest_is_dropped() -> None:
    line = Line()
    slow, other = line.session(), line.session()
    slow.widen(100)
    line.written()
    for number in range(100):
        slow.add_audio(bytes([number]) * 960, SAMPLES)
        other.add_audio(PIECE, SAMPLES)
        frames = line.written()
        assert [f.session for f in frames if f.session == 2] == [2]
    assert slow.queued == pytest.approx(1.0)
    assert slow.drops == {Drop.QUEUE_FULL: 45}
    assert other.drops == {}
    slow.widen(140)
    assert [f.payload[0] for f in line.written()] == [50, 51]
    slow.widen(120)  # a window that shrinks takes nothing back
    assert line.written() == []


def test_events_pass_audio_that_waits_and_are_bounded() -> None:
    line = Line()
    session = line.session()
    session.widen(0)
    session.add_audio(PIECE, SAMPLES)
    for _ in range(MAX_WAITING + 5):
        session.add_control(Kind.EVENT, b"{}")
    session.add_control(Kind.PLAYED, bytes(4))  # of another kind
    kinds = Counter(frame.kind for frame in line.written())
    assert kinds == {Kind.OPEN: 1, Kind.EVENT: MAX_WAITING, Kind.PLAYED: 1}
    assert session.drops == {Drop.QUEUE_FULL: 5}
    session.add_control(Kind.EVENT, b"{}")
    assert len(line.written()) == 1


def test_waiting_events_are_bounded_in_bytes() -> None:
    line = Line()
    session = line.session()
    for _ in range(6):
        session.add_control(Kind.EVENT, bytes(MAX_PAYLOAD))
    assert len(line.written()) == 1 + 4
    assert session.drops == {Drop.QUEUE_FULL: 2}


def test_of_several_windows_that_wait_the_last_counts() -> None:
    line = Line()
    session = line.session()
    for milliseconds in (100, 200, 300):
        session.grant(milliseconds)
    assert [f.payload for f in line.written() if f.kind == Kind.WINDOW] == [
        encode_milliseconds(300)
    ]


def test_close_follows_what_was_said_before_but_no_audio() -> None:
    line = Line()
    session = line.session()
    line.written()
    session.add_audio(PIECE, SAMPLES)
    session.add_control(Kind.EVENT, b"{}")
    session.close(b"")
    assert [f.kind for f in line.written()] == [Kind.EVENT, Kind.CLOSE]
    assert line.written() == []


def test_a_session_that_was_never_sent_is_not_closed_either() -> None:
    line = Line()
    session = line.session()
    session.close(b"")
    assert line.written() == []


def test_another_connection_starts_from_nothing() -> None:
    line, second = Line(), Line()
    session = line.session()
    session.widen(20)
    for _ in range(3):
        session.add_audio(PIECE, SAMPLES)
    assert [f.kind for f in line.written()] == [Kind.OPEN, Kind.AUDIO]
    session.detach()
    session.add_control(Kind.EVENT, b"{}")
    assert line.written() == []
    session.attach(second.connection, 9, b"{}")
    kinds = [f.kind for f in second.written()]
    assert kinds == [Kind.OPEN, Kind.EVENT, Kind.AUDIO, Kind.AUDIO]


def test_the_writer_is_woken_once_for_many_frames() -> None:
    line = Line()
    session = line.session()
    assert line.work == 1
    for _ in range(10):
        session.add_audio(PIECE, SAMPLES)
    assert line.work == 1
    line.written()
    session.add_audio(PIECE, SAMPLES)
    assert line.work == 2


def test_a_ping_is_answered_and_many_need_one_answer() -> None:
    line = Line()
    pings = b"".join(encode_frame(Kind.PING, 0, bytes([n])) for n in range(200))
    assert line.connection.receive(pings, now=1.0) == []
    assert line.written() == [Frame(Kind.PONG, 0, bytes([199]))]


def test_silence_is_asked_and_then_ended() -> None:
    line = Line()
    assert line.connection.deadline == pytest.approx(1.0)
    line.connection.tick(now=1.0)
    assert line.written() == [Frame(Kind.PING, 0, b"")]
    line.connection.receive(encode_frame(Kind.PONG, 0), now=1.1)
    line.connection.tick(now=4.0)
    line.connection.receive(encode_frame(Kind.PONG, 0)[:-1], now=4.05)  # not a whole frame
    with pytest.raises(RemoteProtocolError):
        line.connection.tick(now=4.1)


def test_what_concerns_the_connection_reaches_no_session() -> None:
    line = Line()
    data = (
        encode_frame(Kind.CLOSE, 0)
        + encode_frame(Kind.AUDIO, 0, b"x")
        + encode_frame(Kind.FLUSH, 3)
    )
    assert line.connection.receive(data, now=0.0) == [Frame(Kind.FLUSH, 3, b"")]
    assert line.connection.draining
    assert line.connection.drops == {Drop.UNKNOWN_KIND: 1}


def test_nothing_shows_what_is_said() -> None:
    assert "secret" not in repr(Frame(Kind.EVENT, 1, b"secret"))
