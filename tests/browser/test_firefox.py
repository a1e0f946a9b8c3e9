"""The demo page in Firefox, across a real (virtual) link, and for longer than consent lasts."""

from pathlib import Path

import pytest
import trio

from tests.browser.talk import STATE, hang_up, hear, open_page, selected_remote_ports, start_talking
from tests.support.edges import wait_sessions
from tests.support.firefox import firefox
from tests.support.netns import namespace
from tests.support.processes import edge

# The far end of the link is no loopback address, so open access has to be asked for.
OPEN = {"EDGE_HTTP_ALLOW_ANONYMOUS": "true"}


@pytest.mark.timeout(180)
async def test_a_call_is_heard_and_still_there_after_sixty_seconds(tmp_path: Path) -> None:
    async with namespace() as inside:
        flags = ("serve", "--http", f"{inside.here}:0", "--udp", f"{inside.here}:0")
        async with edge(*flags, env=OPEN) as server, firefox(inside) as browser:
            page = await browser.new_page()
            await open_page(page, server.http)
            await start_talking(page)
            heard = await hear(page, seconds=2.0)
            assert heard.packets_received > 0
            assert heard.total_audio_energy > 0
            assert await selected_remote_ports(page) == {server.udp_port}

            await trio.sleep(60.0)
            assert await page.evaluate(STATE, str) == "connected"
            later = await hear(page, seconds=1.0)
            assert later.packets_received - heard.packets_received >= 2_900  # of 3,000
            await trio.sleep(1.0)
            assert (await hear(page, seconds=1.0)).packets_received > later.packets_received
            await page.screenshot(trio.Path(tmp_path / "talking.png"))

            await hang_up(page)
            await wait_sessions(server.http, 0)
            assert not page.exceptions
