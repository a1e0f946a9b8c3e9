"""WHIP against edge processes: an ICE restart by PATCH, also by way of another transceiver."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx
import pytest
import trio

from edge.client.caller import Caller
from edge.http.whip import FRAGMENT
from edge.webrtc.certificate import DtlsCertificate
from edge.wire.sdp_fragment import decode_fragment
from tests.support.edges import wait_ready
from tests.support.processes import FLEET_SECRET, edge
from tests.support.redis_server import running_redis

ENVIRONMENT = {"EDGE_HTTP_BIND": "127.0.0.1:0", "EDGE_RELAY_BIND": "127.0.0.1:0"}
RESTART = "a=ice-ufrag:{}\r\na=ice-pwd:0123456789012345678901\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n"
CANDIDATE = "a=candidate:1 1 udp 1 192.0.2.1 5000 typ host\r\n"


async def restart(client: httpx.AsyncClient, at: str, by_way_of: str) -> None:
    """Open a call at one server; restart its ICE and end it at another."""
    offer = Caller(DtlsCertificate.generate(), now=0.0).offer.encode()
    headers = {"Content-Type": "application/sdp"}
    created = await client.post(f"{at}/whip", content=offer, headers=headers)
    assert created.status_code == 201
    session, first = f"{by_way_of}{created.headers['location']}", created.headers["etag"]

    async def patch(body: str, if_match: str) -> httpx.Response:
        return await client.patch(
            session, content=body, headers={"Content-Type": FRAGMENT, "If-Match": if_match}
        )

    assert (await patch(CANDIDATE, first)).status_code == 204
    answers = [await patch(RESTART.format(f"client{number}"), "*") for number in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    ours = [decode_fragment(answer.content) for answer in answers]
    assert len({each.ufrag for each in ours}) == 2
    assert all(each.ufrag not in created.text for each in ours)
    assert all(each.candidates >= 1 for each in ours)
    last = answers[-1].headers["etag"]
    assert last != first
    assert (await patch(CANDIDATE, first)).status_code == 412
    assert (await patch(CANDIDATE, last)).status_code == 204
    assert (await client.delete(session)).status_code == 200
    assert (await client.delete(session)).status_code == 404


@pytest.mark.parametrize("servers", [1, 2])
async def test_a_restart_by_patch(servers: int) -> None:
    with running_redis() as redis:
        fleet = {"EDGE_REGISTRY_URL": redis.url, "EDGE_REGISTRY_SECRET": FLEET_SECRET}
        async with AsyncExitStack() as stack:
            edges = [
                await stack.enter_async_context(edge("serve", env={**ENVIRONMENT, **fleet}))
                for _ in range(servers)
            ]
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=5.0))
            with trio.fail_after(20.0):
                for each in edges:
                    await wait_ready(each.http)
                    await each.child.stderr.wait_for(
                        lambda text: text.count('"transceiver"') >= servers
                    )
                await restart(client, edges[0].http, edges[-1].http)
