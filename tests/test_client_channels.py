"""A client's channels where a session was taken over; for the rest see shells/test_channels."""

from __future__ import annotations

import pytest

from edge.transceiver.client_channels import CHAT_LABEL, EVENTS_LABEL, ClientChannels
from edge.transceiver.dialect import Dialect
from edge.transceiver.events import EventChannel
from edge.webrtc.channel_outputs import ChannelClosed, ChannelEnd, ChannelMessage, ChannelOpened
from edge.wire.dcep import ChannelOpen

Sent = list[tuple[int, str | bytes]]


def opened(number: int, label: str) -> ChannelOpened:
    return ChannelOpened(number, ChannelOpen(label), remote=True)


def make() -> tuple[ClientChannels, EventChannel, list[bytes], Sent]:
    events = EventChannel(Dialect("rtc_1", {}, backend_answers=False))
    heard: list[bytes] = []
    sent: Sent = []
    channels = ClientChannels(
        events,
        receive_event=heard.append,
        send=lambda channel, data: sent.append((channel, data)),
        now=0.0,
    )
    return channels, events, heard, sent


@pytest.mark.parametrize("label", [EVENTS_LABEL, CHAT_LABEL])
def test_a_channel_that_was_open_goes_on_carrying_events_and_nobody_is_greeted(label: str) -> None:
    channels, events, heard, sent = make()
    channels.adopt([opened(1, "other"), opened(2, label)])
    assert sent == []
    assert events.send_event(b'{"type":"x"}')
    assert sent == [(2, '{"type":"x"}')]
    channels.follow(ChannelMessage(2, '{"type":"y"}'), now=0.0)
    assert heard == [b'{"type":"y"}']
    channels.follow(ChannelClosed(2, ChannelEnd.REMOTE), now=0.0)
    assert not events.is_held
    assert (channels.counts.opened, channels.counts.closed) == (2, 1)


def test_where_none_was_open_a_new_one_is_greeted_as_ever() -> None:
    channels, events, _, sent = make()
    channels.adopt([])
    assert not events.is_held
    channels.follow(opened(0, EVENTS_LABEL), now=0.0)
    assert [channel for channel, _ in sent] == [0]
