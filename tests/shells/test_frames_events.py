"""Events of the ``frames`` backend over the deaths of transceivers: none lost, none taken twice."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from edge.backends.frames.backend import FramesBackend
from edge.backends.frames.conversation import EVENTS_SECONDS, Patience
from edge.backends.frames.tally import MAX_EVENTS
from edge.backends.frames.wire import (
    FrameDecoder,
    Kind,
    Open,
    Place,
    decode_open,
    encode_frame,
    encode_open,
)
from edge.backends.protocol import Resumed
from edge.backends.server import BackendSession, Handler, Host, serve_connection
from tests.shells.test_frames_resume import World, world
from tests.support.backend_line import PIECE, Client, Dialled, RawBackend, make_backend

Clock = trio.abc.Clock


def numbers(events: list[bytes]) -> list[int]:
    """Of the events that are numbered."""
    read = [msgspec.json.decode(event, type=dict[str, object]) for event in events]
    return [int(str(event["number"])) for event in read if "number" in event]


def event(number: int) -> bytes:
    return b'{"number":%d}' % number


class Model:
    """A backend that lists what it hears, when it is told to sends the next number."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.said = 0
        self.session: BackendSession | None = None

    async def serve(self, session: BackendSession) -> None:
        self.session = session
        async for heard in session:
            if isinstance(heard, dict):
                self.heard.append(int(str(heard["number"])))

    async def say(self, count: int = 1) -> None:
        assert self.session is not None
        for _ in range(count):
            await self.session.send_event({"number": self.said})
            self.said += 1


class Call:
    """A client that repeats what no checkpoint holds, and its transceivers one after the other."""

    def __init__(self, here: World, model: Model) -> None:
        self.here, self.model = here, model
        self.heard: list[int] = []
        self.most_doubled = 0
        self._at: Client | None = None
        self._said = self._stored = 0
        self._token = b""
        self._heard_stored = 0
        self._epoch = 1

    @property
    def at(self) -> Client:
        """The transceiver that has it."""
        assert self._at is not None
        return self._at

    async def open(self) -> None:
        self._at = await self.here.first()
        self.store()

    def say(self, count: int = 1) -> None:
        for number in range(self._said, self._said + count):
            self.at.conversation.receive_event(event(number))
        self._said += count

    def store(self) -> None:
        """A checkpoint is stored."""
        self._token, self._stored = self.at.conversation.resume_token(), self._said
        self._heard_stored = len(numbers(self.at.events.events))

    async def die(self, *, silently: bool) -> None:
        """The transceiver is gone; or only takes and gives nothing more."""
        if silently:
            self.at.conversation.receive = lambda frame: None  # type: ignore[method-assign]
        else:
            await self.here.cut(self._epoch - 1)

    async def take_over(self) -> None:
        """Another transceiver has it from its last checkpoint."""
        came = numbers(self.at.events.events)
        self.heard += came
        self.most_doubled = max(self.most_doubled, len(came) - self._heard_stored)
        self._epoch += 1
        resumed = Resumed(epoch=self._epoch, played=0, heard=0, token=self._token)
        self._at = await self.here.client(await self.here.transceiver(), resumed=resumed)
        self._heard_stored = 0
        said, self._said = self._said, self._stored
        self.say(said - self._stored)

    def finish(self) -> None:
        """Nothing was lost, and the backend took nothing twice."""
        self.heard += numbers(self.at.events.events)
        assert self.model.heard == list(range(self._said))
        assert sorted(set(self.heard)) == list(range(self.model.said))
        assert self.model.session is not None
        assert self.model.session.sent_events.lost == self.model.session.dropped == 0


@asynccontextmanager
async def call() -> AsyncIterator[Call]:
    model = Model()
    async with world(model.serve) as here:
        made = Call(here, model)
        await made.open()
        yield made


@pytest.mark.parametrize("silently", [False, True], ids=["killed", "stopped"])
async def test_no_event_is_lost_and_none_is_taken_twice(
    autojump_clock: Clock, silently: bool
) -> None:
    async with call() as one:
        for _ in range(20):
            one.say()
            await one.model.say()
        await trio.sleep(0.1)
        one.store()
        one.say(5)
        await one.model.say(7)
        await trio.sleep(0.1)
        await one.die(silently=silently)
        if silently:
            await one.model.say(9)  # into its connection
        await trio.sleep(0.7)
        await one.take_over()
        one.say(3)
        await one.model.say(3)
        await trio.sleep(0.1)
        one.finish()
        assert len(one.heard) - len(set(one.heard)) == 7  # what the client had got already
        assert one.model.session is not None
        assert one.model.session.received_events.doubled == 5


async def step(one: Call, chance: random.Random) -> None:
    match chance.choice(["say", "say", "tell", "tell", "store", "die", "stop", "wait"]):
        case "say":
            one.say(chance.randrange(8))
        case "tell":
            await one.model.say(chance.randrange(8))
        case "store":
            one.store()
        case "wait":
            await trio.sleep(chance.random())
        case kind:
            await trio.sleep(0.01)  # as to send takes less than to store: else it is not passed on
            await one.die(silently=kind == "stop")
            await one.model.say(0 if kind == "die" else chance.randrange(8))
            await trio.sleep(chance.random())
            await one.take_over()
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_dies_when(autojump_clock: Clock, seed: int) -> None:
    chance = random.Random(seed)
    async with call() as one:
        for _ in range(60):
            await step(one, chance)
        await trio.sleep(0.5)
        one.finish()
        assert len(one.heard) >= one.model.said > 0


async def test_who_waits_to_send_sends_once(autojump_clock: Clock) -> None:
    """Nobody is there for a while, and several tasks have something to tell."""
    async with call() as one:
        await one.die(silently=False)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one.model.say)
                await trio.testing.wait_all_tasks_blocked()
            await trio.sleep(1.0)
            await one.take_over()
        await trio.sleep(0.1)
        assert len(numbers(one.at.events.events)) == 5
        await one.die(silently=True)
        await one.take_over()
        await trio.sleep(0.1)
        assert len(numbers(one.at.events.events)) == 5


async def test_who_gave_up_to_send_is_not_counted(autojump_clock: Clock) -> None:
    async with call() as one:
        await one.die(silently=False)
        with trio.move_on_after(1.0):
            await one.model.say()
        await one.take_over()
        await one.model.say()
        await trio.sleep(0.1)
        assert numbers(one.at.events.events) == [0]
        assert one.model.session is not None
        assert one.model.session.sent_events.count == 1


async def test_what_is_sent_again_comes_first(autojump_clock: Clock) -> None:
    async with call() as one:
        await one.die(silently=True)
        await one.model.say(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.take_over)
            nursery.start_soon(one.model.say, 10)
        await trio.sleep(0.1)
        assert numbers(one.at.events.events) == list(range(20))


async def test_more_than_is_kept_is_lost_and_the_next_death_costs_nothing(
    autojump_clock: Clock,
) -> None:
    async with call() as one:
        await one.die(silently=True)
        await one.model.say(MAX_EVENTS + 10)
        await one.take_over()
        await trio.sleep(0.1)
        assert numbers(one.at.events.events) == list(range(10, MAX_EVENTS + 10))
        one.store()
        await one.die(silently=False)
        await one.take_over()
        await one.model.say(2)
        await trio.sleep(0.1)
        assert numbers(one.at.events.events) == [MAX_EVENTS + 10, MAX_EVENTS + 11]


async def test_a_planned_move_is_exact(autojump_clock: Clock) -> None:
    async with call() as one:
        one.say(5)
        await one.model.say(5)
        one.at.conversation.move()
        one.store()
        await one.model.say(2)  # on a connection where nobody takes it
        await one.take_over()
        one.say(2)
        await trio.sleep(0.1)
        one.finish()
        assert one.heard == list(range(7))


async def test_the_same_transceiver_on_another_connection(autojump_clock: Clock) -> None:
    """What it was sent and did not get is sent again; what it says meanwhile waits, uncounted."""
    model = Model()
    async with world(model.serve) as here:
        client = await here.client(await here.transceiver(Patience(reopen_seconds=3.0)))
        client.conversation.receive_event(event(0))
        await model.say(3)
        await trio.sleep(0.1)
        here.streams[0].send_stream.close()
        await model.say(2)
        client.conversation.receive_event(event(1))
        await trio.sleep(1.0)
        client.conversation.receive_event(event(2))
        await trio.sleep(0.1)
        assert numbers(client.events.events) == list(range(5))
        assert model.heard[-1] == 2
        assert len(model.heard) == len(set(model.heard))
        assert model.session is not None
        assert model.session.received_events.owed <= 1


# When it is written down.


async def test_what_was_said_is_written_down_a_little_later(autojump_clock: Clock) -> None:
    changes: list[float] = []
    async with call() as one:
        one.at.conversation.watch(lambda: changes.append(trio.current_time()))
        began = trio.current_time()
        for _ in range(45):  # 4.5 s
            await one.model.say()
            await trio.sleep(0.1)
        await trio.sleep(10.0)
        times = [round(at - began, 2) for at in changes]
        assert times[0] == EVENTS_SECONDS
        assert 4 <= len(times) <= 5
        assert times[-1] <= 4.5 + EVENTS_SECONDS


async def test_a_checkpoint_of_its_own_accord_is_enough(autojump_clock: Clock) -> None:
    changes: list[float] = []
    async with call() as one:
        one.at.conversation.watch(lambda: changes.append(trio.current_time()))
        await one.model.say()
        await trio.sleep(EVENTS_SECONDS / 2)
        one.store()
        await trio.sleep(10.0)
        one.say()  # the client repeats it
        await trio.sleep(10.0)
        assert changes == []


# By hand.


class RawTransceiver:
    """The transceiver's end of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream

    async def open(self, place: Place | None = None) -> None:
        opened = Open(
            version=1,
            call="rtc_1",
            audio="pcm16/24000",
            window_ms=1_000,
            resumed=msgspec.UNSET if place is None else place,
        )
        await self.send(Kind.OPEN, encode_open(opened))

    async def send(self, kind: Kind, payload: bytes) -> None:
        await self.stream.send_all(encode_frame(kind, 1, payload))
        await trio.testing.wait_all_tasks_blocked()

    async def came(self) -> list[bytes]:
        """All events so far."""
        data = b""
        with trio.move_on_after(0.1):
            while True:
                data += await self.stream.receive_some(65_536)
        return [each.payload for each in FrameDecoder().decode(data) if each.kind == Kind.EVENT]


class RawWorld:
    """One backend, and transceivers by hand."""

    def __init__(self, nursery: trio.Nursery, handler: Handler) -> None:
        self._nursery = nursery
        self._host = Host(handler, max_sessions=10, keep_seconds=10.0)

    def transceiver(self) -> RawTransceiver:
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(serve_connection, self._host, self._nursery, theirs)
        return RawTransceiver(ours)


async def test_what_the_former_transceiver_passed_on_may_come_behind_the_next_open(
    autojump_clock: Clock,
) -> None:
    model = Model()
    async with trio.open_nursery() as nursery:
        here = RawWorld(nursery, model.serve)
        former, heir = here.transceiver(), here.transceiver()
        await former.open()
        await former.send(Kind.EVENT, event(0))
        place = Place(epoch=2, played_ms=0, heard_ms=0, heard_events=3, said_events=0)
        await heir.open(place)
        await former.send(Kind.AUDIO, PIECE)
        await former.send(Kind.EVENT, event(1))
        await former.send(Kind.EVENT, event(2))
        await former.send(Kind.EVENT, event(99))  # nobody counts it
        await former.send(Kind.CLOSE, b"")
        await heir.send(Kind.EVENT, event(3))
        assert model.heard == [0, 1, 2, 3]
        nursery.cancel_scope.cancel()


async def test_the_end_of_a_connection_that_owes_something_changes_nothing(
    autojump_clock: Clock,
) -> None:
    model = Model()
    async with trio.open_nursery() as nursery:
        here = RawWorld(nursery, model.serve)
        former, heir = here.transceiver(), here.transceiver()
        await former.open()
        place = Place(epoch=2, played_ms=0, heard_ms=0, heard_events=1, said_events=0)
        await heir.open(place)
        await former.stream.aclose()
        await trio.sleep(0.1)
        await heir.send(Kind.EVENT, event(1))
        with trio.fail_after(1.0):
            await model.say()
        assert await heir.came() == [event(0)]
        assert model.heard == [1]
        nursery.cancel_scope.cancel()


async def test_a_backend_that_starts_again_counts_on(autojump_clock: Clock) -> None:
    model = Model()
    async with trio.open_nursery() as nursery:
        here = RawWorld(nursery, model.serve)
        heir, third = here.transceiver(), here.transceiver()
        await heir.open(Place(epoch=2, played_ms=0, heard_ms=0, heard_events=7, said_events=4))
        await heir.send(Kind.EVENT, event(0))
        await heir.send(Kind.EVENT, event(1))
        await model.say(2)
        place = Place(epoch=3, played_ms=0, heard_ms=0, heard_events=8, said_events=5)
        await third.open(place)
        await third.send(Kind.EVENT, event(1))
        assert await third.came() == [event(1)]
        assert model.heard == [0, 1]
        nursery.cancel_scope.cancel()


class Turn:
    """A connection on which it is ``ours`` to write only later; or, as it is lost, never."""

    def __init__(self, *, ours: bool) -> None:
        self.ours = trio.Event()
        self.wrote: list[bytes] = []
        self._lost = not ours

    def give_up(self) -> None:
        pass

    async def send(self, frame: bytes, before: Callable[[], None] = lambda: None) -> None:
        await trio.lowlevel.checkpoint()
        if self._lost:
            self._lost = False
            return
        await self.ours.wait()
        before()
        self.wrote.append(frame)


def session_on(wire: Turn) -> BackendSession:
    opened = Open(version=1, call="rtc_1", audio="pcm16/24000", window_ms=1_000)
    return BackendSession(opened, 1, wire)


async def test_an_event_that_waits_while_the_session_goes_on_elsewhere(
    autojump_clock: Clock,
) -> None:
    old, new = Turn(ours=True), Turn(ours=True)
    new.ours.set()
    session = session_on(old)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.send_event, {"number": 0})
        await trio.testing.wait_all_tasks_blocked()
        place = Place(epoch=2, played_ms=0, heard_ms=0, heard_events=0, said_events=0)
        opened = Open(version=1, call="rtc_1", audio="pcm16/24000", window_ms=1, resumed=place)
        session.take_up(opened, place, 2)
        await session.join(place, new)
        old.ours.set()
    assert new.wrote[-1] == encode_frame(Kind.EVENT, 2, event(0))
    assert session.sent_events.count == 1


async def test_an_event_for_a_lost_connection_is_sent_on_the_next(autojump_clock: Clock) -> None:
    session = session_on(lost := Turn(ours=False))
    lost.ours.set()
    await session.send_event({"number": 0})
    assert lost.wrote == []
    assert session.sent_events.resume(0) == [event(0)]


async def test_a_transceiver_that_does_not_count(autojump_clock: Clock) -> None:
    """Everything is as it was before there were counts; with its heir they begin."""
    model = Model()
    async with trio.open_nursery() as nursery:
        here = RawWorld(nursery, model.serve)
        former, heir, third = (here.transceiver() for _ in range(3))
        await former.open()
        await former.send(Kind.EVENT, event(0))
        await model.say()
        await heir.open(Place(epoch=2, played_ms=0, heard_ms=0))
        await heir.send(Kind.EVENT, event(0))
        await model.say()
        assert await heir.came() == [event(1)]
        place = Place(epoch=3, played_ms=0, heard_ms=0, heard_events=1, said_events=0)
        await third.open(place)
        await third.send(Kind.EVENT, event(1))
        assert await third.came() == [event(1)]
        assert model.heard == [0, 0, 1]
        nursery.cancel_scope.cancel()


async def opened_by(nursery: trio.Nursery, token: bytes, waiting: int) -> tuple[RawBackend, Client]:
    """An heir of this token, whose client says so much before there is a connection."""
    dialled = Dialled()
    backend: FramesBackend = make_backend(dialled)
    client = Client(backend, resumed=Resumed(epoch=2, played=0, heard=0, token=token))
    for number in range(waiting):
        client.conversation.receive_event(event(number))
    await nursery.start(backend.run)
    nursery.start_soon(client.run)
    return await dialled.accept(), client


async def test_what_waits_behind_the_open_is_not_counted_in_it(autojump_clock: Clock) -> None:
    async with call() as one, trio.open_nursery() as nursery:
        one.say(5)
        await one.model.say(2)
        await trio.testing.wait_all_tasks_blocked()
        token = one.at.conversation.resume_token()
        raw, client = await opened_by(nursery, token, 3)
        place = decode_open((await raw.next(Kind.OPEN)).payload).resumed
        assert isinstance(place, Place)
        assert (place.heard_events, place.said_events) == (5, 2)
        raw2, _ = await opened_by(nursery, client.conversation.resume_token(), 0)
        place = decode_open((await raw2.next(Kind.OPEN)).payload).resumed
        assert isinstance(place, Place)
        assert (place.heard_events, place.said_events) == (8, 2)
        nursery.cancel_scope.cancel()


async def test_of_an_older_transceivers_token_no_counts_are_made_up(autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        raw, _ = await opened_by(nursery, b"\xff its own", 3)
        place = decode_open((await raw.next(Kind.OPEN)).payload).resumed
        assert place == Place(epoch=2, played_ms=0, heard_ms=0, token=b"\xff its own")
        nursery.cancel_scope.cancel()
