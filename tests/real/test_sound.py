"""Sound through a whole edge: a client's codec, a frames backend's format, and back.

The backend is in this process and the edge another one; both codecs are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from edge.audio.codec import make_decoder
from edge.backends.server import BackendSession, serve_backend
from tests.support.edges import SERVE
from tests.support.processes import edge
from tests.support.sounds import RATE, loudness
from tests.support.tones import pitch, tone, written
from tests.support.voice_client import CODECS, open_voice

SAID, ANSWERED = 440.0, 700.0  # Hz
SECONDS = 0.6
LOUDNESS = 0.4 / 2**0.5


@dataclass
class Tuner:
    """A backend that listens for a while, and then answers with a tone of its own."""

    opened: str = ""
    rate: int = 0
    pcm: bytearray = field(default_factory=bytearray)

    async def converse(self, session: BackendSession) -> None:
        self.opened, self.rate = session.audio, session.rate
        read = reader(session)
        async for heard in session:
            if isinstance(heard, bytes):
                self.pcm += read(heard)
            if len(self.pcm) / 2 / session.rate >= SECONDS:
                break
        sound = tone(ANSWERED, SECONDS, session.rate)
        await session.say(written(sound, session.audio, session.rate))
        await trio.sleep_forever()


def reader(session: BackendSession) -> Callable[[bytes], bytes]:
    """What reads a session's audio, to PCM16 of its rate."""
    if session.audio.startswith("pcm16"):
        return bytes
    return make_decoder(CODECS[session.audio], session.rate).decode


@pytest.mark.parametrize(
    ("codec", "audio", "opened"),
    [
        ("opus", "pcm16/16000", "pcm16/16000"),
        ("opus", "pcm16/24000", "pcm16/24000"),
        ("opus", "pcmu", "pcm16/8000"),
        ("pcmu", "pcmu", "pcmu"),
        ("pcma", "pcma", "pcma"),
        ("pcmu", "pcm16/24000", "pcm16/24000"),
    ],
)
async def test_a_tone_comes_through_both_ways(
    tmp_path: Path, codec: str, audio: str, opened: str
) -> None:
    tuner = Tuner()
    address = f"unix:{tmp_path}/tuner.sock"
    settings = {"EDGE_BACKEND_AUDIO": audio}
    flags = (*SERVE, "--backend", "frames", "--backend-address", address)
    async with (
        serve_backend(address, tuner.converse),
        edge(*flags, env=settings) as running,
        open_voice(running.http, codec=codec) as client,
    ):
        await client.say(tone(SAID, SECONDS + 0.2, RATE))
        await client.wait_heard(int(SECONDS * 50))
    assert tuner.opened == opened
    said = bytes(tuner.pcm[tuner.rate // 5 :])  # without the codec's beginning
    assert pitch(said, tuner.rate) == pytest.approx(SAID, abs=5)
    assert loudness(said) == pytest.approx(LOUDNESS, rel=0.2)
    answer = b"".join(packet.pcm for packet in client.heard)[RATE // 5 : RATE]
    assert pitch(answer, RATE) == pytest.approx(ANSWERED, abs=5)
    assert loudness(answer) == pytest.approx(LOUDNESS, rel=0.2)
