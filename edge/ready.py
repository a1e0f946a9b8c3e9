"""What a started process says about itself, and how it says that it could not start."""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["serve", "relay", "transceiver"]
"""``serve`` is a relay, a transceiver and signaling in one process."""


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The one line on stdout of a process that serves."""

    ready: bool = True
    role: Role
    http: str
    """URL of signaling, metrics and the demo page; empty where there is none."""
    udp: str
    """HOST:PORT of the UDP socket: the relay's public one, else the transceiver's."""
    pid: int


class StartupError(Exception):
    """The process can not start; the message is one line fit for a person."""
