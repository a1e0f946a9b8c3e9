"""An answer names several relays, and a browser moves to another by itself when its own dies."""

from contextlib import AsyncExitStack

import trio

from tests.browser.talk import (
    STATE,
    hang_up,
    hear,
    open_page,
    selected_remote_ports,
    start_talking,
)
from tests.support.chromium import chromium
from tests.support.devtools import Page
from tests.support.edges import FLEET_ENV, metric, wait_ready, wait_sessions
from tests.support.processes import edge
from tests.support.redis_server import running_redis

LONGEST_HOLE = 6.0
"""Seconds; measured are 4.4. Chromium looks for another pair after 2.5 s of silence."""


async def follow(page: Page, *, seconds: float) -> tuple[set[str], float]:
    """Watch a call for a while; returns its states and the longest time without a packet."""
    states: set[str] = set()
    packets, changed, longest = 0, trio.current_time(), 0.0
    with trio.move_on_after(seconds):
        while True:
            states.add(await page.evaluate(STATE, str))
            heard = (await hear(page, seconds=1.0)).packets_received
            now = trio.current_time()
            if heard != packets:
                packets, changed = heard, now
            longest = max(longest, now - changed)
            await trio.sleep(0.05)
    assert now - changed < 0.5, "nothing is heard any more"
    return states, longest


async def test_a_call_outlives_its_relay_without_a_word_of_signaling() -> None:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis())
        common = ("--registry", redis.url, "--http", "127.0.0.1:0")
        relays = [
            await stack.enter_async_context(
                edge("relay", *common, "--udp", "127.0.0.1:0", env=FLEET_ENV)
            )
            for _ in range(2)
        ]
        server = await stack.enter_async_context(edge("transceiver", *common, env=FLEET_ENV))
        await wait_ready(server.http)
        with trio.fail_after(5.0):
            while await metric(server.http, "edge_directory_relays") != 2:
                await trio.sleep(0.05)
        browser = await stack.enter_async_context(chromium())
        page = await browser.new_page()
        await open_page(page, server.http)
        await start_talking(page)
        await hear(page, seconds=4.0)
        await trio.sleep(1.0)  # for the pairs to be sorted
        [used] = await selected_remote_ports(page)
        [lost] = [relay for relay in relays if relay.udp_port == used]
        [left] = [relay for relay in relays if relay.udp_port != used]

        await lost.child.kill()
        killed_at = trio.current_time()
        states, hole = await follow(page, seconds=LONGEST_HOLE + 2.0)
        print(f"longest silence {hole:.1f} s, {trio.current_time() - killed_at:.1f} s, {states}")
        assert 0.5 < hole < LONGEST_HOLE
        assert states <= {"connected", "disconnected"}
        assert await page.evaluate(STATE, str) == "connected"
        assert left.udp_port in await selected_remote_ports(page)
        assert await page.evaluate("window.connections.length", int) == 1
        await hang_up(page)
        await wait_sessions(server.http, 0)
        assert not page.exceptions
