"""``@openai/agents-realtime``, unmodified, in Chromium: set up, events, interruption, hang-up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import trio

from tests.browser.client_runs import Scene, measure, note, open_scene
from tests.support.clients import version_of
from tests.support.edges import metric
from tests.support.realtime_rig import Event
from tests.support.realtime_server import Server

PACKAGE = "@openai/agents-realtime"
STATUS = "client.status()"
QUIET_SECONDS = 1.0


async def types(scene: Scene) -> list[str]:
    """The types of what the server has said."""
    return await scene.page.evaluate("client.types()", list[str])


async def wait_for(scene: Scene, kind: str) -> None:
    """Wait until the server has said something of a type."""
    await scene.page.wait_until(f"client.types().includes('{kind}')", seconds=5.0)


async def talks(scene: Scene) -> None:
    """Check one call: the session is as the agent has it, and audio goes both ways."""
    assert await scene.page.evaluate(STATUS, str) == "connected"
    session = "client.find('session.updated').session"
    assert await scene.page.evaluate(f"{session}.instructions", str) == "Be brief."
    assert (await types(scene))[:2] == ["session.created", "session.updated"]
    await scene.hear()


async def test_an_agent_is_set_up_talks_and_hangs_up() -> None:
    async with open_scene("agents") as scene:
        row = await measure(scene, "/v1/realtime/calls", talks)
        assert await scene.page.evaluate(STATUS, str) == "disconnected"
        assert await metric(scene.server.http, r'edge_sessions_ended_total\{reason="peer_closed"\}')
        assert not scene.page.console
        shown = {"media": "Opus", "channel": "both ways, interruption"}
        note(row, client=PACKAGE, version=version_of(PACKAGE), **shown)


class Heard:
    """What the realtime server has received."""

    def __init__(self) -> None:
        self.types: list[str] = []

    def __call__(self, name: str, event: Event) -> None:
        self.types.append(str(event["type"]))


@asynccontextmanager
async def realtime_server(heard: Heard) -> AsyncGenerator[str]:
    """Run a scripted realtime server; gives its URL."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        serve = Server(heard).serve
        nursery.start_soon(partial(trio.serve_listeners, serve, [listener]))
        yield f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/v1/realtime"
        nursery.cancel_scope.cancel()


async def test_an_agent_is_interrupted() -> None:
    """By ``interrupt()``: the server hears of it, and twenty seconds of answer fall silent."""
    heard = Heard()
    async with realtime_server(heard) as url:
        model = {"EDGE_BACKEND_URL": url, "EDGE_BACKEND_MODEL": "agent.browser"}
        env = {**model, "OPENAI_API_KEY": "sk-of-the-model"}
        async with open_scene("agents", "--backend", "realtime", env=env) as scene:
            await scene.call("/v1/realtime/calls")
            await scene.do("send", {"type": "response.create"})
            await wait_for(scene, "output_audio_buffer.started")
            await scene.hear()
            await scene.do("interrupt")
            await wait_for(scene, "output_audio_buffer.cleared")
            await wait_for(scene, "response.done")
            await trio.sleep(0.2)  # what the browser's jitter buffer holds
            before = await scene.look()
            await trio.sleep(QUIET_SECONDS)
            assert (await scene.look()).energy - before.energy < 0.001 * QUIET_SECONDS
            assert "response.cancel" in heard.types
            assert "error" not in await types(scene)
            await scene.hang_up()
