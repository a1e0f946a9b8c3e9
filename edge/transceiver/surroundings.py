"""What the sessions of a transceiver have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.address import Address
from edge.backends.protocol import Backend, CallQuality
from edge.config import AudioConfig, TransceiverConfig
from edge.transceiver.leash import SessionLimits
from edge.transceiver.playout import Pacer
from edge.webrtc.offload import MediaOffload
from edge.wire.spp import Path

SendFramed = Callable[[Path, bytes, Address], bool]
"""``(path, payload, relay)``: sends one datagram to the relay that serves the path."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The parts that all sessions share, and the settings that hold for each."""

    backend: Backend
    pacer: Pacer
    send: SendFramed
    clock: Callable[[], float]
    """Monotonic, in seconds."""
    audio: AudioConfig
    limits: SessionLimits
    offload: MediaOffload | None = None
    observe_setup: Callable[[float], None] = lambda seconds: None
    observe_quality: Callable[[CallQuality], None] = lambda quality: None


def session_limits(config: TransceiverConfig) -> SessionLimits:
    """What the configuration says of each session."""
    return SessionLimits(
        setup_seconds=config.setup_timeout_seconds,
        session_seconds=config.max_session_seconds,
        idle_seconds=config.max_idle_seconds,
        playout_seconds=config.playout_queue_seconds,
    )
