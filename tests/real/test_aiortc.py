"""aiortc as an independent peer, in a process of its own, through a whole edge."""

import sys

import msgspec
import trio

from tests.support.edges import SERVE, wait_sessions
from tests.support.processes import child, edge


class Report(msgspec.Struct):
    connected: bool
    packets_received: int
    audio_energy: float
    setup_ms: float | None
    first_audio_ms: float | None


async def call(http: str, seconds: float) -> tuple[int, Report]:
    command = [sys.executable, "-m", "tests.support.aiortc_client"]
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
