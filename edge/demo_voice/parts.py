"""What the extra ``demo-voice`` brings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from edge.ready import StartupError

PARTS: Final = ("webrtcvad", "pocketsphinx", "hibari")


def require_parts(what: str) -> None:
    """Raise StartupError, about ``what`` asked for them, unless all are installed."""
    if any(find_spec(part) is None for part in PARTS):
        raise StartupError(f"{what}: the demo voice needs its parts: pip install edge[demo-voice]")
