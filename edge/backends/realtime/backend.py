"""The realtime backend, as the configuration says: which server, which profile, which key.

The key comes from a file or the environment, and goes into the handshake's headers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import random

import msgspec

from edge.backends.protocol import AudioFormat, Call, EventSink, Speaker
from edge.backends.realtime import events as realtime_events
from edge.backends.realtime.connection import OpenStream, Target, open_stream
from edge.backends.realtime.conversation import Line, RealtimeConversation
from edge.backends.realtime.machine import RealtimeMachine
from edge.backends.realtime.memory import Memory
from edge.backends.realtime.profile import Profile, load_profile
from edge.backends.realtime.profiles import PROFILES
from edge.config import BackendConfig
from edge.errors import ConfigError
from edge.session_config import decode_session, merge


def make_realtime(
    config: BackendConfig,
    environ: Mapping[str, str],
    *,
    open_stream: OpenStream = open_stream,
    random: Callable[[], float] = random,
) -> RealtimeBackend:
    """Make the backend; an empty text of ``config`` is the profile's own. Raises ConfigError."""
    profile = find_profile(config.profile)
    key = _read_key(config, profile, environ)
    url = profile.target(config.url, config.model)
    try:
        target = Target.of(url, profile.handshake(key), ca_file=config.ca_file)
    except OSError:
        raise ConfigError("backend.ca_file: it can not be read as certificates") from None
    except ValueError:
        raise ConfigError(
            f"backend.url: profile {profile.name} needs a ws: or wss: URL here"
        ) from None
    line = Line(target, config.connect_seconds, open_stream, random)
    return RealtimeBackend(profile, line, config)


def find_profile(name: str) -> Profile:
    """Give the profile of this name, or in this TOML file; raises ConfigError."""
    if name.endswith(".toml"):
        return load_profile(Path(name), PROFILES)
    if name not in PROFILES:
        raise ConfigError(f"backend.profile: none of {', '.join(PROFILES)}, and no .toml file")
    return PROFILES[name]


def _read_key(config: BackendConfig, profile: Profile, environ: Mapping[str, str]) -> str:
    key = environ.get(profile.key_variable, "")
    if config.api_key_file:
        try:
            key = Path(config.api_key_file).read_text(encoding="utf-8")
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

    def __init__(self, profile: Profile, line: Line, config: BackendConfig) -> None:
        self._profile = profile
        self.line = line
        self._config = config

    def wants(self, codec: AudioFormat) -> AudioFormat:
        """See ``Profile.wants``."""
        return self._profile.wants(codec)

    answers_session = True
    """The server says what the session is."""

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> RealtimeConversation:
        """Make one session's conversation; it connects when it runs."""
        first = self._profile.first_session(
            call.audio, voice=self._config.voice, instructions=self._config.instructions
        )
        if call.session_config is not None and isinstance(first, dict):
            first = merge(first, _without_ours(self._profile, call.session_config))
        machine = RealtimeMachine(
            self._profile,
            call.audio,
            speaker,
            events,
            first_session=first,
            memory=Memory.unpack(call.resumed.token) if call.resumed else None,
        )
        return RealtimeConversation(self.line, call, speaker, machine)


def _without_ours(profile: Profile, config: bytes) -> dict[str, object]:
    """What a call was opened with, but for the audio's formats and the model, which are ours."""
    event = msgspec.json.encode({"session": decode_session(config)})
    left = realtime_events.without(event, (*profile.fixed, "session.model"))
    return msgspec.json.decode(left, type=dict[str, dict[str, object]])["session"]
