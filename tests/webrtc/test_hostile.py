"""Attacks on one session by whoever can read its datagrams, forge sources, or is its own client.

The off-path attacks on DTLS, SRTP and ICE alone are in the tests of each machine; here the parts
work together, where a rule of one could be used against another.
"""

from __future__ import annotations

import secrets

from edge.errors import Drop, EndReason
from edge.webrtc.outputs import AudioReceived, Ended, PathSelected, PeerOutput, Transmit
from edge.wire import stun
from edge.wire.demux import Kind, classify
from edge.wire.rtcp import Bye, ReceiverReport, ReportBlock, encode_rtcp
from edge.wire.rtp import build_header
from edge.wire.spp import Path, encode_path
from tests.webrtc.peer_call import RELAY, Call, make_call

ELSEWHERE = encode_path(("203.0.113.9", 9), RELAY)
VICTIM = encode_path(("198.51.100.99", 53), RELAY)


def _check(call: Call, *, nominate: bool) -> bytes:
    """A valid check of the call's own client."""
    answer = call.caller._answer
    assert answer is not None
    return stun.encode_request(
        secrets.token_bytes(12),
        username=f"{answer.ufrag}:{call.caller.offer.ufrag}",
        password=answer.password,
        priority=2**31 - 1,
        use_candidate=nominate,
        controlling=1,
    )


def _bytes_to(path: Path, outputs: list[PeerOutput] | list[Transmit]) -> int:
    return sum(len(o.data) for o in outputs if isinstance(o, Transmit) and o.path == path)


def _drops(call: Call, drop: Drop) -> int:
    return call.peer.statistics().drops[drop]


# Flooding a third party.


def test_a_finished_with_a_forged_source_makes_no_address_a_target() -> None:
    """A client completes its handshake in a victim's name, then has its media sent there."""
    call = make_call(answered=False)
    forged = 0

    def forge(datagram: bytes) -> None:
        nonlocal forged
        forged += len(datagram)
        call.follow(call.peer.receive(datagram, VICTIM, now=call.now))

    def fate(datagram: bytes) -> bool:
        # Only the datagram with the client's Finished comes from the victim's address.
        if classify(datagram) is Kind.DTLS and datagram[0] != 22:
            forge(datagram)
            return False
        if classify(datagram) is Kind.DTLS and call.peer.ice.paths.knows(VICTIM) is False:
            forge(_check(call, nominate=False))
        return True

    call.to_peer = fate
    call.start()
    assert call.peer.connected
    call.to_peer = lambda datagram: True
    for _ in range(200):
        if call.now % 2.5 < 0.1:
            forge(_check(call, nominate=True))
        call.run(0.1)
    assert _bytes_to(VICTIM, call.sent) <= 3 * forged
    assert call.peer.ice.paths.selected == call.path


def test_flights_on_two_paths_prove_neither() -> None:
    """Our flights can be read at home while copies of them go to a victim."""
    call = make_call(answered=False)
    moved = False

    def fate(datagram: bytes) -> bool:
        nonlocal moved
        if classify(datagram) is Kind.DTLS and not moved:
            moved = True
            call.follow(call.peer.receive(_check(call, nominate=True), VICTIM, now=call.now))
            assert call.peer.ice.paths.selected == VICTIM
            call.follow(call.peer.receive(datagram, call.path, now=call.now))
            # What went to the victim's address is what the attacker wanted to read at home.
            call.follow(call.peer.receive(_check(call, nominate=True), call.path, now=call.now))
        return True

    call.to_peer = fate
    call.start()
    call.run(2.0)
    assert call.peer.connected
    assert not call.peer.ice.paths._states[VICTIM].proven
    assert call.peer.ice.paths._states[call.path].proven  # by the check that followed


# Somebody reads along and repeats what he read.


def test_a_repeated_check_opens_no_path_into_the_handshake() -> None:
    """Neither our flights go to where it came from, nor is DTLS taken from there."""
    call = make_call(answered=False)
    call.to_caller = lambda datagram: classify(datagram) is Kind.STUN
    checks = call.caller.take_answer(call.answer, now=call.now)
    call.carry(checks)
    assert call.peer.receive(checks[0], ELSEWHERE, now=call.now) == []
    assert _drops(call, Drop.REPLAY) == 1
    fatal_alert = bytes.fromhex("15fefd000000000000000900020228")
    forged_hello = bytes.fromhex("16fefd00000000000000010010") + bytes(16)
    for junk in (fatal_alert, forged_hello):
        assert call.peer.receive(junk, ELSEWHERE, now=call.now) == []
    assert _drops(call, Drop.UNKNOWN_PATH) == 2
    call.to_caller = lambda datagram: True
    call.run(5.0)
    assert call.peer.connected
    assert _bytes_to(ELSEWHERE, call.sent) == 0


def test_a_silent_listener_is_not_robbed_of_its_path() -> None:
    """A client that only listens is silent for seconds; a replay is not better than that."""
    call = make_call()
    checks: list[bytes] = []

    def keep(datagram: bytes) -> bool:
        if classify(datagram) is Kind.STUN:
            checks.append(datagram)
        return classify(datagram) is not Kind.RTP

    call.to_peer = keep
    call.run(3.0)
    call.outputs.clear()
    for _ in range(40):
        call.run(0.1)
        call.follow(call.peer.receive(checks[0], VICTIM, now=call.now))
    assert not any(isinstance(output, PathSelected) for output in call.outputs)
    assert call.peer.ice.paths.selected == call.path


# A client turns against its own session.


def test_a_flood_of_authentic_ssrcs_is_capped_and_the_first_ones_go_on() -> None:
    call = make_call()
    call.run(0.1)
    sender = call.caller._sender
    assert sender is not None
    for ssrc in range(1, 500):
        packet = sender.protect_rtp(build_header(111, False, 1, 0, ssrc), b"x", index=1)
        call.peer.receive(packet, call.path, now=call.now)
    assert _drops(call, Drop.TABLE_FULL) >= 400
    assert len(call.peer.media.logs) == 8
    received = call.caller.journal.received
    call.run(0.5)
    assert call.caller.journal.received >= received + 24


def test_forged_ssrcs_leave_nothing_behind() -> None:
    call = make_call()
    call.run(0.1)
    for ssrc in range(5_000):
        call.peer.receive(build_header(111, False, 1, 0, ssrc) + bytes(40), call.path, now=call.now)
    assert call.peer._srtp is not None
    receiver = call.peer._srtp.receiver
    assert len(receiver._rtp) == len(call.peer.media.logs) == 1
    assert _drops(call, Drop.BAD_AUTH) == 5_000


def test_other_payload_types_are_not_heard() -> None:
    call = make_call()
    call.run(0.1)
    sender = call.caller._sender
    assert sender is not None
    ours, rtcp_range = 111, range(64, 96)
    wrong = [number for number in range(128) if number != ours and number not in rtcp_range]
    for sequence, payload_type in enumerate(wrong):
        header = build_header(payload_type, False, sequence, 0, 77)
        packet = sender.protect_rtp(header, b"\x00" * 1200, index=sequence)
        outputs = call.peer.receive(packet, call.path, now=call.now)
        assert not any(isinstance(output, AudioReceived) for output in outputs)
    assert _drops(call, Drop.UNEXPECTED_PAYLOAD) == len(wrong)


def test_rtcp_of_a_hostile_client_ends_and_inflates_nothing() -> None:
    call = make_call()
    call.run(0.1)
    sender, media = call.caller._sender, call.peer.media
    assert sender is not None
    ours = media.stream.ssrc
    nonsense = ReportBlock(ours, 255, -0x800000, 2**32 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    compounds = [
        encode_rtcp([Bye((ours,)), Bye((call.caller.offer.ssrc,), "x" * 255)]),
        encode_rtcp([ReceiverReport(1, (nonsense,) * 31)] * 5),
        encode_rtcp([Bye(())] * 32),
        b"\x80\xc9\x00\x01" + bytes(4) + b"\xbf\xca\x00\x00",  # 31 SDES chunks that are not there
        b"\x80\xcc\x03\xe8" + bytes(4 * 1000),  # a long APP
    ]
    outputs: list[PeerOutput] = []
    for compound in compounds * 50:
        packet = sender.protect_rtcp(compound)
        outputs += call.peer.receive(packet, call.path, now=call.now)
    assert not any(isinstance(output, Ended) for output in outputs)
    assert media.round_trip_time is None or 0.0 <= media.round_trip_time <= 60.0
    assert len(media.logs) == 1
    call.run(6.0)  # our next reports are made of what it said
    assert call.peer.connected
    assert call.caller.journal.rejected == 0


def test_a_close_notify_of_somebody_else_ends_nothing() -> None:
    call, other = make_call(), make_call()
    call.run(0.1)
    for datagram in other.caller.close():
        assert call.peer.receive(datagram, call.path, now=call.now) == []
    assert _drops(call, Drop.BAD_AUTH) == 1
    assert not any(
        isinstance(output, Ended) and output.reason is EndReason.PEER_CLOSED
        for output in call.outputs
    )
    call.run(0.2)
    assert call.peer.connected
