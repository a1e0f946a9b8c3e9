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
from edge.backends.realtime.backend import RealtimeSettings, make_realtime
from edge.config import BackendConfig
from edge.demo_voice.child import open_demo_voice
from edge.errors import ConfigError

DEMO_VOICE_AUDIO: Final = "pcm16/16000"


@asynccontextmanager
async def open_backend(
    config: BackendConfig, environ: Mapping[str, str], *, ahead_seconds: float
) -> AsyncIterator[Backend]:
    """Give the configured backend for as long as the block.

    It may speak up to ``ahead_seconds`` ahead of what is played. Raises ConfigError or
    StartupError.
    """
    match config.kind:
        case "echo":
            yield Echo(delay=config.echo_delay_seconds)
        case "realtime":
            yield make_realtime(_realtime_settings(config), environ)
        case "frames":
            async with _open_frames(config, config.address, config.audio, ahead_seconds) as backend:
                yield backend
        case "demo-voice":
            async with (
                open_demo_voice() as address,
                _open_frames(config, address, DEMO_VOICE_AUDIO, ahead_seconds) as backend,
            ):
                yield backend
        case other:
            raise ConfigError(f"backend.kind: there is no backend {other!r}")


@asynccontextmanager
async def _open_frames(
    config: BackendConfig, address: str, audio: str, ahead_seconds: float
) -> AsyncIterator[Backend]:
    patience = Patience(
        connect_seconds=config.connect_seconds,
        reopen_seconds=config.reopen_seconds,
        ahead_seconds=ahead_seconds,
    )
    backend = FramesBackend(
        address, audio=audio, stall_seconds=config.stall_seconds, patience=patience
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        yield backend
        nursery.cancel_scope.cancel()


def _realtime_settings(config: BackendConfig) -> RealtimeSettings:
    return RealtimeSettings(
        profile=config.profile,
        url=config.url,
        model=config.model,
        voice=config.voice,
        instructions=config.instructions,
        api_key_file=config.api_key_file,
        ca_file=config.ca_file,
        connect_seconds=config.connect_seconds,
    )
