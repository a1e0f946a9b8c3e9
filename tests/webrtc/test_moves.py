"""What a move asks of a peer: its numbers, its silence, its clock, and what waits for a store."""

from __future__ import annotations

import os

import msgspec
import pytest

from edge.client.channel import CallerChannel
from edge.errors import Drop, EndReason, LocalProtocolError
from edge.webrtc.channel_outputs import ChannelMessage, ChannelOpened
from edge.webrtc.outputs import Ended
from edge.webrtc.peer import Peer, PeerSnapshot
from edge.webrtc.reserve import HEIR_SKIPS, NO_RESERVE, OWNER_USES, Reserve
from edge.webrtc.sctp_outputs import CheckpointWanted
from edge.webrtc.sctp_state import SctpConfig
from edge.wire.demux import Kind, classify
from tests.webrtc.peer_call import Call, make_call

MOVABLE = SctpConfig(hold_acks=True, reserve=OWNER_USES.tsn)
FRAME = 960  # units of the clock


def written(call: Call) -> PeerSnapshot:
    """The peer as bytes and back, as another process gets it."""
    wire = msgspec.msgpack.encode(call.peer.snapshot(now=call.now))
    return msgspec.msgpack.decode(wire, type=PeerSnapshot)


def take_up(snapshot: PeerSnapshot, *, now: float, age: float = 0.0, exact: bool = True) -> Peer:
    skip = NO_RESERVE if exact else HEIR_SKIPS
    return Peer.restore(snapshot, entropy=os.urandom, now=now, age=age, skip=skip)


def kinds(call: Call) -> set[Kind]:
    return {classify(sent.data) for sent in call.sent}


def messages(call: Call) -> list[str | bytes]:
    return [output.data for output in call.outputs if isinstance(output, ChannelMessage)]


def wants(call: Call) -> int:
    return sum(isinstance(output, CheckpointWanted) for output in call.outputs)


# The clock.


@pytest.mark.parametrize("exact", [True, False])
def test_timestamps_go_on_by_the_clock_whatever_the_clocks_of_both_hosts_show(exact: bool) -> None:
    call = make_call()
    call.run(2.0)
    last, then = call.peer.media.stream.last_timestamp, call.now
    heir = take_up(written(call), now=5_000.0, age=1.3, exact=exact)
    timestamp = heir.media.media_time(now=5_000.0)
    heir.send_audio(b"x", timestamp=timestamp, marker=True, now=5_000.0)
    passed = (heir.media.stream.last_timestamp - last) & 0xFFFFFFFF
    assert passed == pytest.approx(1.3 * 48_000, abs=FRAME)
    assert heir.media.media_time(now=5_000.0) == pytest.approx((then + 1.3) * 48_000, abs=2)


def test_consent_does_not_run_out_while_nobody_listens() -> None:
    call = make_call()
    call.run(1.0)
    call.caller.stop_checks()
    call.run(20.0, step=0.02)
    heir = take_up(written(call), now=0.0, age=40.0, exact=False)
    heir.limit(NO_RESERVE)
    assert heir.tick(now=0.0) == []
    assert not heir.ended
    left = call.peer.ice.deadline - call.now
    assert left == pytest.approx(10.0, abs=2.5)
    assert heir.tick(now=left - 0.1) == []
    assert heir.tick(now=left) == [Ended(EndReason.CONSENT_EXPIRED)]


def test_a_message_that_is_too_old_by_now_is_not_sent_by_the_heir() -> None:
    call = make_call(channel=CallerChannel("oai-events"))
    assert call.peer.transport.channels is not None
    association = call.peer.transport.channels.association
    association.paused = True
    association.send(0, 51, b"soon old", now=call.now, lifetime=0.5)
    for age, waits in ((0.3, True), (0.6, False)):
        heir = take_up(written(call), now=9.0, age=age)
        before = heir.used().tsn
        heir.tick(now=9.0)
        assert heir.used().tsn == before + waits


@pytest.mark.parametrize("exact", [True, False])
def test_what_the_former_owner_heard_after_its_checkpoint_is_not_reported_lost(exact: bool) -> None:
    call = make_call(nack=True)
    call.run(1.0)
    snapshot = written(call)
    call.run(0.5)  # 25 packets of which the snapshot does not know
    call.peer = take_up(snapshot, now=call.now, age=0.5, exact=exact)
    call.run(0.2)
    assert call.peer.media_statistics().lost == pytest.approx(25 if exact else 0, abs=1)
    lost = call.to_peer
    call.to_peer = lambda datagram: False
    call.run(0.1)
    call.to_peer = lost
    before = call.peer.media_statistics().lost
    call.run(0.1)
    assert call.peer.media_statistics().lost == pytest.approx(before + 5, abs=1)


# The numbers.


def test_each_kind_of_number_skips_its_own_reserve() -> None:
    call = make_call(channel=CallerChannel("oai-events"))
    call.run(2.0)
    used = call.peer.used()
    assert min(used.rtp, used.rtcp, used.dtls, used.tsn) > 0
    skip = Reserve(rtp=200, rtcp=30, dtls=4_000, tsn=50)
    snapshot = written(call)
    heir = Peer.restore(snapshot, entropy=os.urandom, now=call.now, skip=skip)
    assert heir.used() == used.plus(skip)
    assert take_up(snapshot, now=call.now).used() == used
    with pytest.raises(LocalProtocolError):
        Peer.restore(snapshot, entropy=os.urandom, now=0.0, skip=Reserve(rtp=2**15))


def test_what_is_used_is_what_was_sent() -> None:
    call = make_call(channel=CallerChannel("oai-events"))
    before = call.peer.used()
    call.sent.clear()
    call.run(7.0)
    call.follow(call.peer.send_message(call.caller.channel.number, "x", now=call.now))  # type: ignore[union-attr]
    after = call.peer.used()
    sent = [classify(each.data) for each in call.sent]
    assert after.rtp - before.rtp == sent.count(Kind.RTP)
    assert after.rtcp - before.rtcp == sent.count(Kind.RTCP) > 0
    assert after.dtls - before.dtls == sent.count(Kind.DTLS) > 0
    assert after.tsn - before.tsn == 1


def test_an_heir_says_nothing_but_answers_to_checks_before_there_is_room() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    call.run(1.0)
    call.peer = take_up(written(call), now=call.now, exact=False)
    call.peer.limit(NO_RESERVE)
    call.sent.clear()
    call.run(3.0)
    call.say("heard at once")
    call.follow(call.peer.send_message(channel.number, "said later", now=call.now))
    call.run(1.0)
    assert kinds(call) == {Kind.STUN}
    assert call.peer.statistics().drops[Drop.RESERVE_USED] > 100
    assert messages(call) == ["heard at once"]
    assert not channel.received
    assert call.peer.deadline > call.now, "nothing to do but wait"

    call.peer.limit(OWNER_USES)
    assert call.peer.deadline <= call.now
    call.follow(call.peer.tick(now=call.now))
    call.run(0.1)
    assert list(channel.received) == ["said later"]
    assert kinds(call) >= {Kind.RTP, Kind.DTLS}
    assert call.caller.journal.rejected == 0


def test_no_number_is_used_beyond_the_room() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    call.run(0.1)
    before, room = call.peer.used(), Reserve(rtp=20, rtcp=1, dtls=30, tsn=4)
    call.peer.limit(room)
    for number in range(20):
        call.follow(call.peer.send_message(channel.number, str(number), now=call.now))
    call.run(12.0)
    after = call.peer.used()
    assert after.left_of(before.plus(room)).rtp == 0
    assert after.left_of(before.plus(room)).rtcp == 0
    assert after.tsn <= before.tsn + room.tsn
    assert after.dtls <= before.dtls + room.dtls
    assert 0 < len(channel.received) < 20
    call.peer.limit(OWNER_USES)
    call.run(12.0)
    assert list(channel.received) == [str(number) for number in range(20)]


# What waits for a store.


def test_acknowledgements_wait_for_a_stored_checkpoint() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel, config=MOVABLE)
    call.run(0.5)
    assert wants(call) == 1
    call.peer.snapshot(now=call.now)
    call.follow(call.peer.checkpoint_stored(now=call.now))
    call.run(0.5)
    call.outputs.clear()
    call.say("one")
    call.say("two")
    assert messages(call) == ["one", "two"], "what came is told at once"
    assert wants(call) == 1
    assert channel._association._sender.flight.sent, "not acknowledged"
    call.peer.snapshot(now=call.now)
    assert channel._association._sender.flight.sent
    call.follow(call.peer.checkpoint_stored(now=call.now))
    assert not channel._association._sender.flight.sent


def test_acknowledgements_wait_for_no_store_that_fails() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel, config=MOVABLE)
    call.peer.snapshot(now=call.now)
    call.follow(call.peer.checkpoint_failed(now=call.now))
    call.run(0.5)
    call.outputs.clear()
    for number in range(50):
        call.say(str(number))
        call.run(0.02)
    call.run(0.3)
    call.peer.limit(Reserve(rtp=10_000, rtcp=10, dtls=10_000, tsn=1))
    for number in range(20):
        call.follow(call.peer.send_message(channel.number, str(number), now=call.now))
    call.run(0.3)
    assert len(channel.received) == 20
    assert len(messages(call)) == 50
    assert not channel._association._sender.flight.sent
    assert wants(call) == 0

    call.peer.snapshot(now=call.now)
    call.follow(call.peer.checkpoint_stored(now=call.now))
    call.say("one")
    call.say("two")
    assert wants(call) == 1, "from here on an heir is possible again"
    assert channel._association._sender.flight.sent


def test_who_has_no_checkpoints_acknowledges_as_ever() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    call.run(0.5)
    call.say("one")
    call.say("two")
    assert not channel._association._sender.flight.sent
    assert wants(call) == 0
    assert call.peer.checkpoint_failed(now=call.now) == []


# The end.


def test_who_leaves_says_no_word_and_can_still_be_written_down() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    call.run(1.0)
    used = call.peer.used()
    call.peer.leave()
    call.sent.clear()
    call.run(1.0)
    assert call.peer.close(now=call.now) == []
    assert call.sent == []
    assert call.peer.used() == used
    call.peer = take_up(written(call), now=call.now)
    call.run(1.0)
    assert not call.caller.closed
    assert not channel.closed
    assert kinds(call) >= {Kind.RTP, Kind.STUN}


def test_the_channels_that_are_open_are_told_once_more() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    told = [output for output in call.outputs if isinstance(output, ChannelOpened)]
    assert told
    assert take_up(written(call), now=call.now).reopened() == told
    call.follow(call.peer.close_channel(told[0].channel, now=call.now))
    assert take_up(written(call), now=call.now).reopened() == []
    assert make_call().peer.reopened() == []
