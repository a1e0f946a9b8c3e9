"""The ``frames`` backend with real sockets and other processes, in Python and in Node."""

from __future__ import annotations

import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from edge.backends.frames.backend import FramesBackend
from edge.backends.frames.conversation import Patience
from edge.backends.frames.wire import Kind, encode_frame
from edge.backends.server import BackendSession, serve_backend
from edge.errors import Drop
from tests.support.backend_line import PCM, Client
from tests.support.processes import ROOT, Child, child

DOCUMENT = ROOT / "docs" / "backend-protocol.md"
NODE = ["node", str(ROOT / "samples" / "backend.mjs")]
STALL_SECONDS = 1.0


def examples() -> list[str]:
    """The Python blocks of the document, on a free port."""
    text = DOCUMENT.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    free = [re.sub(r'(127\.0\.0\.1"?(?::|, ))7000', r"\g<1>0", block) for block in blocks]
    assert all(block != was for block, was in zip(free, blocks, strict=True))
    return free


COMMANDS = {
    "helper": [sys.executable, "-c", examples()[0]],
    "plain": [sys.executable, "-c", examples()[1]],
    "node": [*NODE, "127.0.0.1:0"],
}


@asynccontextmanager
async def backend_process(command: Sequence[str]) -> AsyncIterator[tuple[Child, str]]:
    """A running backend and the address it listens on."""
    async with child(command) as running:
        with trio.fail_after(20.0):
            text = await running.stdout.wait_for(lambda text: "\n" in text)
        assert text.startswith("listening ")
        yield running, text.split()[1]


@asynccontextmanager
async def frames(
    address: str, *, audio: str = PCM, reopen: float = 0.0
) -> AsyncIterator[tuple[FramesBackend, trio.Nursery]]:
    backend = FramesBackend(
        address,
        audio=audio,
        stall_seconds=STALL_SECONDS,
        patience=Patience(connect_seconds=2.0, reopen_seconds=reopen),
    )
    async with trio.open_nursery() as outer:
        await outer.start(backend.run)
        async with trio.open_nursery() as sessions:
            yield backend, sessions
            sessions.cancel_scope.cancel()
        outer.cancel_scope.cancel()


async def hear(client: Client, count: int, *, every: float = 0.002) -> bytes:
    """Say so many frames that differ; returns all of them."""
    said = b""
    for number in range(count):
        piece = struct.pack("<h", number) * 480
        client.hear(piece)
        said += piece
        await trio.sleep(every)
    return said


async def until_heard(client: Client, size: int, within: float = 5.0) -> bytes:
    with trio.fail_after(within):
        while len(client.speaker.heard) < size:
            await trio.sleep(0.005)
    return client.speaker.heard


@pytest.mark.parametrize("name", COMMANDS)
async def test_every_example_echoes_many_sessions_on_one_connection(name: str) -> None:
    async with (
        backend_process(COMMANDS[name]) as (_, address),
        frames(address) as (backend, nursery),
    ):
        clients = [Client(backend, name=f"rtc_{number}") for number in range(8)]
        for client in clients:
            nursery.start_soon(client.run)
        for client in clients:
            said = await hear(client, 30, every=0.0)
            assert await until_heard(client, len(said)) == said
        await trio.sleep(STALL_SECONDS * 1.5)  # pings are answered
        assert [client.outcome for client in clients] == [None] * 8
        assert backend.statistics().connections == 1
        assert backend.statistics().sessions == 8
    assert backend.statistics().lost == 0


def test_the_examples_are_short() -> None:
    for code in examples():
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 20


def crossings(pcm: bytes) -> int:
    """How often a signal goes from below zero to above."""
    samples = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    return sum(a < 0 <= b for a, b in pairwise(samples))


async def test_node_answers_a_tone_on_a_unix_socket(tmp_path: Path) -> None:
    command = [*NODE, f"unix:{tmp_path}/backend.sock", "tone"]
    async with backend_process(command) as (_, address), frames(address) as (backend, nursery):
        client = Client(backend)
        nursery.start_soon(client.run)
        tone = await until_heard(client, 48_000)
        assert crossings(tone) == pytest.approx(440, abs=1)
        client.conversation.receive_event(b'{"type":"tone"}')
        assert crossings((await until_heard(client, 96_000))[48_000:]) == pytest.approx(440, abs=1)


async def test_node_refuses_what_it_can_not_speak() -> None:
    command = [*NODE, "127.0.0.1:0", "tone"]
    async with (
        backend_process(command) as (_, address),
        frames(address, audio="pcmu") as (backend, nursery),
    ):
        client = Client(backend, audio="pcmu")
        nursery.start_soon(client.run)
        assert await client.ended() == "the backend closed the session: version"


async def test_events_and_barge_in_of_the_documented_example() -> None:
    async with (
        backend_process(COMMANDS["helper"]) as (_, address),
        frames(address) as (backend, nursery),
    ):
        client = Client(backend)
        nursery.start_soon(client.run)
        await until_heard(client, len(await hear(client, 20)))
        client.conversation.receive_event(b'{"type":"stop"}')
        with trio.fail_after(2.0):
            while not client.events.events:
                await trio.sleep(0.01)
        assert client.events.events[0].startswith(b'{"type":"stopped","ms":')
        assert client.speaker.calls == ["flush"]


@pytest.mark.parametrize("name", ["helper", "node"])
async def test_a_killed_backend_ends_its_sessions_and_another_serves_the_next(name: str) -> None:
    async with (
        backend_process(COMMANDS[name]) as (process, address),
        frames(address) as (backend, nursery),
    ):
        first = Client(backend)
        nursery.start_soon(first.run)
        await until_heard(first, len(await hear(first, 5)))
        await process.kill()
        assert await first.ended(within=0.5) == "the connection to the backend was lost"
        command = [part.replace("127.0.0.1:0", address) for part in COMMANDS[name]]
        async with backend_process(command):
            second = Client(backend)
            nursery.start_soon(second.run)
            await until_heard(second, len(await hear(second, 5)))


async def test_a_stopped_backend_is_noticed_in_the_stall_time() -> None:
    async with (
        backend_process(COMMANDS["helper"]) as (process, address),
        frames(address) as (backend, nursery),
    ):
        client = Client(backend)
        nursery.start_soon(client.run)
        await until_heard(client, len(await hear(client, 5)))
        process.signal(signal.SIGSTOP)
        try:
            start = trio.current_time()
            nursery.start_soon(hear, client, 1_000)
            assert await client.ended(within=STALL_SECONDS + 0.5)
            assert trio.current_time() - start >= STALL_SECONDS / 2
        finally:
            process.signal(signal.SIGCONT)


async def test_a_unix_socket_is_taken_over_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "backend.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()

    async def done(session: BackendSession) -> None:
        await session.send_event({"call": session.call})

    async with serve_backend(f"unix:{path}", done), frames(f"unix:{path}") as (backend, nursery):
        client = Client(backend)
        nursery.start_soon(client.run)
        assert await client.ended() == "closed"
        assert client.events.events == [b'{"call":"rtc_1"}']
    assert not path.exists()


async def test_a_reset_ends_the_session() -> None:
    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as serving:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        serving.start_soon(trio.serve_listeners, reset, listeners)
        port = listeners[0].socket.getsockname()[1]
        async with frames(f"127.0.0.1:{port}") as (backend, nursery):
            client = Client(backend)
            nursery.start_soon(client.run)
            assert await client.ended(within=1.0) == "the connection to the backend was lost"
        serving.cancel_scope.cancel()


FLOOD = """
import socket, sys, struct, threading
listener = socket.create_server(("127.0.0.1", 0))
print("listening", "%s:%d" % listener.getsockname(), flush=True)
frames = bytes.fromhex(sys.argv[1])
connection, _ = listener.accept()
def read():
    while connection.recv(65536):
        pass
if len(sys.argv) > 2:
    threading.Thread(target=read, daemon=True).start()
while True:
    connection.sendall(frames * 1000)
"""


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize(
    ("frame", "reads"),
    [
        (encode_frame(Kind.AUDIO, 1, bytes(960)), True),
        (encode_frame(Kind.EVENT, 99, b"{}"), True),
        (encode_frame(Kind.PING, 0), True),
        (encode_frame(Kind.PLAYED, 1), True),
        (encode_frame(Kind.PLAYED, 1), False),
    ],
    ids=["audio", "unknown", "ping", "played", "not reading"],
)
async def test_a_flood_takes_no_memory_and_holds_nobody_up(frame: bytes, reads: bool) -> None:
    command = [sys.executable, "-c", FLOOD, frame.hex(), *(["reads"] if reads else [])]
    async with backend_process(command) as (_, address), frames(address) as (backend, nursery):
        client = Client(backend)
        nursery.start_soon(client.run)
        await trio.sleep(0.2)
        memory, lateness = resident_bytes(), []
        for _ in range(60):
            due = trio.current_time() + 0.01
            client.hear()
            await trio.sleep_until(due)
            lateness.append(trio.current_time() - due)
        assert resident_bytes() - memory < 16 << 20
        lateness.sort()
        assert lateness[30] < 0.05
        drops = client.conversation.drops + backend.statistics().drops
        assert drops[Drop.BUG] == 0
        if reads:
            assert client.outcome is None
