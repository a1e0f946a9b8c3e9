"""Two more independent stacks, unmodified, in Node.js: werift, and libdatachannel."""

from __future__ import annotations

import msgspec
import pytest
import trio

from edge.address import format_address
from tests.support.clients import ENVIRONMENT, SOURCES, version_of
from tests.support.edges import free_udp_port, wait_ready
from tests.support.interop import ClientRow, record
from tests.support.lossy import HOST, open_lossy_proxy
from tests.support.processes import child, edge
from tests.support.round_trips import RoundTrips

SECONDS = 0.5
HELD_SECONDS = 1.0
"""Of the call whose datagrams are held back."""
ANSWERS = ["session.created", "session.updated"]


class Report(msgspec.Struct):
    """One call; times in seconds since 1970."""

    posted: float
    connected: float
    opened: float
    sent: int
    received: int
    events: list[str]


async def call(script: str, http: str, seconds: float) -> Report:
    command = ["node", str(SOURCES / f"{script}.cjs"), http, str(seconds)]
    async with child(command, env=ENVIRONMENT) as client:
        code = await client.wait(seconds=20.0)
        assert code == 0, client.stderr.text
        with trio.fail_after(5.0):
            line = await client.stdout.wait_for(lambda text: "\n" in text)
    report = msgspec.json.decode(line, type=Report)
    print(report)
    assert report.connected
    assert report.events == ANSWERS
    assert report.received >= 0.8 * report.sent - 10 > 0
    return report


@pytest.mark.parametrize(
    ("script", "package"), [("werift", "werift"), ("datachannel", "node-datachannel")]
)
async def test_a_stack_talks_over_audio_and_a_channel(script: str, package: str) -> None:
    version = version_of(package)
    async with open_lossy_proxy() as proxy:
        proxy.upstream = HOST, free_udp_port()
        bind, advertise = format_address(proxy.upstream), format_address(proxy.address)
        flags = ("serve", "--http", f"{HOST}:0", "--udp", bind, "--advertise", advertise)
        async with edge(*flags) as server:
            await wait_ready(server.http)
            plain = await call(script, server.http, SECONDS)
            trips = RoundTrips(proxy)
            held = await call(script, server.http, HELD_SECONDS)
    row = ClientRow(
        client=package,
        version=version,
        media="RTP",
        channel="both ways",
        setup_ms=round((plain.connected - plain.posted) * 1000),
        trips_to_media=round(trips.to_media, 1),
        trips_to_channel=round(trips.until(held.opened), 1),
    )
    print(row)
    record(row)
