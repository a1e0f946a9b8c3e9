"""What the chaos rig counts with: a count that cannot see a fault would let every table pass."""

import pytest

from edge.wire.spp import encode_path
from tests.support.egress import Egress, Nonce, Waking
from tests.support.numbered import Heard, decode_numbered, encode_numbered

ALICE, BOB = b"alice---", b"bob-----"
STREAM, OTHER = b"stream-1", b"stream-2"
PATH = encode_path(("192.0.2.1", 40_000), ("198.51.100.1", 3478))


def heard(*numbers: int) -> Heard:
    """Each number 20 ms times itself after the start."""
    made = Heard()
    for number in numbers:
        made.note(number, STREAM, number * 0.02)
    return made


def test_a_frame_tells_whose_it_is() -> None:
    assert decode_numbered(encode_numbered(ALICE, 7, STREAM)) == (ALICE, 7, STREAM)
    assert decode_numbered(b"short") is None


def test_what_never_came_is_lost() -> None:
    made = heard(0, 1, 2, 5, 6)
    assert made.lost(0) == 2
    assert made.lost(4) == 1
    assert made.lost(6) == 0
    assert made.next == 7


def test_a_hole_is_time_without_anything_new() -> None:
    made = heard(0, 1, 2, 5, 6)
    assert made.longest_hole(0.0, 0.12) == pytest.approx(0.04)
    assert made.longest_hole(0.10, 0.12) == pytest.approx(0.0)
    assert made.longest_hole(0.0, 5.12) == pytest.approx(4.98), "silence to the end counts"
    assert Heard().longest_hole(1.0, 3.0) == pytest.approx(1.98), "and so does nothing at all"


def test_what_comes_twice_or_late_is_told_apart() -> None:
    made = heard(0, 1, 3)
    made.note(3, STREAM, 0.1)
    made.note(2, STREAM, 0.2)
    assert (made.doubled, made.reordered, made.lost(0), made.count) == (1, 1, 0, 4)


def test_who_lost_count_begins_anew_and_loses_nothing() -> None:
    made = heard(5, 6)
    made.note(0, OTHER, 1.0)
    assert (made.restarts, made.lost(0), made.doubled, made.next) == (1, 0, 0, 1)
    assert made.came_after(0.15) == 1


def rtp(sequence: int, content: bytes) -> bytes:
    return PATH + b"\x80\x6f" + sequence.to_bytes(2, "big") + bytes(4) + b"SSRC" + content


def rtcp(index: int, content: bytes) -> bytes:
    word = (1 << 31 | index).to_bytes(4, "big")
    return PATH + b"\x81\xc8\x00\x01SSRC" + content + word


def record(epoch: int, sequence: int, content: bytes) -> bytes:
    numbers = epoch.to_bytes(2, "big") + sequence.to_bytes(6, "big")
    return b"\x17\xfe\xfd" + numbers + len(content).to_bytes(2, "big") + content


def seen(*datagrams: bytes) -> Egress:
    egress = Egress()
    for datagram in datagrams:
        egress.note(datagram)
    return egress


@pytest.mark.parametrize(
    ("first", "second", "nonce"),
    [
        (rtp(7, b"one"), rtp(7, b"two"), Nonce.SRTP),
        (rtcp(7, b"one" * 8), rtcp(7, b"two" * 8), Nonce.SRTCP),
        (PATH + record(1, 7, b"one"), PATH + record(1, 7, b"two"), Nonce.DTLS),
        (PATH + record(1, 7, b"one"), PATH + record(1, 6, b"") + record(1, 7, b"two"), Nonce.DTLS),
    ],
)
def test_a_nonce_with_two_contents_is_found(first: bytes, second: bytes, nonce: Nonce) -> None:
    assert seen(first, second).reused == {nonce: 1}
    again = seen(first, first)
    assert not again.reused
    assert again.repeated == 1


def test_a_sequence_number_that_comes_round_is_no_reuse() -> None:
    rising = [rtp(number & 0xFFFF, b"%d" % number) for number in range(0, 140_000, 10_000)]
    assert not seen(*rising).reused
    assert seen(*rising, rtp(130_000 & 0xFFFF, b"other")).reused == {Nonce.SRTP: 1}


def test_the_handshake_and_other_sources_have_other_nonces() -> None:
    other = rtp(7, b"two").replace(b"SSRC", b"ssrc")
    plain = PATH + record(0, 1, b"one"), PATH + record(0, 1, b"two")
    assert not seen(rtp(7, b"one"), other, *plain).reused


def test_only_what_reaches_a_client_of_an_old_owner_counts() -> None:
    waking = Waking("10.0.0.9")
    waking.note_framed("10.0.0.8", rtp(1, b"heir"))
    waking.note_framed("10.0.0.9", rtp(1, b"old"))
    waking.note_framed("10.0.0.9", PATH)  # a flow is given back
    waking.note_plain(rtp(1, b"heir")[len(PATH) :])
    assert (waking.sent, waking.reached) == (1, 0)
    waking.note_plain(rtp(1, b"old")[len(PATH) :])
    assert waking.reached == 1
