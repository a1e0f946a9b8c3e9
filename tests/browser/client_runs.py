"""Calls of published clients in a browser: where they run, and what is measured of each.

Each client calls three times: the first call of a process is slow, the second one gives the setup
time, and of the third, whose datagrams are held back, the round trips are counted.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from edge.address import format_address
from edge.client.http import request
from tests.support.chromium import chromium
from tests.support.clients import WATCH, serve_page
from tests.support.devtools import Page
from tests.support.edges import free_udp_port, wait_ready, wait_sessions
from tests.support.firefox import firefox
from tests.support.interop import ClientRow, record
from tests.support.lossy import HOST, LossyProxy, open_lossy_proxy
from tests.support.netns import Namespace
from tests.support.processes import Edge, edge
from tests.support.round_trips import RoundTrips

KEY: Final = "sk-of-the-customer"
CONNECT_SECONDS: Final = 10.0
HEAR_SECONDS: Final = 3.0


class Look(msgspec.Struct, frozen=True):
    """The page's last call; times in seconds since 1970."""

    state: str
    posted: float | None
    connected: float | None
    opened: float | None
    """When its channel has opened."""
    sent: int
    received: int
    energy: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A page with a client, and an edge behind a proxy."""

    page: Page
    server: Edge
    proxy: LossyProxy
    key: str = field(repr=False)
    """A client secret for the page."""

    async def call(self, path: str) -> Look:
        """Have the page's client call, and wait until it is connected."""
        with trio.fail_after(CONNECT_SECONDS):
            await self.do("connect", f"{self.server.http}{path}", self.key)
            while (look := await self.look()).connected is None:
                await trio.sleep(0.02)
        return look

    async def do(self, name: str, *arguments: object) -> None:
        """Call a function of the page's client, and wait until it is done."""
        given = ", ".join(msgspec.json.encode(each).decode() for each in arguments)
        await self.page.evaluate(
            f"(async () => {{ await client.{name}({given}); return 1; }})()", int
        )

    async def look(self) -> Look:
        """What became of the last call."""
        return await self.page.evaluate("lookAtCall()", Look)

    async def hear(self, packets: int = 5) -> Look:
        """Wait for so many more packets of audio in both directions, and for a sound in it."""
        before = await self.look()
        with trio.fail_after(HEAR_SECONDS):
            while True:
                look = await self.look()
                more = min(look.sent - before.sent, look.received - before.received)
                if more >= packets and look.energy:
                    return look
                await trio.sleep(0.02)

    async def say(self, packets: int = 5) -> None:
        """Wait until so many more packets of audio were sent."""
        goal = (await self.look()).sent + packets
        with trio.fail_after(HEAR_SECONDS):
            while (await self.look()).sent < goal:
                await trio.sleep(0.02)

    async def hang_up(self) -> None:
        """Let the client end its call, and the edge notice."""
        await self.do("close")
        await wait_sessions(self.server.http, 0)


Check = Callable[[Scene], Awaitable[None]]


async def measure(scene: Scene, path: str, check: Check) -> ClientRow:
    """Make three calls, checking each while it runs; gives times and round trips."""
    await scene.call(path)
    await check(scene)
    await scene.hang_up()
    look = await scene.call(path)
    assert look.connected is not None
    assert look.posted is not None
    await check(scene)
    await scene.hang_up()
    trips = RoundTrips(scene.proxy)
    held = await scene.call(path)
    await check(scene)
    await scene.hang_up()
    opened = None if held.opened is None else round(trips.until(held.opened), 1)
    return ClientRow(
        client="",
        version="",
        setup_ms=round((look.connected - look.posted) * 1000),
        trips_to_media=round(trips.to_media, 1),
        trips_to_channel=opened,
    )


def note(row: ClientRow, **more: str) -> None:
    """Write a row down; ``more`` says who and what it is."""
    print(row)
    record(msgspec.structs.replace(row, **more))


async def make_secret(server: Edge) -> str:
    """A client secret, as a customer's server asks for one for its page."""
    headers = (("Authorization", f"Bearer {KEY}"), ("Content-Type", "application/json"))
    url = f"{server.http}/v1/realtime/client_secrets"
    response = await request("POST", url, headers=headers, body=b'{"session":{"type":"realtime"}}')
    assert response.status == 200, response.body
    secret = re.search(rb'"value":"(ek_[^"]+)"', response.body)
    assert secret is not None
    return secret[1].decode()


@asynccontextmanager
async def open_scene(
    name: str, *flags: str, env: Mapping[str, str] | None = None, inside: Namespace | None = None
) -> AsyncGenerator[Scene]:
    """Run a client's page in Chromium, or in Firefox ``inside`` a namespace."""
    host = inside.here if inside else HOST
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(open_lossy_proxy(host))
        proxy.upstream = host, free_udp_port()
        origin = await stack.enter_async_context(serve_page(name, host=host))
        binds = ("--http", f"{host}:0", "--udp", format_address(proxy.upstream))
        serve = ("serve", *binds, "--advertise", format_address(proxy.address))
        environment = {"EDGE_HTTP_API_KEYS": KEY, "EDGE_HTTP_CORS_ORIGINS": origin, **(env or {})}
        server = await stack.enter_async_context(edge(*serve, *flags, env=environment))
        await wait_ready(server.http)
        page = await _open_page(stack, inside)
        await page.before_load(WATCH)
        await page.goto(f"{origin}/")
        try:
            yield Scene(page, server, proxy, await make_secret(server))
        except BaseException as error:
            error.add_note("\n".join(["the page says:", *page.console, *page.exceptions]))
            raise
        assert not page.exceptions


async def _open_page(stack: AsyncExitStack, inside: Namespace | None) -> Page:
    if inside is not None:
        return await (await stack.enter_async_context(firefox(inside))).new_page()
    return await (await stack.enter_async_context(chromium())).new_page()
