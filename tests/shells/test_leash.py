"""The leash: the longest session, the idle limit and a hangup, as client and backend see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

from edge.backends.echo import Echo
from edge.backends.frames.wire import Kind
from edge.backends.protocol import Backend
from edge.backends.realtime.backend import make_realtime
from edge.backends.realtime.connection import Target
from edge.config import BackendConfig, TransceiverConfig
from edge.errors import EndReason
from tests.support.backend_line import Dialled, RawBackend, make_backend
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import VirtualNetwork, open_network
from tests.support.realtime_rig import Ear, Event, decode
from tests.support.realtime_server import Server

Clock = trio.abc.Clock
LIMITS = TransceiverConfig(max_session_seconds=4.0, max_idle_seconds=2.0)


def stay(edge: VirtualEdge, phone: Phone) -> float:
    return LIMITS.max_session_seconds


def fall_silent(edge: VirtualEdge, phone: Phone) -> float:
    phone.caller.stop_frames()
    return LIMITS.max_idle_seconds


def hang_up(edge: VirtualEdge, phone: Phone) -> float:
    assert phone.call is not None
    assert edge.transceivers[0].hang_up(phone.call.call_id)
    return 0.0


LEASHES = {
    EndReason.MAX_DURATION: stay,
    EndReason.IDLE: fall_silent,
    EndReason.HANGUP: hang_up,
}


@pytest.fixture
async def net() -> AsyncIterator[VirtualNetwork]:
    async with open_network() as opened:
        yield opened


async def led(
    net: VirtualNetwork,
    backend: Backend,
    reason: EndReason,
    serve: Callable[[], Awaitable[None]] | None = None,
) -> list[Event]:
    """Bring a call to its end in the given way; returns what the client was told.

    ``serve`` waits until the model's side is in conversation.
    """
    ear = Ear()
    async with open_edge(net, backend=backend, config=LIMITS) as edge, edge.call() as phone:
        (session,) = edge.transceivers[0].roster.by_call.values()
        with session.events.held(ear.send_event):
            with trio.fail_after(2.0):
                await session._connected.wait()
                await (serve() if serve else trio.sleep(0.1))
            began = trio.current_time()
            seconds = LEASHES[reason](edge, phone)
            with trio.fail_after(seconds + 1.0):
                while not edge.transceivers[0].totals.ended:
                    await trio.sleep(0.01)
        assert trio.current_time() - began >= seconds - 0.5
        await trio.sleep(0.1)
        assert edge.transceivers[0].totals.ended == {reason: 1}
        assert phone.caller.closed, "the client's DTLS was closed"
    return ear.events


def ending(reason: EndReason) -> Event:
    return {"type": "session.ended", "reason": reason.value}


@pytest.mark.parametrize("reason", LEASHES)
async def test_an_echo_ends(autojump_clock: Clock, net: VirtualNetwork, reason: EndReason) -> None:
    assert await led(net, Echo(), reason) == [ending(reason)]


@pytest.mark.parametrize("reason", LEASHES)
async def test_a_frames_backend_is_told_by_an_event_and_a_close(
    autojump_clock: Clock, net: VirtualNetwork, reason: EndReason
) -> None:
    dialled = Dialled()
    backend = make_backend(dialled)
    ended: list[Event] = []

    async def read_to_the_end(raw: RawBackend) -> None:
        while True:
            frame = await raw.next(Kind.EVENT, Kind.CLOSE, Kind.PING)
            if frame.kind == Kind.PING:
                await raw.send(Kind.PONG, 0)
            else:
                ended.append(decode(frame.payload))

    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)

        async def serve() -> None:
            raw = await dialled.accept()
            await raw.next(Kind.OPEN)
            nursery.start_soon(read_to_the_end, raw)

        assert await led(net, backend, reason, serve) == [ending(reason)]
        assert ended == [ending(reason), {"reason": "ended", "message": ""}]
        assert backend.statistics().sessions == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reason", LEASHES)
async def test_a_realtime_server_is_told_by_a_close_frame(
    autojump_clock: Clock, net: VirtualNetwork, reason: EndReason
) -> None:
    received: list[Event] = []
    server = Server(lambda name, event: received.append(event))
    async with trio.open_nursery() as nursery:

        async def open_stream(target: Target) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve, theirs)
            return ours

        async def greeted() -> None:
            while not any(event["type"] == "session.update" for event in received):
                await trio.sleep(0.01)

        config = BackendConfig(kind="realtime", url="ws://model.test/v1", model="listening.x")
        backend = make_realtime(config, {"OPENAI_API_KEY": "sk"}, open_stream=open_stream)
        told = await led(net, backend, reason, greeted)
        assert told[-1] == ending(reason)
        assert received[-1] == {"type": "closed", "code": 1000, "reason": reason.value}
        nursery.cancel_scope.cancel()
