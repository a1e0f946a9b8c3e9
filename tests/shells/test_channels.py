"""Calls with a data channel on a virtual network: the session's events both ways, and the rest."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
import trio.testing

from edge.backends.protocol import AudioFormat, AudioFrame, Call, EventSink, Speaker
from edge.client.channel import CallerChannel
from edge.config import TransceiverConfig
from edge.errors import Drop, EndReason
from edge.transceiver.client_channels import MESSAGES_PER_SECOND
from edge.transceiver.events import MAX_HOLDERS
from edge.transceiver.service import Transceiver
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import Link, open_network
from tests.test_dialect import Ear, event, read

Clock = trio.abc.Clock

LOSSY = Link(latency=0.01, jitter=0.005, loss=0.05)


@dataclass
class Repeater:
    """A backend that says every event back."""

    drops: Counter[Drop] = field(default_factory=Counter)
    heard: list[bytes] = field(default_factory=list)
    events: EventSink | None = None

    def wants(self, codec: AudioFormat) -> AudioFormat:
        return codec

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> Repeater:
        self.events = events
        return self

    def hear(self, frame: AudioFrame) -> None:
        pass

    def receive_event(self, event: bytes) -> None:
        self.heard.append(event)
        if self.events is not None and b"session.ended" not in event:
            self.events.send_event(event)

    async def run(self) -> None:
        await trio.sleep_forever()


def _lose(edge: VirtualEdge, phone: Phone) -> None:
    network, client = edge.network, phone.socket.address
    network.set_link(client, edge.public, LOSSY)  # type: ignore[attr-defined]
    network.set_link(edge.public, client, LOSSY)  # type: ignore[attr-defined]


def _types(messages: list[str | bytes]) -> list[str]:
    return [msgspec.json.decode(message)["type"] for message in messages]


async def _ended(transceiver: Transceiver, reason: EndReason) -> None:
    with trio.fail_after(2.0):
        while not transceiver.totals.ended[reason]:
            await trio.sleep(0.01)


async def test_a_client_is_greeted_and_answered_as_openai_does(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge:
        channel = CallerChannel("oai-events")
        async with edge.call(channel=channel) as phone:
            (created,) = await phone.told(1)
            assert isinstance(created, str)
            assert read(created.encode())["type"] == "session.created"
            phone.say(event("session.update", session={"instructions": "x"}).decode())
            phone.say("no event")
            phone.say(b'{"type": "response.create"}')
            told = await phone.told(3)
            assert _types(told) == ["session.created", "session.updated", "error"]
            await phone.connected()
            assert edge.transceivers[0].totals.drops()[Drop.MALFORMED] == 1


@pytest.mark.parametrize("snap", [False, True])
@pytest.mark.parametrize("config", [True, False])
async def test_events_keep_their_order_both_ways_under_loss(
    autojump_clock: Clock, snap: bool, config: bool
) -> None:
    """Whether SNAP is offered, answered, both or neither."""
    backend = Repeater()
    async with (
        open_network(seed=1) as network,
        open_edge(network, backend=backend, config=TransceiverConfig(snap=config)) as edge,
    ):
        channel = CallerChannel("oai-events", snap=snap)
        async with edge.call(channel=channel) as phone:
            assert phone.call is not None
            assert ("a=sctp-init:" in phone.call.answer) is (snap and config)
            await phone.told(1)
            _lose(edge, phone)
            said = [event("note", number=number).decode() for number in range(50)]
            said.append(event("note", text="x" * 60_000).decode())
            for text in said:
                phone.say(text)
                await trio.sleep(0.005)
            told = await phone.told(1 + len(said), within=20.0)
            assert [text.encode() for text in said] == backend.heard
            assert told[1:] == said
            counts = edge.transceivers[0].totals.channels()
            assert (counts.opened, counts.closed) == (1, 0)
            assert counts.messages_received == len(said)
            assert counts.bytes_received == sum(map(len, said))
            assert counts.messages_sent == 1 + len(said)


async def test_the_end_is_told_before_the_channel_closes(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge:
        channel = CallerChannel("oai-events")
        async with edge.call(channel=channel) as phone:
            await phone.told(1)
            assert phone.call is not None
            assert edge.transceivers[0].hang_up(phone.call.call_id)
            told = await phone.told(2)
            assert read(str(told[1]).encode()) == {"type": "session.ended", "reason": "hangup"}
            await trio.sleep(0.1)
            assert channel.closed
            assert phone.caller.closed
            counts = edge.transceivers[0].totals.channels()
            assert (counts.opened, counts.closed, counts.messages_sent) == (1, 1, 2)


async def test_a_client_that_hangs_up_loses_nothing(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge:
        async with edge.call(channel=CallerChannel("oai-events")) as phone:
            await phone.told(1)
            phone.hang_up()
            await _ended(edge.transceivers[0], EndReason.PEER_CLOSED)
        drops = edge.transceivers[0].totals.drops()
        assert not {Drop.QUEUE_FULL, Drop.TOO_LONG, Drop.BUG} & set(drops)


async def test_other_channels_are_echoed_by_the_echo_alone(autojump_clock: Clock) -> None:
    async with (
        open_network() as network,
        open_edge(network) as edge,
        edge.call(channel=CallerChannel("chat")) as phone,
    ):
        await phone.connected()
        phone.say("ping: 1")
        phone.say(b"\0\1")
        assert await phone.told(2) == ["ping: 1", b"\0\1"]
        assert not edge.transceivers[0].totals.drops()[Drop.UNKNOWN_CHANNEL]
    async with open_network() as network, open_edge(network, backend=Repeater()) as edge:
        channel = CallerChannel("chat")
        async with edge.call(channel=channel) as phone:
            await trio.sleep(1.0)
            phone.say("ping: 1")
            await trio.sleep(1.0)
            assert not channel.received
            assert edge.transceivers[0].totals.drops()[Drop.UNKNOWN_CHANNEL] == 1
            assert edge.transceivers[0].totals.channels().messages_received == 1


async def test_pipecats_chat_carries_events_and_pings(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network, backend=Repeater()) as edge:
        async with edge.call(channel=CallerChannel("chat")) as phone:
            await trio.sleep(1.0)
            phone.say("ping: 1")
            phone.say('{"type": "client-ready", "label": "rtvi-ai"}')
            assert _types(await phone.told(1)) == ["client-ready"]  # and no session.created
        assert edge.transceivers[0].totals.drops()[Drop.UNKNOWN_CHANNEL] == 1


async def test_sidebands_leave_room_for_the_client(autojump_clock: Clock) -> None:
    backend = Repeater()
    ears = [Ear() for _ in range(MAX_HOLDERS)]
    async with open_network() as network, open_edge(network, backend=backend) as edge:
        channel = CallerChannel("oai-events")
        async with edge.call(channel=channel) as phone:
            assert phone.call is not None
            joined = ExitStack()
            for ear in ears:
                joined.enter_context(edge.transceivers[0].join(phone.call.call_id, ear))
            assert _types(await phone.told(1)) == ["session.created"]
            phone.say('{"type": "note"}')
            assert _types(await phone.told(2)) == ["session.created", "note"]
            assert all(ear.kinds == ["session.created", "note"] for ear in ears)


async def test_a_flood_of_messages_is_dropped_and_counted(autojump_clock: Clock) -> None:
    backend = Repeater()
    flood = int(2 * MESSAGES_PER_SECOND)
    async with (
        open_network() as network,
        open_edge(network, backend=backend) as edge,
        edge.call(channel=CallerChannel("oai-events")) as phone,
    ):
        await phone.told(1)
        for _ in range(flood):
            phone.say('{"type": "note"}')
        await trio.sleep(2.0)
        dropped = edge.transceivers[0].totals.drops()[Drop.RATE_LIMIT]
        assert 0 < dropped == flood - len(backend.heard)
        assert edge.transceivers[0].sessions == 1
