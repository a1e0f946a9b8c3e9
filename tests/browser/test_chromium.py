"""The demo page in an unmodified headless Chromium, through the relay's port alone."""

from pathlib import Path

import trio

from tests.browser.talk import hang_up, hear, open_page, selected_remote_ports, start_talking
from tests.support.chromium import chromium
from tests.support.edges import SERVE, wait_sessions
from tests.support.processes import edge


async def test_a_person_hears_the_echo_within_two_seconds(tmp_path: Path) -> None:
    async with edge(*SERVE) as server, chromium() as browser:
        page = await browser.new_page()
        await open_page(page, server.http)
        await start_talking(page)
        heard = await hear(page, seconds=2.0)
        assert heard.packets_received > 0
        assert heard.total_audio_energy > 0
        assert await selected_remote_ports(page) == {server.udp_port}
        await wait_sessions(server.http, 1)

        await trio.sleep(2.0)
        later = await hear(page, seconds=1.0)
        assert later.packets_received - heard.packets_received >= 80  # of 100
        assert later.packets_lost <= 2
        await page.wait_until("window.edge.stats.sentLoss === 0", seconds=8.0)
        shown = await page.evaluate("document.getElementById('sent-quality').textContent", str)
        assert shown.startswith("0.0 % lost, jitter ")
        events = await page.evaluate("document.getElementById('events').innerText", str)
        assert "session.created" in events
        assert await page.evaluate("document.getElementById('channel').textContent", str) == "open"
        picture = tmp_path / "talking.png"
        await page.screenshot(trio.Path(picture))
        assert picture.stat().st_size > 10_000
        print(f"screenshot: {picture}")

        await hang_up(page)
        await wait_sessions(server.http, 0)
        assert not page.exceptions


async def test_one_page_may_talk_again(tmp_path: Path) -> None:
    async with edge(*SERVE) as server, chromium() as browser:
        page = await browser.new_page()
        await open_page(page, server.http)
        for _ in range(2):
            await start_talking(page)
            await hear(page, seconds=3.0)
            await hang_up(page)
            await wait_sessions(server.http, 0)
        assert not page.exceptions
