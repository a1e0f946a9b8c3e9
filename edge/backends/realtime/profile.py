"""What differs between realtime servers, and how it is filled in.

A text in a profile that is ``$NAME`` stands for a value of the configuration (``$model``, ``$key``,
``$voice``, ``$instructions``) or for the session's audio format (``$format``); what has no value is
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import msgspec

from edge.backends.protocol import PCM_RATES, AudioFormat
from edge.errors import ConfigError


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of server."""

    name: str
    url: str
    """Without the query; empty: ``backend.url`` must say it."""
    model: str
    """The default."""
    key_variable: str
    """The environment variable that holds the key where no file does."""
    key_required: bool
    headers: dict[str, str]
    """Of the handshake; ``$key`` inside; left out without a key."""
    query: dict[str, str]
    rate: int
    """Of its PCM, in Hz, in both directions."""
    formats: dict[str, object]
    """By our names of formats (``pcm16``, ``PCMU``, ``PCMA``), what ``$format`` is filled with."""
    session: dict[str, object]
    """The ``session`` of the first ``session.update``."""
    fixed: tuple[str, ...]
    """Dotted paths that are taken out of the client's events: the audio's formats are ours."""
    turn_detection: str
    """Dotted path in ``session.created`` and ``session.updated``."""
    names: dict[str, str]
    """The server's names of events where they are not the GA ones."""
    text_part: str
    """``type`` of a content part that holds what the model said, as text."""
    truncates: bool
    """Whether it knows ``conversation.item.truncate``."""

    def but(self, **changes: object) -> Self:
        """Make another profile that differs in ``changes``."""
        return msgspec.structs.replace(self, **changes)

    def wants(self, codec: AudioFormat) -> AudioFormat:
        """G.711 passes through where the server speaks it too; all else becomes its PCM."""
        if codec.name in self.formats and codec.clock_rate == 8_000:
            return codec
        return AudioFormat("pcm16", self.rate)

    def target(self, url: str, model: str) -> str:
        """The whole URL of a session."""
        filled = fill(self.query, {"model": model or self.model})
        query = urlencode(filled) if isinstance(filled, dict) else ""
        return f"{url or self.url}?{query}" if query else url or self.url

    def handshake(self, key: str) -> list[tuple[bytes, bytes]]:
        """The headers of the handshake; they hold the key."""
        return [
            (name.encode(), value.replace("$key", key).encode())
            for name, value in self.headers.items()
            if key or "$key" not in value
        ]

    def first_session(self, audio: AudioFormat, *, voice: str, instructions: str) -> object:
        """The ``session`` of the first ``session.update``."""
        values = {
            "format": self.formats[audio.name],
            "voice": voice or None,
            "instructions": instructions or None,
        }
        return fill(self.session, values)


def fill(template: object, values: Mapping[str, object]) -> object:
    """Put ``values`` in the place of their ``$NAME``; None, as a member, is left out."""
    match template:
        case str() if template.startswith("$"):
            return values.get(template[1:]) or None
        case dict():
            filled = {key: fill(value, values) for key, value in template.items()}
            return {key: value for key, value in filled.items() if value is not None}
        case list():
            return [fill(value, values) for value in template]
        case _:
            return template


def load_profile(file: Path, known: Mapping[str, Profile]) -> Profile:
    """Read a TOML file: the fields that differ from the profile that ``base`` names.

    Tables are merged. Raises ConfigError.
    """
    try:
        changes = msgspec.toml.decode(file.read_bytes(), type=dict[str, object])
    except OSError as error:
        raise ConfigError(f"{file}: {(error.strerror or str(error)).lower()}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError(f"{file}: not valid TOML") from None
    base = known.get(str(changes.pop("base", "openai")))
    if base is None:
        raise ConfigError(f"{file}: base is none of {', '.join(known)}")
    changes.setdefault("name", file.stem)
    try:
        profile = msgspec.convert(_merged(msgspec.to_builtins(base), changes), Profile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}") from None
    return _checked(file, profile)


def _checked(file: Path, profile: Profile) -> Profile:
    if profile.rate not in PCM_RATES:
        raise ConfigError(f"{file}: rate is none of {', '.join(map(str, PCM_RATES))}")
    if "pcm16" not in profile.formats or not set(profile.formats) <= {"pcm16", "PCMU", "PCMA"}:
        raise ConfigError(f"{file}: formats are pcm16 and, where it speaks them, PCMU and PCMA")
    return profile


def _merged(base: object, changes: object) -> object:
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {key: _merged(base.get(key), value) for key, value in changes.items()}
