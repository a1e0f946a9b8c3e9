"""A transceiver's process is killed or stopped, and another goes on with its backend's session."""

from __future__ import annotations

import re
import signal
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio

from edge.backends.frames.unplayed import REPORT_SECONDS
from edge.backends.protocol import Resumed
from tests.real.test_frames import NODE, backend_process, crossings, frames, hear, until_heard
from tests.support.backend_line import Client
from tests.support.processes import Child, child

RATE = 24_000

STORY = """
import struct
import trio
from edge.backends.server import serve_backend

async def tell(session):
    await session.say(b"".join(struct.pack("<H", number % 65536) for number in range(24000 * 8)))
    await trio.sleep_forever()

async def main():
    async with serve_backend("127.0.0.1:0", tell) as address:
        print("listening", address, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""

CALLER = """
import sys
import trio
from edge.backends.frames.backend import FramesBackend
from tests.support.backend_line import PCM, Client

async def main():
    backend = FramesBackend(sys.argv[1], audio=PCM)
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        client = Client(backend)
        nursery.start_soon(client.run)
        while True:
            client.hear()
            print("played", round(client.speaker.played * 1000), flush=True)
            await trio.sleep(0.01)

trio.run(main)
"""


@asynccontextmanager
async def caller(address: str) -> AsyncIterator[Child]:
    """Another process with the call; it writes down how many milliseconds were played."""
    async with child([sys.executable, "-c", CALLER, address]) as running:
        yield running


def played_ms(text: str) -> int:
    """What it wrote down last."""
    found = re.findall(r"^played (\d+)\n", text, re.MULTILINE)
    return int(found[-1]) if found else 0


async def until_played(process: Child, milliseconds: int) -> None:
    with trio.fail_after(20.0):
        await process.stdout.wait_for(lambda text: played_ms(text) >= milliseconds)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_story_goes_on_where_the_client_was(end: signal.Signals) -> None:
    """What was played is not in the checkpoint here: the backend knows it better."""
    async with (
        backend_process([sys.executable, "-c", STORY]) as (_, address),
        caller(address) as former,
        frames(address) as (backend, nursery),
    ):
        await until_played(former, 1_500)
        former.signal(end)
        await trio.sleep(0.6)
        heir = Client(backend, resumed=Resumed(epoch=2, played=0, heard=0))
        nursery.start_soon(heir.run)
        await until_heard(heir, 2 * RATE)
        (first,) = struct.unpack("<H", heir.speaker.heard[:2])
        skipped = first / RATE - played_ms(former.stdout.text) / 1000
        assert abs(skipped) <= (0.05 if end is signal.SIGKILL else REPORT_SECONDS + 0.05)
        assert heir.events.events == []
        if end is signal.SIGSTOP:  # it wakes up, and disturbs nobody
            former.signal(signal.SIGCONT)
            await until_heard(heir, 2 * (8 * RATE - first))
        numbers = struct.unpack(f"<{len(heir.speaker.heard) // 2}H", heir.speaker.heard)
        assert all((b - a) % 65_536 == 1 for a, b in pairwise(numbers))
        await former.kill()


async def test_a_backend_in_node_goes_on() -> None:
    async with (
        backend_process([*NODE, "127.0.0.1:0", "tone"]) as (_, address),
        caller(address) as former,
        frames(address) as (backend, nursery),
    ):
        await until_played(former, 500)
        await former.kill()
        heir = Client(backend, resumed=Resumed(epoch=2, played=RATE // 2, heard=0))
        nursery.start_soon(heir.run)
        heir.conversation.receive_event(b'{"type":"tone"}')
        tone = await until_heard(heir, 48_000)
        await trio.sleep(0.1)
        assert crossings(tone) == pytest.approx(440, abs=1)
        assert len(heir.speaker.heard) == 48_000  # a new session would have begun with one
        assert heir.events.events == []
        late = Client(backend, resumed=Resumed(epoch=2, played=0, heard=0))
        nursery.start_soon(late.run)
        assert await late.ended() == "another transceiver serves this session there"


async def test_a_backend_in_node_that_does_not_know_the_call_begins_anew() -> None:
    async with (
        backend_process([*NODE, "127.0.0.1:0", "echo"]) as (_, address),
        frames(address) as (backend, nursery),
    ):
        client = Client(backend, resumed=Resumed(epoch=2, played=0, heard=0))
        nursery.start_soon(client.run)
        said = await hear(client, 5)
        assert await until_heard(client, len(said)) == said
        assert client.events.events == [b'{"type":"session.backend_restarted"}']
