"""Pipecat's small-webrtc client, unmodified, in Chromium, and a bot of its protocol (RTVI)."""

from __future__ import annotations

from edge.backends.server import BackendSession, Event, serve_backend
from tests.browser.client_runs import Scene, measure, note, open_scene
from tests.support.clients import version_of

PACKAGE = "@pipecat-ai/small-webrtc-transport"
STATE = "client.state()"


def rtvi(kind: str, data: object) -> Event:
    return {"label": "rtvi-ai", "id": "1", "type": kind, "data": data}


async def bot(session: BackendSession) -> None:
    """Say that the bot is ready, repeat what is heard, and answer every message."""
    async for heard in session:
        if isinstance(heard, bytes):
            await session.say(heard)
        elif heard.get("type") == "client-ready":
            await session.send_event(rtvi("bot-ready", {"version": "2.1.0"}))
        elif heard.get("type") == "client-message":
            await session.send_event(rtvi("server-message", heard["data"]))


async def talks(scene: Scene) -> None:
    """Check one call: the bot is ready, messages and audio go both ways."""
    assert await scene.page.evaluate(STATE, str) == "ready"
    await scene.do("send", "how are you?")
    await scene.page.wait_until("client.messages().length > 0", seconds=3.0)
    assert await scene.page.evaluate("client.messages()[0].d", str) == "how are you?"
    await scene.hear()


async def test_a_pipecat_client_talks_to_its_bot() -> None:
    async with serve_backend("127.0.0.1:0", bot) as address:
        flags = ("--backend", "frames", "--backend-address", address)
        async with open_scene("pipecat", *flags) as scene:
            row = await measure(scene, "/api/offer", talks)
            shown = {"media": "Opus", "channel": "both ways"}
            note(row, client=PACKAGE, version=version_of(PACKAGE), **shown)
