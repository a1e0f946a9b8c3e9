"""Chromium far from its transceiver: in at a relay of one cluster, on through one of another."""

import re

import trio

from edge.client.http import request
from tests.browser.talk import hang_up, hear, open_page, selected_remote_ports, start_talking
from tests.support.chromium import chromium
from tests.support.edges import metric, wait_sessions
from tests.support.global_fleet import Member, global_fleet
from tests.support.redis_server import running_redis

FAR_AWAY = {"EDGE_GEO_DEFAULT_REGION": "sydney"}
"""Where every client is taken to be."""
SECONDS = 3.0


async def packets(relay: Member) -> dict[str, int]:
    """Datagrams that a relay has forwarded, by direction."""
    text = (await request("GET", f"{relay.http}/metrics")).body.decode()
    pattern = r'^edge_relay_packets_total\{direction="(\w+)"\} ([0-9.e+]+)$'
    return {direction: int(float(count)) for direction, count in re.findall(pattern, text, re.M)}


async def test_a_person_hears_the_echo_through_two_relays() -> None:
    with running_redis() as redis:
        async with global_fleet(redis.url, size=1, env=FAR_AWAY) as fleet, chromium() as browser:
            paris, sydney = fleet.regions
            (inner,), (outer,) = paris.relays, sydney.relays
            page = await browser.new_page()
            await open_page(page, paris.transceivers[0].http)
            await start_talking(page)
            heard = await hear(page, seconds=3.0)
            assert heard.total_audio_energy > 0
            with trio.fail_after(5.0):  # the worse candidate may be the first that works
                while await selected_remote_ports(page) != {outer.udp[1]}:
                    await trio.sleep(0.1)

            before = [await packets(relay) for relay in (outer, inner)]
            heard = await hear(page, seconds=1.0)
            await trio.sleep(SECONDS)
            later = await hear(page, seconds=1.0)
            after = [await packets(relay) for relay in (outer, inner)]
            assert later.packets_received - heard.packets_received >= SECONDS * 40  # of 50
            assert later.total_audio_energy > heard.total_audio_energy
            assert later.packets_lost <= 2
            for relay_before, relay_after in zip(before, after, strict=True):
                for direction in ("to_transceiver", "to_client"):
                    assert relay_after[direction] - relay_before[direction] >= SECONDS * 40

            await wait_sessions(paris.transceivers[0].http, 1)
            assert await metric(sydney.transceivers[0].http, "edge_sessions") == 0
            await hang_up(page)
            await wait_sessions(paris.transceivers[0].http, 0)
            assert not page.exceptions
