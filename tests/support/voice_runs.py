"""How long a conversation's turns take, at the client's ear: asked, interrupted, flushed.

Everything is timed where the client's packets leave and arrive, on one clock; the edge and the
demo voice are other processes. What a playout says was played is compared with the packets that
really came.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import msgspec
import trio

from edge.backends.server import BackendSession, serve_backend
from edge.demo_voice.mouth import Mouth
from tests.support.edges import SERVE
from tests.support.processes import edge
from tests.support.sounds import RATE, loudness
from tests.support.tones import last_sound, tone, written
from tests.support.voice_client import FRAME_BYTES, Heard, VoiceClient, open_voice

AUDIBLE: Final = 0.003
"""Loudness of full scale; the voice has 0.05 to 0.2, and a tone 0.28."""
PACKET_SECONDS: Final = 0.02
QUIET_SECONDS: Final = 0.2
"""Without a packet for so long, an answer is over."""
STORY_SECONDS: Final = 1.5
"""Of the story are heard before it is interrupted."""
TONE_SECONDS: Final = 10.0
"""That a backend is ahead with when it flushes."""


class Turn(msgspec.Struct, frozen=True):
    """One question that was answered, and the answer interrupted; seconds."""

    answer: float
    """From the last packet of the question to the first of the answer."""
    audible: float
    """To the first packet of the answer that is no silence."""
    silence: float
    """From the first packet of the interruption to the last that is heard of the answer."""


class Flush(msgspec.Struct, frozen=True):
    """One flush, asked for by a backend at a moment of its own."""

    silence: float
    """Seconds from the call to the last audible packet; negative when none came any more."""
    answered: float
    """Seconds until the backend knew how much was played."""
    played_ms: int
    """What the backend was told."""
    received_ms: int
    """What the client got, in whole packets."""
    sound_ms: float
    """What of that is sound: to the last sample that can be heard."""


@cache
def mouth() -> Mouth:
    """The voice that asks."""
    return Mouth()


@cache
def spoken(text: str) -> bytes:
    """A sentence without the silence at its ends."""
    pcm = mouth().synthesise(text)
    frames = [pcm[at : at + FRAME_BYTES] for at in range(0, len(pcm), FRAME_BYTES)]
    loud = [number for number, frame in enumerate(frames) if loudness(frame) > AUDIBLE]
    return b"".join(frames[loud[0] : loud[-1] + 1])


@asynccontextmanager
async def demo_voice_edge() -> AsyncGenerator[str]:
    """An edge with the demo voice; gives its URL."""
    async with edge(*SERVE, "--backend", "demo-voice") as running:
        yield running.http


async def take_turn(http: str) -> Turn:
    """Ask for the story in a new call, and interrupt it."""
    async with open_voice(http) as client:
        await trio.sleep(0.3)
        asked = await client.say(spoken("Tell me a story."))
        audible = await client.wait_sound(after=asked, least=AUDIBLE)
        first = next(packet for packet in client.heard if packet.at > asked)
        await trio.sleep(STORY_SECONDS)
        interrupted = trio.current_time()
        stopped = await client.say(spoken("Stop!"))
        silence = (await _last_before_quiet(client, after=interrupted)).at - interrupted
        assert silence < stopped - interrupted + 1.0
        return Turn(first.at - asked, audible.at - asked, silence)


async def _last_before_quiet(client: VoiceClient, *, after: float) -> Heard:
    """The last audible packet before the first pause of the packets."""
    with trio.fail_after(5.0):
        while True:
            run = _run(client.heard, after)
            if run and trio.current_time() - run[-1].at > QUIET_SECONDS:
                return next(packet for packet in reversed(run) if packet.loudness > AUDIBLE)
            await trio.sleep(0.01)


def _run(heard: Sequence[Heard], after: float) -> list[Heard]:
    """The packets that came without a pause, from those around a moment on."""
    run: list[Heard] = []
    for packet in heard:
        if run and packet.at - run[-1].at > QUIET_SECONDS:
            if run[-1].at >= after:
                return run
            run = []
        run.append(packet)
    return run


@dataclass
class Flusher:
    """A backend that is far ahead with a tone, and flushes when it is told."""

    sessions: list[BackendSession] = field(default_factory=list)

    async def converse(self, session: BackendSession) -> None:
        """Serve one session."""
        self.sessions.append(session)
        sound = tone(440.0, TONE_SECONDS, session.rate)
        await session.say(written(sound, session.audio, session.rate))
        await trio.sleep_forever()


async def flush_once(http: str, flusher: Flusher, seconds: float, codec: str = "opus") -> Flush:
    """Open a call, hear the tone for so long, and flush it."""
    async with open_voice(http, codec=codec) as client:
        await client.wait_heard(1)
        await trio.sleep(seconds)
        called = trio.current_time()
        played = await flusher.sessions[-1].flush()
        answered = trio.current_time()
        await trio.sleep(QUIET_SECONDS)
        last = next(packet for packet in reversed(client.heard) if packet.loudness > AUDIBLE)
        return Flush(
            silence=last.at - called,
            answered=answered - called,
            played_ms=played,
            received_ms=round(len(client.heard) * PACKET_SECONDS * 1_000),
            sound_ms=last_sound(b"".join(packet.pcm for packet in client.heard)) * 1_000 / RATE,
        )


@asynccontextmanager
async def flushing_edge(
    address: str, *, audio: str = "pcm16/24000"
) -> AsyncGenerator[tuple[str, Flusher]]:
    """An edge whose backend is a ``Flusher`` in this process, at this address."""
    flusher = Flusher()
    flags = (*SERVE, "--backend", "frames", "--backend-address", address)
    settings = {"EDGE_BACKEND_AUDIO": audio}
    async with serve_backend(address, flusher.converse), edge(*flags, env=settings) as running:
        yield running.http, flusher
