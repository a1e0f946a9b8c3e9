"""The composed endpoint against a caller: set-up, trust rules, and going on from a snapshot."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import Drop, EndReason, LocalProtocolError
from edge.webrtc.outputs import (
    AudioReceived,
    Connected,
    Ended,
    PathSelected,
    RoundTripMeasured,
    Transmit,
)
from edge.webrtc.peer import Peer, PeerSnapshot
from edge.webrtc.reserve import NO_RESERVE, Reserve
from edge.wire.demux import Kind, classify
from edge.wire.fingerprint import Fingerprint
from edge.wire.rtcp import ReceiverReport, ReportBlock, encode_rtcp
from edge.wire.spp import encode_path
from tests.support.examples import examples
from tests.webrtc.peer_call import NTP_OFFSET, RELAY, Call, make_call

ELSEWHERE = encode_path(("203.0.113.9", 9), RELAY)


def _ended(call: Call) -> list[EndReason]:
    return [output.reason for output in call.outputs if isinstance(output, Ended)]


def _drops(call: Call, drop: Drop) -> int:
    return call.peer.statistics().drops[drop]


def _restore(
    call: Call, *, skip: Reserve = NO_RESERVE, snapshot: PeerSnapshot | None = None
) -> None:
    """Take the call's peer up from its own bytes, as another process would."""
    value = call.peer.snapshot(now=call.now) if snapshot is None else snapshot
    wire = msgspec.msgpack.encode(value)
    call.peer = Peer.restore(
        msgspec.msgpack.decode(wire, type=PeerSnapshot),
        entropy=os.urandom,
        now=call.now,
        skip=skip,
    )


def test_a_call_is_set_up_without_a_clock_tick() -> None:
    call = make_call()
    kinds = [type(output) for output in call.outputs if not isinstance(output, Transmit)]
    assert kinds == [PathSelected, Connected]
    assert call.caller.secured
    # The ClientHello follows the first check's response at once.
    assert [classify(sent.data) for sent in call.sent[:2]] == [Kind.STUN, Kind.DTLS]


def test_audio_goes_both_ways_and_is_reported() -> None:
    call = make_call()
    call.run(10.0)
    journal = call.caller.journal
    assert journal.sent >= 499
    assert (journal.received, journal.rejected) == (journal.sent, 0)
    statistics = call.peer.statistics()
    assert statistics.media.packets_received >= 499
    assert statistics.media.lost == 0
    # The caller's DTLS repeats the flight that ends the handshake, unasked.
    assert set(statistics.drops) <= {Drop.REPLAY}
    assert statistics.drops.total() <= 4
    assert Kind.RTCP in {classify(sent.data) for sent in call.sent}


def test_a_report_measures_the_round_trip() -> None:
    call = make_call()
    call.run(1.0)
    sent_at = int((NTP_OFFSET + 2_208_988_800 + call.now - 0.25) * 65536) & 0xFFFFFFFF
    block = ReportBlock(call.peer.media.stream.ssrc, 0, 0, 0, 0, sent_at, 0)
    assert call.caller._sender is not None
    report = call.caller._sender.protect_rtcp(encode_rtcp((ReceiverReport(1, (block,)),)))
    (output,) = call.peer.receive(report, call.path, now=call.now)
    assert isinstance(output, RoundTripMeasured)
    assert output.seconds == pytest.approx(0.25, abs=1e-3)


def test_a_stranger_is_not_listened_to() -> None:
    call = make_call()
    hello = next(sent.data for sent in call.sent if classify(sent.data) is Kind.DTLS)
    assert call.peer.receive(hello, ELSEWHERE, now=0.0) == []
    assert call.peer.receive(b"\x80" + bytes(40), ELSEWHERE, now=0.0) == []
    assert _drops(call, Drop.UNKNOWN_PATH) == 2
    call.run(0.2)
    assert call.peer.connected


def test_media_before_the_handshake_is_dropped() -> None:
    call = make_call()
    early = make_call()
    early.peer._srtp = None
    call.run(0.1)
    rtp = early.caller._make_frame(0.0)
    assert early.peer.receive(rtp, early.path, now=0.0) == []
    assert early.peer.receive(b"\x80\xc8" + bytes(30), early.path, now=0.0) == []
    assert _drops(early, Drop.NOT_READY) == 2


def test_sending_before_the_handshake_is_our_own_mistake() -> None:
    call = make_call()
    call.peer._srtp = None
    with pytest.raises(LocalProtocolError):
        call.peer.send_audio(b"x", timestamp=0, marker=False, now=0.0)


def test_a_foreign_certificate_ends_the_peer_without_keys() -> None:
    foreign = frozenset({Fingerprint("sha-256", ":".join(["AA"] * 32))})
    call = make_call(fingerprints=foreign)
    call.run(1.0)
    assert _ended(call) == [EndReason.FINGERPRINT_MISMATCH]
    assert not call.peer.connected
    assert not any(isinstance(output, Connected) for output in call.outputs)


def test_replayed_and_forged_media_changes_nothing() -> None:
    call = make_call()
    seen: list[bytes] = []

    def tap(datagram: bytes) -> bool:
        seen.append(datagram)
        return True

    call.to_peer = tap
    call.run(0.2)
    media = [datagram for datagram in seen if classify(datagram) is Kind.RTP]
    call.outputs.clear()
    for datagram in media:
        call.follow(call.peer.receive(datagram, call.path, now=call.now))
        call.follow(call.peer.receive(datagram[:-1] + b"\0", call.path, now=call.now))
    assert call.outputs == []
    assert _drops(call, Drop.REPLAY) >= len(media)
    call.run(0.2)
    assert call.peer.connected
    assert any(isinstance(output, AudioReceived) for output in call.outputs)


def test_close_notify_ends_the_peer() -> None:
    call = make_call()
    call.run(0.1)
    call.carry(call.caller.close())
    assert _ended(call) == [EndReason.PEER_CLOSED]
    assert call.peer.deadline == float("inf")
    assert call.peer.tick(now=call.now + 100.0) == []


def test_goodbye_is_bye_and_close_notify_and_comes_once() -> None:
    call = make_call()
    call.run(0.1)
    outputs = call.peer.close(now=call.now)
    kinds = [classify(output.data) for output in outputs if isinstance(output, Transmit)]
    assert kinds == [Kind.RTCP, Kind.DTLS]
    call.follow(outputs)
    assert call.caller.closed
    assert call.peer.close(now=call.now) == []


def test_consent_ends_without_checks_though_media_flows() -> None:
    call = make_call()
    call.run(1.0)
    call.caller.stop_checks()
    call.run(28.0, step=0.02)
    assert not call.peer.ended
    call.run(2.0, step=0.02)
    assert _ended(call) == [EndReason.CONSENT_EXPIRED]


def test_a_client_that_moves_is_followed_after_its_next_check() -> None:
    call = make_call()
    call.run(1.0)
    old, call.path = call.path, ELSEWHERE
    call.sent.clear()
    call.carry(call.caller.tick(now=call.now + 2.5))
    call.run(3.0)
    assert call.peer.ice.paths.selected == ELSEWHERE
    call.sent.clear()
    call.run(0.1)
    assert {sent.path for sent in call.sent} == {ELSEWHERE} != {old}


def test_an_unproven_path_gets_three_times_its_bytes_at_most() -> None:
    call = make_call(answered=False)
    call.to_caller = lambda datagram: False
    received = 0

    def count(datagram: bytes) -> bool:
        nonlocal received
        received += len(datagram)
        return True

    call.to_peer = count
    call.start()
    call.caller.stop_checks()
    for _ in range(1_000):
        call.run(0.01, step=0.01)
        assert sum(len(sent.data) for sent in call.sent) <= 3 * received
    assert _drops(call, Drop.AMPLIFICATION) > 0
    assert not call.peer.connected


def test_a_lost_client_hello_costs_a_tenth_of_a_second() -> None:
    call = make_call(answered=False)
    hellos = 0

    def lose_the_first(datagram: bytes) -> bool:
        nonlocal hellos
        hellos += classify(datagram) is Kind.DTLS
        return classify(datagram) is not Kind.DTLS or hellos > 1

    call.to_caller = lose_the_first
    call.start()
    assert not call.caller.secured
    call.run(0.11)
    assert call.caller.secured
    assert hellos > 1


@pytest.mark.parametrize("at", [0.0, 0.1, 1.2, 6.0])
def test_a_restored_peer_goes_on_at_any_step(at: float) -> None:
    call = make_call()
    call.run(at)
    _restore(call)
    assert call.peer.connected
    call.run(8.0)
    journal = call.caller.journal
    assert journal.sent >= 399
    assert (journal.received, journal.rejected) == (journal.sent, 0)
    assert not call.peer.ended
    assert call.peer.ice.paths.selected == call.path


def test_an_unconnected_peer_can_not_be_written_down() -> None:
    call = make_call()
    call.peer._srtp = None
    with pytest.raises(LocalProtocolError):
        call.peer.snapshot(now=0.0)


def test_a_snapshot_shows_no_secret() -> None:
    call = make_call()
    snapshot = call.peer.snapshot(now=0.0)
    text = repr(snapshot)
    secrets = [
        call.peer.ice._generations.current.local.password,
        call.peer.ice._generations.current.remote.password,
    ]
    assert not any(secret in text for secret in secrets)
    keys = _bytes_in(msgspec.to_builtins(snapshot, builtin_types=(bytes,)))
    assert keys
    assert not any(repr(key)[2:-1] in text for key in keys if len(key) >= 12)


def _bytes_in(value: object) -> list[bytes]:
    match value:
        case bytes():
            return [value]
        case dict():
            return [found for item in value.values() for found in _bytes_in(item)]
        case list() | tuple():
            return [found for item in value for found in _bytes_in(item)]
        case _:
            return []


@examples(5)
@given(steps=st.lists(st.sampled_from(["say", "move on", "crash"]), max_size=30))
def test_no_index_is_ever_used_twice(steps: list[str]) -> None:
    """A crash restores the last checkpoint, which reserves 100 packets, whatever was sent since."""
    call = make_call()
    checkpoint, since = call.peer.snapshot(now=call.now), 0
    for step in steps:
        match step:
            case "say":
                call.run(0.02, step=0.02)
                since += 1
            case "move on":
                _restore(call)
                checkpoint, since = call.peer.snapshot(now=call.now), 0
            case _:
                assert since < 100
                _restore(call, skip=Reserve(100, 100, 100, 100), snapshot=checkpoint)
                checkpoint, since = call.peer.snapshot(now=call.now), 0
    indices = call.rtp_indices()
    assert len(indices) == len(set(indices))
    assert call.caller.journal.rejected == 0
