"""Data channels of unmodified browsers: greeted, used both ways, closed, with SNAP and SPED."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
import trio

from edge.backends.server import BackendSession, serve_backend
from edge.client.http import request
from edge.errors import EndReason
from tests.browser.variants import wait_ended
from tests.support.chromium import chromium
from tests.support.devtools import Page
from tests.support.edges import metric, wait_sessions
from tests.support.firefox import firefox
from tests.support.lossy import HOST
from tests.support.netns import namespace
from tests.support.processes import Edge, edge

SCRIPT: Final = Path(__file__).with_name("channels.js").read_text()
SNAP: Final = "--force-fieldtrials=WebRTC-Sctp-Snap/Enabled/"
SNAP_AND_SPED: Final = (
    "--force-fieldtrials=WebRTC-IceHandshakeDtls/Enabled/WebRTC-Sctp-Snap/Enabled/"
)
LOOPBACK: Final = ("--http", f"{HOST}:0", "--udp", f"{HOST}:0")
OPEN: Final = {"EDGE_HTTP_ALLOW_ANONYMOUS": "true"}
COUNT, LONG, LONG_BYTES = 100, 57, 60_000


class Look(msgspec.Struct, rename="camel"):
    """What a page knows of its call; the times are milliseconds of the wall clock."""

    id: str
    states: list[str]
    opened_at: float | None
    connection: str
    messages: list[str]
    notes: list[tuple[int, int]]
    offered: bool
    answered: bool


async def place(page: Page, label: str = "oai-events") -> int:
    with trio.fail_after(8.0):
        return await page.evaluate(f"window.channels.place({label!r})", int)


async def look(page: Page, call: int) -> Look:
    return await page.evaluate(f"window.channels.look({call})", Look)


async def look_until(
    page: Page, call: int, found: Callable[[Look], bool], *, seconds: float = 8.0
) -> Look:
    """Look until it is so; AssertionError with what is seen after ``seconds``."""
    seen = await look(page, call)
    with trio.move_on_after(seconds):
        while not found(seen):
            await trio.sleep(0.02)
            seen = await look(page, call)
    assert found(seen), seen
    return seen


async def act(page: Page, script: str) -> None:
    await page.evaluate(f"window.channels.{script}", object)


async def repeat(session: BackendSession) -> None:
    """A backend that says every event back."""
    async for heard in session:
        if not isinstance(heard, bytes) and heard["type"] == "note":
            await session.send_event(heard)


@asynccontextmanager
async def served(*flags: str, env: dict[str, str] | None = None) -> AsyncIterator[Edge]:
    """An edge before a backend that repeats events."""
    async with serve_backend(f"{HOST}:0", repeat) as address:
        backend = {"EDGE_BACKEND_KIND": "frames", "EDGE_BACKEND_ADDRESS": address}
        async with edge("serve", *flags, env={**backend, **(env or {})}) as server:
            yield server


async def check_channel(page: Page, http: str) -> Look:
    """Open, greet, a hundred events each way in order, close; gives what was seen at first."""
    await page.before_load(SCRIPT)
    await page.goto(f"{http}/")
    call = await place(page)
    opened = await look_until(page, call, lambda seen: bool(seen.messages))
    assert (opened.states, opened.messages) == (["open"], ["session.created"])
    await act(page, f"say({call}, {COUNT}, {LONG}, {LONG_BYTES})")
    notes = [(number, LONG_BYTES if number == LONG else 0) for number in range(COUNT)]
    seen = await look_until(page, call, lambda seen: len(seen.notes) >= COUNT)
    assert seen.notes == notes
    assert await metric(http, r'edge_channel_messages_total\{direction="received"\}') == COUNT

    await act(page, f"send({call}, 'no event')")
    await look_until(page, call, lambda seen: seen.messages[-1] == "error")

    # A channel may close while its call goes on, and a second call may be ended by us.
    await act(page, f"closeChannel({call})")
    await look_until(page, call, lambda seen: seen.states == ["open", "closed"])
    assert await metric(http, "edge_channels") == 0
    other = await place(page)
    await look_until(page, other, lambda seen: seen.messages == ["session.created"])
    assert (await look(page, call)).connection == "connected"
    await act(page, f"hangUp({call})")
    await wait_ended(http, EndReason.PEER_CLOSED, 1)
    await hang_up(http, (await look(page, other)).id)
    ended = await look_until(page, other, lambda seen: "closed" in seen.states)
    assert ended.messages == ["session.created", "session.ended"]
    await wait_sessions(http, 0)
    assert not page.exceptions
    return opened


async def hang_up(http: str, call_id: str) -> None:
    response = await request("POST", f"{http}/v1/realtime/calls/{call_id}/hangup")
    assert response.status == 200


@pytest.mark.parametrize("flags", [(), (SNAP,), (SNAP_AND_SPED,)], ids=["plain", "SNAP", "SPED"])
async def test_a_channel_of_chromium(flags: tuple[str, ...]) -> None:
    async with served(*LOOPBACK) as server, chromium(*flags) as browser:
        opened = await check_channel(await browser.new_page(), server.http)
        assert (opened.offered, opened.answered) == (bool(flags), bool(flags))


@pytest.mark.timeout(120)
async def test_a_channel_of_firefox() -> None:
    async with namespace() as inside:
        flags = ("--http", f"{inside.here}:0", "--udp", f"{inside.here}:0")
        async with served(*flags, env=OPEN) as server, firefox(inside) as browser:
            opened = await check_channel(await browser.new_page(), server.http)
            assert not opened.offered


async def test_channels_of_another_label_are_echoed_by_the_echo() -> None:
    async with edge("serve", *LOOPBACK) as server, chromium() as browser:
        page = await browser.new_page()
        await page.before_load(SCRIPT)
        await page.goto(f"{server.http}/")
        call = await place(page, "chat")
        await look_until(page, call, lambda seen: seen.states == ["open"])
        await act(page, f"send({call}, 'ping: 17')")
        await look_until(page, call, lambda seen: seen.messages == ["ping: 17"])
