"""What Redis holds of the calls."""

from __future__ import annotations

from typing import Final

import trio

from edge.transceiver.mark import MARK
from tests.support.redis_server import RedisServer

LOOK_SECONDS: Final = 0.05
_SESSIONS: Final = "edge:0:session:"


async def wait_written(server: RedisServer, calls: int) -> None:
    """Wait until so many sessions have a checkpoint; the caller sets a deadline."""
    while await trio.to_thread.run_sync(_count_checkpoints, server) < calls:
        await trio.sleep(LOOK_SECONDS)


async def wait_settled(server: RedisServer) -> None:
    """Wait until the transceivers rely on what is there; the caller sets a deadline."""
    while await trio.to_thread.run_sync(_mark_epoch, server) < 2:
        await trio.sleep(LOOK_SECONDS)


def _count_checkpoints(server: RedisServer) -> int:
    with server.client() as client:
        names = client.scan_iter(f"{_SESSIONS}*", count=1_000)
        return sum(bool(client.hexists(name, "checkpoint")) for name in names)


def _mark_epoch(server: RedisServer) -> int:
    with server.client() as client:
        epoch = client.hget(f"{_SESSIONS}{MARK}", "epoch")
    return int(epoch) if isinstance(epoch, bytes) else 0
