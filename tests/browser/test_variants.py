"""Calls beyond the plain one, in unmodified browsers: other offers, other ways to end."""

import pytest
import trio

from edge.errors import EndReason
from tests.browser.variants import (
    ACTIVE,
    CHANNEL,
    PASSIVE,
    RECVONLY,
    SENDRECV,
    VARIANTS,
    abandon,
    act,
    hear_more,
    open_variants,
    place,
    statistics,
    try_all,
    wait_ended,
)
from tests.support.chromium import chromium
from tests.support.edges import SERVE, ended, sessions
from tests.support.firefox import firefox
from tests.support.netns import namespace
from tests.support.processes import edge

SETUP_SECONDS = 2.0
CONSENT_SECONDS = 6.0  # Chromium sends a check every 2.5 s
OF_FIREFOX = {
    "sendrecv",
    "recvonly, no microphone",
    "audio, data channel",
    "data channel, audio",
    "video, audio",
    "video, audio, max-bundle",
    "PCMU only",
    "a=setup:active",
}
IMPATIENT = {
    "EDGE_TRANSCEIVER_SETUP_TIMEOUT_SECONDS": str(SETUP_SECONDS),
    "EDGE_TRANSCEIVER_CONSENT_TIMEOUT_SECONDS": str(CONSENT_SECONDS),
}


async def test_every_offer_of_chromium_is_served() -> None:
    async with edge(*SERVE) as server, chromium() as browser:
        page = await browser.new_page()
        await open_variants(page, server.http)
        assert not await try_all(page, server.http, "Chromium", VARIANTS)
        assert not page.exceptions


async def test_the_srtp_profile_follows_the_dtls_server() -> None:
    """Chromium as the server prefers AES_CM; where we are the server, GCM wins."""
    async with edge(*SERVE) as server, chromium() as browser:
        page = await browser.new_page()
        await open_variants(page, server.http)
        theirs = await statistics(page, await place(page, PASSIVE))
        ours = await statistics(page, await place(page, ACTIVE))
        assert (theirs.role, theirs.srtp) == ("server", "SRTP_AES128_CM_HMAC_SHA1_80")
        assert (ours.role, ours.srtp) == ("client", "SRTP_AEAD_AES_128_GCM")


async def test_calls_are_kept_and_end_for_the_right_reason() -> None:
    async with edge(*SERVE, env=IMPATIENT) as server, chromium() as browser:
        page, other = await browser.new_page(), await browser.new_page()
        for each in (page, other):
            await open_variants(each, server.http)
        silent = await place(page, RECVONLY)
        # A tab is closed with a call in it: its process is gone and says nothing.
        await place(other, SENDRECV)
        await other.close()
        started = trio.current_time()

        # Away before the answer is applied.
        await abandon(page, SENDRECV)
        await wait_ended(server.http, EndReason.NEVER_CONNECTED, 1, seconds=SETUP_SECONDS + 1.0)

        # Two calls in one page; one of them is muted and loses its track for a while.
        first, second = await place(page, SENDRECV), await place(page, CHANNEL)
        await act(page, "mute", first, True)
        await hear_more(page, first)
        await act(page, "mute", first, False)
        await act(page, "detach", first)
        await trio.sleep(1.5)
        before = await statistics(page, first)
        await hear_more(page, second, 25)
        assert (await statistics(page, first)).sent == before.sent
        await act(page, "attach", first)
        await hear_more(page, first)
        assert await sessions(server.http) >= 3
        assert await ended(server.http, EndReason.PEER_CLOSED) == 0
        await act(page, "hangUp", second)
        await wait_ended(server.http, EndReason.PEER_CLOSED, 1)
        await hear_more(page, first)

        # Consent runs out for the closed tab; checks alone keep the call that hears nothing.
        left = started + CONSENT_SECONDS + 1.0 - trio.current_time()
        await wait_ended(server.http, EndReason.CONSENT_EXPIRED, 1, seconds=left)
        await trio.sleep_until(started + CONSENT_SECONDS + 1.0)
        assert (await statistics(page, silent)).state == "connected"
        assert await sessions(server.http) == 2
        assert not page.exceptions


@pytest.mark.timeout(120)
async def test_offers_of_firefox_are_served() -> None:
    async with namespace() as inside:
        flags = ("serve", "--http", f"{inside.here}:0", "--udp", f"{inside.here}:0")
        env = {"EDGE_HTTP_ALLOW_ANONYMOUS": "true"}
        async with edge(*flags, env=env) as server, firefox(inside) as browser:
            page = await browser.new_page()
            await open_variants(page, server.http)
            variants = [each for each in VARIANTS if each.name in OF_FIREFOX]
            assert not await try_all(page, server.http, "Firefox", variants)
            assert not page.exceptions
