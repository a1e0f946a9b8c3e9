"""Backends that are slow, silent, reset, half-close or drip, behind a whole edge.

The client is told, what waits is bounded, nothing is left behind, and others do not notice: with
``realtime`` those who talk meanwhile, with ``frames``, whose connection is for all, those who come
next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from edge.backends.frames.backend import FramesBackend
from edge.backends.frames.conversation import QUEUE_SECONDS, FramesConversation
from edge.backends.frames.wire import Kind
from edge.backends.protocol import AudioFrame, Backend, Call, Conversation, EventSink, Speaker
from edge.backends.realtime.backend import make_realtime
from edge.backends.realtime.connection import Target
from edge.backends.realtime.conversation import RealtimeConversation
from edge.backends.realtime.machine import MAX_UNSENT_SECONDS
from edge.backends.server import BackendSession, serve_stream
from edge.config import BackendConfig
from edge.errors import Drop, EndReason
from edge.transceiver.session import Session
from tests.support.backend_line import Dialled, RawBackend
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import VirtualNetwork, open_network
from tests.support.realtime_rig import SECOND, Ear
from tests.support.realtime_server import RAW, Server, play_raw

Clock = trio.abc.Clock
FRAMES_SECONDS = 5.2
"""The stall time, after which a connection is lost."""
DRIP_SECONDS = 1.0
OPUS = bytes.fromhex("fcfffe")
"""A packet of 20 ms."""


@pytest.fixture
async def net() -> AsyncIterator[VirtualNetwork]:
    async with open_network() as opened:
        yield opened


@asynccontextmanager
async def called(edge: VirtualEdge) -> AsyncIterator[tuple[Phone, Session, Ear]]:
    """A call, its session, and what the holder of its event channel is told."""
    before = set(edge.transceivers[0].roster.by_call)
    async with edge.call() as phone:
        ((_, session),) = (
            each for each in edge.transceivers[0].roster.by_call.items() if each[0] not in before
        )
        ear = Ear()
        with session.events.held(ear.send_event):
            yield phone, session, ear


async def ended(edge: VirtualEdge, session: Session, *, within: float) -> None:
    with trio.fail_after(within):
        while session.call.session in edge.transceivers[0].roster.by_call:
            await trio.sleep(0.1)
    assert session.reason is EndReason.BACKEND_FAILED
    await trio.sleep(0.5)


async def hears_the_model(phone: Phone, packets: int) -> None:
    """Wait for so many packets; that they are no echoes the journal calls rejected."""
    with trio.fail_after(5.0):
        while phone.caller.journal.rejected < packets:
            await trio.sleep(0.01)
    assert phone.caller.journal.longest_silence < 0.1


def living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


# frames


async def keep_silent(raw: RawBackend) -> None:
    while await raw.stream.receive_some(65_536):
        pass


async def read_nothing(raw: RawBackend) -> None:
    while True:
        await raw.send(Kind.PONG, 0)
        await trio.sleep(DRIP_SECONDS)


async def reset(raw: RawBackend) -> None:
    await raw.next(Kind.AUDIO)
    await trio.aclose_forcefully(raw.stream)


async def half_close(raw: RawBackend) -> None:
    await raw.next(Kind.AUDIO)
    assert isinstance(raw.stream, trio.StapledStream)
    await raw.stream.send_eof()
    await keep_silent(raw)


async def drip(raw: RawBackend) -> None:
    for byte in bytes.fromhex("00000010 02 00000001") + bytes(100):
        await raw.stream.send_all(bytes([byte]))
        await trio.sleep(DRIP_SECONDS)


async def flood_and_leave(raw: RawBackend) -> None:
    await raw.next(Kind.OPEN)
    for _ in range(2_000):
        await raw.send(Kind.AUDIO, payload=OPUS)
    await trio.aclose_forcefully(raw.stream)


async def parrot(session: BackendSession) -> None:
    async for heard in session:
        if isinstance(heard, bytes):
            await session.say(heard)


Behave = Callable[[RawBackend], Awaitable[None]]


@pytest.mark.parametrize(
    "behave", [keep_silent, read_nothing, reset, half_close, drip, flood_and_leave]
)
async def test_a_bad_frames_backend(
    autojump_clock: Clock, net: VirtualNetwork, behave: Behave
) -> None:
    dialled = Dialled()
    if behave is read_nothing:  # what nobody reads fills a lockstep stream at once
        dialled.pair = trio.testing.lockstep_stream_pair  # type: ignore[method-assign]
    backend = FramesBackend("unix:/nowhere", audio="opus", dial=dialled.dial)

    async def misbehave(raw: RawBackend) -> None:
        try:
            await behave(raw)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        async with open_edge(net, backend=backend) as edge:
            await trio.sleep(0.1)
            tasks = living_tasks()
            async with called(edge) as (phone, session, ear):
                nursery.start_soon(misbehave, await dialled.accept())
                await ended(edge, session, within=FRAMES_SECONDS)
                assert ear.events[-1] == {"type": "session.ended", "reason": "backend_failed"}
                assert phone.caller.closed
                conversation = session._backend.conversation
                assert isinstance(conversation, FramesConversation)
                assert conversation._outgoing.queued <= QUEUE_SECONDS
                assert session._sender.playout.queued == 0.0
                assert session.drops()[Drop.BUG] == 0
            await trio.sleep(DRIP_SECONDS)
            assert backend.statistics().sessions == 0
            assert living_tasks() == tasks
            dialled.pair = trio.testing.memory_stream_pair  # type: ignore[method-assign]
            async with edge.call() as next_one:
                stream = (await dialled.accept()).stream
                nursery.start_soon(serve_stream, parrot, 10, stream)
                await next_one.heard(50)
        nursery.cancel_scope.cancel()


# realtime


@asynccontextmanager
async def realtime(scenario: str) -> AsyncIterator[tuple[Backend, trio.CancelScope]]:
    """A backend whose first session has this server, and the others one that talks well.

    The scope is that of the servers.
    """
    async with trio.open_nursery() as nursery:
        servers = await nursery.start(_hold_nursery)
        server = Server(lambda name, event: None)

        async def open_stream(target: Target) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            deaf = scenario == "deaf" and "victim" in target.resource
            pair = trio.testing.lockstep_stream_pair if deaf else trio.testing.memory_stream_pair
            ours, theirs = pair()
            if scenario in RAW and "victim" in target.resource:
                servers.start_soon(play_raw, scenario, theirs)
            else:
                servers.start_soon(server.serve, theirs)
            return ours

        def make(model: str) -> Backend:
            config = BackendConfig(kind="realtime", url="ws://model.test/v1", model=model)
            return make_realtime(
                config, {"OPENAI_API_KEY": "sk"}, open_stream=open_stream, random=lambda: 0.5
            )

        first = _First(make(f"{scenario}.victim"), make("talkative.other"))
        yield first, servers.cancel_scope
        nursery.cancel_scope.cancel()


async def _hold_nursery(*, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()


class _First:
    """Gives the first session to one backend, and all others to another."""

    def __init__(self, first: Backend, others: Backend) -> None:
        self._next = [first]
        self._others = others
        self.wants = others.wants

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> Conversation:
        backend = self._next.pop() if self._next else self._others
        return backend.open(call, speaker, events)


@pytest.mark.parametrize(
    ("scenario", "seconds"),
    [
        ("silent", 30.0),
        ("deaf", 90.0),
        ("reset", 15.0),
        ("half_close", 15.0),
        ("drip", 90.0),
    ],
)
async def test_a_bad_realtime_server(
    autojump_clock: Clock, net: VirtualNetwork, scenario: str, seconds: float
) -> None:
    async with (
        realtime(scenario) as (backend, servers),
        open_edge(net, backend=backend) as edge,
    ):
        await trio.sleep(0.1)
        tasks = living_tasks()
        async with called(edge) as (phone, session, ear):
            async with edge.call() as other:
                await hears_the_model(other, 50)
                other.hang_up()
                await trio.sleep(0.1)
            phone.caller.stop_frames()
            for _ in range(10):
                session._backend.conversation.hear(AudioFrame(bytes(SECOND), 1.0))
            await ended(edge, session, within=seconds)
            kinds = [kind for kind in ear.kinds if kind in ("error", "session.ended")]
            assert kinds == ["error"] * 4 + ["session.ended"]
            assert ear.events[-1] == {"type": "session.ended", "reason": "backend_failed"}
            assert phone.caller.closed
            conversation = session._backend.conversation
            assert isinstance(conversation, RealtimeConversation)
            assert conversation._machine.outbox._audio_bytes <= MAX_UNSENT_SECONDS * SECOND
            assert session.drops()[Drop.BUG] == 0
        servers.cancel()
        await trio.sleep(DRIP_SECONDS)
        assert living_tasks() == tasks - 1  # that of the servers
