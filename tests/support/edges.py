"""Small questions to a running edge that several tests ask."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from edge.client.http import request
from edge.errors import EndReason
from tests.support.ports import free_port
from tests.support.processes import FLEET_SECRET, Edge, edge

FLEET_ENV: Final = {"EDGE_REGISTRY_SECRET": FLEET_SECRET}
_SESSIONS: Final = r"edge_sessions(?:\{[^}]*\})?"
SERVE: Final = ("serve", "--http", "127.0.0.1:0", "--udp", "127.0.0.1:0")


def free_udp_port() -> int:
    """A port that is free now, for a process that is to be restarted on it."""
    return free_port(socket.SOCK_DGRAM)


async def wait_ready(http: str, *, seconds: float = 10.0) -> None:
    """Wait until /readyz answers 200."""
    with trio.fail_after(seconds):
        while (await request("GET", f"{http}/readyz")).status != 200:
            await trio.sleep(0.05)


async def sessions(http: str) -> int:
    """How many sessions a transceiver says it has."""
    return await metric(http, _SESSIONS)


async def ended(http: str, reason: EndReason) -> int:
    """How many sessions of a transceiver have ended for this reason."""
    return await metric(http, rf'edge_sessions_ended_total\{{reason="{reason}"\}}')


async def metric(http: str, pattern: str) -> int:
    """Read one metric; ``pattern`` is a regular expression for its name and labels."""
    text = (await request("GET", f"{http}/metrics")).body.decode()
    match = re.search(rf"^{pattern} ([0-9.e+]+)$", text, re.M)
    assert match is not None, f"no metric {pattern}"
    return int(float(match[1]))


async def wait_metric(http: str, pattern: str, value: int, *, seconds: float = 5.0) -> None:
    """Wait until a metric is exactly this."""
    found = -1
    with trio.move_on_after(seconds):
        while (found := await metric(http, pattern)) != value:
            await trio.sleep(0.05)
    assert found == value


async def wait_sessions(http: str, count: int, *, seconds: float = 5.0) -> None:
    """Wait until a transceiver has exactly so many sessions."""
    await wait_metric(http, _SESSIONS, count, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Fleet:
    """One relay and some transceivers, each a process."""

    relay: Edge
    relay_flags: tuple[str, ...]
    transceivers: tuple[Edge, ...]


@asynccontextmanager
async def fleet(registry_url: str, *, transceivers: int = 2) -> AsyncGenerator[Fleet]:
    """Run a fleet; its relay has a fixed public port, so that it can be started again on it."""
    common = ("--registry", registry_url, "--http", "127.0.0.1:0")
    public, internal = free_udp_port(), free_udp_port()
    relay_flags = (
        "relay",
        *common,
        *("--udp", f"127.0.0.1:{public}", "--internal", f"127.0.0.1:{internal}"),
    )
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(edge(*relay_flags, env=FLEET_ENV))
        started = [
            await stack.enter_async_context(edge("transceiver", *common, env=FLEET_ENV))
            for _ in range(transceivers)
        ]
        for each in started:
            await wait_ready(each.http)
        yield Fleet(relay, relay_flags, tuple(started))
