"""A short run of ``scripts/bench_voice``: what is said of turns and flushes holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.edges import metric
from tests.support.voice_runs import (
    demo_voice_edge,
    flush_once,
    flushing_edge,
    spoken,
    take_turn,
)

pytestmark = pytest.mark.alone

FLUSHES = 3
SILENCE_SECONDS = 0.04
"""20 ms and the fade."""
SCHEDULING_SECONDS = 0.015
"""What a busy machine may add at either end."""


@pytest.fixture(scope="module", autouse=True)
def _models() -> None:
    """They keep files open: load them before a test counts."""
    spoken("Hello.")


@pytest.mark.parametrize(
    ("codec", "audio", "codec_delay_ms"),
    [("opus", "pcm16/24000", 12.0), ("pcmu", "pcmu", 0.0)],
)
async def test_a_flush_silences_in_time_and_tells_what_was_heard(
    tmp_path: Path, codec: str, audio: str, codec_delay_ms: float
) -> None:
    async with flushing_edge(f"unix:{tmp_path}/flusher.sock", audio=audio) as (http, flusher):
        flushes = [
            await flush_once(http, flusher, 0.3 + 0.007 * number, codec)
            for number in range(FLUSHES)
        ]
        assert await metric(http, "edge_backend_up") == 1
        assert await metric(http, "edge_backend_connections_total") == 1
    print(*flushes, sep="\n")
    for flush in flushes:
        assert flush.silence <= SILENCE_SECONDS + SCHEDULING_SECONDS
        assert flush.played_ms >= 300
        # A fade falls to nothing, so its last samples can not be heard.
        assert -5.0 <= flush.sound_ms - flush.played_ms <= codec_delay_ms
        if codec == audio:
            assert flush.received_ms == flush.played_ms
    assert min(flush.silence for flush in flushes) <= SILENCE_SECONDS


async def test_the_demo_voice_answers_soon_and_is_quiet_at_once() -> None:
    async with demo_voice_edge() as http:
        turn = await take_turn(http)
    print(turn)
    assert turn.answer < 1.2
    assert turn.answer <= turn.audible < turn.answer + 0.2
    assert turn.silence < 0.4
