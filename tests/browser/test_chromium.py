"""The demo page in an unmodified headless Chromium, through the relay's port alone."""

from pathlib import Path

import pytest
import trio

from edge.address import format_address
from tests.browser.talk import hang_up, hear, open_page, selected_remote_ports, start_talking
from tests.support.chromium import chromium
from tests.support.edges import SERVE, free_udp_port, wait_ready, wait_sessions
from tests.support.lossy import HOST, open_lossy_proxy
from tests.support.processes import edge
from tests.support.round_trips import ROUND_TRIP_SECONDS


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


async def test_the_page_counts_the_round_trips_of_its_setup(tmp_path: Path) -> None:
    async with open_lossy_proxy() as proxy, chromium() as browser:
        proxy.upstream = HOST, free_udp_port()
        bind, advertise = format_address(proxy.upstream), format_address(proxy.address)
        flags = ("serve", "--http", f"{HOST}:0", "--udp", bind, "--advertise", advertise)
        async with edge(*flags) as server:
            await wait_ready(server.http)
            page = await browser.new_page()
            await open_page(page, server.http)
            await start_talking(page)
            await page.wait_until("window.edge.call.dtls === 'connected'", seconds=5.0)
            await trio.sleep(1.0)
            note = await page.evaluate("document.getElementById('trips-note').textContent", str)
            assert "too short to count" in note
            assert await page.evaluate("document.querySelector('.trips').offsetWidth", int) == 0
            await hang_up(page)

            proxy.delays = lambda direction, now: ROUND_TRIP_SECONDS / 2
            await start_talking(page)
            await page.wait_until(
                "Object.values(window.edge.trips).slice(2).every((trips) => trips !== null)",
                seconds=8.0,
            )
            trips = await page.evaluate("window.edge.trips", dict[str, float | None])
            print(trips)
            assert trips["offer"] is trips["answer"] is None
            counted = [trips["ice"], trips["dtls"], trips["channel"]]
            assert counted == pytest.approx([1, 2, 4], abs=0.4)
            shown = await page.evaluate("document.getElementById('waterfall').innerText", str)
            assert f"{counted[1]:.1f} RTT" in shown
            picture = tmp_path / "round-trips.png"
            await page.screenshot(trio.Path(picture))
            print(f"screenshot: {picture}")
            await hang_up(page)
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
