"""The ``frames`` backend over streams in memory: sessions, windows, and backends that misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from edge.backends.frames.backend import FramesBackend
from edge.backends.frames.conversation import QUEUE_SECONDS, Patience
from edge.backends.frames.wire import FORMATS, Kind, decode_milliseconds, encode_milliseconds
from edge.backends.server import BackendSession, Handler, serve_stream
from edge.errors import Drop, EndReason
from tests.support.backend_line import (
    PIECE,
    QUALITY,
    Client,
    Dialled,
    RawBackend,
    clients_of,
    make_backend,
)
from tests.support.edge_net import VirtualEdge, open_edge
from tests.support.net import VirtualNetwork
from tests.support.sweep import Cut, sweep

Clock = trio.abc.Clock


class Rig:
    """A backend's client side, its network, and a nursery for sessions."""

    def __init__(self, nursery: trio.Nursery, patience: Patience | None = None) -> None:
        self.dialled = Dialled()
        self.backend = make_backend(self.dialled, patience)
        self.nursery = nursery

    async def client(self, *, rate: float = 1.0) -> Client:
        client = Client(self.backend, rate=rate)
        self.nursery.start_soon(client.run)
        await trio.testing.wait_all_tasks_blocked()
        return client

    async def both(self) -> tuple[Client, RawBackend]:
        client = await self.client()
        raw = await self.dialled.accept()
        await raw.next(Kind.OPEN)
        return client, raw


@asynccontextmanager
async def open_rig(patience: Patience | None = None) -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, patience)
        await nursery.start(rig.backend.run)
        yield rig
        assert rig.backend.statistics().drops[Drop.BUG] == 0
        nursery.cancel_scope.cancel()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with open_rig() as opened:
        yield opened


def no_sessions_left(rig: Rig) -> bool:
    return rig.backend.statistics().sessions == 0


async def test_nothing_connects_before_a_session_needs_it(autojump_clock: Clock, rig: Rig) -> None:
    await trio.sleep(60)
    assert rig.dialled.attempts == []
    _, raw = await rig.both()
    assert rig.backend.statistics().connected
    await raw.send(Kind.CLOSE)


async def test_open_says_what_the_backend_must_know(autojump_clock: Clock, rig: Rig) -> None:
    await rig.client()
    raw = await rig.dialled.accept()
    opened = await raw.next()
    assert msgspec.json.decode(opened.payload) == {
        "version": 1,
        "call": "rtc_1",
        "audio": "pcm16/24000",
        "window_ms": 30_000,
        "attempt": 1,
    }


async def test_audio_and_events_go_both_ways(autojump_clock: Clock, rig: Rig) -> None:
    client, raw = await rig.both()
    client.hear(b"\x01\x00" * 480)
    assert (await raw.next()).payload == b"\x01\x00" * 480
    client.conversation.receive_event(b'{"type":"x"}')
    assert (await raw.next()).payload == b'{"type":"x"}'
    await raw.send(Kind.AUDIO, payload=b"\x02\x00" * 1_000)
    await raw.send(Kind.EVENT, payload=b'{"type":"y"}')
    await trio.sleep(0.1)
    assert client.speaker.heard == b"\x02\x00" * 1_000
    assert [frame.duration for frame in client.speaker.frames] == pytest.approx(
        [0.02, 0.02, 40 / 24_000]
    )
    assert [frame.timestamp for frame in client.speaker.frames] == [0, 480, 960]
    assert client.events.events == [b'{"type":"y"}']


async def test_what_is_heard_before_the_connection_is_kept_up_to_a_bound(
    autojump_clock: Clock, rig: Rig
) -> None:
    client = Client(rig.backend)
    for number in range(100):
        client.hear(bytes([number]) * 960)
    rig.nursery.start_soon(client.run)
    raw = await rig.dialled.accept()
    await raw.next(Kind.OPEN)
    heard = [(await raw.next(Kind.AUDIO)).payload[0] for _ in range(50)]
    assert heard == list(range(50, 100))
    assert client.conversation.drops == {Drop.QUEUE_FULL: 50}


async def test_flush_pause_and_played_are_answered_in_order(
    autojump_clock: Clock, rig: Rig
) -> None:
    client, raw = await rig.both()
    await raw.send(Kind.AUDIO, payload=PIECE * 50)
    await trio.sleep(0.3)
    for kind in (Kind.PAUSE, Kind.RESUME, Kind.PLAYED):
        await raw.send(kind)
    await trio.sleep(0.2)
    await raw.send(Kind.FLUSH)
    answers = [decode_milliseconds((await raw.next(Kind.PLAYED)).payload) for _ in range(3)]
    assert answers == [300, 300, 500]
    assert client.speaker.calls == ["pause", "resume", "flush"]


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        (b"", "closed"),
        (b'{"reason":"done"}', "closed"),
        (b'{"reason":"failed","message":"x"}', "the backend closed the session: failed"),
        (b'{"reason":"overloaded"}', "the backend closed the session: overloaded"),
        (b'{"reason":"a secret\\n"}', "the backend closed the session: failed"),
    ],
)
async def test_close_ends_the_session_and_no_other(
    autojump_clock: Clock, rig: Rig, payload: bytes, outcome: str
) -> None:
    first, second = await clients_of(rig.backend, rig.nursery, 2)
    raw = await rig.dialled.accept()
    await raw.send(Kind.CLOSE, 1, payload)
    assert await first.ended() == outcome
    first.hear()
    second.hear()
    assert [(await raw.next()).session for _ in range(3)] == [1, 2, 2]  # both opened, one spoke
    assert rig.backend.statistics().sessions == 1


async def test_a_session_that_ends_here_is_closed_there(autojump_clock: Clock, rig: Rig) -> None:
    client = Client(rig.backend)
    with trio.CancelScope() as scope:
        rig.nursery.start_soon(_run_in, scope, client)
        raw = await rig.dialled.accept()
        await raw.next(Kind.OPEN)
        client.conversation.receive_event(b'{"type":"session.ended"}')
        scope.cancel()
    assert (await raw.next()).kind == Kind.EVENT
    closed = await raw.next()
    assert (closed.kind, msgspec.json.decode(closed.payload)["reason"]) == (Kind.CLOSE, "ended")
    assert no_sessions_left(rig)


async def _run_in(scope: trio.CancelScope, client: Client) -> None:
    with trio.CancelScope() as own:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            while not scope.cancel_called:
                await trio.sleep(0.01)
            own.cancel()


async def test_the_backend_is_told_when_the_process_stops(autojump_clock: Clock) -> None:
    async with open_rig() as rig:
        client = Client(rig.backend)
        async with trio.open_nursery() as sessions:
            sessions.start_soon(client.run)
            raw = await rig.dialled.accept()
            await raw.next(Kind.OPEN)
            client.conversation.receive_event(b'{"type":"bye"}')
            sessions.cancel_scope.cancel()
    assert [(await raw.next()).kind for _ in range(2)] == [Kind.EVENT, Kind.CLOSE]
    assert await raw.stream.receive_some(1) == b""


# Windows.


async def test_a_fast_backend_is_held_by_its_window(autojump_clock: Clock, rig: Rig) -> None:
    patience = Patience(ahead_seconds=2.0)
    async with open_rig(patience) as rig:
        client, raw = await rig.both()
        window, said, start = 2_000, 0, trio.current_time()
        while said < 20_000:
            while said + 20 <= window:
                await raw.send(Kind.AUDIO, payload=PIECE)
                said += 20
            window = decode_milliseconds((await raw.next(Kind.WINDOW)).payload)
        assert trio.current_time() - start == pytest.approx(18.0, abs=1.1)
        await trio.sleep(0.1)
        assert len(client.speaker.frames) == 1_000
        assert client.speaker.most_queued <= 2.0 + 1e-6
        assert client.conversation.drops == {}


async def test_what_is_beyond_the_window_is_dropped_and_the_rest_goes_on(
    autojump_clock: Clock,
) -> None:
    async with open_rig(Patience(ahead_seconds=1.0)) as rig:
        client, raw = await rig.both()
        for _ in range(10):
            await raw.send(Kind.AUDIO, payload=PIECE * 50)
        await trio.sleep(0.1)
        assert client.speaker.queued <= 1.0
        assert client.conversation.drops == {Drop.QUEUE_FULL: 9}
        assert decode_milliseconds((await raw.next(Kind.WINDOW)).payload) == 10_500
        await raw.send(Kind.AUDIO, payload=PIECE)
        await trio.sleep(0.1)
        assert len(client.speaker.frames) == 51


async def test_after_a_flush_the_window_is_whole_again(autojump_clock: Clock) -> None:
    async with open_rig(Patience(ahead_seconds=1.0)) as rig:
        client = await rig.client(rate=0.0)
        raw = await rig.dialled.accept()
        await raw.send(Kind.AUDIO, payload=PIECE * 50)
        await trio.sleep(3.0)
        await raw.send(Kind.FLUSH)
        assert decode_milliseconds((await raw.next(Kind.WINDOW)).payload) == 2_000
        assert client.conversation.drops == {}


async def test_a_session_without_window_stops_no_other(autojump_clock: Clock, rig: Rig) -> None:
    slow, other = await clients_of(rig.backend, rig.nursery, 2)
    raw = await rig.dialled.accept()
    await raw.send(Kind.WINDOW, 1, encode_milliseconds(100))
    await trio.sleep(0.01)
    rig.nursery.start_soon(_hear_for, slow, 4.0)
    rig.nursery.start_soon(_hear_for, other, 4.0)
    heard = {1: 0, 2: 0}
    with trio.move_on_after(4.5):
        while True:
            frame = await raw.next(Kind.AUDIO)
            heard[frame.session] += 1
    assert heard == {1: 5, 2: 200}
    kept = round(QUEUE_SECONDS / 0.02)
    assert slow.conversation.drops == {Drop.QUEUE_FULL: 200 - 5 - kept}
    assert other.conversation.drops == {}


async def _hear_for(client: Client, seconds: float) -> None:
    for _ in range(round(seconds / 0.02)):
        client.hear()
        await trio.sleep(0.02)


# What backends do wrong.


async def test_a_backend_that_never_answers_is_lost(autojump_clock: Clock, rig: Rig) -> None:
    client, _ = await rig.both()
    start = trio.current_time()
    assert await client.ended() == "the connection to the backend was lost"
    assert trio.current_time() - start == pytest.approx(5.0, abs=0.1)
    await trio.sleep(0.01)
    assert rig.backend.statistics().lost == 1


async def test_a_backend_that_answers_pings_may_be_silent_for_long(
    autojump_clock: Clock, rig: Rig
) -> None:
    client, raw = await rig.both()
    rig.nursery.start_soon(raw.serve_pings)
    await trio.sleep(600)
    assert client.outcome is None


async def test_one_byte_a_second_is_no_answer(autojump_clock: Clock, rig: Rig) -> None:
    client, raw = await rig.both()
    rig.nursery.start_soon(_drip, raw)
    start = trio.current_time()
    assert "lost" in await client.ended()
    assert trio.current_time() - start <= 5.1


async def _drip(raw: RawBackend) -> None:
    try:
        for byte in bytes.fromhex("00000010 02 00000001") + bytes(100):
            await raw.stream.send_all(bytes([byte]))
            await trio.sleep(1.0)
    except trio.BrokenResourceError:
        return


async def test_a_backend_that_does_not_read_is_lost_and_memory_stays_small(
    autojump_clock: Clock, rig: Rig
) -> None:
    rig.dialled.pair = trio.testing.lockstep_stream_pair  # type: ignore[method-assign]
    client = await rig.client()
    raw = await rig.dialled.accept()
    rig.nursery.start_soon(_answer_blindly, raw)
    rig.nursery.start_soon(_hear_for, client, 20.0)
    start = trio.current_time()
    assert "lost" in await client.ended()
    assert trio.current_time() - start == pytest.approx(5.0, abs=0.1)
    assert client.conversation._outgoing.queued <= QUEUE_SECONDS
    assert client.conversation.drops[Drop.QUEUE_FULL] > 150


async def _answer_blindly(raw: RawBackend) -> None:
    try:
        while True:
            await raw.send(Kind.PONG, 0)
            await trio.sleep(0.5)
    except trio.BrokenResourceError:
        return


@pytest.mark.parametrize(
    "leave",
    [
        lambda stream: stream.send_stream.close(),
        lambda stream: stream.receive_stream.close() or stream.send_stream.close(),
    ],
    ids=["half-closing", "closing"],
)
async def test_a_backend_that_leaves_ends_its_sessions(
    autojump_clock: Clock, rig: Rig, leave: Callable[[object], None]
) -> None:
    clients = await clients_of(rig.backend, rig.nursery, 3)
    raw = await rig.dialled.accept()
    leave(raw.stream)
    for client in clients:
        assert await client.ended() == "the connection to the backend was lost"
    assert no_sessions_left(rig)


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 100, b"\x00\x01\x00\x01" + bytes(5)],
    ids=["http", "ones", "too long"],
)
async def test_what_is_no_frame_ends_the_connection(
    autojump_clock: Clock, rig: Rig, data: bytes
) -> None:
    client, raw = await rig.both()
    await raw.stream.send_all(data)
    assert "lost" in await client.ended(within=1.0)


async def test_strange_frames_harm_nobody(autojump_clock: Clock, rig: Rig) -> None:
    client, raw = await rig.both()
    for session in (0, 2, 99, 2**32 - 1):
        for kind in (Kind.AUDIO, Kind.EVENT, Kind.FLUSH, Kind.WINDOW, Kind.OPEN, Kind.PLAYED):
            await raw.send(kind, session, b"\xff\xff")
    await raw.stream.send_all(bytes.fromhex("00000000 ee 00000001"))
    await raw.send(Kind.AUDIO, 1, b"odd")
    await raw.send(Kind.AUDIO, 1, PIECE)
    await trio.sleep(0.1)
    assert len(client.speaker.frames) == 1
    assert client.conversation.drops == {Drop.UNKNOWN_KIND: 1, Drop.MALFORMED: 1}
    assert rig.backend.statistics().drops == {Drop.UNKNOWN_SESSION: 18, Drop.UNKNOWN_KIND: 6}


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(Kind.EVENT, b"no json"), (Kind.WINDOW, b"abc"), (Kind.CLOSE, b"[]")],
)
async def test_a_malformed_payload_ends_its_session_alone(
    autojump_clock: Clock, rig: Rig, kind: Kind, payload: bytes
) -> None:
    first, second = await clients_of(rig.backend, rig.nursery, 2)
    raw = await rig.dialled.accept()
    await raw.send(kind, 1, payload)
    assert await first.ended() == "the backend closed the session: protocol_error"
    closed = await raw.next(Kind.CLOSE)
    assert (closed.session, closed.payload) == (1, b'{"reason":"protocol_error","message":""}')
    assert first.conversation.drops == {Drop.MALFORMED: 1}
    assert second.outcome is None


async def test_a_bug_ends_its_session_alone(autojump_clock: Clock, rig: Rig) -> None:
    first, second = await clients_of(rig.backend, rig.nursery, 2)
    raw = await rig.dialled.accept()
    first.speaker.play = None  # type: ignore[assignment, method-assign]
    await raw.send(Kind.AUDIO, 1, PIECE)
    await raw.send(Kind.AUDIO, 2, PIECE)
    assert "closed the session" in await first.ended()
    assert first.conversation.drops == {Drop.BUG: 1}
    await trio.sleep(0.01)
    assert len(second.speaker.frames) == 1


async def test_a_flood_is_bounded(autojump_clock: Clock, rig: Rig) -> None:
    flooded, other = await clients_of(rig.backend, rig.nursery, 2)
    raw = await rig.dialled.accept()
    for _ in range(300):
        await raw.send(Kind.AUDIO, 1, PIECE * 60)
        await raw.send(Kind.PLAYED, 1)
        await raw.send(Kind.PING, 0, b"x")
    await raw.send(Kind.AUDIO, 2, PIECE)
    await trio.sleep(0.1)
    assert flooded.speaker.queued <= 30.0
    assert flooded.conversation.drops[Drop.QUEUE_FULL] >= 300 - 25
    assert len(other.speaker.frames) == 1
    assert other.outcome is None


# Reaching it, losing it, finding it again.


async def test_a_backend_that_is_not_there_fails_the_session_in_time(
    autojump_clock: Clock, rig: Rig
) -> None:
    rig.dialled.up = False
    client = await rig.client()
    start = trio.current_time()
    assert await client.ended() == "the backend can not be reached"
    assert trio.current_time() - start == pytest.approx(5.0)
    gaps = [b - a for a, b in zip(rig.dialled.attempts, rig.dialled.attempts[1:], strict=False)]
    assert gaps == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    await trio.sleep(60)
    assert len(rig.dialled.attempts) <= 7  # nobody waits: nobody tries
    assert rig.backend.statistics().failed_attempts == len(rig.dialled.attempts)


async def test_a_session_waits_until_the_backend_is_there(autojump_clock: Clock, rig: Rig) -> None:
    rig.dialled.up = False
    client = await rig.client()
    await trio.sleep(2.0)
    rig.dialled.up = True
    raw = await rig.dialled.accept()
    await raw.next(Kind.OPEN)
    await raw.send(Kind.CLOSE)
    assert await client.ended() == "closed"


async def test_a_backend_that_always_resets_is_asked_ever_more_rarely(
    autojump_clock: Clock, rig: Rig
) -> None:
    rig.nursery.start_soon(_reset_all, rig.dialled)
    for _ in range(12):
        await (await rig.client()).ended(within=20.0)
    gaps = [b - a for a, b in zip(rig.dialled.attempts, rig.dialled.attempts[1:], strict=False)]
    assert gaps[-1] >= 3.0
    assert no_sessions_left(rig)


async def _reset_all(dialled: Dialled) -> None:
    while True:
        await trio.aclose_forcefully((await dialled.accept()).stream)


async def test_the_next_session_finds_the_backend_that_came_back(
    autojump_clock: Clock, rig: Rig
) -> None:
    client, raw = await rig.both()
    await raw.send(Kind.PONG, 0)
    await trio.sleep(0.01)
    await trio.aclose_forcefully(raw.stream)
    await client.ended()
    second, again = await rig.both()
    await again.send(Kind.CLOSE)
    assert await second.ended() == "closed"


async def test_a_session_may_be_opened_again_elsewhere(autojump_clock: Clock) -> None:
    async with open_rig(Patience(reopen_seconds=3.0)) as rig:
        client, raw = await rig.both()
        await raw.send(Kind.AUDIO, payload=PIECE * 50)
        await raw.send(Kind.WINDOW, payload=encode_milliseconds(0))
        await trio.sleep(0.2)
        client.hear()
        await trio.aclose_forcefully(raw.stream)
        again = await rig.dialled.accept()
        opened = msgspec.json.decode((await again.next()).payload)
        assert (opened["attempt"], opened["window_ms"]) == (2, 29_200)
        assert (await again.next()).payload == PIECE
        rig.dialled.up = False
        start = trio.current_time()
        await trio.aclose_forcefully(again.stream)
        assert await client.ended() == "the backend can not be reached"
        assert trio.current_time() - start == pytest.approx(3.0, abs=0.1)


async def test_a_backend_that_leaves_gets_no_new_sessions_and_keeps_its_own(
    autojump_clock: Clock, rig: Rig
) -> None:
    old, raw = await rig.both()
    await raw.send(Kind.CLOSE, 0)
    await trio.sleep(0.01)
    new, other = await rig.both()
    await raw.send(Kind.AUDIO, 1, PIECE)
    await other.send(Kind.AUDIO, 1, PIECE * 2)
    await trio.sleep(0.1)
    assert [len(old.speaker.frames), len(new.speaker.frames)] == [1, 2]
    assert rig.backend.statistics().connections == 2


@pytest.mark.parametrize(
    ("audio", "codec", "wanted"),
    [
        ("pcm16/16000", "opus", "pcm16/16000"),
        ("opus", "opus", "opus"),
        ("opus", "pcmu", "pcm16/8000"),
        ("pcmu", "pcmu", "pcmu"),
        ("pcmu", "opus", "pcm16/8000"),
    ],
)
def test_what_the_backend_wants(audio: str, codec: str, wanted: str) -> None:
    backend = FramesBackend("unix:/nowhere", audio=audio)
    assert backend.wants(FORMATS[codec]) == FORMATS[wanted]


# The Python helper at the other end.


@asynccontextmanager
async def helped(handler: Handler, *, max_sessions: int = 10) -> AsyncIterator[Rig]:
    async with open_rig(Patience(ahead_seconds=1.0)) as rig:

        async def accept() -> None:
            while True:
                raw = await rig.dialled.accept()
                rig.nursery.start_soon(serve_stream, handler, max_sessions, raw.stream)

        rig.nursery.start_soon(accept)
        yield rig


async def parrot(session: BackendSession) -> None:
    async for heard in session:
        if isinstance(heard, bytes):
            await session.say(heard)
        else:
            await session.send_event({"heard": heard, "played": await session.played()})


async def test_helper_echoes_far_beyond_all_windows(autojump_clock: Clock) -> None:
    async with helped(parrot) as rig:
        client = await rig.client()
        await _hear_for(client, 12.0)
        client.conversation.receive_event(b'{"type":"how"}')
        await trio.sleep(1.0)
        assert len(client.speaker.frames) == 600
        assert client.conversation.drops == {}
        told = msgspec.json.decode(client.events.events[0])
        assert told["heard"] == {"type": "how"}
        assert told["played"] == pytest.approx(12_000, abs=40)


async def test_helper_waits_while_there_is_enough_to_play_and_flush_ends_it(
    autojump_clock: Clock,
) -> None:
    said: list[bool] = []
    played: list[int] = []

    async def talk(session: BackendSession) -> None:
        said.append(await session.say(PIECE * 500))

    async def interrupted(session: BackendSession) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, session)
            await trio.sleep(3.0)
            played.append(await session.flush())
        said.append(await session.say(PIECE))

    async with helped(interrupted) as rig:
        client = await rig.client()
        assert await client.ended(within=4.0) == "closed"
        assert said == [False, True]
        assert played == pytest.approx([3_000], abs=20)
        assert client.speaker.most_queued <= 1.0 + 1e-6


async def test_helper_bounds_what_a_slow_handler_does_not_take(autojump_clock: Clock) -> None:
    async def sleeper(session: BackendSession) -> None:
        if session.call == "rtc_1":
            await trio.sleep_forever()
        await parrot(session)

    async with helped(sleeper) as rig:
        slow, quick = await clients_of(rig.backend, rig.nursery, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hear_for, slow, 10.0)
            nursery.start_soon(_hear_for, quick, 10.0)
        await trio.sleep(0.1)
        assert slow.conversation.drops == {Drop.QUEUE_FULL: 500 - 50 - 50}
        assert len(quick.speaker.frames) == 500
        assert slow.outcome is None


async def test_helper_tells_the_quality_of_the_call(autojump_clock: Clock) -> None:
    told: list[object] = []

    async def curious(session: BackendSession) -> None:
        await trio.sleep(0.1)
        told.append(await session.quality())
        told.append(await session.played())

    async with helped(curious) as rig:
        client = await rig.client()
        client.speaker.quality = replace(QUALITY, round_trip=0.04, lost=3, concealed=0.06)
        assert await client.ended() == "closed"
    assert told[0] == client.speaker.quality
    assert isinstance(told[1], int)


async def test_helper_says_why_a_session_is_over(autojump_clock: Clock) -> None:
    async def moody(session: BackendSession) -> None:
        if session.call == "rtc_1":
            raise RuntimeError("no model")

    async with helped(moody, max_sessions=10) as rig:
        first, second = await clients_of(rig.backend, rig.nursery, 2)
        assert await first.ended() == "the backend closed the session: failed"
        assert await second.ended() == "closed"


async def test_helper_refuses_too_many(autojump_clock: Clock) -> None:
    async with helped(parrot, max_sessions=1) as rig:
        first, second = await clients_of(rig.backend, rig.nursery, 2)
        assert await second.ended() == "the backend closed the session: overloaded"
        assert first.outcome is None


async def test_helper_cancels_the_handler_of_a_session_that_ended(autojump_clock: Clock) -> None:
    ended = trio.Event()

    async def waiter(session: BackendSession) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with helped(waiter) as rig:
        client = Client(rig.backend)
        with trio.move_on_after(1.0):
            await client.run()
        with trio.fail_after(1.0):
            await ended.wait()


def test_whatever_is_cancelled_nothing_is_left() -> None:
    async def scenario(cut: Cut) -> None:
        async with helped(parrot) as rig:
            client = Client(rig.backend)
            with trio.CancelScope() as scope:
                cut.arm(scope.cancel)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.run)
                    with trio.move_on_after(1.0):
                        await _hear_for(client, 0.2)
                    nursery.cancel_scope.cancel()
            cut.disarm()
            await trio.sleep(0.1)
            assert no_sessions_left(rig)
            second = await rig.client()
            await _hear_for(second, 0.2)
            await trio.sleep(0.1)
            assert len(second.speaker.frames) == 10

    sweep(scenario, samples=12)


# A whole edge around it.


@asynccontextmanager
async def whole_edge(
    network: VirtualNetwork, handler: Handler
) -> AsyncIterator[tuple[VirtualEdge, Dialled]]:
    dialled = Dialled()
    backend = FramesBackend("unix:/nowhere", audio="opus", dial=dialled.dial)
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)

        async def accept() -> None:
            while True:
                raw = await dialled.accept()
                nursery.start_soon(serve_stream, handler, 10, raw.stream)

        nursery.start_soon(accept)
        async with open_edge(network, backend=backend) as edge:
            yield edge, dialled
        nursery.cancel_scope.cancel()


async def test_a_client_speaks_with_a_backend(autojump_clock: Clock, net: VirtualNetwork) -> None:
    async with whole_edge(net, parrot) as (edge, dialled), edge.call() as one, edge.call() as two:
        await one.heard(100)
        await two.heard(100)
        assert len(dialled.attempts) == 1
        assert edge.transceivers[0].totals.drops()[Drop.BUG] == 0


@pytest.mark.parametrize(
    ("fails", "reason"), [(True, EndReason.BACKEND_FAILED), (False, EndReason.BACKEND_CLOSED)]
)
async def test_the_client_is_told_what_became_of_the_backend(
    autojump_clock: Clock, net: VirtualNetwork, fails: bool, reason: EndReason
) -> None:
    async def brief(session: BackendSession) -> None:
        await trio.sleep(1.0)
        if fails:
            raise RuntimeError("the model broke")

    async with whole_edge(net, brief) as (edge, _), edge.call():
        await trio.sleep(3.0)
        assert edge.transceivers[0].totals.ended == {reason: 1}
        assert edge.transceivers[0].sessions == 0


async def test_the_client_is_told_that_no_backend_is_there(
    autojump_clock: Clock, net: VirtualNetwork
) -> None:
    async with whole_edge(net, parrot) as (edge, dialled):
        dialled.up = False
        async with edge.call():
            await trio.sleep(7.0)
            assert edge.transceivers[0].totals.ended == {EndReason.BACKEND_FAILED: 1}
