"""Frames on a TCP connection: whatever the pieces, the same datagrams; nothing is held for long."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.wire.framing import MAX_FRAME, MIN_FRAME, FrameQueue, FrameReader, encode_frame

DATAGRAMS = st.lists(st.binary(min_size=MIN_FRAME, max_size=60) | st.just(b"x" * MAX_FRAME))


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(ends)]


@given(DATAGRAMS, st.lists(st.integers(0, 1 << 20)))
def test_the_pieces_do_not_matter(datagrams: list[bytes], places: list[int]) -> None:
    reader = FrameReader()
    read: list[bytes] = []
    for piece in cut(b"".join(map(encode_frame, datagrams)), places):
        read += reader.receive(piece)
    assert read == datagrams
    assert len(reader) == 0


@given(st.lists(st.binary(max_size=2_000)))
def test_any_bytes_are_frames_or_an_error_and_less_than_one_frame_is_held(
    pieces: list[bytes],
) -> None:
    reader = FrameReader()
    for piece in pieces:
        try:
            frames = reader.receive(piece)
        except RemoteProtocolError:
            return
        assert all(MIN_FRAME <= len(frame) <= MAX_FRAME for frame in frames)
        assert len(reader) <= 1 + MAX_FRAME


@pytest.mark.parametrize("length", [1, MIN_FRAME - 1, MAX_FRAME + 1, 0xFFFF])
def test_other_lengths_are_refused_before_their_bytes_come(length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        FrameReader().receive(length.to_bytes(2, "big"))


def test_null_packets_mean_nothing() -> None:
    """RFC 4571, section 2."""
    assert FrameReader().receive(bytes(4) + encode_frame(b"datagram") + bytes(2)) == [b"datagram"]


def test_what_is_too_long_to_be_read_is_not_written() -> None:
    with pytest.raises(LocalProtocolError):
        encode_frame(bytes(MAX_FRAME + 1))


def test_the_oldest_frame_gives_way_but_not_one_that_has_begun() -> None:
    queue = FrameQueue(3)
    assert all(map(queue.put, (b"first", b"second", b"third")))
    queue.written(2)
    assert not queue.put(b"fourth")
    assert queue.waiting() == b"rst" + b"third" + b"fourth"
    queue.written(3)
    assert queue.put(b"fifth")
    assert not queue.put(b"sixth")
    assert queue.waiting() == b"fourth" + b"fifth" + b"sixth"


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=12), st.lists(st.integers(0, 9)))
def test_a_written_stream_is_whole_frames(frames: list[bytes], counts: list[int]) -> None:
    """Each frame arrives whole or not at all, whatever the kernel takes at a time."""
    queue, taken = FrameQueue(3), iter([*counts, *[0] * len(frames)])
    sent, dropped = b"", 0
    marked = [bytes([len(frame)]) + frame for frame in frames]
    for frame in marked:
        dropped += not queue.put(frame)
        piece = queue.waiting()[: next(taken)]
        sent += piece
        queue.written(len(piece))
    sent += queue.waiting()
    arrived = []
    while sent:
        end = 1 + sent[0]
        assert len(sent) >= end
        arrived.append(sent[:end])
        sent = sent[end:]
    assert len(arrived) == len(frames) - dropped
    remaining = iter(marked)
    assert all(frame in remaining for frame in arrived), "in order"
