"""The servers we know, as data; a TOML file can say the same (``profile.load_profile``).

Events are handed to the client by their GA names, so a server's older names are listed beside them.
"""

from __future__ import annotations

from typing import Final

from edge.backends.realtime.profile import Profile

_OPENAI: Final = Profile(
    name="openai",
    url="wss://api.openai.com/v1/realtime",
    model="gpt-realtime",
    key_variable="OPENAI_API_KEY",
    key_required=True,
    headers={"Authorization": "Bearer $key"},
    query={"model": "$model"},
    rate=24_000,
    formats={
        "pcm16": {"type": "audio/pcm", "rate": 24_000},
        "PCMU": {"type": "audio/pcmu"},
        "PCMA": {"type": "audio/pcma"},
    },
    session={
        "type": "realtime",
        "instructions": "$instructions",
        "audio": {
            "input": {"format": "$format"},
            "output": {"format": "$format", "voice": "$voice"},
        },
    },
    fixed=(
        "session.audio.input.format",
        "session.audio.output.format",
        "response.audio.output.format",
    ),
    turn_detection="session.audio.input.turn_detection",
    names={},
    text_part="output_text",
    truncates=True,
)

_AZURE: Final = _OPENAI.but(
    name="azure",
    url="",  # wss://RESOURCE.openai.azure.com/openai/v1/realtime
    key_variable="AZURE_OPENAI_API_KEY",
    headers={"api-key": "$key"},
)

_LOCALAI: Final = _OPENAI.but(
    name="localai",
    url="ws://127.0.0.1:8080/v1/realtime",
    key_variable="LOCALAI_API_KEY",
    key_required=False,
    formats={"pcm16": {"type": "audio/pcm", "rate": 24_000}},
    truncates=False,  # it knows no conversation.item.truncate
)

_LOCALAI_16K: Final = _LOCALAI.but(
    name="localai-16k",
    rate=16_000,
    formats={"pcm16": {"type": "audio/pcm", "rate": 16_000}},
)

_SPEACHES: Final = _OPENAI.but(
    name="speaches",
    url="ws://127.0.0.1:8000/v1/realtime",
    model="",
    key_variable="SPEACHES_API_KEY",
    key_required=False,
    formats={"pcm16": "pcm16"},
    # Its formats are fixed, and to name them is an error there.
    session={"instructions": "$instructions", "voice": "$voice"},
    fixed=("session.input_audio_format", "session.output_audio_format"),
    turn_detection="session.turn_detection",
    text_part="text",
    names={
        "response.audio.delta": "response.output_audio.delta",
        "response.audio.done": "response.output_audio.done",
        "response.audio_transcript.delta": "response.output_audio_transcript.delta",
        "response.audio_transcript.done": "response.output_audio_transcript.done",
        "response.text.delta": "response.output_text.delta",
        "response.text.done": "response.output_text.done",
    },
)

PROFILES: Final = {each.name: each for each in (_OPENAI, _AZURE, _LOCALAI, _LOCALAI_16K, _SPEACHES)}
