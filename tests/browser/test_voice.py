"""Asking and interrupting the demo voice in an unmodified headless Chromium.

The microphone is a sound file, spoken by the demo's own synthesis. The page's two tracks, the
microphone's and the decoded one from the edge, are recorded by one WebAudio graph, so that both are
on one clock and latencies can be read from the recording.
"""

from __future__ import annotations

import base64
import wave
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pytest
import trio

from edge.demo_voice.mouth import Mouth
from edge.demo_voice.recogniser import Recogniser
from edge.demo_voice.reply import PHRASES
from edge.demo_voice.vad import SpeechDetector, SpeechStarted
from tests.browser.talk import STATE, hang_up, open_page, start_talking
from tests.support.chromium import chromium
from tests.support.devtools import Page
from tests.support.edges import SERVE
from tests.support.processes import edge
from tests.support.sounds import RATE, loudness, silence

pytestmark = pytest.mark.alone

BEFORE_SECONDS: Final = 3.0
"""Of silence in the file: the call is up and recorded when it is over."""
SILENT: Final = 0.003
"""Loudness of full scale: less is silence. The voice has 0.05 to 0.2."""
STEP_SECONDS: Final = 0.01

HEADPHONES: Final = """
const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = () => open({audio: {echoCancellation: false}});
"""
"""The file holds no echo. Chromium's canceller looks for one all the same while an answer is heard,
and takes most of a lone "Stop!" away: it is left out, as by somebody with headphones."""

RECORD: Final = """(() => {
    const connection = window.connections.at(-1);
    const context = new AudioContext({sampleRate: 16000});
    const merger = new ChannelMergerNode(context, {numberOfInputs: 2});
    const tracks = [connection.getSenders()[0].track, connection.getReceivers()[0].track];
    window.recorded = [];
    tracks.forEach((track, channel) => {
        const stream = new MediaStream([track]);
        new MediaStreamAudioSourceNode(context, {mediaStream: stream}).connect(merger, 0, channel);
    });
    const processor = context.createScriptProcessor(1024, 2, 1);
    processor.onaudioprocess = ({inputBuffer}) => {
        const pcm = new Int16Array(inputBuffer.length * 2);
        for (const channel of [0, 1]) {
            inputBuffer.getChannelData(channel).forEach((sample, i) => {
                pcm[2 * i + channel] = Math.max(-1, Math.min(1, sample)) * 32767;
            });
        }
        window.recorded.push(pcm);
    };
    merger.connect(processor).connect(context.destination);
    window.recorder = {context, merger, processor};
    return context.resume().then(() => true);
})()"""

WATCH_TURNS: Final = """(() => {
    window.turns = [];
    setInterval(() => {
        const {now} = window.edge.turn;
        if (window.turns.at(-1) !== now) window.turns.push(now);
    }, 20);
    return true;
})()"""

FETCH: Final = """(() => {
    const bytes = window.recorded.flatMap(pcm => [...new Uint8Array(pcm.buffer)]);
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) {
        text += String.fromCharCode(...bytes.slice(i, i + 32768));
    }
    return btoa(text);
})()"""


@cache
def mouth() -> Mouth:
    return Mouth()


@cache
def recogniser() -> Recogniser:
    return Recogniser(PHRASES)


@pytest.fixture(scope="module", autouse=True)
def _models() -> None:
    """They keep files open: load them before a test counts."""
    recogniser().recognise(mouth().synthesise("Hello."))


@dataclass(frozen=True, slots=True)
class Recording:
    """What the page said and heard, on one clock; PCM16 at 16 kHz."""

    said: bytes
    heard: bytes

    def onset(self, sound: bytes, *, after: float = 0.0) -> float:
        """Seconds at which a sound begins."""
        return next(at for at, loud in _levels(sound) if at >= after and loud > SILENT)

    def silent_from(self, sound: bytes, *, after: float, seconds: float) -> float:
        """Seconds from which a sound is silent for so many at least."""
        begin = after
        for at, loud in _levels(sound):
            if at < after:
                continue
            if loud > SILENT:
                begin = at + STEP_SECONDS
            elif at - begin >= seconds:
                return begin
        return begin


def _levels(sound: bytes) -> list[tuple[float, float]]:
    step = int(STEP_SECONDS * RATE) * 2
    return [(at / 2 / RATE, loudness(sound[at : at + step])) for at in range(0, len(sound), step)]


def write_microphone(path: Path, *sounds: bytes) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(silence(BEFORE_SECONDS) + b"".join(sounds))


@asynccontextmanager
async def talking(microphone: Path) -> AsyncGenerator[Page]:
    """A page that talks to the demo voice, and records."""
    flag = f"--use-file-for-fake-audio-capture={microphone}%noloop"
    async with edge(*SERVE, "--backend", "demo-voice") as server, chromium(flag) as browser:
        page = await browser.new_page()
        await page.before_load(HEADPHONES)
        await open_page(page, server.http)
        await start_talking(page)
        await page.wait_until(f"{STATE} === 'connected'", seconds=BEFORE_SECONDS)
        assert await page.evaluate(RECORD, bool)
        assert await page.evaluate(WATCH_TURNS, bool)
        yield page
        await hang_up(page)
        assert not page.exceptions


async def fetch(page: Page) -> Recording:
    data = base64.b64decode(await page.evaluate(FETCH, str))
    samples = np.frombuffer(data, "<i2").reshape(-1, 2)
    return Recording(samples[:, 0].tobytes(), samples[:, 1].tobytes())


def report(**seconds: float) -> None:
    print(msgspec.json.encode({key: round(value, 3) for key, value in seconds.items()}).decode())


async def test_a_question_gets_an_answer_that_can_be_understood(tmp_path: Path) -> None:
    microphone = tmp_path / "hello.wav"
    write_microphone(microphone, mouth().synthesise("Hello!"), silence(10.0))
    async with talking(microphone) as page:
        await trio.sleep(BEFORE_SECONDS + 5.0)
        recording = await fetch(page)
        shown = await page.evaluate("window.turns", list[str])
    asked = recording.onset(recording.said)
    ended = recording.silent_from(recording.said, after=asked, seconds=0.5)
    answered = recording.onset(recording.heard, after=ended)
    report(end_of_speech_to_answer=answered - ended)
    assert answered - ended < 1.5
    answer = _cut(recording.heard, answered - 0.2, answered + 3.0)
    assert "what can i do for you" in recogniser().recognise(answer)
    assert ("thinking", "answering") in pairwise(shown), shown
    assert "hearing" in shown


async def test_an_interruption_silences_the_answer(tmp_path: Path) -> None:
    microphone = tmp_path / "stop.wav"
    story, stop = mouth().synthesise("Tell me a story."), mouth().synthesise("Stop!")
    write_microphone(microphone, story, silence(4.0), stop, silence(10.0))
    async with talking(microphone) as page:
        await trio.sleep(BEFORE_SECONDS + len(story) / 2 / RATE + 5.5)
        picture = trio.Path(tmp_path / "interrupted.png")
        await page.screenshot(picture)
        await trio.sleep(3.5)
        recording = await fetch(page)
        shown = await page.evaluate("window.turns", list[str])
    print(f"screenshot: {picture}")
    said, heard = recording.said, recording.heard
    asked = recording.onset(said)
    story_begins = recording.onset(heard, after=asked)
    interrupted = recording.onset(said, after=asked + 3.5)
    assert story_begins < interrupted - 1.0
    silent = recording.silent_from(heard, after=interrupted, seconds=0.3)
    noticed = _speech_started(said, after=interrupted)
    report(speech_to_silence=silent - interrupted, detection_to_silence=silent - noticed)
    assert silent - interrupted < 0.6
    assert "once upon a time" in recogniser().recognise(_cut(heard, story_begins, silent))
    # Then it says "Okay." and is quiet: 40 seconds of story were left.
    okay = recording.onset(heard, after=silent + 0.1)
    assert "okay" in recogniser().recognise(_cut(heard, okay - 0.2, okay + 1.5))
    assert loudness(_cut(heard, okay + 2.0, okay + 10.0)) < SILENT
    assert shown[-3:] == ["interrupted", "answering", "listening"], shown


def _cut(sound: bytes, begin: float, end: float) -> bytes:
    return sound[int(begin * RATE) * 2 : int(end * RATE) * 2]


def _speech_started(sound: bytes, *, after: float) -> float:
    """When a detector takes what begins at ``after`` for speech."""
    detector, start = SpeechDetector(), int((after - 0.5) * RATE) * 2
    for at in range(start, len(sound), 640):
        if SpeechStarted() in detector.hear(sound[at : at + 640]):
            return (at + 640) / 2 / RATE
    raise AssertionError("no speech")
