"""A client that agreed on NACK, on a network that loses: what is asked for, and what comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from edge.audio.jitter import FRAME, LOSS_MEMORY
from edge.audio.listener import ListenerStatistics
from edge.backends.protocol import AudioFormat, AudioFrame, Call, EventSink, Speaker
from edge.config import AudioConfig
from edge.errors import Drop
from edge.transceiver.session import Session
from edge.webrtc.nack import Repair
from tests.support.edge_net import HOST, VirtualEdge, open_edge
from tests.support.nacking import NackingPhone
from tests.support.net import Link, VirtualNetwork, open_network

Clock = trio.abc.Clock

ONE_WAY = 0.020  # seconds, over two virtual hops
LOSS = 0.05
SETTLED = 1.5
"""Seconds until the round trip is known."""


@dataclass
class Ear:
    """A backend of PCM and its one conversation, which says what it hears."""

    wanted: AudioFormat
    drops: Counter[Drop] = field(default_factory=Counter)
    speaker: Speaker | None = None

    def wants(self, codec: AudioFormat) -> AudioFormat:
        return self.wanted

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> Ear:
        self.speaker = speaker
        return self

    def hear(self, frame: AudioFrame) -> None:
        assert self.speaker is not None
        self.speaker.play(frame)

    def receive_event(self, event: bytes) -> None:
        """It has nothing to say to events."""

    async def run(self) -> None:
        await trio.sleep_forever()


@dataclass
class Scene:
    """The call."""

    network: VirtualNetwork
    edge: VirtualEdge
    phone: NackingPhone

    @property
    def session(self) -> Session:
        (session,) = self.edge.transceivers[0].roster.by_call.values()
        return session

    @property
    def repairs(self) -> Counter[Repair]:
        return Counter(self.session.peer.statistics().media.repairs)

    async def lose(self, seconds: float, *, both: bool = False) -> None:
        """Let the client's network lose packets for some time."""
        client, server = self.phone.socket.address, self.edge.public
        ways = [(client, server), (server, client)] if both else [(client, server)]
        for way in ways:
            self.network.set_link(*way, Link(latency=ONE_WAY / 2, loss=LOSS))
        await trio.sleep(seconds)
        for way in ways:
            self.network.set_link(*way, Link(latency=ONE_WAY / 2))

    @property
    def heard(self) -> ListenerStatistics:
        return self.session._listener.statistics()


@asynccontextmanager
async def open_scene(audio: AudioConfig, *, wanted: str = "pcm16") -> AsyncIterator[Scene]:
    """One call of a client with NACK, whose round trip is known."""
    ear = Ear(AudioFormat(wanted, 24_000 if wanted == "pcm16" else 48_000))
    async with (
        open_network(seed=3, link=Link(latency=ONE_WAY / 2)) as network,
        open_edge(network, backend=ear, audio=audio) as edge,
    ):
        phone = NackingPhone(network.socket((HOST, 0)))
        async with trio.open_nursery() as nursery:
            await phone.dial(edge.transceivers[0])
            nursery.start_soon(phone.run)
            await trio.sleep(SETTLED)
            yield Scene(network, edge, phone)
            nursery.cancel_scope.cancel()
        phone.socket.close()


async def test_what_was_lost_comes_again_before_it_is_needed(autojump_clock: Clock) -> None:
    async with open_scene(AudioConfig(min_delay_seconds=0.1)) as scene:
        await scene.lose(10.0, both=True)
        assert scene.session.peer.media.round_trip_time == pytest.approx(2 * ONE_WAY, abs=0.001)
        received, asked = scene.heard.received, len(scene.phone.asked)
        assert scene.repairs[Repair.RECOVERED] >= 0.7 * LOSS * received
        assert scene.heard.lost < 0.005 * received
        assert scene.heard.late == scene.heard.duplicates == 0
        assert 0 < asked <= 1.5 * LOSS * received
        assert scene.heard.target == 0.1


async def test_without_nack_it_stays_lost(autojump_clock: Clock) -> None:
    async with open_scene(AudioConfig(min_delay_seconds=0.1, nack=False)) as scene:
        await scene.lose(4.0)
        assert scene.heard.lost > 0.02 * scene.heard.received
        assert scene.phone.asked == []
        assert scene.repairs == Counter()


@pytest.mark.parametrize(
    ("audio", "wanted"),
    [(AudioConfig(max_delay_seconds=0.03), "pcm16"), (AudioConfig(), "opus")],
    ids=["lowest latency", "passthrough"],
)
async def test_nothing_is_asked_for_where_nobody_would_wait(
    autojump_clock: Clock, audio: AudioConfig, wanted: str
) -> None:
    async with open_scene(audio, wanted=wanted) as scene:
        assert scene.session.peer.media.nack
        await scene.lose(4.0)
        assert scene.session.peer.media.statistics().lost > 0
        assert scene.phone.asked == []
        assert scene.heard.target <= 0.03


async def test_the_delay_covers_a_round_trip_while_packets_get_lost(autojump_clock: Clock) -> None:
    async with open_scene(AudioConfig()) as scene:
        assert scene.heard.target < 0.03
        await scene.lose(4.0)
        assert 2 * ONE_WAY < scene.heard.target < 0.1
        assert scene.repairs[Repair.RECOVERED] > scene.heard.lost
        await trio.sleep(LOSS_MEMORY + 1.0)
        assert scene.heard.target < 0.03
        assert scene.heard.delay < 0.03 + FRAME


async def test_the_edge_sends_again_what_its_client_asks_for(autojump_clock: Clock) -> None:
    async with open_scene(AudioConfig()) as scene:
        stream = scene.session.peer.media.stream
        last = stream.last_sent
        scene.phone.ask(stream.ssrc, *(index & 0xFFFF for index in (last, last - 1, last - 200)))
        scene.phone.ask(stream.ssrc + 1, last & 0xFFFF)
        await trio.sleep(0.1)
        told = scene.repairs
        assert told == Counter({Repair.RESENT: 2, Repair.GONE: 1})
        # The very same packets: those that the client has already are replays to it.
        assert scene.phone.caller.journal.duplicates == 2
        assert scene.phone.caller.journal.rejected == 0
    totals = scene.edge.transceivers[0].totals
    assert totals.repairs() == told  # the session is over, what it did counts
