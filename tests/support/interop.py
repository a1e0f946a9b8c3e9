"""What the interop tests measured, written down for docs/interop.md when it is asked for.

``scripts/interop`` sets ``INTEROP_ROWS`` to a file; every row is one line of JSON in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

ROWS: Final = "INTEROP_ROWS"


class Row(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One call: who made it, what was special about it and how it went."""

    client: str
    version: str
    what: str
    result: str
    srtp: str = ""
    role: str = ""
    setup_ms: float | None = None


class ClientRow(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One client: what it was shown to do; what it has nothing of is empty."""

    client: str
    version: str
    media: str = ""
    channel: str = ""
    restart: str = ""
    setup_ms: float | None = None
    trips_to_media: float | None = None
    trips_to_channel: float | None = None


class TripsRow(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Round trips of some calls of one client, medians and the most; by what it offered."""

    client: str
    version: str
    offer: str
    to_media: float
    most_to_media: float
    to_channel: float
    most_to_channel: float


def record(row: Row | ClientRow | TripsRow) -> None:
    """Append the row, if anybody collects rows."""
    name = os.environ.get(ROWS)
    if name:
        with Path(name).open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


def opposite(role: str) -> str:
    """Our DTLS role (``client`` or ``server``) when the other side has this one."""
    return {"client": "server", "server": "client"}.get(role, "")
