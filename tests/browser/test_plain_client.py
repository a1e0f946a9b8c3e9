"""A page without any package, in both browsers: audio, a channel, and an ICE restart."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.browser.client_runs import Scene, measure, note, open_scene
from tests.support.netns import namespace

VERSION = r"navigator.userAgent.match(/(?:Chrome|Firefox)\/(\d+)/)[1]"


@asynccontextmanager
async def open_browser(name: str) -> AsyncGenerator[Scene]:
    if name == "Chromium":
        async with open_scene("plain") as scene:
            yield scene
        return
    async with namespace() as inside, open_scene("plain", inside=inside) as scene:
        yield scene


async def talks(scene: Scene) -> None:
    """Check one call: audio and events go both ways, before and after an ICE restart."""
    await scene.hear()
    await scene.do("update")
    await scene.do("restart")
    await scene.hear(25)
    await scene.do("update")
    types = await scene.page.evaluate("client.types()", list[str])
    assert types == ["session.created", "session.updated", "session.updated"]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("browser", ["Chromium", "Firefox"])
async def test_a_browser_talks_over_audio_and_a_channel(browser: str) -> None:
    async with open_browser(browser) as scene:
        row = await measure(scene, "/v1/realtime/calls", talks)
        version = await scene.page.evaluate(VERSION, str)
        shown = {"media": "Opus", "channel": "both ways", "restart": "by PATCH"}
        note(row, client=browser, version=version, **shown)
