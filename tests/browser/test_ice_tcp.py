"""Browsers that have no UDP reach the relay over TCP, by the same answer as everybody's."""

import trio

from tests.browser.talk import first_of, hang_up, hear, open_page, start_talking
from tests.support.chromium import chromium
from tests.support.devtools import Page
from tests.support.edges import SERVE, metric, wait_sessions
from tests.support.firefox import firefox
from tests.support.netns import namespace
from tests.support.processes import edge

TCP = ("--ice-tcp", "127.0.0.1:0")
OPEN = {"EDGE_HTTP_ALLOW_ANONYMOUS": "true"}
CONNECTIONS = r'edge_relay_tcp_connections\{state="answered"\}'
NO_UDP = "--webrtc-ip-handling-policy=disable_non_proxied_udp"
"""As an administrator's policy has it: the browser then sends no datagram at all."""

WITHOUT_UDP = """
const set = RTCPeerConnection.prototype.setRemoteDescription;
RTCPeerConnection.prototype.setRemoteDescription = function (description) {
    const sdp = description.sdp.replace(/^a=candidate:\\S+ 1 udp .*\\r\\n/gm, "");
    return set.call(this, {type: description.type, sdp});
};
"""
"""UDP's candidates never reach the browser."""

SELECTED = """
(async () => {
    const report = await window.connections.at(-1).getStats();
    const items = [...report.values()];
    const chosen = items.map(item => item.selectedCandidatePairId);
    const pairs = items.filter(item => item.selected || chosen.includes(item.id));
    return pairs.map(pair => report.get(pair.remoteCandidateId).protocol);
})()
"""
"""Of the pair that is in use: one that was nominated may have been the first, and not the best."""


async def talks_over_tcp(page: Page, http: str) -> None:
    """Hear the echo over TCP alone, and go on hearing it."""
    await open_page(page, http)
    await start_talking(page)
    heard = await hear(page, seconds=4.0)
    assert set(await first_of(page, SELECTED, list[str])) == {"tcp"}
    # One for each of its networks: it has checked them all before it nominates one.
    assert await metric(http, CONNECTIONS) >= 1
    await trio.sleep(2.0)
    later = await hear(page, seconds=1.0)
    assert later.packets_received - heard.packets_received >= 80  # of 100
    assert later.packets_lost <= 2
    await hang_up(page)
    await wait_sessions(http, 0)
    assert not page.exceptions


async def test_chromium_that_knows_of_tcp_alone_hears_its_echo() -> None:
    async with edge(*SERVE, *TCP) as server, chromium() as browser:
        page = await browser.new_page()
        await page.before_load(WITHOUT_UDP)
        await talks_over_tcp(page, server.http)


async def test_chromium_that_may_not_use_udp_hears_its_echo() -> None:
    async with edge(*SERVE, *TCP) as server, chromium(NO_UDP) as browser:
        page = await browser.new_page()
        await talks_over_tcp(page, server.http)


async def test_chromium_with_both_takes_udp() -> None:
    async with edge(*SERVE, *TCP) as server, chromium() as browser:
        page = await browser.new_page()
        await open_page(page, server.http)
        await start_talking(page)
        await hear(page, seconds=4.0)
        await trio.sleep(1.0)
        assert set(await first_of(page, SELECTED, list[str])) == {"udp"}
        await hang_up(page)


async def test_firefox_that_knows_of_tcp_alone_hears_its_echo() -> None:
    async with namespace() as inside:
        flags = ("serve", "--http", f"{inside.here}:0", "--udp", f"{inside.here}:0")
        tcp = ("--ice-tcp", f"{inside.here}:0")
        async with edge(*flags, *tcp, env=OPEN) as server, firefox(inside) as browser:
            page = await browser.new_page()
            await page.before_load(WITHOUT_UDP)
            await talks_over_tcp(page, server.http)
