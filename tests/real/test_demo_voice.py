"""The demo voice as a process, over the frames protocol: asked, interrupted, killed.

The questions are spoken by its own synthesis and its answers understood by its own recognition,
so what is tested is that the parts hold together, not how well they hear strangers.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import msgspec
import pytest
import trio

from edge.backends.frames.backend import FramesBackend
from edge.backends.protocol import AudioFormat, AudioFrame, Call, CallQuality
from edge.config import LogConfig
from edge.demo_voice.child import open_demo_voice
from edge.demo_voice.ears import open_ears
from edge.demo_voice.mouth import Mouth
from edge.demo_voice.recogniser import Recogniser
from edge.demo_voice.reply import PHRASES, STORY, sentences
from edge.errors import Drop
from tests.support.edges import SERVE
from tests.support.processes import child, edge
from tests.support.sounds import silence, vowel

FORMAT = AudioFormat("pcm16", 16_000)
FRAME = 640  # bytes: 20 ms
FEED_SECONDS = 0.01
"""Between frames: twice as fast as anybody speaks."""


@cache
def ears() -> Recogniser:
    return Recogniser(PHRASES)


@cache
def mouth() -> Mouth:
    return Mouth()


@pytest.fixture(scope="module", autouse=True)
def _models() -> None:
    """Load them before anything is measured; they keep files open."""
    ears().recognise(mouth().synthesise("Hello."))


def ask(text: str) -> bytes:
    return silence(0.3) + mouth().synthesise(text) + silence(0.8)


class _Event(msgspec.Struct):
    type: str
    transcript: str = ""


class Listener:
    """A client: Speaker and EventSink of a conversation; its loudspeaker takes its time."""

    def __init__(self) -> None:
        self.events: list[_Event] = []
        self.drops: Counter[Drop] = Counter()
        self.flushed: list[float] = []
        self.paused: list[float] = []
        self.resumed: list[float] = []
        self._frames: list[bytes] = []
        self._heard = b""
        self._due = 0.0
        self._changed = trio.Event()

    @property
    def queued(self) -> float:
        return max(0.0, self._due - trio.current_time())

    @property
    def played(self) -> float:
        return len(self._heard) / 32_000 - self.queued

    @property
    def quality(self) -> CallQuality:
        return CallQuality(None, 0.0, 0, 0.0, 0.0, None, None)

    @property
    def said(self) -> bytes:
        """All that came and was not flushed."""
        return self._heard

    def play(self, frame: AudioFrame) -> None:
        self._heard += frame.payload
        self._due = max(self._due, trio.current_time()) + frame.duration

    async def wait_queued_below(self, seconds: float) -> None:
        while self.queued > seconds:
            await trio.sleep(0.01)

    def flush(self) -> float:
        self.flushed.append(trio.current_time())
        self._heard = self._heard[: int(self.played * 16_000) * 2]
        self._due = 0.0
        return self.played

    def pause(self) -> float:
        self.paused.append(trio.current_time())
        return self.played

    def resume(self) -> None:
        self.resumed.append(trio.current_time())

    def send_event(self, event: bytes) -> bool:
        self.events.append(msgspec.json.decode(event, type=_Event))
        self._changed.set()
        self._changed = trio.Event()
        return True

    async def wait_event(self, kind: str, *, seconds: float = 10.0) -> _Event:
        """Wait for the next such event that was not waited for yet."""
        with trio.fail_after(seconds):
            while True:
                for number, event in enumerate(self.events):
                    if event.type == kind:
                        del self.events[: number + 1]
                        return event
                await self._changed.wait()


class Caller:
    """A session with the backend."""

    def __init__(self, backend: FramesBackend, name: str) -> None:
        self.listener = Listener()
        call = Call(name, FORMAT)
        self.conversation = backend.open(call, self.listener, self.listener)

    async def say(self, pcm: bytes) -> None:
        for start in range(0, len(pcm), FRAME):
            self.conversation.hear(AudioFrame(pcm[start : start + FRAME], 0.02))
            await trio.sleep(FEED_SECONDS)


@asynccontextmanager
async def calls(address: str, number: int = 1) -> AsyncGenerator[list[Caller]]:
    backend = FramesBackend(address, audio="pcm16/16000")
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        callers = [Caller(backend, f"rtc_{each}") for each in range(number)]
        for caller in callers:
            nursery.start_soon(caller.conversation.run)
        yield callers
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def call() -> AsyncGenerator[Caller]:
    async with open_demo_voice(LogConfig()) as address, calls(address) as (caller,):
        yield caller


async def test_it_answers_and_repeats() -> None:
    async with call() as caller:
        await caller.say(ask("Hello!"))
        heard = await caller.listener.wait_event(
            "conversation.item.input_audio_transcription.completed"
        )
        assert heard.transcript == "hello"
        await caller.listener.wait_event("output_audio_buffer.stopped")
        understood = ears().recognise(silence(0.2) + caller.listener.said + silence(0.2))
        assert "what can i do for you" in understood
        begin = len(caller.listener.said)
        await caller.say(ask("Repeat after me: the quick brown fox."))
        await caller.listener.wait_event("output_audio_buffer.stopped")
        repeated = ears().recognise(silence(0.2) + caller.listener.said[begin:])
        assert "the quick brown fox" in repeated


async def test_barge_in_ends_the_story() -> None:
    async with call() as caller:
        listener = caller.listener
        await caller.say(ask("Tell me a story."))
        await listener.wait_event("output_audio_buffer.started")
        await trio.sleep(1.0)
        await caller.say(ask("Stop!"))
        await listener.wait_event("output_audio_buffer.cleared")
        assert len(listener.paused) == len(listener.flushed) == 1
        assert listener.paused <= listener.flushed
        answer = await listener.wait_event("response.output_audio_transcript.done")
        assert answer.transcript == "Okay."
        await listener.wait_event("output_audio_buffer.stopped")
        # What was heard: the first seconds of the story and the answer, of 40 seconds in all.
        assert len(listener.said) / 32_000 < 5.0
        understood = ears().recognise(silence(0.2) + listener.said)
        assert "once upon a time" in understood
        assert sentences(STORY)[-1].lower() not in understood


async def test_a_cough_only_holds_it_up() -> None:
    async with call() as caller:
        listener = caller.listener
        await caller.say(ask("Count to five."))
        await listener.wait_event("output_audio_buffer.started")
        await caller.say(vowel(0.11) + silence(0.8))
        await listener.wait_event("output_audio_buffer.stopped")
        assert len(listener.paused) == len(listener.resumed) == 1
        assert not listener.flushed


async def test_two_conversations_do_not_mix() -> None:
    async with open_demo_voice(LogConfig()) as address, calls(address, 2) as (first, second):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.say, ask("What is your name?"))
            nursery.start_soon(second.say, ask("How are you?"))
        for caller, words in ((first, "demo voice"), (second, "Very well")):
            said = await caller.listener.wait_event("response.output_audio_transcript.done")
            assert words in said.transcript


def children(of: int = 0) -> Iterator[int]:
    """Pids of a process's children, ours or that one's, that run the demo voice."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == (of or os.getpid()) and b"demo-voice" in command:
            yield int(path.name)


async def wait_reachable(path: str) -> None:
    with trio.fail_after(20.0):
        while True:
            try:
                await (await trio.open_unix_socket(path)).aclose()
            except OSError:
                await trio.sleep(0.05)
            else:
                return


async def test_the_child_is_started_again_and_ends_with_the_block() -> None:
    async with open_demo_voice(LogConfig()) as address:
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(20.0):
            while list(children()) in ([], [pid]):
                await trio.sleep(0.05)
        await wait_reachable(address.removeprefix("unix:"))
        async with calls(address) as (caller,):
            await caller.say(ask("Hello!"))
            await caller.listener.wait_event("output_audio_buffer.started")
    assert list(children()) == []
    assert not Path(address.removeprefix("unix:")).parent.exists()


EDGE = [sys.executable, "-m", "edge"]


async def test_the_command_serves_until_a_signal_and_names_what_is_wrong() -> None:
    async with child([*EDGE, "demo-voice", "--address", "127.0.0.1:0"]) as running:
        with trio.fail_after(30.0):
            line = await running.stdout.wait_for(lambda text: "\n" in text)
        ready = msgspec.json.decode(line, type=dict[str, object])
        assert ready == ready | {"ready": True, "role": "demo-voice", "pid": running.pid}
        address = str(ready["address"])
        async with child([*EDGE, "demo-voice", "--address", address]) as second:
            assert await second.wait(seconds=30.0) == 1
        assert second.stderr.text.startswith(f"edge: --address {address}: ")
        assert second.stderr.text.count("\n") == 1
        async with calls(address) as (caller,):
            await caller.say(ask("Hello!"))
            await caller.listener.wait_event("output_audio_buffer.started")
        assert await running.stop() == 0


@pytest.mark.parametrize("level", ["info", "warning"])
async def test_the_child_logs_as_the_edge_does_and_knows_none_of_its_secrets(level: str) -> None:
    environ = {"EDGE_REGISTRY_SECRET": "a secret that the child must not have"}
    flags = (*SERVE, "--backend", "demo-voice", "--log-level", level, "--log-format", "console")
    async with edge(*flags, env=environ) as running:
        (pid,) = children(running.pid)
        assert b"EDGE_REGISTRY" not in Path(f"/proc/{pid}/environ").read_bytes()
    logged = re.findall(r"^\S+ info +demo voice address=", running.child.stderr.text, re.M)
    assert len(logged) == (level == "info")


@pytest.mark.alone
async def test_recognition_leaves_the_event_loop_alone() -> None:
    longest, ended = 0.0, False

    async def watch() -> None:
        nonlocal longest
        while not ended:
            before = time.perf_counter()
            await trio.sleep(0.005)
            longest = max(longest, time.perf_counter() - before)

    question = ask("Repeat after me: the quick brown fox jumps over the lazy dog.")
    async with open_ears() as hearing, trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        assert "lazy dog" in await hearing.listen(question)
        ended = True
    assert longest < 0.1


@pytest.mark.alone
@pytest.mark.parametrize("text", ["Hello!", "What time is it?", "Stop!", "Count to ten."])
def test_the_sentences_of_the_demo_are_known_at_once(text: str) -> None:
    question = ask(text)
    began = time.perf_counter()
    assert ears().recognise(question) in PHRASES
    assert time.perf_counter() - began < 0.5
