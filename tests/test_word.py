"""What transceivers tell each other of sessions that move: what is written is read, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.registry.sessions import MAX_EPOCH
from edge.transceiver.word import Kind, Word, decode_word, encode_word

SESSIONS = st.text("abcXYZ019_-", min_size=1, max_size=80)


@given(st.sampled_from(Kind), SESSIONS, st.integers(1, MAX_EPOCH - 1))
def test_what_is_written_is_read(kind: Kind, session: str, epoch: int) -> None:
    word = Word(kind, session, epoch)
    assert decode_word(encode_word(word)) == word


def test_a_word_looks_so() -> None:
    left = encode_word(Word(Kind.LEFT, "rtc_a", 258))
    assert left == b"\xe0\x00\x00\x01\x02rtc_a"
    assert encode_word(Word(Kind.TAKEN, "rtc_a", 258)) == b"\xe1" + left[1:]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xe0",
        b"\xe0\x00\x00\x00\x01",
        b"\xe2\x00\x00\x00\x01rtc_a",
        b"\xe0\x00\x00\x00\x00rtc_a",
        b"\xe0\x7f\xff\xff\xffrtc_a",
        b"\xe0\x00\x00\x00\x01rtc a",
        b"\xe0\x00\x00\x00\x01rtc\xff",
        b"\xe0\x00\x00\x00\x01" + b"a" * 81,
    ],
)
def test_anything_else_is_no_word(payload: bytes) -> None:
    assert decode_word(payload) is None


@given(st.binary(max_size=100))
def test_no_bytes_break_it(payload: bytes) -> None:
    decode_word(payload)
