"""Calls through a lossy proxy to a real edge process, whose backend of PCM is here."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from math import inf
from random import Random
from typing import Final

import msgspec
import trio

from edge.address import format_address
from edge.audio.jitter import FRAME, SHRINK_SLACK
from edge.backends.server import BackendSession, serve_backend
from edge.client.http import request
from edge.datagram import DatagramSocket, bind_udp
from edge.wire.demux import Kind, classify
from tests.support.edge_net import CERTIFICATES, Phone
from tests.support.edges import free_udp_port
from tests.support.lossy import HOST, Direction, LossyProxy, open_lossy_proxy
from tests.support.nacking import NackingPhone
from tests.support.processes import Edge, edge
from tests.support.talker import Talker

STEADY_SECONDS: Final = 0.6
RECOVERY_SECONDS: Final = 2.1
LOOK_SECONDS: Final = 0.04
RESOLUTION: Final = FRAME + SHRINK_SLACK + 0.002
"""By how much a delay may rest above its target: frames are whole. 2 ms for a shared machine."""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What the network does for some time, in both directions; times in seconds."""

    name: str
    seconds: float
    loss: float = 0.0
    jitter: float = 0.0
    stalls: bool = False
    """All is held until the end, and then comes at once."""
    red: bool = False
    nack: bool = False
    """The client sends again what it is asked for."""


class Row(msgspec.Struct, frozen=True):
    """What one trouble did; counts of packets from client to edge."""

    name: str
    packets: int
    lost: int
    """By the proxy."""
    fec: int
    red: int
    nack: int
    concealed_ms: float
    delay_p50_ms: float
    """Of what the jitter buffer held back during the trouble and the recovery."""
    delay_p99_ms: float
    delay_max_ms: float
    back_seconds: float
    """From the end of the trouble until the delay was back at its target; ``inf`` is never."""
    frames: float
    """Frames of 20 ms that the backend heard, of those it should have: 1.0 is exact."""
    answered: float
    """Of what the backend said, how much the client received."""


class Look(msgspec.Struct, frozen=True):
    """The edge's own figures at one moment."""

    at: float
    held: float
    target: float
    fec: float
    red: float
    nack: float
    concealed: float


class _Way:
    """The proxy's behaviour in one trouble."""

    def __init__(self, trouble: Trouble, until: float, seed: int) -> None:
        self.lost = 0
        self._trouble = trouble
        self._until = until
        self._random = {"up": Random(f"{seed} up"), "down": Random(f"{seed} down")}

    def loses(self, direction: Direction, datagram: bytes) -> bool:
        lost = self._random[direction].random() < self._trouble.loss
        self.lost += lost and direction == "up" and classify(datagram) is Kind.RTP
        return lost

    def delays(self, direction: Direction, now: float) -> float:
        if self._trouble.stalls:
            return self._until - now
        return self._random[direction].random() * self._trouble.jitter


class LossScene:
    """An edge behind a proxy; its backend says what it hears, and counts it."""

    def __init__(self, server: Edge, proxy: LossyProxy) -> None:
        self.server = server
        self.proxy = proxy
        self._heard = 0

    async def suffer(self, trouble: Trouble, *, seed: int = 1) -> Row:
        """Make a call, let the trouble come and go, and tell what it did."""
        async with self._call(trouble) as talker, trio.open_nursery() as nursery:
            looks: list[Look] = []
            nursery.start_soon(self._look_on, looks)
            began, sent, heard = trio.current_time(), talker.journal.sent, self._heard
            came = len(talker.speech.heard)
            before = await self.look()
            lost = await self.disturb(trouble, seed=seed)
            over, sent = trio.current_time(), talker.journal.sent - sent
            await trio.sleep(RECOVERY_SECONDS)
            after, elapsed = await self.look(), trio.current_time() - began
            nursery.cancel_scope.cancel()
        held = sorted(look.held * 1000 for look in looks)
        return Row(
            name=trouble.name,
            packets=sent,
            lost=lost,
            fec=round(after.fec - before.fec),
            red=round(after.red - before.red),
            nack=round(after.nack - before.nack),
            concealed_ms=round((after.concealed - before.concealed) * 1000),
            delay_p50_ms=round(held[len(held) // 2], 1),
            delay_p99_ms=round(held[len(held) * 99 // 100], 1),
            delay_max_ms=round(held[-1], 1),
            back_seconds=round(_back_after(looks, over), 2),
            frames=round((self._heard - heard) * FRAME / elapsed, 3),
            answered=round((len(talker.speech.heard) - came) * FRAME / elapsed, 3),
        )

    async def disturb(self, trouble: Trouble, *, seed: int = 1) -> int:
        """Let the trouble come and go; gives how many of the clients' packets it lost."""
        way = _Way(trouble, trio.current_time() + trouble.seconds, seed)
        self.proxy.loses, self.proxy.delays = way.loses, way.delays
        try:
            await trio.sleep(trouble.seconds)
            return way.lost
        finally:
            self.proxy.loses = lambda direction, datagram: False
            self.proxy.delays = lambda direction, now: 0.0

    @asynccontextmanager
    async def _call(self, trouble: Trouble) -> AsyncGenerator[Talker]:
        """A call that has gone well for a while; the edge ends it when its client is gone."""
        phone, talker = _make_client(trouble)
        try:
            async with trio.open_nursery() as nursery:
                url = f"{self.server.http}/v1/realtime/calls"
                offer = talker.offer.encode()
                kind = (("Content-Type", "application/sdp"),)
                answer = await request("POST", url, offer, headers=kind)
                phone._send(talker.take_answer(answer.body, now=trio.current_time()))
                nursery.start_soon(phone.run)
                await trio.sleep(STEADY_SECONDS)
                yield talker
                nursery.cancel_scope.cancel()
        finally:
            phone.hang_up()
            phone.socket.close()

    async def converse(self, session: BackendSession) -> None:
        """Say what is heard."""
        async for heard in session:
            if isinstance(heard, bytes):
                self._heard += 1
                await session.say(heard)

    async def _look_on(self, looks: list[Look]) -> None:
        while True:
            looks.append(await self.look())
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> Look:
        """Read the edge's metrics."""
        figures = _figures((await request("GET", f"{self.server.http}/metrics")).body.decode())
        return Look(
            at=trio.current_time(),
            held=figures['edge_longest_delay_seconds{kind="held"}'],
            target=figures['edge_longest_delay_seconds{kind="target"}'],
            fec=figures['edge_recovered_packets_total{by="fec"}'],
            red=figures['edge_recovered_packets_total{by="red"}'],
            nack=figures['edge_nack_packets_total{event="recovered"}'],
            concealed=figures["edge_concealed_seconds_total"],
        )


@asynccontextmanager
async def open_loss_scene(flags: Mapping[str, str] | None = None) -> AsyncGenerator[LossScene]:
    """Run all of it; ``flags`` are environment variables of the edge."""
    scene: LossScene | None = None

    async def converse(session: BackendSession) -> None:
        assert scene is not None
        await scene.converse(session)

    async with open_lossy_proxy() as proxy, serve_backend(f"{HOST}:0", converse) as address:
        proxy.upstream = HOST, free_udp_port()
        arguments = (
            *("serve", "--http", f"{HOST}:0", "--udp", format_address(proxy.upstream)),
            *("--advertise", format_address(proxy.address)),
            *("--backend", "frames", "--backend-address", address),
        )
        async with edge(*arguments, env={"EDGE_AUDIO_RED": "true", **(flags or {})}) as server:
            scene = LossScene(server, proxy)
            yield scene


def _make_client(trouble: Trouble) -> tuple[Phone, Talker]:
    socket = DatagramSocket(bind_udp((HOST, 0)))
    if trouble.nack:
        nacking = NackingPhone(socket)
        return nacking, nacking.talker
    phone = Phone(socket)
    phone.caller = talker = Talker(CERTIFICATES[0], now=trio.current_time(), red=trouble.red)
    return phone, talker


def _figures(text: str) -> dict[str, float]:
    found = re.findall(r"^(edge_\S+) ([-+0-9.e]+)$", text, re.M)
    return {name: float(value) for name, value in found}


def _back_after(looks: list[Look], over: float) -> float:
    """When the delay was within its resolution for good, after ``over``."""
    last = max((look.at for look in looks if look.held - look.target > RESOLUTION), default=over)
    return inf if last == looks[-1].at else max(last - over, 0.0)
