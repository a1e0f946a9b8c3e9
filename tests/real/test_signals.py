"""SIGTERM and Ctrl-C at a process with calls running: out in time, exit 0, nothing left behind."""

import signal
import socket
from contextlib import closing, suppress

import h11
import pytest
import trio

from edge.client import CallRefused, open_load
from edge.registry.redis import open_redis_registry
from tests.support.edges import SERVE, fleet
from tests.support.processes import FLEET_SECRET, Edge, edge
from tests.support.redis_server import running_redis

DRAIN_SECONDS = 5.0
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)


def assert_ports_free(server: Edge) -> None:
    """Nothing listens on what the ready line named."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.bind(("127.0.0.1", server.udp_port))
    if server.ready.http:
        port = int(server.http.rpartition(":")[2])
        with closing(socket.socket()) as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0


@BOTH
async def test_an_idle_process_ends_at_once(number: signal.Signals) -> None:
    async with edge(*SERVE) as server:
        server.child.signal(number)
        assert await server.child.wait(seconds=2.0) == 0
        assert_ports_free(server)


@BOTH
async def test_running_calls_are_told_and_the_process_ends(number: signal.Signals) -> None:
    async with edge(*SERVE) as server, open_load() as load:
        calls = [await load.open_call(server.http) for _ in range(3)]
        with trio.fail_after(5.0):
            for call in calls:
                await call.wait_received(10)
        server.child.signal(number)
        assert await server.child.wait(seconds=DRAIN_SECONDS + 5.0) == 0
        assert all(call.closed for call in calls)  # by close_notify
        assert_ports_free(server)


@BOTH
async def test_a_second_signal_ends_the_drain(number: signal.Signals) -> None:
    async with edge(*SERVE) as server, open_load() as load:
        call = await load.open_call(server.http)
        with trio.fail_after(5.0):
            await call.wait_received(10)
        server.child.signal(number)
        await trio.sleep(0.2)
        server.child.signal(number)
        assert await server.child.wait(seconds=1.0) == 0
        assert_ports_free(server)


async def test_a_signal_in_the_middle_of_a_setup() -> None:
    async with edge(*SERVE) as server, open_load() as load, trio.open_nursery() as nursery:

        async def call_in_vain() -> None:
            with suppress(OSError, trio.TooSlowError, CallRefused, h11.RemoteProtocolError):
                await load.open_call(server.http)

        for _ in range(5):
            nursery.start_soon(call_in_vain)
        await trio.sleep(0.02)
        server.child.signal(signal.SIGTERM)
        assert await server.child.wait(seconds=DRAIN_SECONDS + 5.0) == 0
        assert_ports_free(server)
        nursery.cancel_scope.cancel()


@pytest.mark.timeout(90)
async def test_a_fleet_leaves_no_record() -> None:
    with running_redis() as redis:
        async with fleet(redis.url) as group, open_load() as load:
            calls = [await load.open_call(each.http) for each in group.transceivers]
            with trio.fail_after(5.0):
                for call in calls:
                    await call.wait_received(25)
            for each in (*group.transceivers, group.relay):
                each.child.signal(signal.SIGTERM)
                assert await each.child.wait(seconds=DRAIN_SECONDS + 5.0) == 0
                assert_ports_free(each)
        async with open_redis_registry(redis.url, secret=FLEET_SECRET) as registry:
            assert not await registry.transceivers()
            assert not await registry.relays()
        with redis.client() as client:
            assert list(client.scan_iter("edge:*:flow:*", count=1000)) == []
