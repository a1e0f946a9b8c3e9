"""The realtime backend, as the configuration says: which server, which profile, which key.

The key comes from a file or the environment, and goes into the handshake's headers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import random

from edge.backends.protocol import AudioFormat, Call, EventSink, Speaker
from edge.backends.realtime.connection import OpenStream, Target, open_stream
from edge.backends.realtime.conversation import Line, RealtimeConversation
from edge.backends.realtime.machine import RealtimeMachine
from edge.backends.realtime.profile import Profile, load_profile
from edge.backends.realtime.profiles import PROFILES
from edge.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RealtimeSettings:
    """What the configuration says; an empty text is the profile's own."""

    profile: str = "openai"
    """One of PROFILES or a TOML file."""
    url: str = ""
    model: str = ""
    voice: str = ""
    instructions: str = ""
    api_key_file: str = ""
    ca_file: str = ""
    connect_seconds: float = 5.0
    """From the start of a connection to the server's first event."""


def make_realtime(
    settings: RealtimeSettings,
    environ: Mapping[str, str],
    *,
    open_stream: OpenStream = open_stream,
    random: Callable[[], float] = random,
) -> RealtimeBackend:
    """Make the backend; raises ConfigError."""
    profile = find_profile(settings.profile)
    key = _read_key(settings, profile, environ)
    url = profile.target(settings.url, settings.model)
    try:
        target = Target.of(url, profile.handshake(key), ca_file=settings.ca_file)
    except OSError:
        raise ConfigError("backend.ca_file: it can not be read as certificates") from None
    except ValueError:
        raise ConfigError(
            f"backend.url: profile {profile.name} needs a ws: or wss: URL here"
        ) from None
    line = Line(target, settings.connect_seconds, open_stream, random)
    return RealtimeBackend(profile, line, settings)


def find_profile(name: str) -> Profile:
    """Give the profile of this name, or in this TOML file; raises ConfigError."""
    if name.endswith(".toml"):
        return load_profile(Path(name), PROFILES)
    if name not in PROFILES:
        raise ConfigError(f"backend.profile: none of {', '.join(PROFILES)}, and no .toml file")
    return PROFILES[name]


def _read_key(settings: RealtimeSettings, profile: Profile, environ: Mapping[str, str]) -> str:
    key = environ.get(profile.key_variable, "")
    if settings.api_key_file:
        try:
            key = Path(settings.api_key_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise ConfigError("backend.api_key_file: it can not be read") from None
    key = key.strip()
    if not key and profile.key_required:
        raise ConfigError(
            f"backend.api_key_file: profile {profile.name} needs a key, here or in "
            f"{profile.key_variable}"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("backend.api_key_file: a key is one line of printable ASCII")
    return key


class RealtimeBackend:
    """All sessions' way to one server; made by ``make_realtime``."""

    def __init__(self, profile: Profile, line: Line, settings: RealtimeSettings) -> None:
        self._profile = profile
        self.line = line
        self._settings = settings

    def wants(self, codec: AudioFormat) -> AudioFormat:
        """See ``Profile.wants``."""
        return self._profile.wants(codec)

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> RealtimeConversation:
        """Make one session's conversation; it connects when it runs."""
        first = self._profile.first_session(
            call.audio, voice=self._settings.voice, instructions=self._settings.instructions
        )
        machine = RealtimeMachine(self._profile, call.audio, speaker, events, first_session=first)
        return RealtimeConversation(self.line, call, speaker, machine)
