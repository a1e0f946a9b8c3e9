"""aiortc's SCTP as an independent stack against ours, in its own process, with and without loss."""

import sys

import msgspec
import pytest
import trio

from tests.support.processes import child


class Report(msgspec.Struct):
    established: bool
    opened: list[str]
    closed: list[str]
    echoed_by_us: bool
    echoed_by_aiortc: bool
    unordered: bool
    drops: dict[str, int]


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("role", ["client", "server"])
async def test_channels_both_ways(role: str, loss: float) -> None:
    command = [sys.executable, "-m", "tests.support.aiortc_sctp", "--role", role]
    async with child([*command, "--loss", str(loss)]) as peer:
        assert await peer.wait(seconds=50.0) == 0, peer.stderr.text
        with trio.fail_after(5.0):
            line = await peer.stdout.wait_for(lambda text: "\n" in text)
    assert line
    report = msgspec.json.decode(line, type=Report)
    assert report.established
    assert sorted(report.opened) == ["aiortc's", "free", "ours"]
    assert report.echoed_by_us
    assert report.echoed_by_aiortc
    assert report.unordered
    assert len(report.closed) == 2
    assert set(report.drops) <= {"replay"}  # what was sent again for nothing
