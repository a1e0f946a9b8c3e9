"""A transceiver that was stopped for longer than its lease is routable again when it goes on."""

import signal

import pytest
import trio

from edge.client import open_load
from tests.support.edges import FLEET_ENV, free_udp_port, wait_ready
from tests.support.processes import edge
from tests.support.redis_server import running_redis

LEASE_SECONDS = 1.0
STOPPED_SECONDS = 3.0
BACK_SECONDS = 0.5 + 0.25 + 1.0
"""A heartbeat, a relay's refresh, and the time for which a relay looks nobody up again."""
SLACK = 0.5


@pytest.mark.timeout(60)
async def test_a_transceiver_that_was_stopped_keeps_its_slot_and_its_calls() -> None:
    env = {**FLEET_ENV, "EDGE_REGISTRY_LEASE_SECONDS": str(LEASE_SECONDS)}
    with running_redis() as redis, redis.client() as client:
        common = ("--registry", redis.url, "--http", "127.0.0.1:0")
        udp = f"127.0.0.1:{free_udp_port()}"
        async with (
            edge("relay", *common, "--udp", udp, "--internal", "127.0.0.1:0", env=env),
            edge("transceiver", *common, env=env) as transceiver,
            open_load() as load,
        ):
            await wait_ready(transceiver.http)
            call = await load.open_call(transceiver.http)
            with trio.fail_after(5.0):
                await call.wait_received(25)
            transceiver.child.signal(signal.SIGSTOP)
            try:
                await trio.sleep(STOPPED_SECONDS)
                assert not list(client.scan_iter("edge:0:transceiver:*"))
            finally:
                transceiver.child.signal(signal.SIGCONT)
            heard = call.received
            with trio.fail_after(BACK_SECONDS + SLACK):
                await call.wait_received(heard + 10)
            with trio.fail_after(SLACK):
                second = await load.open_call(transceiver.http)
                await second.wait_received(5)
            assert not call.closed
