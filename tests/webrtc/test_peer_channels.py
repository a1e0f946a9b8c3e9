"""Data channels through the whole endpoint: SDP, ICE, DTLS, SCTP, and back to the caller."""

from __future__ import annotations

import os
from collections import deque
from random import Random

import msgspec
import pytest

from edge.client.channel import CallerChannel
from edge.errors import Drop, EndReason, LocalProtocolError
from edge.webrtc.channel_outputs import (
    ChannelClosed,
    ChannelDrained,
    ChannelEnd,
    ChannelMessage,
    ChannelOpened,
)
from edge.webrtc.outputs import Ended, Transmit
from edge.webrtc.peer import Peer, PeerSnapshot
from edge.webrtc.reserve import Reserve
from edge.webrtc.sctp_outputs import OutboxFull
from edge.wire.demux import Kind, classify
from tests.webrtc.peer_call import Call, Fate, make_call

LONG = "x" * 60_000


def _opened(call: Call) -> ChannelOpened:
    (opened,) = [each for each in call.outputs if isinstance(each, ChannelOpened)]
    return opened


def _received(call: Call) -> list[str | bytes]:
    return [each.data for each in call.outputs if isinstance(each, ChannelMessage)]


def _send(call: Call, data: str | bytes) -> None:
    call.follow(call.peer.send_message(_opened(call).channel, data, now=call.now))


def _lossy(seed: int, loss: float) -> Fate:
    random = Random(seed)
    return lambda datagram: classify(datagram) is not Kind.DTLS or random.random() >= loss


@pytest.mark.parametrize("snap", [False, True])
def test_a_channel_opens_with_the_call_and_carries_messages_both_ways(snap: bool) -> None:
    channel = CallerChannel("oai-events", snap=snap)
    call = make_call(channel=channel)
    opened = _opened(call)
    assert (opened.settings.label, opened.remote) == ("oai-events", True)
    assert channel.opened
    call.say("hello")
    call.say(b"bytes")
    call.say("")
    assert _received(call) == ["hello", b"bytes", ""]
    _send(call, "and back")
    _send(call, LONG)
    call.run(0.1)
    assert list(channel.received) == ["and back", LONG]
    assert call.peer.statistics().drops[Drop.UNEXPECTED_PAYLOAD] == 0


def test_snap_saves_the_handshake_of_sctp() -> None:
    """A round trip is a datagram there and its answer: DTLS alone, or four of SCTP's more."""

    def datagrams(snap: bool) -> int:
        call = make_call(channel=CallerChannel("oai-events", snap=snap))
        return sum(classify(sent.data) is Kind.DTLS for sent in call.sent)

    assert datagrams(snap=True) < datagrams(snap=False)


@pytest.mark.parametrize("seed", range(3))
def test_messages_keep_their_order_under_loss(seed: int) -> None:
    channel = CallerChannel("oai-events", snap=bool(seed % 2))
    call = make_call(channel=channel, answered=False)
    call.to_peer, call.to_caller = _lossy(seed, 0.05), _lossy(~seed, 0.05)
    call.start()
    call.run(3.0, step=0.01)
    assert channel.opened
    said = [f"event {number}" for number in range(50)] + [LONG]
    for text in said:
        call.say(text)
        _send(call, text)
    call.run(8.0, step=0.01)
    assert _received(call) == said
    assert list(channel.received) == said
    assert call.peer.connected


def test_a_full_outbox_is_told_and_drains() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    call.to_caller = lambda datagram: False
    full = _fill(call)
    assert full < 1_000_000 / len(LONG) + 4
    with pytest.raises(LocalProtocolError, match="longer"):
        _send(call, "x" * 65_537)
    call.to_caller = lambda datagram: True
    call.run(20.0, step=0.01)
    assert ChannelDrained(_opened(call).channel) in call.outputs
    assert channel.received == deque([LONG] * full)


def _fill(call: Call) -> int:
    """Send until nothing fits any more: how many messages did."""
    for number in range(1_000):
        try:
            _send(call, LONG)
        except OutboxFull:
            return number
    raise AssertionError("there is no bound")


def test_what_the_peer_closes_is_told() -> None:
    channel = CallerChannel("chat")
    call = make_call(channel=channel)
    number = _opened(call).channel
    call.follow(call.peer.close_channel(number, now=call.now))
    call.run(0.5)
    assert channel.closed
    assert ChannelClosed(number, ChannelEnd.LOCAL) in call.outputs
    with pytest.raises(LocalProtocolError):
        _send(call, "too late")


def test_goodbye_aborts_the_association_before_close_notify() -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    _send(call, "the last words")
    outputs = call.peer.close(now=call.now)
    assert [classify(each.data) for each in outputs if isinstance(each, Transmit)] == [
        Kind.RTCP,
        Kind.DTLS,
        Kind.DTLS,
    ]
    call.follow(outputs)
    assert channel.closed
    assert call.caller.closed
    assert list(channel.received) == ["the last words"]
    with pytest.raises(LocalProtocolError):
        _send(call, "too late")


def test_a_goodbye_right_behind_a_message_does_no_harm() -> None:
    """Both in one datagram: by the time SCTP wants to answer, DTLS is closed."""
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    last = call.caller.send_message("last words", now=call.now) + call.caller.close()
    call.carry([b"".join(last)])
    assert _received(call) == ["last words"]
    assert [each.reason for each in call.outputs if isinstance(each, Ended)] == [
        EndReason.PEER_CLOSED
    ]


def test_sctp_is_dropped_where_no_channels_were_negotiated() -> None:
    call = make_call()
    assert call.caller._dtls is not None
    packets = [each.data for each in call.caller._dtls.send(b"anything") if hasattr(each, "data")]
    call.carry(packets)
    assert call.peer.statistics().drops[Drop.UNEXPECTED_PAYLOAD] == 1
    with pytest.raises(LocalProtocolError):
        call.peer.send_message(0, "x", now=call.now)


@pytest.mark.parametrize("skip", [0, 100])
def test_a_moved_peer_goes_on_with_dtls_and_channels(skip: int) -> None:
    channel = CallerChannel("oai-events")
    call = make_call(channel=channel)
    _send(call, "before")
    wire = msgspec.msgpack.encode(call.peer.snapshot(now=call.now))
    if skip:
        _send(call, "since")  # the last of an owner that crashes
    call.peer = Peer.restore(
        msgspec.msgpack.decode(wire, type=PeerSnapshot),
        entropy=os.urandom,
        now=call.now,
        skip=Reserve(skip, skip, skip, skip),
    )
    _send(call, "after")
    call.say("and back")
    call.run(1.0)
    assert list(channel.received) == ["before", *(["since"] if skip else []), "after"]
    assert _received(call) == ["and back"]
    call.follow(call.peer.close(now=call.now))
    assert call.caller.closed


def test_a_moved_peer_hears_a_goodbye() -> None:
    call = make_call()
    call.peer = Peer.restore(call.peer.snapshot(now=call.now), entropy=os.urandom, now=call.now)
    call.carry(call.caller.close())
    assert [each.reason for each in call.outputs if isinstance(each, Ended)] == [
        EndReason.PEER_CLOSED
    ]
    with pytest.raises(LocalProtocolError):
        call.peer.snapshot(now=call.now)
