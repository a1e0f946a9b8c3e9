"""Which backend serves a process's sessions, and what must run for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import trio

from edge.backends.echo import Echo
from edge.backends.frames.backend import FramesBackend
from edge.backends.frames.conversation import Patience
from edge.backends.protocol import Backend
from edge.backends.realtime.backend import make_realtime
from edge.config import Config
from edge.demo_voice.child import open_demo_voice
from edge.errors import ConfigError

DEMO_VOICE_AUDIO: Final = "pcm16/16000"


@asynccontextmanager
async def open_backend(config: Config, environ: Mapping[str, str]) -> AsyncIterator[Backend]:
    """Give the configured backend for as long as the block; raises ConfigError or StartupError."""
    settings = config.backend
    match settings.kind:
        case "echo":
            yield Echo(delay=settings.echo_delay_seconds)
        case "realtime":
            yield make_realtime(settings, environ)
        case "frames":
            async with _open_frames(config, settings.address, settings.audio) as backend:
                yield backend
        case "demo-voice":
            async with (
                open_demo_voice(config.log) as address,
                _open_frames(config, address, DEMO_VOICE_AUDIO) as backend,
            ):
                yield backend
        case other:
            raise ConfigError(f"backend.kind: there is no backend {other!r}")


@asynccontextmanager
async def _open_frames(config: Config, address: str, audio: str) -> AsyncIterator[Backend]:
    settings = config.backend
    patience = Patience(
        connect_seconds=settings.connect_seconds,
        reopen_seconds=settings.reopen_seconds,
        ahead_seconds=config.transceiver.playout_queue_seconds,
    )
    backend = FramesBackend(
        address, audio=audio, stall_seconds=settings.stall_seconds, patience=patience
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        yield backend
        nursery.cancel_scope.cancel()
