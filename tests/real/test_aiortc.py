"""aiortc as an independent peer, in a process of its own, through a whole edge."""

import sys
from importlib.metadata import version

import msgspec
import trio

from edge.address import format_address
from tests.support.edges import SERVE, free_udp_port, wait_ready, wait_sessions
from tests.support.interop import ClientRow, Row, opposite, record
from tests.support.lossy import HOST, open_lossy_proxy
from tests.support.processes import child, edge
from tests.support.round_trips import RoundTrips

VARIANTS = {
    "sendrecv": (),
    "audio, data channel": ("--parts", "audio,channel"),
    "audio, video, data channel": ("--parts", "audio,video,channel"),
    "audio, video, data channel, max-bundle": (
        *("--parts", "audio,video,channel", "--bundle", "max-bundle"),
    ),
    "video, audio, max-bundle": ("--parts", "video,audio", "--bundle", "max-bundle"),
    "PCMU only": ("--codec", "pcmu"),
    "PCMA only": ("--codec", "pcma"),
    "a=setup:passive": ("--setup", "passive"),
    "a=setup:active": ("--setup", "active"),
}
"""What is offered, and the client's arguments for it."""

WITHOUT_CHANNEL = "audio, video, data channel"
"""aiortc starts SCTP last, and waits for the transport of the rejected video before, for ever."""


class Report(msgspec.Struct):
    connected: bool
    packets_received: int
    audio_energy: float
    setup_ms: float | None
    first_audio_ms: float | None
    srtp: str
    role: str
    state: str
    channel: str
    opened: float | None
    events: list[str]


async def call(http: str, seconds: float, *arguments: str) -> tuple[int, Report]:
    command = [sys.executable, "-m", "tests.support.aiortc_client", *arguments]
    async with child([*command, "--url", http, "--seconds", str(seconds)]) as client:
        code = await client.wait(seconds=30.0)
        with trio.fail_after(5.0):
            line = await client.stdout.wait_for(lambda text: "\n" in text)
        assert line, client.stderr.text
        return code, msgspec.json.decode(line, type=Report)


async def test_aiortc_hears_its_tone_come_back() -> None:
    async with edge(*SERVE) as server:
        code, report = await call(server.http, 2.0)
        assert code == 0
        assert report.connected
        assert report.packets_received >= 80  # of 100 in two seconds
        assert report.audio_energy > 1e-4
        assert report.first_audio_ms is not None
        assert report.first_audio_ms < 2_000
        await wait_sessions(server.http, 0)


async def test_aiortc_speaks_events_beside_its_audio() -> None:
    async with edge(*SERVE) as server:
        arguments = ("--parts", "audio,channel", "--updates", "30")
        code, report = await call(server.http, 1.5, *arguments)
        assert (code, report.channel) == (0, "open")
        updated = [f"session.updated {number}" for number in range(30)]
        assert report.events == ["session.created", *updated, "error"]
        assert report.packets_received >= 50
        await wait_sessions(server.http, 0)


async def test_two_aiortc_calls_at_once_do_not_mix() -> None:
    async with edge(*SERVE) as server:
        reports: list[tuple[int, Report]] = []

        async def one() -> None:
            reports.append(await call(server.http, 1.5))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
        assert [code for code, _ in reports] == [0, 0]
        assert all(60 <= report.packets_received <= 110 for _, report in reports)


async def test_every_offer_of_aiortc_is_served() -> None:
    failures = []
    async with edge(*SERVE) as server:
        for what, arguments in VARIANTS.items():
            code, report = await call(server.http, 0.8, *arguments)
            role = "client" if what == "a=setup:active" else "server"
            heard = code == 0 and report.packets_received >= 20  # of 40
            channel = "channel" in what and what != WITHOUT_CHANNEL
            heard &= channel is (report.channel == "open")
            if not heard or report.role != role:
                failures.append((what, code, report))
            note(what, report, heard)
        await wait_sessions(server.http, 0)
    assert not failures


async def test_a_stack_of_its_own_connects_in_few_round_trips() -> None:
    arguments = ("--parts", "audio,channel")
    async with open_lossy_proxy() as proxy:
        proxy.upstream = HOST, free_udp_port()
        bind, advertise = format_address(proxy.upstream), format_address(proxy.address)
        flags = ("serve", "--http", f"{HOST}:0", "--udp", bind, "--advertise", advertise)
        async with edge(*flags) as server:
            await wait_ready(server.http)
            code, plain = await call(server.http, 0.8, *arguments)
            assert (code, plain.channel) == (0, "open")
            trips = RoundTrips(proxy)
            code, held = await call(server.http, 2.0, *arguments)
            assert (code, held.channel) == (0, "open")
            await wait_sessions(server.http, 0)
    note_client(plain, held, trips)
    assert trips.to_media < 3.9


def note_client(plain: Report, held: Report, trips: RoundTrips) -> None:
    assert plain.setup_ms is not None
    assert held.opened is not None
    row = ClientRow(
        client="aiortc",
        version=version("aiortc"),
        media="Opus",
        channel="opens",
        setup_ms=round(plain.setup_ms),
        trips_to_media=round(trips.to_media, 1),
        trips_to_channel=round(trips.until(held.opened), 1),
    )
    print(row)
    record(row)


def note(what: str, report: Report, heard: bool) -> None:
    state = "" if report.state == "connected" else f", connectionState {report.state}"
    channel = ", channel open" if report.channel == "open" else ""
    record(
        Row(
            client="aiortc",
            version=version("aiortc"),
            what=what,
            result=f"ok{channel}{state}" if heard else "failed",
            srtp=report.srtp,
            role=opposite(report.role),
            setup_ms=None if report.setup_ms is None else round(report.setup_ms, 1),
        )
    )
