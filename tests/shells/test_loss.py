"""A call on a bad network: what a backend of PCM hears, and how soon all is well again."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt

import pytest
import trio
import trio.testing

from edge.audio.jitter import FRAME, MAX_PACKETS, SHRINK_SLACK, JitterBuffer
from edge.audio.listener import ListenerStatistics
from edge.audio.opus import has_fec
from edge.backends.protocol import AudioFormat, AudioFrame, Call, EventSink, Speaker
from edge.config import AudioConfig
from edge.errors import Drop
from edge.transceiver.session import Session
from edge.wire.rtcp import ReceiverReport, ReportBlock, encode_rtcp
from tests.support.edge_net import CERTIFICATES, HOST, UNIX_OFFSET, Phone, VirtualEdge, open_edge
from tests.support.net import Link, VirtualNetwork, VirtualSocket, open_network
from tests.support.talker import Talker, spoken

Clock = trio.abc.Clock

NTP_EPOCH = 2_208_988_800  # seconds from 1900 to 1970
GOOD = Link()
LOST = Link(loss=1.0)
STEADY = 1.0
"""Seconds of call before the trouble begins."""
RECOVERY = 2.0
"""Seconds in which the delay has to come back."""
RESOLUTION = FRAME + SHRINK_SLACK
"""Frames are whole and their pace is even, so the delay may rest by so much above its target."""


@dataclass
class Ear:
    """A backend of PCM and its one conversation: notes what it hears, and says it again."""

    speaks: bool = False
    drops: Counter[Drop] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    sizes: set[int] = field(default_factory=set)
    speaker: Speaker | None = None

    def wants(self, codec: AudioFormat) -> AudioFormat:
        return AudioFormat("pcm16", 24_000)

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> Ear:
        self.speaker = speaker
        return self

    def hear(self, frame: AudioFrame) -> None:
        self.times.append(trio.current_time())
        self.sizes.add(len(frame.payload))
        if self.speaks and self.speaker is not None:
            self.speaker.play(frame)

    def receive_event(self, event: bytes) -> None:
        """It has nothing to say to events."""

    async def run(self) -> None:
        await trio.sleep_forever()


@dataclass
class Scene:
    """One call from a talker to an ear, and the way between."""

    network: VirtualNetwork
    edge: VirtualEdge
    phone: Phone
    talker: Talker
    ear: Ear
    way: Link = GOOD
    excess: list[tuple[float, float]] = field(default_factory=list)
    """When, and by how many seconds the delay was above its target."""
    most_buffered: int = 0

    @property
    def session(self) -> Session:
        (session,) = self.edge.transceivers[0].roster.by_call.values()
        return session

    @property
    def heard(self) -> ListenerStatistics:
        return self.session._listener.statistics()

    def set_way(self, link: Link, *, both: bool = False) -> None:
        assert isinstance(self.phone.socket, VirtualSocket)
        client = self.phone.socket.address
        self.network.set_link(client, self.edge.public, link)
        if both:
            self.network.set_link(self.edge.public, client, link)

    async def suffer(self, link: Link, seconds: float, *, both: bool = False) -> tuple[int, float]:
        """Let the trouble come and go; gives the packets sent in it and the time of its end."""
        sent = self.talker.journal.sent
        self.set_way(link, both=both)
        await trio.sleep(seconds)
        self.set_way(GOOD, both=both)
        return self.talker.journal.sent - sent, trio.current_time()

    async def watch(self) -> None:
        """Note the delay and what is buffered, forever."""
        buffer = self.session._listener._buffer
        assert isinstance(buffer, JitterBuffer)
        while True:
            quality = self.session.quality()
            self.excess.append((trio.current_time(), quality.delay - quality.target))
            self.most_buffered = max(self.most_buffered, len(buffer._packets))
            await trio.sleep(FRAME)

    def recovered_at(self) -> float:
        """Since when the delay has been as near to its target as it can be."""
        return max((at for at, excess in self.excess if excess > RESOLUTION), default=0.0)

    def check(self, over: float) -> None:
        """What holds in every trouble that was over at this time."""
        assert self.recovered_at() <= over + RECOVERY
        assert self.excess[-1][0] > over + RECOVERY
        assert {round(b - a, 6) for a, b in pairwise(self.ear.times)} == {FRAME}
        assert trio.current_time() - self.ear.times[-1] <= FRAME
        assert self.ear.sizes == {960}
        assert self.most_buffered < MAX_PACKETS / 4  # 0.4 s and what the trouble was long
        assert not self.edge.transceivers[0].totals.ended


@asynccontextmanager
async def open_scene(*, red: bool = False, speaks: bool = False) -> AsyncIterator[Scene]:
    ear = Ear(speaks=speaks)
    async with (
        open_network(seed=1) as network,
        open_edge(network, backend=ear, audio=AudioConfig(red=red)) as edge,
    ):
        phone = Phone(network.socket((HOST, 0)))
        phone.caller = talker = Talker(CERTIFICATES[0], now=trio.current_time(), red=red)
        async with trio.open_nursery() as nursery:
            await phone.dial(edge.transceivers[0])
            nursery.start_soon(phone.run)
            await trio.sleep(STEADY)
            scene = Scene(network, edge, phone, talker, ear)
            nursery.start_soon(scene.watch)
            yield scene
            nursery.cancel_scope.cancel()


def likely(trials: float, chance: float) -> float:
    """By how much a count may miss its mean: four deviations of a binomial one."""
    return 4 * sqrt(trials * chance * (1 - chance))


@pytest.mark.parametrize(
    ("loss", "red"), [(0.01, False), (0.05, False), (0.2, False), (0.05, True), (0.2, True)]
)
async def test_loss_is_repaired_as_far_as_theory_goes(
    autojump_clock: Clock, loss: float, red: bool
) -> None:
    """A lost packet is repaired by the one behind it, if that comes and carries something."""
    async with open_scene(red=red) as scene:
        sent, over = await scene.suffer(Link(loss=loss), 5.0)
        await trio.sleep(RECOVERY + 0.1)
        heard = scene.heard
        scene.check(over)
    missing = heard.lost + heard.recovered_red  # FEC repairs what remains lost for RTP
    assert missing == pytest.approx(sent * loss, abs=likely(sent, loss))
    carries = 1.0 if red else sum(map(has_fec, spoken())) / len(spoken())
    repairable = (1 - loss) * carries
    repaired = heard.recovered_red if red else heard.recovered_fec
    assert repaired == pytest.approx(
        missing * repairable, abs=max(likely(missing, repairable), 2.0)
    )
    assert heard.recovered_fec == 0 or not red
    unheard = (missing - repaired) * FRAME
    assert heard.concealed == pytest.approx(unheard, abs=2 * FRAME)  # or waited for a repair
    assert heard.late <= missing // 10


async def test_jitter_of_100_ms(autojump_clock: Clock) -> None:
    async with open_scene() as scene:
        _, over = await scene.suffer(Link(jitter=0.1), 3.0)
        await trio.sleep(RECOVERY + 0.1)
        heard = scene.heard
        scene.check(over)
    assert heard.lost == heard.late == 0
    assert 0 < heard.concealed <= 0.2  # the delay had to grow by 0.1 s
    assert heard.skipped == pytest.approx(heard.concealed / FRAME, abs=1)  # and to shrink again


async def test_a_stall_of_200_ms_is_heard_whole(autojump_clock: Clock) -> None:
    async with open_scene() as scene:
        stall = Link(held_until=trio.current_time() + 0.2)
        _, over = await scene.suffer(stall, 0.2)
        await trio.sleep(RECOVERY + 0.1)
        heard = scene.heard
        scene.check(over)
    assert heard.lost == heard.late == 0
    assert heard.concealed == pytest.approx(0.2, abs=2 * FRAME)
    assert heard.skipped == pytest.approx(heard.concealed / FRAME, abs=1)
    assert 8 <= scene.most_buffered <= 12


@pytest.mark.parametrize("seconds", [0.2, 10.0])
async def test_what_is_lost_as_a_whole_is_silent_and_then_over(
    autojump_clock: Clock, seconds: float
) -> None:
    async with open_scene() as scene:
        sent, over = await scene.suffer(LOST, seconds, both=True)
        await trio.sleep(RECOVERY + 0.1)
        heard = scene.heard
        scene.check(over)
    assert heard.lost == pytest.approx(sent, abs=1)
    assert heard.recovered_fec <= 1
    assert heard.concealed == pytest.approx(seconds, abs=2 * FRAME)
    assert heard.skipped <= 1
    assert heard.late == 0


def report(scene: Scene, lost: float) -> None:
    """Say as the client which share of the edge's audio was lost since the last report."""
    block = ReportBlock(
        ssrc=scene.session.peer.media.stream.ssrc,
        fraction_lost=round(lost * 256),
        cumulative_lost=0,
        highest_sequence=0,
        jitter=0,
        last_sr=int((trio.current_time() + UNIX_OFFSET + NTP_EPOCH) * 65536) & 0xFFFFFFFF,
        delay_since_last_sr=0,
    )
    assert scene.talker._sender is not None
    packet = encode_rtcp((ReceiverReport(scene.talker.offer.ssrc, (block,)),))
    scene.phone._send([scene.talker._sender.protect_rtcp(packet)])


async def fec_sent(scene: Scene, seconds: float = 0.4) -> float:
    """Which share of what the client hears now carries FEC."""
    await trio.sleep(0.1)  # what is under way
    heard = scene.talker.speech.heard
    heard.clear()
    await trio.sleep(seconds)
    assert len(heard) >= seconds / FRAME - 2
    return sum(has_fec(payload) for _, payload in heard) / len(heard)


async def test_the_client_gets_as_much_fec_as_it_reports_losses(autojump_clock: Clock) -> None:
    async with open_scene(speaks=True) as scene:
        assert await fec_sent(scene) > 0.3  # nothing is known yet
        for _ in range(4):
            report(scene, 0.0)
        assert await fec_sent(scene) == 0.0
        report(scene, 0.05)
        assert await fec_sent(scene) > 0.3
        report(scene, 0.0)
        assert await fec_sent(scene) > 0.3  # one good report does not prove much


async def test_an_echo_is_not_late_for_ever_after_a_stall(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(50)
        assert isinstance(phone.socket, VirtualSocket)
        usual = phone.caller.journal.statistics(now=trio.current_time()).round_trips[-1]
        stall = Link(held_until=trio.current_time() + 0.2)
        network.set_link(phone.socket.address, edge.public, stall)
        await trio.sleep(0.2)
        network.set_link(phone.socket.address, edge.public, GOOD)
        await trio.sleep(RECOVERY)
        await phone.heard(50)
        trips = phone.caller.journal.statistics(now=trio.current_time()).round_trips
        assert max(trips) > usual + 0.15
        assert max(trips[-50:]) <= usual + 0.01
        drops = edge.transceivers[0].totals.drops()
        assert 4 <= drops[Drop.LATE] <= 12
