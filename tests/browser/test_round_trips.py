"""Round trips of Chromium's setup, by what it offers: SNAP, SPED, both or neither."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

import pytest
import trio

from edge.address import format_address
from edge.wire import stun
from edge.wire.demux import Kind, classify
from tests.browser.test_channels import SCRIPT, act, look_until, place
from tests.browser.variants import browser_version
from tests.support.chromium import chromium
from tests.support.devtools import Page
from tests.support.edges import free_udp_port
from tests.support.interop import TripsRow, record
from tests.support.lossy import HOST, Direction, LossyProxy, open_lossy_proxy
from tests.support.processes import edge
from tests.support.round_trips import ROUND_TRIP_SECONDS, RoundTrips

SNAP: Final = "WebRTC-Sctp-Snap/Enabled/"
SPED: Final = "WebRTC-IceHandshakeDtls/Enabled/"
DTLS_DATA: Final = 0xC070
CALLS: Final = 5


@dataclass(frozen=True, slots=True)
class Setting:
    """What Chromium offers, and whether we want SPED; the most that a median call may take."""

    name: str
    trials: str
    channel: float
    sped: bool = True


SETTINGS: Final = (
    Setting("neither", "", 4.5),
    Setting("SNAP", SNAP, 2.5),
    Setting("SPED", SPED, 4.5),
    Setting("SPED and SNAP", SPED + SNAP, 2.5),
    Setting("SPED and SNAP, SPED turned off here", SPED + SNAP, 6.5, sped=False),
)


class Capture:
    """Counts round trips, and DTLS datagrams that come down inside of STUN."""

    def __init__(self, proxy: LossyProxy) -> None:
        self.trips = RoundTrips(proxy)
        self.carried = 0
        self._count = proxy.loses
        proxy.loses = self._note

    def _note(self, direction: Direction, datagram: bytes) -> bool:
        if direction == "down" and classify(datagram) is Kind.STUN:
            found = stun._attributes(datagram)
            self.carried += any(kind == DTLS_DATA and value for kind, _, value in found)
        return self._count(direction, datagram)


@asynccontextmanager
async def open_page(setting: Setting) -> AsyncGenerator[tuple[Page, LossyProxy]]:
    flags = (f"--force-fieldtrials={setting.trials}",) if setting.trials else ()
    env = {"EDGE_TRANSCEIVER_SPED": str(setting.sped).lower()}
    async with open_lossy_proxy() as proxy:
        proxy.upstream = HOST, free_udp_port()
        bind, advertise = format_address(proxy.upstream), format_address(proxy.address)
        serve = ("serve", "--http", f"{HOST}:0", "--udp", bind, "--advertise", advertise)
        async with edge(*serve, env=env) as server, chromium(*flags) as browser:
            page = await browser.new_page()
            await page.before_load(SCRIPT)
            await page.goto(f"{server.http}/")
            yield page, proxy


async def count(page: Page, proxy: LossyProxy) -> tuple[float, float, int]:
    """Round trips to media and to an open channel, and how much DTLS came inside of STUN."""
    capture = Capture(proxy)
    call = await place(page)
    seen = await look_until(page, call, lambda seen: seen.opened_at is not None)
    await trio.sleep(ROUND_TRIP_SECONDS)  # for the first RTP packet
    await act(page, f"hangUp({call})")
    await trio.sleep(2 * ROUND_TRIP_SECONDS)  # the goodbye is not the next call's first datagram
    assert seen.opened_at is not None
    return capture.trips.to_media, capture.trips.until(seen.opened_at / 1000), capture.carried


@pytest.mark.timeout(90)
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
async def test_round_trips_of_chromium(setting: Setting) -> None:
    async with open_page(setting) as (page, proxy):
        counted = [await count(page, proxy) for _ in range(CALLS)]
        version = await browser_version(page)
    media, channel, carried = zip(*counted, strict=True)
    row = TripsRow(
        client="Chromium",
        version=version,
        offer=setting.name,
        to_media=round(median(media), 1),
        most_to_media=round(max(media), 1),
        to_channel=round(median(channel), 1),
        most_to_channel=round(max(channel), 1),
    )
    print(row)
    record(row)
    assert median(channel) < setting.channel
    assert all(carried) == any(carried) == (SPED in setting.trials and setting.sped)
    if setting.sped:
        assert median(media) < 2.9, "the first packet leaves with the next frame, or the one after"
