"""Sessions of the ``frames`` backend that go on elsewhere: other transceivers and connections."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MemoryReceiveStream, MemorySendStream

from edge.backends.frames.backend import FramesBackend
from edge.backends.frames.conversation import ANSWER_SECONDS, Patience
from edge.backends.frames.opening import Left
from edge.backends.frames.unplayed import REPORT_SECONDS
from edge.backends.frames.wire import (
    Frame,
    FrameDecoder,
    Kind,
    Open,
    Place,
    decode_milliseconds,
    decode_open,
    encode_frame,
)
from edge.backends.protocol import (
    BACKEND_RESTARTED,
    MAX_RESUME_BYTES,
    MAX_TOKEN_BYTES,
    Resumable,
    Resumed,
)
from edge.backends.server import BackendSession, Handler, Host, serve_connection
from edge.errors import BackendFenced, Drop
from tests.support.backend_line import PIECE, Client, Dialled, RawBackend, make_backend
from tests.support.sweep import Cut, sweep

Clock = trio.abc.Clock

RATE = 24_000
RESTARTED = b'{"type":"session.backend_restarted"}'


class World:
    """One backend process, and transceivers that find it."""

    def __init__(self, nursery: trio.Nursery, handler: Handler, *, keep: float, most: int) -> None:
        self.nursery = nursery
        self.host = Host(handler, max_sessions=most, keep_seconds=keep)
        self.streams: list[trio.StapledStream[MemorySendStream, MemoryReceiveStream]] = []
        """The backend's ends of all connections."""

    async def transceiver(self, patience: Patience | None = None) -> FramesBackend:
        dialled = Dialled()
        backend = make_backend(dialled, patience)
        await self.nursery.start(backend.run)
        self.nursery.start_soon(self._accept, dialled)
        return backend

    async def client(self, backend: FramesBackend, **options: object) -> Client:
        client = Client(backend, **options)  # type: ignore[arg-type]
        self.nursery.start_soon(client.run)
        await trio.testing.wait_all_tasks_blocked()
        return client

    async def first(self) -> Client:
        """A call at a transceiver of its own."""
        return await self.client(await self.transceiver())

    async def heir(self, former: Client, *, exact: bool = False, **place: int) -> Client:
        """Another transceiver with the same call."""
        played = place.get("played", round(former.speaker.played * RATE))
        resumed = Resumed(
            epoch=place.get("epoch", 2),
            played=played,
            heard=place.get("heard", 0),
            exact=exact,
            token=former.conversation.resume_token(),
        )
        return await self.client(await self.transceiver(), resumed=resumed)

    async def cut(self, which: int = 0) -> None:
        """Break a connection: both ends notice at once, as when a process is killed."""
        self.streams[which].send_stream.close()
        await trio.testing.wait_all_tasks_blocked()

    async def _accept(self, dialled: Dialled) -> None:
        while True:
            raw = await dialled.accept()
            assert isinstance(raw.stream, trio.StapledStream)
            self.streams.append(raw.stream)
            self.nursery.start_soon(serve_connection, self.host, self.nursery, raw.stream)


@asynccontextmanager
async def world(handler: Handler, *, keep: float = 10.0, most: int = 10) -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        yield World(nursery, handler, keep=keep, most=most)
        nursery.cancel_scope.cancel()


def numbered(seconds: float) -> bytes:
    """Audio of which every sample is another one."""
    return b"".join(struct.pack("<H", number % 65_536) for number in range(round(seconds * RATE)))


async def parrot(session: BackendSession) -> None:
    said = 0
    async for heard in session:
        if isinstance(heard, bytes):
            said += 1
            await session.say(heard)
        else:
            await session.send_event({"said": said})


def story(seconds: float) -> Handler:
    """Say all at once, and wait."""

    async def tell(session: BackendSession) -> None:
        await session.say(numbered(seconds))
        await trio.sleep_forever()

    return tell


async def say(client: Client, count: int) -> None:
    for _ in range(count):
        client.hear()
        await trio.sleep(0.02)


# A handler does not notice.


async def test_a_handler_goes_on_at_another_transceiver(autojump_clock: Clock) -> None:
    async with world(parrot) as here:
        client = await here.first()
        await say(client, 20)
        await here.cut()
        heir = await here.heir(client)
        await say(heir, 30)
        heir.conversation.receive_event(b"{}")
        await trio.sleep(0.1)
        assert heir.events.events == [b'{"said":50}']
        assert len(heir.speaker.frames) == 30
        assert isinstance(heir.conversation, Resumable)


async def test_what_waited_is_heard_and_bounded_as_ever(autojump_clock: Clock) -> None:
    """Windows are of the connection: nothing of the former one's counts."""
    awake = trio.Event()

    async def late(session: BackendSession) -> None:
        await awake.wait()
        await parrot(session)

    async with world(late) as here:
        client = await here.first()
        await say(client, 30)
        await here.cut()
        heir = await here.heir(client)
        await say(heir, 100)
        awake.set()
        await trio.sleep(0.1)
        await say(heir, 200)
        await trio.sleep(0.1)
        assert heir.conversation.drops == {Drop.QUEUE_FULL: 30}  # of 2.6 s, 1 s waits on each side
        assert len(heir.speaker.frames) == 30 + 100 - 30 + 200


@pytest.mark.parametrize("announced", [True, False], ids=["close first", "open first"])
async def test_after_a_planned_move_no_sample_is_lost_or_doubled(
    autojump_clock: Clock, announced: bool
) -> None:
    async with world(story(5.0)) as here:
        client = await here.first()
        await trio.sleep(2.013)
        client.speaker.stop()
        if announced:
            client.conversation.move()
            await trio.testing.wait_all_tasks_blocked()
        heir = await here.heir(client, exact=True, played=round(client.speaker.played * 1000) * 24)
        client.conversation.move()
        await trio.sleep(4.0)
        heard = client.speaker.heard[: round(client.speaker.played * 1000) * 48]
        assert heard + heir.speaker.heard == numbered(5.0)
        assert client.outcome is None
        assert heir.speaker.most_queued == pytest.approx(2.987, abs=0.01)


async def test_a_transceiver_that_is_killed_costs_a_few_milliseconds(
    autojump_clock: Clock,
) -> None:
    """Its checkpoint may be old: the backend's own count is newer."""
    async with world(story(5.0)) as here:
        client = await here.first()
        await trio.sleep(2.13)
        await here.cut()
        client.speaker.stop()
        await trio.sleep(0.7)
        heir = await here.heir(client, played=0)
        (first,) = struct.unpack("<H", heir.speaker.heard[:2])
        assert first / RATE == pytest.approx(client.speaker.played, abs=0.002)
        assert heir.speaker.heard == numbered(5.0)[2 * first :]


async def test_of_one_that_stands_still_no_more_is_skipped_than_one_report(
    autojump_clock: Clock,
) -> None:
    async with world(story(5.0)) as here:
        client = await here.first()
        await trio.sleep(2.13)
        client.speaker.stop()
        client.conversation.receive = lambda frame: None  # type: ignore[method-assign]
        await trio.sleep(0.7)
        heir = await here.heir(client, played=0)
        (first,) = struct.unpack("<H", heir.speaker.heard[:2])
        skipped = first / RATE - client.speaker.played
        assert -REPORT_SECONDS <= skipped <= REPORT_SECONDS


async def test_opus_is_said_again_in_whole_packets(autojump_clock: Clock) -> None:
    packets = [b"\x08" + bytes([number]) for number in range(200)]  # 20 ms each

    async def tell(session: BackendSession) -> None:
        for packet in packets:
            await session.say(packet)
        await trio.sleep_forever()

    async with world(tell) as here:
        first = await here.client(await here.transceiver(), audio="opus")
        await trio.sleep(1.0)
        first.conversation.move()
        resumed = Resumed(epoch=2, played=48_000, heard=0, exact=True)
        heir = await here.client(await here.transceiver(), audio="opus", resumed=resumed)
        await trio.sleep(0.1)
        assert [frame.payload for frame in heir.speaker.frames] == packets[50:]


async def test_what_is_said_again_keeps_to_the_window_and_comes_before_the_rest(
    autojump_clock: Clock,
) -> None:
    async with world(story(5.0)) as here:
        client = await here.client(await here.transceiver(Patience(ahead_seconds=2.0)))
        await trio.sleep(1.0)
        await here.cut()
        backend = await here.transceiver(Patience(ahead_seconds=0.5))
        resumed = Resumed(epoch=2, played=RATE, heard=0, exact=True)
        heir = await here.client(backend, resumed=resumed)
        await trio.sleep(5.0)
        assert heir.speaker.heard == numbered(5.0)[2 * RATE :]
        assert heir.conversation.drops == {}
        assert client.outcome is not None


async def test_what_was_asked_is_asked_again(autojump_clock: Clock) -> None:
    told: list[int] = []

    async def curious(session: BackendSession) -> None:
        await session.say(PIECE * 100)
        await trio.sleep(1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.quality)
            told.append(await session.flush())
        told.append(await session.played())
        await session.say(PIECE)
        told.append(await session.pause())
        await trio.sleep_forever()

    async with world(curious) as here:
        client = await here.first()
        client.conversation.receive = lambda frame: None  # type: ignore[method-assign]
        await trio.sleep(1.5)
        await here.cut()
        heir = await here.heir(client, played=RATE)
        await trio.sleep(0.1)
        assert told == [1_000, 1_000, 1_000]
        assert heir.speaker.calls == ["flush", "pause"]
        assert len(heir.speaker.frames) == 1  # what was flushed is not said again


async def test_a_pause_goes_on_and_can_be_ended_while_nobody_is_there(
    autojump_clock: Clock,
) -> None:
    go_on = trio.Event()

    async def hesitant(session: BackendSession) -> None:
        await session.say(PIECE * 100)
        await session.pause()
        await go_on.wait()
        await session.resume()
        await trio.sleep_forever()

    async with world(hesitant) as here:
        client = await here.first()
        await trio.sleep(0.5)
        await here.cut(0)
        second = await here.heir(client, played=0)
        assert second.speaker.calls == ["pause"]
        await here.cut(1)
        go_on.set()
        await trio.sleep(0.1)
        third = await here.heir(client, played=0, epoch=3)
        assert third.speaker.calls == []


# Who has it.


@pytest.mark.parametrize("epoch", [2, 3])
async def test_a_lesser_or_equal_epoch_is_refused(autojump_clock: Clock, epoch: int) -> None:
    async with world(parrot) as here:
        client = await here.first()
        heir = await here.heir(client, epoch=3)
        late = await here.heir(client, epoch=epoch)
        assert await late.ended() == "another transceiver serves this session there"
        assert isinstance(late.error, BackendFenced)
        await say(heir, 5)
        await trio.sleep(0.1)
        assert len(heir.speaker.frames) == 5
        assert late.events.events == []


async def test_the_former_transceiver_gets_and_says_nothing_more(autojump_clock: Clock) -> None:
    async with world(parrot) as here:
        client = await here.first()
        heir = await here.heir(client)
        await say(client, 5)
        client.conversation.receive_event(b'{"type":"session.ended"}')
        await trio.sleep(0.1)
        assert client.speaker.frames == heir.speaker.frames == []
        assert client.events.events == heir.events.events == []
        assert client.outcome is None


@pytest.mark.parametrize("moved", [True, False])
async def test_only_a_session_that_moves_outlives_its_close(
    autojump_clock: Clock, moved: bool
) -> None:
    ended = trio.Event()
    async with world(until_cancelled(ended)) as here:
        client = Client(await here.transceiver())
        with trio.move_on_after(1.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run)
                await trio.sleep(0.5)
                if moved:
                    client.conversation.move()
        await trio.testing.wait_all_tasks_blocked()
        assert ended.is_set() is not moved
        heir = await here.heir(client)
        assert heir.events.events == ([] if moved else [RESTARTED])


def until_cancelled(ended: trio.Event) -> Handler:
    async def wait(session: BackendSession) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    return wait


async def test_nobody_is_waited_for_longer_than_told(autojump_clock: Clock) -> None:
    ended = trio.Event()
    async with world(until_cancelled(ended), keep=10.0) as here:
        client = await here.first()
        await here.cut(0)
        await trio.sleep(9.0)
        second = await here.heir(client)
        await trio.sleep(9.0)
        assert not ended.is_set()
        await here.cut(1)
        began = trio.current_time()
        await ended.wait()
        assert trio.current_time() - began == pytest.approx(10.0)
        third = await here.heir(second, epoch=3)
        assert third.events.events == [RESTARTED]


async def test_those_that_wait_count(autojump_clock: Clock) -> None:
    async with world(parrot, most=1) as here:
        client = await here.first()
        await here.cut()
        other = await here.client(await here.transceiver(), name="rtc_2")
        assert await other.ended() == "the backend closed the session: overloaded"
        heir = await here.heir(client)
        await say(heir, 5)
        assert heir.outcome is None


# Who knows nothing of it.


async def test_a_backend_that_starts_again_is_told_and_so_is_the_client(
    autojump_clock: Clock,
) -> None:
    found: list[BackendSession] = []

    async def remember(session: BackendSession) -> None:
        found.append(session)
        await session.keep(b"chapter two")
        await session.say(PIECE * 100)
        await trio.sleep_forever()

    async with world(remember, keep=0.0) as here:
        client = Client(await here.transceiver())
        changes: list[bytes] = []
        client.conversation.watch(lambda: changes.append(token_of(client)))
        here.nursery.start_soon(client.run)
        await trio.sleep(1.0)
        assert changes == [b"chapter two"]
        await here.cut(0)
        heir = await here.heir(client, heard=RATE * 3)
        await trio.sleep(1.0)
        assert found[0].resumed is None
        assert found[1].resumed == told(epoch=2, played_ms=1_000, heard_ms=3_000)
        assert heir.events.events == [RESTARTED]
        await here.cut(1)
        third = await here.heir(heir, epoch=3)  # what it said itself begins where it began
        assert found[2].resumed == told(epoch=3, played_ms=2_000, heard_ms=0)
        assert len(third.speaker.heard) == 100 * len(PIECE)


def told(*, epoch: int, played_ms: int, heard_ms: int) -> Place:
    """The place in chapter two, before any event."""
    return Place(
        epoch=epoch,
        played_ms=played_ms,
        heard_ms=heard_ms,
        token=b"chapter two",
        heard_events=0,
        said_events=0,
    )


def token_of(client: Client) -> bytes:
    """The backend's token that would be left to the next transceiver."""
    return Left.unpack(client.conversation.resume_token()).token


async def raw_heir(nursery: trio.Nursery) -> tuple[Client, RawBackend, Open]:
    """A backend by hand that a call is opened at again."""
    dialled = Dialled()
    backend = make_backend(dialled)
    await nursery.start(backend.run)
    resumed = Resumed(epoch=2, played=RATE, heard=48_480, token=b"\xff\0")
    client = Client(backend, resumed=resumed)
    nursery.start_soon(client.run)
    raw = await dialled.accept()
    return client, raw, decode_open((await raw.next(Kind.OPEN)).payload)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([(Kind.RESUMED, b"")], []),
        ([(Kind.AUDIO, PIECE)], [RESTARTED]),
        ([(Kind.EVENT, b"{}")], [RESTARTED, b"{}"]),
        ([(Kind.EVENT, b"{}"), (Kind.RESUMED, b"")], [RESTARTED, b"{}"]),
        ([(Kind.CLOSE, b"")], []),
        ([(Kind.PLAYED, b"")], [RESTARTED]),
    ],
)
async def test_the_first_frame_tells_whether_a_backend_goes_on(
    autojump_clock: Clock, answer: list[tuple[Kind, bytes]], told: list[bytes]
) -> None:
    async with trio.open_nursery() as nursery:
        client, raw, opened = await raw_heir(nursery)
        place = Place(epoch=2, played_ms=1_000, heard_ms=2_020, token=b"\xff\0")
        assert (opened.attempt, opened.resumed) == (1, place)
        for kind, payload in answer:
            await raw.send(kind, payload=payload)
        await trio.sleep(ANSWER_SECONDS * 2)
        assert client.events.events == told
        assert client.conversation.drops == {}
        nursery.cancel_scope.cancel()


async def test_a_backend_that_says_nothing_does_not_go_on(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        client, raw, _ = await raw_heir(nursery)
        await trio.sleep(ANSWER_SECONDS - 0.1)
        assert client.events.events == []
        await trio.sleep(0.2)
        assert [msgspec.json.decode(event) for event in client.events.events] == [
            {"type": BACKEND_RESTARTED}
        ]
        await raw.send(Kind.RESUMED)
        await trio.sleep(0.1)
        assert client.conversation.drops == {}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [MAX_TOKEN_BYTES, MAX_TOKEN_BYTES + 1])
async def test_a_token_is_bounded(autojump_clock: Clock, size: int) -> None:
    async with trio.open_nursery() as nursery:
        client, raw, _ = await raw_heir(nursery)
        await raw.stream.send_all(encode_frame(Kind.TOKEN, 1, bytes(size)))
        await trio.sleep(0.1)
        kept = size <= MAX_TOKEN_BYTES
        assert token_of(client) == (bytes(size) if kept else b"\xff\0")
        assert len(client.conversation.resume_token()) <= MAX_RESUME_BYTES
        assert (client.outcome is None) is kept
        nursery.cancel_scope.cancel()


# The same transceiver, on another connection.


async def test_a_lost_connection_costs_nothing_where_the_backend_keeps_its_sessions(
    autojump_clock: Clock,
) -> None:
    async with world(story(5.0)) as here:
        client = await here.client(await here.transceiver(Patience(reopen_seconds=3.0)))
        for number in range(3):
            await trio.sleep(0.7)
            await here.cut(number)
        await trio.sleep(5.0)
        assert client.speaker.heard == numbered(5.0)
        assert client.events.events == []


async def test_a_move_while_there_is_no_connection(autojump_clock: Clock) -> None:
    async with world(parrot) as here:
        client = await here.client(await here.transceiver(Patience(reopen_seconds=1.0)))
        client.conversation.move()
        await here.cut()
        await trio.sleep(5.0)
        assert client.outcome is None
        client.hear()
        client.conversation.receive_event(b"{}")
        assert client.conversation.drops == {Drop.NOT_READY: 2}
        assert len(here.streams) == 1


def test_whatever_is_cancelled_nothing_is_left() -> None:
    async def scenario(cut: Cut) -> None:
        async with world(parrot, keep=1.0) as here:
            client = await here.first()
            with trio.CancelScope() as scope:
                cut.arm(scope.cancel)
                await here.cut()
                heir = await here.heir(client)
                await _or_cancelled(heir, say)
            cut.disarm()
            await trio.sleep(0.1)
            for stream in here.streams:
                stream.send_stream.close()
            await trio.sleep(2.0)
            assert here.host.sessions == 0

    sweep(scenario, samples=12)


async def _or_cancelled(client: Client, talk: Callable[[Client, int], Awaitable[None]]) -> None:
    await talk(client, 5)


def test_numbers_differ() -> None:
    assert all(a != b for a, b in pairwise(struct.iter_unpack("<H", numbered(0.1))))


class Busy:
    """A connection on which others write: each frame waits for its turn."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.turn = trio.Event()

    async def send(self, frame: bytes, before: Callable[[], None] = lambda: None) -> None:
        await self.turn.wait()
        before()
        self.frames.append(frame)

    def give_up(self) -> None:
        raise AssertionError("nothing is being written")

    def window(self) -> int:
        """The last one that was told, in milliseconds."""
        frames = [frame for part in self.frames for frame in FrameDecoder().decode(part)]
        windows = [frame.payload for frame in frames if frame.kind == Kind.WINDOW]
        return decode_milliseconds(windows[-1])


async def test_what_a_handler_hears_while_a_session_joins_widens_the_window(
    autojump_clock: Clock,
) -> None:
    opened = Open(version=1, call="rtc_1", audio="pcm16/24000", window_ms=30_000)
    session, there = BackendSession(opened, 1, Busy()), Busy()
    for _ in range(50):  # a second: no more may wait
        session.receive(Frame(Kind.AUDIO, 1, PIECE))
    place = told(epoch=2, played_ms=0, heard_ms=1000)
    async with trio.open_nursery() as nursery:
        session.take_up(opened, place, 1)
        nursery.start_soon(session.join, place, there)
        for _ in range(50):
            await anext(session)
        there.turn.set()
    assert there.window() >= 500
