"""A browser's call goes from transceiver to transceiver, and the page is told nothing."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from tests.browser.talk import STATE, hear, open_page, start_talking
from tests.support.chromium import chromium
from tests.support.devtools import Page
from tests.support.edges import FLEET_ENV, sessions, wait_ready
from tests.support.firefox import firefox
from tests.support.netns import namespace
from tests.support.processes import Edge, edge
from tests.support.redis_server import running_redis

OPEN = {**FLEET_ENV, "EDGE_HTTP_ALLOW_ANONYMOUS": "true"}
PLANNED_SILENCE = 0.3
"""Seconds between two looks at the packets that find no new one; each look takes some time."""
UNPLANNED_SILENCE = 2.0

NOTE_STATES = """
window.states = [];
window.addEventListener("load", () => setInterval(() => {
    for (const connection of window.connections) {
        if (!connection.noted) {
            connection.noted = true;
            connection.addEventListener("connectionstatechange",
                () => window.states.push(connection.connectionState));
            connection.addEventListener("iceconnectionstatechange",
                () => window.states.push("ice " + connection.iceConnectionState));
        }
    }
}, 5));
"""
"""Every state that a connection comes to is kept in ``window.states``."""


@dataclass
class Pods:
    """Transceivers that come and go."""

    nursery: trio.Nursery
    flags: tuple[str, ...]
    living: list[Edge]

    async def add(self) -> Edge:
        """Start one more, and wait until it is ready."""
        started: Edge = await self.nursery.start(self._serve)
        await wait_ready(started.http)
        self.living.append(started)
        return started

    async def owner(self, *, seconds: float = 5.0) -> Edge:
        """Find who has the one call."""
        with trio.fail_after(seconds):
            while True:
                for each in self.living:
                    if await sessions(each.http) == 1:
                        return each
                await trio.sleep(0.05)

    async def retire(self, pod: Edge) -> None:
        """Ask one to leave, as Kubernetes does, and wait until it has."""
        self.living.remove(pod)
        assert await pod.child.stop() == 0

    async def kill(self, pod: Edge) -> None:
        """End one with SIGKILL."""
        self.living.remove(pod)
        await pod.child.kill()

    async def _serve(self, *, task_status: trio.TaskStatus[Edge]) -> None:
        async with edge("transceiver", *self.flags, env=OPEN) as started:
            task_status.started(started)
            await started.child.process.wait()


@asynccontextmanager
async def pods(host: str) -> AsyncGenerator[Pods]:
    """Run a relay, Redis and two transceivers."""
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis())
        common = ("--registry", redis.url, "--http", f"{host}:0")
        relay = edge("relay", *common, "--udp", f"{host}:0", env=OPEN)
        await stack.enter_async_context(relay)
        nursery = await stack.enter_async_context(trio.open_nursery())
        group = Pods(nursery, common, [])
        await group.add()
        await group.add()
        yield group
        for pod in tuple(group.living):
            await group.retire(pod)


async def longest_silence(page: Page, *, seconds: float) -> float:
    """Watch a call: the longest time without a new packet, with nothing but ``connected``."""
    packets, changed, longest = 0, trio.current_time(), 0.0
    with trio.move_on_after(seconds):
        while True:
            heard = (await hear(page, seconds=1.0)).packets_received
            now = trio.current_time()
            if heard != packets:
                packets, changed = heard, now
            longest = max(longest, now - changed)
            await trio.sleep(0.01)
    return longest


async def outlives_everything(page: Page, group: Pods) -> None:
    """Talk through a rolling update of all transceivers, and a kill."""
    await page.before_load(NOTE_STATES)
    await open_page(page, group.living[0].http)
    await start_talking(page)
    await hear(page, seconds=4.0)
    await trio.sleep(1.0)  # until a checkpoint is stored
    settled = await page.evaluate("window.states.length", int)

    silences = []
    for pod in tuple(group.living):
        await group.add()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.retire, pod)
            silences.append(await longest_silence(page, seconds=2.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.kill, await group.owner())
        killed = await longest_silence(page, seconds=4.0)
    await group.owner()
    print(f"longest silence: planned {max(silences):.3f} s, killed {killed:.3f} s")
    assert max(silences) <= PLANNED_SILENCE
    assert killed <= UNPLANNED_SILENCE
    assert await page.evaluate(f"window.states.slice({settled})", list[str]) == []
    assert await page.evaluate(STATE, str) == "connected"
    assert await page.evaluate("window.connections.length", int) == 1
    before = (await hear(page, seconds=1.0)).packets_received
    await trio.sleep(1.0)
    assert (await hear(page, seconds=1.0)).packets_received - before >= 40


@pytest.mark.timeout(120)
async def test_chromium_outlives_every_transceiver() -> None:
    async with pods("127.0.0.1") as group, chromium() as browser:
        await outlives_everything(await browser.new_page(), group)


@pytest.mark.timeout(120)
async def test_firefox_outlives_every_transceiver() -> None:
    async with namespace() as inside, pods(inside.here) as group, firefox(inside) as browser:
        await outlives_everything(await browser.new_page(), group)
