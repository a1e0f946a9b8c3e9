"""The realtime backend against a scripted server, without a network, on virtual time."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
import trio
import trio.testing

from edge.audio.pacer import Pacer
from edge.backends.protocol import (
    BACKEND_RESTARTED,
    AudioFormat,
    AudioFrame,
    Call,
    CallQuality,
    Resumable,
    Resumed,
    Speaker,
)
from edge.backends.realtime.backend import make_realtime
from edge.backends.realtime.connection import ConnectionLost, Target, _Watched
from edge.backends.realtime.conversation import RealtimeConversation
from edge.config import BackendConfig
from edge.errors import Drop
from edge.transceiver.playout import Playout
from tests.support.realtime_rig import ClockSpeaker, Ear, Event, encode
from tests.support.realtime_server import RAW, Server, play_raw

KEY = "sk-of-the-test"
PCM24 = AudioFormat("pcm16", 24_000)
HUM = encode("session.update", session={"type": "realtime", "instructions": "Hum."})
FRAME = AudioFrame(b"\x01\x00" * 480, 0.02)


@dataclass
class Rig:
    conversation: RealtimeConversation
    ear: Ear
    speaker: ClockSpeaker
    received: list[Event]
    opened: list[float]
    nursery: trio.Nursery

    async def talk(self, seconds: float) -> None:
        """Speak for so long."""
        for _ in range(round(seconds / 0.02)):
            self.conversation.hear(FRAME)
            await trio.sleep(0.02)

    def kinds(self) -> list[str]:
        return [str(event["type"]) for event in self.received]

    def errors(self) -> list[dict[str, str]]:
        """What errors the client was told of."""
        found = [event["error"] for event in self.ear.events if event["type"] == "error"]
        return cast("list[dict[str, str]]", found)


@asynccontextmanager
async def conversation(
    scenario: str, instead: Speaker | None = None, resumed: Resumed | None = None
) -> AsyncGenerator[Rig]:
    """A conversation that is not running yet, with a server behind ``open_stream``."""
    received: list[Event] = []
    opened: list[float] = []
    server = Server(lambda name, event: received.append(event))
    async with trio.open_nursery() as nursery:

        async def open_stream(target: Target) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            opened.append(trio.current_time())
            if scenario == "nobody":
                raise ConnectionRefusedError(111, "Connection refused")
            # What nobody reads fills a lockstep stream at once.
            deaf = scenario == "deaf"
            pair = trio.testing.lockstep_stream_pair if deaf else trio.testing.memory_stream_pair
            ours, theirs = pair()
            if scenario in RAW:
                nursery.start_soon(play_raw, scenario, theirs)
            else:
                nursery.start_soon(server.serve, theirs)
            return ours

        settings = BackendConfig(url="ws://model.test/v1", model=f"{scenario}.x", voice="marin")
        backend = make_realtime(
            settings, {"OPENAI_API_KEY": KEY}, open_stream=open_stream, random=lambda: 0.5
        )
        ear, speaker = Ear(), ClockSpeaker(played=resumed.played / 24_000 if resumed else 0.0)
        made = backend.open(Call("rtc_1", PCM24, resumed=resumed), instead or speaker, ear)
        yield Rig(made, ear, speaker, received, opened, nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def running(scenario: str, resumed: Resumed | None = None) -> AsyncGenerator[Rig]:
    async with conversation(scenario, resumed=resumed) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.conversation.run)
        yield rig
        nursery.cancel_scope.cancel()


async def test_a_conversation(autojump_clock: trio.abc.Clock) -> None:
    async with running("normal") as rig:
        rig.nursery.start_soon(rig.talk, 1.0)
        await rig.ear.wait_for("output_audio_buffer.stopped")
        assert rig.received[0]["type"] == "connected"
        assert "authorization" in str(rig.received[0]["headers"])
        assert rig.kinds()[1] == "session.update"
        assert len(rig.speaker.audio) == 0.6 * 48_000
        assert not rig.conversation.drops


async def test_barge_in_tells_the_server_what_was_played(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with running("barge_in") as rig:
        rig.nursery.start_soon(rig.talk, 2.0)
        await rig.ear.wait_for("conversation.item.truncated")
        cut = next(e for e in rig.received if e["type"] == "conversation.item.truncate")
        assert cut["audio_end_ms"] == round(rig.speaker.played * 1_000)
        assert 300 <= int(str(cut["audio_end_ms"])) <= 700
        assert rig.conversation.drops == {Drop.LATE: 5}
        await rig.ear.wait_for("output_audio_buffer.stopped")
        assert rig.ear.kinds.count("output_audio_buffer.cleared") == 1


async def test_barge_in_with_the_real_playout(autojump_clock: trio.abc.Clock) -> None:
    """What the playout says was played is what it sent, to the packet."""
    sent: list[bytes] = []
    pacer = Pacer(trio.current_time)
    playout = Playout(
        pacer,
        lambda payload, timestamp, marker, now: sent.append(payload),
        codec=AudioFormat("PCMU", 8_000),
        wanted=PCM24,
        media_time=lambda now: round(now * 8_000),
        queue_seconds=30.0,
        fade_seconds=0.02,
        quality=lambda: CallQuality(None, 0.0, 0, 0.0, 0.0, None, None),
    )
    async with conversation("barge_in", playout) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(pacer.run)
        nursery.start_soon(rig.conversation.run)
        nursery.start_soon(rig.talk, 2.0)
        await rig.ear.wait_for("output_audio_buffer.cleared")
        heard = len(b"".join(sent)) / 8
        await rig.ear.wait_for("conversation.item.truncated")
        cut = next(e for e in rig.received if e["type"] == "conversation.item.truncate")
        assert cut["audio_end_ms"] == heard + 20 >= 300  # the fade is still to come
        nursery.cancel_scope.cancel()


async def test_what_was_said_before_the_connection_is_not_lost(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with conversation("normal") as rig:
        await rig.talk(1.0)
        rig.nursery.start_soon(rig.conversation.run)
        await rig.ear.wait_for("response.done")
        assert sum(int(str(e.get("audio", 0))) for e in rig.received) == 48_000


async def test_a_slow_model_is_heard_with_gaps(autojump_clock: trio.abc.Clock) -> None:
    async with running("slow") as rig:
        await rig.ear.wait_for("output_audio_buffer.stopped")
        assert rig.ear.kinds.count("output_audio_buffer.started") == 1
        assert len(rig.speaker.audio) == 0.6 * 48_000


async def test_a_server_that_does_not_read_costs_a_bounded_queue(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with running("deaf") as rig:
        await rig.talk(8.0)
        assert 140 <= rig.conversation.drops[Drop.QUEUE_FULL] <= 150


@pytest.mark.parametrize(
    ("scenario", "tries", "cause"),
    [
        ("silent", 4, "says nothing"),
        ("deaf", 4, "pings"),
        ("drip", 4, "pings"),
        ("mute", 4, "in the handshake"),
        ("noise", 4, "no WebSocket"),
        ("trickle", 4, "in the handshake"),
        ("flood", 4, "in the handshake"),
        ("hang_up", 4, "in the handshake"),
        ("nobody", 4, "connection refused"),
        ("forbidden", 1, "HTTP 401"),
        ("down", 4, "HTTP 503"),
        ("reset", 4, "code 1006"),
        ("half_close", 4, "code 1006"),
        ("failing", 4, "code 1011"),
        ("banning", 1, "code 1008"),
    ],
)
async def test_a_server_that_fails_is_tried_again_where_that_helps_and_the_client_is_told(
    autojump_clock: trio.abc.Clock, scenario: str, tries: int, cause: str
) -> None:
    async with conversation(scenario) as rig:
        began = trio.current_time()
        if scenario == "deaf":
            rig.nursery.start_soon(rig.talk, 100.0)
        with pytest.raises(ExceptionGroup) as caught:
            await rig.conversation.run()
        assert isinstance(lost := root(caught.value), ConnectionLost)
        assert cause in str(lost)
        assert KEY not in repr(lost)
        assert len(rig.opened) == tries
        each = 20.2 if scenario in ("deaf", "drip") else 5.2
        assert trio.current_time() - began <= 4 * each + 4.25
        codes = [error["code"] for error in rig.errors()]
        assert codes == ["backend_reconnecting"] * (tries - 1) + ["backend_unavailable"]


async def test_a_busy_server_is_reached_at_last(autojump_clock: trio.abc.Clock) -> None:
    async with running("busy") as rig:
        rig.nursery.start_soon(rig.talk, 5.0)
        await rig.ear.wait_for("output_audio_buffer.stopped")
        assert [round(at, 2) for at in rig.opened] == [0.0, 0.25, 1.25]


async def test_an_orderly_close_lets_the_answer_be_heard(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with conversation("closing") as rig:
        began = trio.current_time()
        await rig.conversation.run()
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.15)
        assert len(rig.speaker.audio) == 48_000
        assert rig.ear.kinds[-1] == "output_audio_buffer.stopped"


async def test_garbage_is_counted_and_the_answer_heard(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with running("garbage") as rig:
        await rig.ear.wait_for("output_audio_buffer.stopped")
        assert rig.conversation.drops == {Drop.MALFORMED: 11}
        assert rig.ear.find("never.heard.of")["answer"] == 42


async def test_an_event_beyond_all_bounds_ends_the_connection(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with conversation("huge") as rig:
        rig.nursery.start_soon(rig.talk, 3.0)
        with pytest.raises(ExceptionGroup) as caught:
            await rig.conversation.run()
        assert "code 1009" in str(root(caught.value))
        assert len(rig.speaker.audio) == 0.6 * 48_000


async def test_another_process_goes_on_with_what_was_said(
    autojump_clock: trio.abc.Clock,
) -> None:
    changes: list[float] = []
    async with running("scribe") as rig:
        assert isinstance(rig.conversation, Resumable)
        rig.conversation.watch(lambda: changes.append(trio.current_time()))
        rig.conversation.receive_event(HUM)
        rig.nursery.start_soon(rig.talk, 2.3)
        await trio.sleep(2.2)  # of the answer's 4 s, 2 s were heard
        rig.conversation.move()
        played, token = rig.speaker.played, rig.conversation.resume_token()
        await trio.sleep(1.0)
        assert rig.speaker.played - played <= 0.5  # what it held: it is not fed any more
    assert 0 < len(changes) < 10
    assert rig.received[-1] == {"type": "closed", "code": 1000, "reason": "moved"}
    resumed = Resumed(epoch=2, played=round(played * 24_000), heard=0, exact=True, token=token)
    async with running("scribe", resumed) as heir:
        await heir.ear.wait_for("session.updated")
        await trio.sleep(0.1)
        assert heir.kinds()[1:] == ["session.update", *["conversation.item.create"] * 2]
        assert cast("Event", heir.received[1]["session"])["instructions"] == "Hum."
        assert [text_of(event) for event in heir.received[2:]] == [
            ("item_user", "user", "hello there"),
            ("item_1", "assistant", "a"),  # of "a tone"
        ]
        assert heir.ear.kinds == [
            BACKEND_RESTARTED,
            "output_audio_buffer.cleared",
            "session.created",
            "session.updated",
        ]
        assert heir.ear.events[0]["items"] == 2
        assert heir.ear.events[1]["response_id"] == "resp_1"
        heir.nursery.start_soon(heir.talk, 1.0)
        await heir.ear.wait_for("output_audio_buffer.started")


def text_of(event: Event) -> tuple[object, ...]:
    """Id, role and text of a ``conversation.item.create``."""
    item = cast("dict[str, list[dict[str, object]]]", event["item"])
    return item["id"], item["role"], item["content"][0]["text"]


@pytest.mark.parametrize("scenario", ["nobody", "reset", "closing"])
async def test_who_moved_does_not_care_what_becomes_of_the_server(
    autojump_clock: trio.abc.Clock, scenario: str
) -> None:
    async with conversation(scenario) as rig, trio.open_nursery() as nursery:
        nursery.start_soon(rig.conversation.run)
        await trio.testing.wait_all_tasks_blocked()
        rig.conversation.move()
        rig.conversation.hear(FRAME)
        rig.conversation.receive_event(encode("response.create"))
        told = len(rig.ear.events)
        await trio.sleep(100.0)
        assert len(rig.ear.events) == told
        assert rig.conversation.drops[Drop.NOT_READY] == 2
        nursery.cancel_scope.cancel()


async def test_a_server_that_comes_back_is_told_what_was_said(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with running("reset") as rig:
        rig.conversation.receive_event(HUM)
        await rig.ear.wait_for("session.updated", times=2)
        updates = [event for event in rig.received if event["type"] == "session.update"]
        again = cast("Event", updates[-1]["session"])
        assert again["instructions"] == "Hum."
        assert "audio" in again
        created = [n for n, kind in enumerate(rig.ear.kinds) if kind == "session.created"]
        assert created[0] < rig.ear.kinds.index(BACKEND_RESTARTED) < created[1]


async def test_errors_reach_the_client(autojump_clock: trio.abc.Clock) -> None:
    async with running("errors") as rig:
        rig.conversation.receive_event(encode("response.cancel", event_id="mine"))
        await rig.ear.wait_for("output_audio_buffer.stopped")
        assert [error["event_id"] for error in rig.errors()] == ["mine"]
    async with running("rate_limit") as rig:
        await rig.ear.wait_for("error")
        assert rig.ear.kinds[-2:] == ["rate_limits.updated", "error"]


async def test_cancelling_at_any_moment_closes_the_stream(
    autojump_clock: trio.abc.Clock,
) -> None:
    """Leaving the rig would hang, were the server's end of the stream still open."""
    for steps in range(0, 60, 3):
        async with conversation("normal") as rig, trio.open_nursery() as nursery:
            nursery.start_soon(rig.conversation.run)
            rig.conversation.hear(AudioFrame(bytes(48_000), 1.0))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


def root(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def test_an_answer_to_a_ping_waits_for_the_message_under_way() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    watched = _Watched(ours)
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.send_all, b"m" * 100)
        nursery.start_soon(watched.send_all, b"p" * 10)
        while len(got) < 110:
            got += await theirs.receive_some(7)
    assert got in (b"m" * 100 + b"p" * 10, b"p" * 10 + b"m" * 100)
