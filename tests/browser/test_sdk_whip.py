"""``@eyevinn/whip-web-client``, unmodified, publishes Opus: tag, links, trickle, DELETE."""

from __future__ import annotations

from tests.browser.client_runs import Scene, measure, note, open_scene
from tests.support.clients import version_of
from tests.support.edges import metric

PACKAGE = "@eyevinn/whip-web-client"
LINK = '<stun:stun.example.org:3478>; rel="ice-server"'


TRICKLED = """performance.getEntriesByType("resource").some(
    ({name, responseStatus}) => name.includes("/whip/rtc_") && responseStatus === 204)"""


async def publishes(scene: Scene) -> None:
    """Check one call: candidates were taken, links read, and what it says is heard."""
    await scene.page.wait_until(TRICKLED)
    assert await scene.page.evaluate("client.trickles()", bool)
    assert await scene.page.evaluate("client.links()", list[str]) == [LINK]
    await scene.say()


async def test_a_whip_client_publishes() -> None:
    env = {"EDGE_HTTP_ICE_SERVERS": "stun:stun.example.org:3478"}
    async with open_scene("whip", env=env) as scene:
        row = await measure(scene, "/whip", publishes)
        assert not scene.page.console  # it logs what it could not trickle
        note(row, client=PACKAGE, version=version_of(PACKAGE), media="publishes Opus")
        assert await metric(scene.server.http, r'edge_sessions_ended_total\{reason="hangup"\}') == 3
