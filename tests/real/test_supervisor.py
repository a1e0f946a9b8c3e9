"""A relay's worker dies, stands still, never serves, is told to stop; and its supervisor, too."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from edge.client import open_load
from tests.support.edges import FLEET_ENV, fleet, metric
from tests.support.processes import Child, child, children, edge
from tests.support.redis_server import running_redis

HOLE_SECONDS = 0.5
"""Seen are 0.03 to 0.05; this machine has other things to do as well."""
RESTARTS = "edge_relay_worker_restarts_total"


async def wait_gone(pid: int) -> None:
    with trio.fail_after(3.0), suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            await trio.sleep(0.01)


@pytest.mark.timeout(60)
async def test_a_worker_dies_in_the_middle_of_calls() -> None:
    """Twice, the second time with all that the first replacement did not know."""
    with running_redis() as redis:
        async with fleet(redis.url) as group, open_load() as load:
            (pid,) = children(group.relay.pid)
            calls = [await load.open_call(each.http) for each in group.transceivers]
            with trio.fail_after(10.0):
                for call in calls:
                    await call.wait_received(50)
            await trio.sleep(0.5)  # records are written behind the packets' back
            for number in range(2):
                marks = [call.sent for call in calls]
                os.kill(pid, signal.SIGKILL)
                await wait_gone(pid)
                await trio.sleep(HOLE_SECONDS + 0.5)
                for call, mark in zip(calls, marks, strict=True):
                    assert call.statistics(since=mark).longest_hole < HOLE_SECONDS
                assert await metric(group.relay.http, RESTARTS) == number + 1
                (pid,) = children(group.relay.pid)
            for call in calls:
                assert not call.closed
                call.close()
            assert "worker died" in group.relay.child.stderr.text


@asynccontextmanager
async def lone_relay(*flags: str) -> AsyncGenerator[tuple[Child, int]]:
    """A relay, and the pid of its worker."""
    with running_redis() as redis:
        common = ("--registry", redis.url, "--http", "127.0.0.1:0", "--udp", "127.0.0.1:0")
        async with edge("relay", *common, *flags, env=FLEET_ENV) as relay:
            (worker,) = children(relay.pid)
            yield relay.child, worker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
async def test_a_signal_ends_both(number: signal.Signals) -> None:
    async with lone_relay() as (supervisor, worker):
        supervisor.signal(number)
        assert await supervisor.wait(seconds=2.0) == 0
        await wait_gone(worker)
        assert supervisor.stderr.text.count('"stopping"') == 1
        assert "worker died" not in supervisor.stderr.text


async def test_a_worker_that_is_told_to_stop_is_not_replaced() -> None:
    async with lone_relay() as (supervisor, worker):
        os.kill(worker, signal.SIGTERM)
        assert await supervisor.wait(seconds=2.0) == 0


async def test_a_worker_does_not_outlive_its_supervisor() -> None:
    async with lone_relay() as (supervisor, worker):
        await supervisor.kill()
        await wait_gone(worker)


async def test_a_worker_that_can_not_start_is_not_tried_again() -> None:
    """Redis does not answer: one line, exit code 1, as without a supervisor."""
    flags = ("--registry", "redis://127.0.0.1:1/0", "--http", "127.0.0.1:0")
    command = [sys.executable, "-m", "edge", "relay", *flags, "--udp", "127.0.0.1:0"]
    async with child(command, env=FLEET_ENV) as relay:
        assert await relay.wait(seconds=5.0) == 1
        text = await relay.stderr.wait_for(lambda text: "registry.url: " in text)
        assert "worker died" not in text


async def test_an_address_in_use_is_one_line() -> None:
    async with lone_relay() as (supervisor, _):
        taken = next(
            line.split('"http":"http://')[1].split('"')[0]
            for line in supervisor.stderr.text.splitlines()
            if '"started"' in line
        )
        flags = ("--registry", "redis://127.0.0.1:1/0", "--http", taken)
        command = [sys.executable, "-m", "edge", "relay", *flags, "--udp", "127.0.0.1:0"]
        async with child(command, env=FLEET_ENV) as relay:
            assert await relay.wait(seconds=5.0) == 1
            assert relay.stderr.text == f"edge: http.bind {taken}: Address already in use\n"


SCRIPT = """
import os, signal, sys, time
from edge import supervisor
supervisor.PAUSES = (0.0, 0.01, {pause})
supervisor.LOOK_SECONDS = 0.02
worker = supervisor.supervise(lambda: None)
{body}
"""


async def run_script(body: str, *, pause: float = 0.02, code: int) -> str:
    command = [sys.executable, "-c", SCRIPT.format(body=body, pause=pause)]
    async with child(command) as running:
        assert await running.wait(seconds=5.0) == code
        return await running.stdout.wait_for(lambda _: False)


@pytest.mark.parametrize(
    ("death", "code"),
    [("os.kill(os.getpid(), signal.SIGSEGV)", 139), ("worker.serve(); os._exit(7)", 7)],
)
async def test_a_crash_loop_is_given_up_with_the_workers_exit_code(death: str, code: int) -> None:
    out = await run_script(death, code=code)
    assert out.count("worker died") == 3
    assert out.count("worker given up") == 1


async def test_a_worker_that_stands_still_is_killed() -> None:
    body = "time.sleep(0.0 if worker.restarts else 60.0)"
    out = await run_script(body, code=0)
    assert out.count("worker stands still") == 1
    assert out.count("worker died") == 1


async def test_a_worker_that_beats_is_left_alone() -> None:
    body = "for _ in range(40):\n    worker.pulse.beat()\n    time.sleep(0.02)"
    assert "worker" not in await run_script(body, code=0)


async def test_a_supervisor_that_waits_can_be_stopped() -> None:
    body = "os.kill(os.getpid(), signal.SIGKILL)"
    command = [sys.executable, "-c", SCRIPT.format(body=body, pause=60.0)]
    async with child(command) as running:
        with trio.fail_after(5.0):
            await running.stdout.wait_for(lambda text: text.count("worker died") == 3)
        running.signal(signal.SIGTERM)
        assert await running.wait(seconds=2.0) == 0
