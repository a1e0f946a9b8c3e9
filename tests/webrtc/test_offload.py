"""Lending and taking back: by a fake that counts, in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge.errors import Drop
from edge.webrtc.outputs import AudioReceived
from edge.webrtc.peer import Peer
from edge.webrtc.reserve import Reserve
from edge.wire.rtcp import SenderReport, decode_rtcp
from edge.wire.spp import Path
from tests.support.lending import (
    AUDIO,
    GCM,
    NTP_OFFSET,
    OTHER_PATH,
    OURS,
    PATH,
    REMOTE,
    Client,
    FakeOffload,
    make_snapshot,
    restore,
)

ENDPOINT = b"where the relay is"


def connected(*, proven: bool = True, nack: bool = False, confirmed: bool = True) -> Peer:
    """A peer that has heard, after its restore, one more packet: index 1,001."""
    peer = restore(make_snapshot(GCM, proven=proven, nack=nack))
    if confirmed:
        first = peer.receive_rtp(Client(GCM).packet(b"first"), PATH, now=0.0)
        assert first == AudioReceived(b"first", 1_001, 1_001 * 960, False)
    return peer


def lent(**options: bool) -> tuple[Peer, FakeOffload]:
    peer, offload = connected(**options), FakeOffload()
    peer.lend(offload, PATH, ENDPOINT, sends=True)
    return peer, offload


def test_both_directions_are_lent_as_they_are() -> None:
    _, offload = lent()
    assert offload.place == (PATH, ENDPOINT)
    assert offload.incoming is not None
    assert offload.incoming[:4] == (REMOTE, AUDIO, 1_002, 48_000.0)
    assert offload.incoming.timestamp == 1_001 * 960
    assert offload.incoming.heard_at == 0.0
    assert offload.outgoing is not None
    assert offload.outgoing.ssrc == OURS
    assert (offload.outgoing.next_index, offload.outgoing.limit) == (2_000, 2**48)
    assert offload.outgoing.header[:12] == b"\x90\x6f" + bytes(6) + OURS.to_bytes(4)


INPUTS: dict[str, Callable[[Peer], object]] = {
    "a packet": lambda peer: peer.receive_rtp(b"\x80\x6f" + bytes(30), PATH, now=1.0),
    "a datagram": lambda peer: peer.receive(b"", PATH, now=1.0),
    "a check": lambda peer: peer.receive(b"\0\1" + bytes(18), PATH, now=1.0),
    "DTLS": lambda peer: peer.receive(b"\x16" + bytes(20), PATH, now=1.0),
    "RTCP": lambda peer: peer.receive(b"\x80\xc8" + bytes(40), PATH, now=1.0),
    "audio": lambda peer: peer.send_audio(b"x", timestamp=0, marker=False, now=1.0),
    "time": lambda peer: peer.tick(now=1.0),
    "a snapshot": lambda peer: peer.snapshot(now=1.0),
    "the end": lambda peer: peer.close(now=1.0),
    "the owner": lambda peer: peer.recall(),
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_takes_back_what_is_lent(name: str) -> None:
    peer, offload = lent()
    INPUTS[name](peer)
    assert (offload.place, offload.recalls, offload.lends) == (None, 1, 1)


LOOKS: dict[str, Callable[[Peer], object]] = {
    "media": lambda peer: peer.media_statistics().packets_received,
    "all": lambda peer: peer.statistics().media.packets_received,
}


@pytest.mark.parametrize("name", LOOKS)
def test_statistics_are_up_to_date_and_it_stays_lent(name: str) -> None:
    peer, offload = lent()
    before = LOOKS[name](peer)
    offload.hears(3, octets=240, now=1.0)
    assert LOOKS[name](peer) == 5
    assert before == 2
    assert LOOKS[name](peer) == 5
    assert offload.incoming is not None
    assert offload.incoming.next_index == 1_005
    assert (offload.incoming.timestamp, offload.incoming.jitter) == (5 * 960, 2.5)


def test_what_was_heard_shows_that_the_path_is_alive() -> None:
    peer, offload = lent()
    offload.hears(1, octets=80, now=12.5)
    assert peer.heard_at(PATH) == 12.5
    assert offload.place is not None
    assert peer.ice.deadline == 30.0, "media renews no consent"


def test_nothing_heard_is_no_sign_of_life() -> None:
    peer, offload = lent()
    heard = peer.heard_at(PATH)
    offload.done = (1_002, 0, 960, 0.0, 99.0), None
    assert peer.heard_at(PATH) == heard


@pytest.mark.parametrize("path", [PATH, OTHER_PATH], ids=["proven", "selected"])
def test_a_path_that_is_not_in_use_or_not_proven_is_not_lent(path: Path) -> None:
    peer, offload = connected(proven=path == OTHER_PATH), FakeOffload()
    peer.lend(offload, path, ENDPOINT, sends=True)
    assert offload.lends == 0


def test_an_ended_peer_lends_nothing() -> None:
    peer, offload = connected(), FakeOffload()
    peer.close(now=1.0)
    peer.lend(offload, PATH, ENDPOINT, sends=True)
    assert offload.lends == 0


def test_a_source_whose_roll_over_is_not_sure_is_not_lent() -> None:
    _, offload = lent(confirmed=False)
    assert offload.incoming is None
    assert offload.outgoing is not None


def test_who_may_ask_for_packets_again_is_served_by_the_peer() -> None:
    _, offload = lent(nack=True)
    assert offload.incoming is not None
    assert offload.outgoing is None


def test_nothing_is_sent_to_whom_does_not_listen() -> None:
    peer, offload = connected(), FakeOffload()
    peer.lend(offload, PATH, ENDPOINT, sends=False)
    assert offload.incoming is not None
    assert offload.outgoing is None


def test_a_gap_that_the_log_knows_and_the_window_does_not_is_not_lent() -> None:
    """They may differ only where a log was forgotten and begun again."""
    peer, offload = connected(), FakeOffload()
    peer.media.logs[REMOTE].highest -= 1
    peer.lend(offload, PATH, ENDPOINT, sends=True)
    assert offload.incoming is None


def test_the_peer_goes_on_where_the_offload_has_come_to() -> None:
    peer, offload = lent()
    offload.hears(2, octets=100, now=1.0)
    offload.sends(3, octets=90, now=1.25)
    client = Client(GCM, index=1_003)
    assert peer.receive_rtp(client.packet(b"seen"), PATH, now=2.0) is None, "opened before: replay"
    heard = peer.receive_rtp(client.packet(b"next"), PATH, now=2.0)
    assert heard is not None
    assert heard.sequence == 1_004
    sent = peer.send_audio(b"x", timestamp=0, marker=False, now=2.0)
    assert sent is not None
    assert int.from_bytes(sent.data[2:4]) == 2_003
    media = peer.media_statistics()
    assert (media.packets_received, media.octets_received) == (2 + 2 + 1, 80 + 5 + 100 + 4)
    assert (media.packets_sent, media.octets_sent, media.lost) == (4, 91, 0)


def test_an_index_that_was_used_for_nothing_is_not_used_again() -> None:
    peer, offload = lent()
    offload.done = None, (2_001, 0, 0, 0, 0.0)
    peer.recall()
    assert peer.media.sent_at == 0.0
    sent = peer.send_audio(b"x", timestamp=0, marker=False, now=2.0)
    assert sent is not None
    assert int.from_bytes(sent.data[2:4]) == 2_001
    assert peer.media_statistics().packets_sent == 1


def test_a_snapshot_is_complete_and_the_original_has_stopped() -> None:
    peer, offload = lent()
    offload.hears(2, octets=100, now=1.0)
    offload.sends(3, octets=90, now=1.25)
    snapshot = peer.snapshot(now=2.0)
    assert offload.place is None
    assert snapshot.sender.highest == ((OURS, 2_002),)
    assert snapshot.receiver.rtp[0].highest == 1_003
    assert snapshot.receiver.rtp[0].seen == (0b1111).to_bytes(128, "big")
    assert snapshot.media.stream.next_index == 2_003
    assert snapshot.media.sent_at == 1.25 + NTP_OFFSET
    assert snapshot.media.logs[REMOTE].highest == 1_003
    assert dict(snapshot.ice.paths)[PATH].heard == -1.0


def test_a_report_tells_what_was_sent_by_the_other_hand() -> None:
    peer, offload = lent()
    offload.sends(3, octets=90, now=1.0)
    peer.recall()
    report, *_ = decode_rtcp(peer.media.report(now=1.0))
    assert isinstance(report, SenderReport)
    assert (report.packet_count, report.octet_count, report.timestamp) == (3, 90, 4_711)


def test_no_packet_leaves_beyond_the_reserve() -> None:
    peer, offload = connected(), FakeOffload()
    peer.media.stream.reserve(3)
    peer.lend(offload, PATH, ENDPOINT, sends=True)
    assert offload.outgoing is not None
    assert offload.outgoing.limit == 2_003
    offload.sends(3, octets=90, now=1.0)
    assert peer.send_audio(b"x", timestamp=0, marker=False, now=2.0) is None
    assert peer.statistics().drops[Drop.RESERVE_USED] == 1


def test_counting_and_limiting_leave_the_loan_as_it_is() -> None:
    peer, offload = lent()
    offload.sends(3, octets=90, now=1.0)
    assert peer.used() == Reserve(rtp=2_003, rtcp=7)
    assert offload.place is not None
    offload.sends(2, octets=60, now=1.0)
    peer.limit(Reserve(rtp=10, rtcp=1))
    assert offload.place is not None
    assert offload.outgoing is not None
    assert (offload.outgoing.next_index, offload.outgoing.limit) == (2_005, 2_015)
    peer.leave()
    assert offload.place is None
    assert peer.used().rtp == 2_005


def test_lending_twice_takes_back_first() -> None:
    peer, offload = lent()
    offload.hears(1, octets=80, now=1.0)
    other = FakeOffload()
    peer.lend(other, PATH, b"another relay", sends=True)
    assert offload.place is None
    assert other.place == (PATH, b"another relay")
    assert other.incoming is not None
    assert other.incoming.next_index == 1_003
