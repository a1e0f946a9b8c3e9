from __future__ import annotations

import pytest

from edge.errors import Drop
from edge.webrtc.media import Media
from edge.webrtc.outputs import AudioReceived, PeerOutput
from edge.wire.red import RedBlock
from edge.wire.rtp import build_header
from tests.webrtc.peer_call import NTP_OFFSET, Call, make_call

RED = 63
PACKET = bytes.fromhex("ef0f0003 6f aabbcc 11223344")  # 3 bytes of 20 ms before, and 4


def connected_with_red() -> Call:
    call = make_call()
    call.peer.media.red_payload_type = RED
    call.run(0.1)
    return call


def send(call: Call, payload_type: int, payload: bytes, index: int = 65) -> list[PeerOutput]:
    sender = call.caller._sender
    assert sender is not None
    header = build_header(payload_type, True, index, 4_800 + 960 * index, 77)
    packet = sender.protect_rtp(header, payload, index=index)
    return call.peer.receive(packet, call.path, now=call.now)


def test_the_packet_and_what_it_repeats() -> None:
    call = connected_with_red()
    (heard,) = send(call, RED, PACKET)
    assert isinstance(heard, AudioReceived)
    assert (heard.payload, heard.sequence, heard.marker) == (b"\x11\x22\x33\x44", 65, True)
    assert heard.redundant == (RedBlock(111, 960, b"\xaa\xbb\xcc"),)


def test_plain_opus_is_heard_beside_it_on_the_same_clock() -> None:
    call = connected_with_red()
    (plain,) = send(call, 111, b"plain")
    assert isinstance(plain, AudioReceived)
    assert plain.redundant == ()
    call.now += 0.02
    send(call, RED, PACKET, index=66)
    assert call.peer.media.statistics().jitter == pytest.approx(0.0, abs=1e-4)
    log = call.peer.media.logs[77]
    assert (log.received, log.last_timestamp) == (2, 4_800 + 960 * 66)


@pytest.mark.parametrize(
    ("packet", "drop"),
    [
        (b"", Drop.MALFORMED),
        (PACKET[:6], Drop.MALFORMED),
        (b"\x00" + PACKET, Drop.UNEXPECTED_PAYLOAD),  # PCMU
        (bytes.fromhex("80000003 6f aabbcc 11223344"), Drop.UNEXPECTED_PAYLOAD),
    ],
)
def test_red_of_nothing_that_was_negotiated(packet: bytes, drop: Drop) -> None:
    call = connected_with_red()
    assert send(call, RED, packet) == []
    assert call.peer.statistics().drops[drop] == 1


def test_red_that_was_not_negotiated() -> None:
    call = make_call()
    call.run(0.1)
    assert send(call, RED, PACKET) == []
    assert call.peer.statistics().drops[Drop.UNEXPECTED_PAYLOAD] == 1


def test_it_is_known_after_a_move() -> None:
    media = connected_with_red().peer.media
    restored = Media.restore(media.snapshot(), now=0.0, ntp_offset=NTP_OFFSET)
    assert restored.red_payload_type == RED
