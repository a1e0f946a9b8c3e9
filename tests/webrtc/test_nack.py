"""What is asked for again, when and how often; what is sent again; a number is the clock."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from math import inf

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import Drop
from edge.webrtc.media import Media
from edge.webrtc.nack import (
    KEPT_SECONDS,
    MARGIN,
    MAX_MISSING,
    MAX_REQUESTS,
    PACKET,
    REORDER_WAIT,
    RING,
    UNKNOWN_ROUND_TRIP,
    Asker,
    Repair,
    Resender,
)
from edge.webrtc.outputs import Transmit
from edge.webrtc.peer import Peer, PeerSnapshot
from edge.webrtc.streams import MAX_DROPOUT, SendStream
from edge.wire.demux import Kind, classify
from edge.wire.rtcp import GenericNack, ReceiverReport, SourceDescription, decode_rtcp, encode_rtcp
from tests.webrtc.peer_call import NTP_OFFSET, Call, make_call

SSRC, REMOTE = 0x11111111, 0x22222222
ROUND_TRIP = 0.04


def asker(patience: float = 0.2, *, round_trip: float = ROUND_TRIP) -> Asker:
    machine = Asker(Counter())
    machine.patience = lambda: patience
    machine.round_trip = round_trip
    return machine


def miss(machine: Asker, last: int, index: int, *, now: float = 0.0, ssrc: int = REMOTE) -> None:
    """A gap between packets that came at their pace."""
    machine.miss(ssrc, last, index, since=(index - last) * PACKET, now=now)


def run(machine: Asker, until: float) -> list[tuple[float, list[int]]]:
    """All that is asked for, and when, each time the machine wants to be called."""
    asked = []
    while machine.deadline <= until:
        now = machine.deadline
        asked.append((now, machine.ask(now=now)))
        assert machine.deadline > now
    return [(now, indexes) for now, indexes in asked if indexes]


class TestAsker:
    def test_asks_after_a_reordering_and_again_after_each_round_trip(self) -> None:
        machine = asker(patience=1.0)
        miss(machine, 10, 13)
        again = ROUND_TRIP + MARGIN
        times = [REORDER_WAIT + number * again for number in range(MAX_REQUESTS)]
        asked = run(machine, 0.9)
        assert [time for time, _ in asked] == pytest.approx(times)
        assert [indexes for _, indexes in asked] == [[11, 12]] * MAX_REQUESTS
        assert machine._counts[Repair.ASKED] == 2 * MAX_REQUESTS
        run(machine, 1.0)
        assert machine.deadline == inf  # given up
        assert not machine.missing

    def test_a_packet_that_was_only_overtaken_is_not_asked_for(self) -> None:
        machine = asker()
        miss(machine, 10, 12)
        machine.find(REMOTE, 11)
        assert machine.deadline == inf
        assert machine._counts[Repair.RECOVERED] == 0

    def test_what_came_back_is_not_asked_for_again(self) -> None:
        machine = asker(patience=1.0)
        miss(machine, 10, 13)
        machine.ask(now=REORDER_WAIT)
        machine.find(REMOTE + 1, 11)
        machine.find(REMOTE, 12)
        assert machine._counts[Repair.RECOVERED] == 1
        assert [indexes for _, indexes in run(machine, 1.0)] == [[11]] * (MAX_REQUESTS - 1)

    @pytest.mark.parametrize("spare", [-0.001, 0.001])
    def test_only_what_can_still_be_in_time_is_asked_for(self, spare: float) -> None:
        machine = asker(PACKET + REORDER_WAIT + ROUND_TRIP + MARGIN + spare)
        miss(machine, 10, 12)
        assert [indexes for _, indexes in run(machine, 1.0)] == ([[11]] if spare > 0 else [])

    def test_of_a_long_gap_the_newest_packets_are_asked_for(self) -> None:
        machine = asker(patience=0.2)
        miss(machine, 100, 200)
        ((_, first), *_) = run(machine, 0.05)
        assert first == list(range(200 - len(first), 200))
        assert len(first) == (0.2 - ROUND_TRIP - MARGIN - REORDER_WAIT) // PACKET

    def test_nothing_runs_where_nobody_waits(self) -> None:
        machine = Asker(Counter())
        miss(machine, 10, 12)
        assert machine.deadline == inf

    def test_what_came_late_after_a_pause_is_dated_by_its_neighbour(self) -> None:
        """The client pauses for a second; of its next words the first packet is lost."""
        machine = asker(patience=0.12)
        machine.miss(REMOTE, 10, 12, since=1.02, now=0.0)
        assert [indexes for _, indexes in run(machine, 1.0)] == [[11]]

    def test_another_round_trip_or_patience_counts_at_once(self) -> None:
        machine = asker(patience=1.0)
        miss(machine, 10, 12)
        machine.patience = lambda: 0.05
        assert machine.ask(now=REORDER_WAIT) == []
        miss(machine, 12, 14, now=1.0)
        machine.round_trip = 0.5
        assert not machine.missing.keys() - {11}

    def test_a_new_source_forgets_the_old_one(self) -> None:
        machine = asker(patience=1.0)
        miss(machine, 10, 12)
        miss(machine, 70, 72, ssrc=REMOTE + 1)
        assert list(machine.missing) == [71]
        assert machine.ssrc == REMOTE + 1

    @given(
        st.lists(
            st.tuples(st.integers(1, 4000), st.floats(0.0, 0.5), st.floats(0.0, 2.0)), max_size=60
        )
    )
    def test_is_bounded_and_never_asks_too_late(self, gaps: list[tuple[int, float, float]]) -> None:
        machine, now, last = asker(), 0.0, 0
        for gap, seconds, patience in gaps:
            machine.patience = partial(float, patience)
            now += seconds
            expected = {index: each.expected for index, each in machine.missing.items()}
            for index in machine.ask(now=now):
                assert now + ROUND_TRIP + MARGIN <= expected[index] + patience
            machine.miss(REMOTE, last, last + gap, since=seconds, now=now)
            last += gap
            assert len(machine.missing) <= MAX_MISSING
            assert all(each.requests < MAX_REQUESTS + 1 for each in machine.missing.values())


class TestResender:
    def test_sends_the_same_packet_again_once_in_a_round_trip(self) -> None:
        resender = Resender(Counter())
        resender.keep(0x1_0007, b"packet", now=0.0)
        times = (0.1, 0.13, 0.15, 0.2, 0.25, 0.3)
        answers = [resender.answer([7], round_trip=ROUND_TRIP, now=now) for now in times]
        assert answers == [[b"packet"], [], [b"packet"], [b"packet"], [], []]
        assert resender._counts == Counter({Repair.RESENT: MAX_REQUESTS})

    def test_keeps_the_last_packets_of_the_last_second(self) -> None:
        resender = Resender(Counter())
        for index in range(65_500, 65_500 + 2 * RING):
            resender.keep(index, b"%d" % index, now=0.0)
        lost = [65_500 + RING - 1, 65_500 + RING, 65_500 + 2 * RING - 1, 30_000]
        sequences = [index & 0xFFFF for index in lost]
        answer = resender.answer(sequences, round_trip=ROUND_TRIP, now=KEPT_SECONDS)
        assert answer == [b"%d" % index for index in lost[1:3]]
        assert resender._counts[Repair.GONE] == 2
        assert resender.answer(sequences, round_trip=0.0, now=KEPT_SECONDS + 0.1) == []

    def test_a_long_list_costs_no_more_than_the_ring(self) -> None:
        resender = Resender(Counter())
        assert resender.answer(range(4000), round_trip=0.0, now=0.0) == []
        assert resender._counts[Repair.GONE] == RING

    def test_no_packet_in_a_repr(self) -> None:
        resender = Resender(Counter())
        resender.keep(0, b"secret", now=0.0)
        assert "secret" not in repr(resender._ring)


def media(*, nack: bool = True, patience: float = 0.2) -> Media:
    sending = SendStream(SSRC, 111, 48_000, first_index=0, first_timestamp=7)
    machine = Media(sending, cname="edge", now=0.0, ntp_offset=NTP_OFFSET, nack=nack)
    machine.asker.patience = lambda: patience
    return machine


def hear(machine: Media, *indexes: int, late: float = 0.0) -> None:
    for index in indexes:
        now = index * PACKET + late
        machine.receive_rtp(index, index * 960, 111, REMOTE, 100, now=now)


class TestMedia:
    def test_asks_by_its_deadline_in_the_smallest_compound(self) -> None:
        machine = media()
        hear(machine, 65_533, 65_534, 65_537)
        now = 65_537 * PACKET
        machine.next_report = now + NTP_OFFSET + 5.0
        assert machine.deadline == pytest.approx(now + REORDER_WAIT, abs=1e-5)
        (compound,) = machine.tick(now=machine.deadline)
        assert decode_rtcp(compound) == (
            ReceiverReport(SSRC),
            SourceDescription(((SSRC, "edge"),)),
            GenericNack(SSRC, REMOTE, (65_535, 0)),
        )
        hear(machine, 65_535, late=0.1)
        assert machine.statistics().repairs == {Repair.ASKED: 2, Repair.RECOVERED: 1}
        assert machine.statistics().lost == 1
        assert machine.asker.round_trip == UNKNOWN_ROUND_TRIP

    def test_a_restart_is_no_gap(self) -> None:
        machine = media()
        hear(machine, 0, MAX_DROPOUT + 2)
        assert not machine.asker.missing

    def test_asks_for_nothing_that_was_not_agreed_on(self) -> None:
        machine = media(nack=False)
        hear(machine, 0, 3)
        assert machine.asker.deadline == inf
        assert machine.resender is None
        assert machine.repair_seconds() == 0.0
        assert machine.answer_nacks((GenericNack(REMOTE, SSRC, (1,)),), now=0.0) == []

    def test_the_timer_never_stands_still(self) -> None:
        """Times inside are Unix seconds, whose rounding differs from that of ``now``."""
        machine = media()
        hear(machine, 0, 1, 2, 5, 9)
        for _ in range(50):
            now = machine.deadline
            machine.tick(now=now)
            assert machine.deadline > now

    def test_goes_on_elsewhere(self) -> None:
        machine = media()
        hear(machine, 0, 1, 4)
        machine.tick(now=4 * PACKET + REORDER_WAIT)
        snapshot = machine.snapshot()
        twin = Media.restore(snapshot, now=0.2, ntp_offset=NTP_OFFSET)
        assert twin.snapshot() == snapshot
        twin.asker.patience = machine.asker.patience
        hear(twin, 5, 8)
        assert list(twin.asker.missing) == [6, 7]
        twin.tick(now=8 * PACKET + REORDER_WAIT)
        assert twin.statistics().repairs[Repair.ASKED] == 4
        assert snapshot.repairs == {Repair.ASKED: 2}


def nack_call() -> Call:
    call = make_call(nack=True)
    call.peer.media.asker.patience = lambda: 0.5
    call.run(0.5)
    return call


def ask(call: Call, *lost: int, ssrc: int | None = None) -> list[bytes]:
    """Ask the peer for packets as its caller; gives the RTP that comes."""
    stream = call.peer.media.stream
    nack = GenericNack(call.caller.offer.ssrc, stream.ssrc if ssrc is None else ssrc, lost)
    assert call.caller._sender is not None
    sealed = call.caller._sender.protect_rtcp(encode_rtcp((nack,)))
    outputs = call.peer.receive(sealed, call.path, now=call.now)
    return [output.data for output in outputs if isinstance(output, Transmit)]


class TestPeer:
    def test_what_is_sent_again_is_the_same_packet(self) -> None:
        call = nack_call()
        last = call.peer.media.stream.last_sent
        sent = {
            int.from_bytes(each.data[2:4], "big"): each.data
            for each in call.sent
            if classify(each.data) is Kind.RTP
        }
        assert ask(call, last, last - 3) == [sent[last], sent[last - 3]]
        assert ask(call, last) == []
        assert ask(call, last - 1, ssrc=SSRC) == []
        assert call.peer.statistics().media.packets_sent == len(sent)

    def test_a_path_that_proves_nothing_gets_three_times_what_it_sent(self) -> None:
        call = nack_call()
        state = call.peer.ice.paths.state(call.path)
        assert state is not None
        state.proven, state.budget = False, 0
        last = call.peer.media.stream.last_sent
        packets = ask(call, *(last - number for number in range(20)))
        asked = 12 + 4 * 20 + 20  # bytes: header, a range for each, SRTCP's index and tag
        assert 0 < sum(map(len, packets)) <= 3 * asked
        assert call.peer.statistics().drops[Drop.AMPLIFICATION] == 20 - len(packets)

    def test_a_lost_packet_is_asked_for_and_comes_again(self) -> None:
        call = nack_call()
        lost: list[bytes] = []
        call.to_peer = lambda datagram: _swallow(datagram, lost)
        call.run(0.02)
        call.to_peer = lambda datagram: True
        call.run(0.02)
        assert len(lost) == 1
        assert call.peer.deadline <= call.now + REORDER_WAIT
        call.run(REORDER_WAIT + 0.005)
        assert call.peer.statistics().media.repairs == {Repair.ASKED: 1}
        call.carry(lost)
        statistics = call.peer.statistics().media
        assert statistics.repairs == {Repair.ASKED: 1, Repair.RECOVERED: 1}
        assert statistics.lost == 0

    def test_an_heir_goes_on_asking_and_answering(self) -> None:
        call = nack_call()
        wire = msgspec.msgpack.encode(call.peer.snapshot(now=call.now))
        heir = call.peer = Peer.restore(
            msgspec.msgpack.decode(wire, type=PeerSnapshot),
            entropy=os.urandom,
            now=call.now,
        )
        last = heir.media.stream.last_sent
        assert ask(call, last) == []  # the packets did not travel
        assert heir.statistics().media.repairs == Counter({Repair.GONE: 1})
        call.run(0.1)
        last = heir.media.stream.last_sent
        assert len(ask(call, last)) == 1


def _swallow(datagram: bytes, lost: list[bytes]) -> bool:
    if classify(datagram) is not Kind.RTP:
        return True
    lost.append(datagram)
    return False
