"""A transceiver's process is killed or stopped while events go both ways, and another goes on."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable

import msgspec
import pytest
import trio

from edge.backends.frames.backend import FramesBackend
from edge.backends.frames.opening import Left
from edge.backends.protocol import Resumed
from tests.real.test_frames import NODE, backend_process, frames
from tests.support.backend_line import Client
from tests.support.processes import Child, child

TELLS = """
import trio
from edge.backends.server import serve_backend

async def tell(session):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count, session)
        async for heard in session:
            print("up", heard["number"], flush=True)

async def count(session):
    for number in range(1_000_000):
        await session.send_event({"number": number})
        await trio.sleep(0.005)

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
from tests.support.backend_line import Client

async def main():
    backend = FramesBackend(sys.argv[1], audio="pcm16/24000")
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        client = Client(backend)
        nursery.start_soon(client.run)
        seen = number = 0
        while True:
            print("sends", number, flush=True)
            client.conversation.receive_event(b'{"number":%d}' % number)
            number += 1
            await trio.sleep(0.004)
            events = client.events.events
            for event in events[seen:]:
                print("came", event.decode(), flush=True)
            seen = len(events)
            if not number % 50:
                print("stored", number, client.conversation.resume_token().hex(), flush=True)

trio.run(main)
"""


def last(text: str, name: str) -> int:
    """The number that was written last."""
    found = re.findall(rf"^{name} (\d+)(?: \w+)?\n", text, re.MULTILINE)
    return int(found[-1]) if found else -1


def came(text: str) -> list[int]:
    """The events that a caller wrote down."""
    return [int(number) for number in re.findall(r'^came {"number":(\d+)}\n', text, re.MULTILINE)]


def numbers(client: Client) -> list[int]:
    """The events that came here."""
    return [msgspec.json.decode(event, type=dict[str, int])["number"] for event in events(client)]


def events(client: Client) -> list[bytes]:
    return client.events.events


def ups(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^up (\d+)\n", text, re.MULTILINE)]


async def take_up(
    backend: FramesBackend, nursery: trio.Nursery, text: str
) -> tuple[Client, Resumed, int]:
    """Go on from the last checkpoint that a caller wrote down, and repeat what it said since.

    Returns the heir, what it resumed, and how many events the caller had sent.
    """
    stored, token = re.findall(r"^stored (\d+) (\w+)\n", text, re.MULTILINE)[-1]
    resumed = Resumed(epoch=2, played=0, heard=0, token=bytes.fromhex(token))
    heir = Client(backend, resumed=resumed)
    nursery.start_soon(heir.run)
    sent = last(text, "sends") + 1
    for number in range(int(stored), sent + 50):
        heir.conversation.receive_event(b'{"number":%d}' % number)
        await trio.sleep(0.002)
    return heir, resumed, sent


async def until(process: Child, fits: Callable[[str], bool]) -> None:
    with trio.fail_after(20.0):
        await process.stdout.wait_for(fits)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_no_event_is_lost_and_none_is_taken_twice(end: signal.Signals) -> None:
    """The caller's last checkpoint is up to 50 events old; what came after it is repeated."""
    async with (
        backend_process([sys.executable, "-c", TELLS]) as (backend_child, address),
        child([sys.executable, "-c", CALLER, address]) as former,
        frames(address) as (backend, nursery),
    ):
        await until(former, lambda text: last(text, "sends") > 130)
        former.signal(end)
        await trio.sleep(0.6)
        text = former.stdout.text
        heir, _, sent = await take_up(backend, nursery, text)
        await until(backend_child, lambda text: last(text, "up") >= sent + 49)
        before, after = came(text), numbers(heir)
        assert ups(backend_child.stdout.text) == list(range(sent + 50))
        assert after == list(range(after[0], after[-1] + 1))
        assert sorted(set(before + after)) == list(range(after[-1] + 1))
        assert after[-1] > before[-1] + 10
        assert len(before) + len(after) - len(set(before + after)) <= 60  # since the checkpoint
        if end is signal.SIGSTOP:  # it wakes up, and disturbs nobody
            former.signal(signal.SIGCONT)
            await trio.sleep(0.3)
            assert ups(backend_child.stdout.text) == list(range(sent + 50))
        assert heir.outcome is None
        await former.kill()


async def test_a_backend_in_node_loses_and_doubles_nothing_either() -> None:
    """It sends every event back: what comes of all is what was taken, in order."""
    async with (
        backend_process([*NODE, "127.0.0.1:0", "echo"]) as (_, address),
        child([sys.executable, "-c", CALLER, address]) as former,
        frames(address) as (backend, nursery),
    ):
        await until(former, lambda text: last(text, "sends") > 130)
        former.signal(signal.SIGSTOP)
        await trio.sleep(0.2)
        text = former.stdout.text
        heir, resumed, sent = await take_up(backend, nursery, text)
        await until_came(heir, sent + 49)
        assert numbers(heir) == list(range(said_events(resumed.token), sent + 50))
        token = heir.conversation.resume_token()
        heir.conversation.receive_event(b'{"number":%d}' % (sent + 50))
        await until_came(heir, sent + 50)
        third = Client(backend, resumed=Resumed(epoch=3, played=0, heard=0, token=token))
        nursery.start_soon(third.run)
        for number in (sent + 50, sent + 51):
            third.conversation.receive_event(b'{"number":%d}' % number)
        await until_came(third, sent + 51)
        assert numbers(third) == [sent + 50, sent + 51]
        await former.kill()


async def until_came(client: Client, number: int) -> None:
    with trio.fail_after(5.0):
        while not events(client) or numbers(client)[-1] < number:
            await trio.sleep(0.01)


def said_events(token: bytes) -> int:
    count = Left.unpack(token).said_events
    assert count is not None
    return count
