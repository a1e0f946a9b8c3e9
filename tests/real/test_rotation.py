"""A call while the fleet changes its secret in the three rounds of docs/operations.md."""

from __future__ import annotations

import pytest
import trio

from edge.client import open_load
from tests.support.edges import wait_ready, wait_sessions
from tests.support.processes import edge
from tests.support.redis_server import running_redis

OLD, NEW = "the old secret of a whole fleet, 1", "the new secret of a whole fleet, 2"
FIRST = {"EDGE_REGISTRY_SECRET": OLD, "EDGE_REGISTRY_PREVIOUS_SECRET": NEW}
SECOND = {"EDGE_REGISTRY_SECRET": NEW, "EDGE_REGISTRY_PREVIOUS_SECRET": OLD}


@pytest.mark.parametrize(
    ("of_relay", "of_transceiver"),
    [(FIRST, SECOND), (SECOND, FIRST)],
    ids=["transceiver-ahead", "relay-ahead"],
)
async def test_a_call_between_two_rounds(
    of_relay: dict[str, str], of_transceiver: dict[str, str]
) -> None:
    with running_redis() as redis:
        common = ("--registry", redis.url, "--http", "127.0.0.1:0")
        async with (
            edge("relay", *common, "--udp", "127.0.0.1:0", env=of_relay),
            edge("transceiver", *common, env=of_transceiver) as server,
            open_load() as load,
        ):
            await wait_ready(server.http)
            with trio.fail_after(5.0):
                call = await load.open_call(server.http)
                await call.wait_received(25)
            call.close()
            await wait_sessions(server.http, 0)
