"""A call on a virtual edge whose sessions move, and what tests ask of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from edge.backends.protocol import Backend
from edge.config import TransceiverConfig
from edge.registry.sessions import Claim
from edge.transceiver.custody import Custody
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import open_network

HEARD: Final = 60
"""Packets, after which a checkpoint is stored."""


@asynccontextmanager
async def mobile_call(
    transceivers: int = 2,
    *,
    backend: Backend | None = None,
    config: TransceiverConfig | None = None,
) -> AsyncIterator[tuple[VirtualEdge, Phone]]:
    """Run an edge of so many transceivers with one call, which has been heard for a while."""
    async with (
        open_network() as network,
        open_edge(
            network, transceivers=transceivers, mobile=True, backend=backend, config=config
        ) as edge,
        edge.call() as phone,
    ):
        await phone.heard(HEARD)
        yield edge, phone


async def until(true: Callable[[], object], *, within: float = 5.0) -> None:
    """Wait until something is so, or fail."""
    with trio.fail_after(within):
        while not true():
            await trio.sleep(0.01)


async def taken_over(edge: VirtualEdge, *, within: float = 5.0) -> None:
    """Have the second transceiver take the call over, and speak."""
    edge.cut_off(0)
    await until(lambda: edge.transceivers[1].sessions, within=within)


def custody(edge: VirtualEdge, transceiver: int) -> Custody:
    """What a transceiver holds."""
    mobility = edge.transceivers[transceiver].mobility
    assert mobility is not None
    return mobility.custody


def name(phone: Phone) -> str:
    """The session of a call."""
    assert phone.call is not None
    return phone.call.call_id


async def owner(edge: VirtualEdge, phone: Phone) -> Claim | None:
    """Who has the session, as the registry says."""
    return await edge.registry.sessions.owner_of(name(phone))
