from __future__ import annotations

import msgspec
import pylibsrtp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import LocalProtocolError
from edge.webrtc.keys import SrtpProfile
from edge.webrtc.media import FIRST_REPORT, MAX_REMOTE_SOURCES, Media, MediaSnapshot
from edge.webrtc.srtp import SrtpSender
from edge.webrtc.streams import MAX_DROPOUT, MAX_JUMP, MIN_SKIP, ReceiveLog, SendStream
from edge.wire.rtcp import (
    Bye,
    ReceiverReport,
    ReportBlock,
    SenderReport,
    SourceDescription,
    decode_rtcp,
)
from edge.wire.rtp import decode_rtp

SSRC, REMOTE = 0x11111111, 0x22222222
UNIX = 1_800_000_000.0  # ntp_offset: Unix time at monotonic 0
KEY, SALT = bytes(range(16)), bytes(range(12))


def stream(first_index: int = 1000) -> SendStream:
    return SendStream(
        SSRC,
        111,
        48_000,
        first_index=first_index,
        first_timestamp=0xFFFFFF00,
        mid_extension=(4, "0"),
    )


def media(ssrc: int = SSRC) -> Media:
    sending = SendStream(ssrc, 111, 48_000, first_index=0, first_timestamp=7)
    return Media(sending, cname="edge", now=10.0, ntp_offset=UNIX)


def send(machine: Media, count: int, *, start: float) -> None:
    for number in range(count):
        machine.send_rtp(80, number * 960, False, now=start + number * 0.02)


def hear(machine: Media, indexes: list[int], *, start: float, ssrc: int = REMOTE) -> None:
    for index in indexes:
        now = start + (index - indexes[0]) * 0.02
        machine.receive_rtp(index, index * 960 & 0xFFFFFFFF, 111, ssrc, 100, now=now)


def block_on(compound: bytes, ssrc: int = REMOTE) -> ReportBlock:
    report = decode_rtcp(compound)[0]
    assert isinstance(report, SenderReport | ReceiverReport)
    return next(block for block in report.reports if block.ssrc == ssrc)


class TestSendStream:
    def test_numbers_packets(self) -> None:
        sending = stream(first_index=0x7FFF)
        header, index = sending.next(100, 0, True)
        packet = decode_rtp(header + b"payload")
        assert (index, packet.sequence, packet.timestamp) == (0x7FFF, 0x7FFF, 0xFFFFFF00)
        assert (packet.marker, packet.ssrc, packet.payload_type) == (True, SSRC, 111)
        assert packet.extensions == ((4, b"0"),)
        header, index = sending.next(50, 960, False)
        packet = decode_rtp(header)
        assert (index, packet.sequence, packet.timestamp) == (0x8000, 0x8000, 960 - 256)
        assert not packet.marker
        assert (sending.packets, sending.octets) == (2, 150)

    def test_the_index_goes_on_over_the_sequence_number(self) -> None:
        sending = stream()
        for _ in range(3):
            sending.next(1, 0, False)
            sending = SendStream.restore(sending.snapshot(), skip=32_000)
        header, index = sending.next(1, 0, False)
        assert index == 1000 + 3 * 32_001
        assert decode_rtp(header).sequence == index & 0xFFFF

    @pytest.mark.parametrize("first_index", [-1, MAX_JUMP])
    def test_first_index_leaves_room_for_loss(self, first_index: int) -> None:
        with pytest.raises(LocalProtocolError):
            stream(first_index)

    def test_stops_at_the_end_of_its_reserve(self) -> None:
        sending = stream()
        sending.reserve(2)
        sending.next(1, 0, False)
        sending.next(1, 0, False)
        with pytest.raises(LocalProtocolError):
            sending.next(1, 0, False)
        sending.reserve(1)
        assert sending.next(1, 0, False)[1] == 1002

    @pytest.mark.parametrize("skip", [-1, 1, MIN_SKIP - 1, MAX_JUMP])
    def test_refuses_a_jump_that_receivers_do_not_follow(self, skip: int) -> None:
        with pytest.raises(LocalProtocolError):
            SendStream.restore(stream().snapshot(), skip=skip)

    def test_refuses_jumps_that_add_up_unheard(self) -> None:
        heir = SendStream.restore(stream().snapshot(), skip=20_000)
        with pytest.raises(LocalProtocolError):
            SendStream.restore(heir.snapshot(), skip=20_000)
        heir.next(1, 0, False)
        assert SendStream.restore(heir.snapshot(), skip=20_000).next_index == 41_001

    def test_exact_state(self) -> None:
        sending = stream()
        sending.next(80, 960, False)
        twin = SendStream.restore(sending.snapshot())
        assert twin.snapshot() == sending.snapshot()
        assert twin.next(80, 1920, False) == sending.next(80, 1920, False)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 40)),
        st.tuples(st.just("snapshot"), st.just(0)),
        st.tuples(st.just("restore"), st.integers(0, 32_000)),
    ),
    max_size=30,
)


@given(first_index=st.integers(0, MAX_JUMP - 1), actions=ACTIONS, rtcp_skip=st.integers(0, 10_000))
def test_take_overs_never_use_an_index_twice(
    first_index: int, actions: list[tuple[str, int]], rtcp_skip: int
) -> None:
    """Restores of the newest stored snapshot, however old, with a skip over what was sent since."""
    policy = pylibsrtp.Policy(
        key=KEY + SALT,
        ssrc_type=pylibsrtp.Policy.SSRC_ANY_INBOUND,
        srtp_profile=pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    )
    client = pylibsrtp.Session(policy)
    sending = stream(first_index)
    srtp = SrtpSender(SrtpProfile.AEAD_AES_128_GCM, KEY, SALT)
    stored = sending.snapshot(), srtp.snapshot()
    used: set[int] = set()
    compounds = compounds_stored = 0
    for action, amount in actions:
        if action == "send":
            for _ in range(amount):
                header, index = sending.next(7, 0, False)
                assert index not in used
                used.add(index)
                sealed = srtp.protect_rtp(header, b"payload", index=index)
                assert client.unprotect(sealed) == header + b"payload"
            compound = b"\x80\xc9\x00\x01" + SSRC.to_bytes(4, "big")
            assert client.unprotect_rtcp(srtp.protect_rtcp(compound)) == compound
            compounds += 1
        elif action == "snapshot":
            stored = sending.snapshot(), srtp.snapshot()
            compounds_stored = compounds
        else:
            sent_since = max(used, default=-1) + 1 - stored[0].next_index
            skip = max(amount, sent_since, MIN_SKIP)
            if skip + stored[0].next_index - stored[0].last_sent > MAX_JUMP:
                with pytest.raises(LocalProtocolError):
                    SendStream.restore(stored[0], skip=skip)
                continue
            sending = SendStream.restore(stored[0], skip=skip)
            skipped = compounds - compounds_stored + rtcp_skip
            srtp = SrtpSender.restore(stored[1], skip=skipped, rtp_skip=skip)
            stored = sending.snapshot(), srtp.snapshot()
            compounds_stored = compounds


class TestReceiveLog:
    def test_loss_order_and_duplicates(self) -> None:
        log = ReceiveLog(REMOTE, 48_000, 65_530)
        for index in [65_530, 65_531, 65_535, 65_534, 65_540, 65_540, 65_650, 65_541]:
            log.receive(index, 0, 10, time=0.0)
        assert (log.highest, log.received, log.octets) == (65_650, 8, 80)
        assert (log.reordered, log.duplicates, log.late) == (1, 1, 1)
        assert log.lost == 121 - 8
        block = log.report(time=1.0)
        assert block is not None
        assert block.highest_sequence == 0x10000 | 65_650 - 65_536
        assert block.cumulative_lost == 113
        assert block.fraction_lost == 113 * 256 // 121

    def test_fraction_is_of_the_interval(self) -> None:
        log = ReceiveLog(REMOTE, 48_000, 0)
        for index in range(0, 100, 2):
            log.receive(index, 0, 10, time=0.0)
        first = log.report(time=1.0)
        assert first is not None
        assert first.fraction_lost == 49 * 256 // 99
        for index in range(99, 199):
            log.receive(index, 0, 10, time=0.0)
        second = log.report(time=2.0)
        assert second is not None
        assert (second.fraction_lost, second.cumulative_lost) == (0, 49)
        assert log.report(time=3.0) is None

    def test_duplicates_make_the_loss_negative(self) -> None:
        log = ReceiveLog(REMOTE, 48_000, 5)
        for _ in range(3):
            log.receive(5, 0, 10, time=0.0)
        block = log.report(time=1.0)
        assert block is not None
        assert (block.fraction_lost, block.cumulative_lost) == (0, -2)

    def test_a_restart_is_not_loss(self) -> None:
        log = ReceiveLog(REMOTE, 48_000, 0)
        log.receive(0, 0, 10, time=0.0)
        log.receive(1 + MAX_DROPOUT, 0, 10, time=0.0)
        assert log.lost == 0
        log.receive(1 + 2 * MAX_DROPOUT, 0, 10, time=0.0)
        assert log.lost == MAX_DROPOUT - 1

    def test_jitter_is_in_clock_units(self) -> None:
        log = ReceiveLog(REMOTE, 48_000, 0)
        first = 0xFFFFFFFF - 10_000  # the timestamps wrap on the way
        expected = 0.0
        for number in range(200):
            delay = 0.005 if number % 2 else 0.0
            timestamp = first + number * 960 & 0xFFFFFFFF
            log.receive(number, timestamp, 10, time=UNIX + number * 0.02 + delay)
            if number:
                expected += (240 - expected) / 16
        assert log.jitter == pytest.approx(expected, rel=1e-3)
        steady = ReceiveLog(REMOTE, 48_000, 0)
        for number in range(200):
            steady.receive(number, number * 960, 10, time=UNIX + number * 0.02)
        assert steady.jitter < 0.1

    def test_another_clock_does_not_touch_the_jitter(self) -> None:
        log = ReceiveLog(REMOTE, 48_000, 0)
        log.receive(0, 0, 10, time=0.0)
        log.receive(1, None, 10, time=5.0)
        assert log.jitter == 0.0
        assert log.received == 2


class TestReports:
    def test_first_after_a_second_then_apart_from_other_sessions(self) -> None:
        periods = set()
        for ssrc in range(0, 0x10000, 0x2000):
            machine = media(ssrc)
            assert machine.deadline == pytest.approx(10.0 + FIRST_REPORT)
            machine.report(now=11.0)
            assert 3.75 <= machine.deadline - 11.0 <= 6.25
            periods.add(round(machine.deadline, 3))
        assert len(periods) == 8

    def test_receiver_report_until_we_send(self) -> None:
        machine = media()
        report, description = decode_rtcp(machine.report(now=11.0))
        assert report == ReceiverReport(SSRC)
        assert description == SourceDescription(((SSRC, "edge"),))

    def test_sender_report_maps_the_clocks(self) -> None:
        machine = media()
        send(machine, 50, start=10.0)  # the last at 10.98 s
        report = decode_rtcp(machine.report(now=11.0))[0]
        assert isinstance(report, SenderReport)
        assert (report.packet_count, report.octet_count) == (50, 4000)
        assert report.timestamp == 7 + 50 * 960
        assert report.ntp / 2**32 == pytest.approx(UNIX + 11.0 + 2_208_988_800, abs=1e-5)
        assert isinstance(decode_rtcp(machine.report(now=40.0))[0], ReceiverReport)

    def test_report_block(self) -> None:
        machine = media()
        hear(machine, [5, 6, 8], start=10.0)
        sender_report = SenderReport(REMOTE, 0xAAAABBBBCCCCDDDD, 0, 3, 300)
        machine.receive_rtcp((sender_report,), now=10.5)
        block = block_on(machine.report(now=11.0))
        assert block.last_sr == 0xBBBBCCCC
        assert block.delay_since_last_sr == pytest.approx(0.5 * 65536, abs=2)
        assert (block.cumulative_lost, block.fraction_lost) == (1, 64)
        assert block.highest_sequence == 8

    def test_two_machines_measure_round_trip_loss_and_jitter(self) -> None:
        ours, theirs = media(SSRC), media(REMOTE)
        theirs.ntp_offset += 1234.5  # their clock is elsewhere
        send(ours, 10, start=10.0)
        hear(theirs, [0, 1, 2, 3, 4, 5, 6, 9], start=10.0, ssrc=SSRC)
        assert ours.statistics().round_trip_time is None
        theirs.receive_rtcp(decode_rtcp(ours.report(now=11.0)), now=11.04)
        measured = ours.receive_rtcp(decode_rtcp(theirs.report(now=12.0)), now=12.06)
        statistics = ours.statistics()
        assert statistics.round_trip_time == measured
        assert statistics.round_trip_time == pytest.approx(0.1, abs=1e-3)
        assert statistics.remote_fraction_lost == pytest.approx(0.2, abs=0.01)
        assert statistics.remote_lost == 2
        assert statistics.remote_jitter == pytest.approx(0.0, abs=1e-4)

    @pytest.mark.parametrize("delay", [2**31, 2**32 - 1, 0x00FFFFFF])
    def test_nonsense_does_not_become_a_round_trip(self, delay: int) -> None:
        machine = media()
        blocks = (ReportBlock(SSRC, 0, 0, 0, 0, 0x12345678, delay),)
        assert machine.receive_rtcp((ReceiverReport(REMOTE, blocks),), now=11.0) is None
        assert machine.statistics().round_trip_time is None
        foreign = (ReportBlock(99, 255, 9, 0, 0, 0, 0),)
        machine.receive_rtcp((ReceiverReport(REMOTE, foreign),), now=11.0)
        assert machine.statistics().remote_lost == 0

    def test_the_goodbye_is_a_report_with_a_bye(self) -> None:
        goodbye = decode_rtcp(media(REMOTE).bye(now=11.0))
        assert isinstance(goodbye[0], SenderReport | ReceiverReport)
        assert goodbye[-1] == Bye((REMOTE,))

    def test_remote_sources_are_bounded(self) -> None:
        machine = media()
        for number in range(MAX_REMOTE_SOURCES):
            hear(machine, [0], start=10.0 + number, ssrc=number)
        hear(machine, [1], start=20.0, ssrc=0)  # the oldest is now 1
        hear(machine, [0], start=21.0, ssrc=100)
        assert set(machine.logs) == {0, 2, 3, 4, 5, 6, 7, 100}
        report = decode_rtcp(machine.report(now=22.0))[0]
        assert isinstance(report, ReceiverReport)
        assert len(report.reports) == MAX_REMOTE_SOURCES

    def test_statistics(self) -> None:
        machine = media()
        send(machine, 3, start=10.0)
        hear(machine, [0, 1, 3, 2, 6, 6], start=10.0)
        machine.receive_rtp(7, 123, 13, REMOTE, 1, now=10.2)  # comfort noise: another clock
        statistics = machine.statistics()
        assert (statistics.packets_sent, statistics.octets_sent) == (3, 240)
        assert (statistics.packets_received, statistics.octets_received) == (7, 601)
        assert (statistics.reordered, statistics.duplicates, statistics.late) == (1, 1, 0)
        assert statistics.lost == 8 - 7
        assert statistics.jitter < 0.05
        assert statistics.remote_jitter is None


class TestTakeOver:
    def test_the_snapshot_is_a_value(self) -> None:
        machine = media()
        send(machine, 60, start=10.0)
        hear(machine, [*range(100), 2**47], start=10.0)
        machine.receive_rtcp((SenderReport(REMOTE, 2**63, 0, 3, 300),), now=12.0)
        machine.report(now=12.5)
        snapshot = machine.snapshot()
        stored = msgspec.msgpack.encode(snapshot)
        assert msgspec.msgpack.decode(stored, type=MediaSnapshot) == snapshot
        assert msgspec.json.decode(msgspec.json.encode(snapshot), type=MediaSnapshot) == snapshot
        twin = Media.restore(snapshot, now=12.5, ntp_offset=UNIX)
        assert twin.snapshot() == snapshot
        assert twin.statistics() == machine.statistics()
        assert twin.deadline == machine.deadline
        assert twin.report(now=13.0) == machine.report(now=13.0)

    def test_goes_on_by_the_clock_on_another_host(self) -> None:
        machine = media()
        send(machine, 50, start=10.0)
        hear(machine, list(range(50)), start=10.0)
        machine.receive_rtcp((SenderReport(REMOTE, 2**63 + 2**40, 0, 3, 300),), now=11.0)
        snapshot = machine.snapshot()
        # The other host's monotonic clock reads 500 when ours reads 13.
        heir = Media.restore(snapshot, now=500.0, ntp_offset=UNIX + 13.0 - 500.0, skip=2000)
        assert heir.media_time(now=500.0) == machine.media_time(now=13.0) == 3 * 48_000
        header, index = heir.send_rtp(80, heir.media_time(now=500.0), True, now=500.0)
        assert (index, decode_rtp(header).timestamp) == (2050, 7 + 3 * 48_000)
        hear(heir, list(range(150, 160)), start=500.0)
        assert heir.statistics().jitter < 0.001
        block = block_on(heir.report(now=500.5))
        assert block.cumulative_lost == 0, "its former owner heard them, for all we know"
        assert block.delay_since_last_sr == pytest.approx(2.5 * 65536, abs=2)
        assert heir.deadline <= 500.5 + 6.25

    def test_a_clock_far_off_cannot_silence_the_reports(self) -> None:
        heir = Media.restore(media().snapshot(), now=5.0, ntp_offset=UNIX - 86_400.0)
        assert heir.deadline <= 5.0 + 6.25
