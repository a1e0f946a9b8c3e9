"""Other processes as async context managers: started with a deadline, always stopped, by pid.

A child's stdout and stderr are drained all the time, so that a full pipe never stops it, and only
the last bytes of each are kept. Its stderr is noted on the exception of a failing test.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import trio

ROOT: Final = Path(__file__).resolve().parents[2]
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
FLEET_SECRET: Final = "a fleet secret that only tests use, long enough"


class Tail:
    """The last ``limit`` bytes of a stream, and a way to wait for more."""

    def __init__(self, *, limit: int = 65_536) -> None:
        self._limit = limit
        self._data = bytearray()
        self._more = trio.Event()
        self.at_eof = False

    async def drain(self, stream: trio.abc.ReceiveStream) -> None:
        """Read the stream to its end and close it."""
        async with stream:
            async for chunk in stream:
                self._data += chunk
                del self._data[: -self._limit]
                self._wake()
        self.at_eof = True
        self._wake()

    async def wait_for(self, found: Callable[[str], bool]) -> str:
        """Wait until ``found(text)`` holds or the stream ends; give the text either way."""
        while not (found(self.text) or self.at_eof):
            await self._more.wait()
        return self.text

    @property
    def text(self) -> str:
        """What is kept, decoded."""
        return self._data.decode(errors="replace")

    def _wake(self) -> None:
        self._more.set()
        self._more = trio.Event()


@dataclass(slots=True)
class Child:
    """A running process; ``killed`` when we took it down with SIGKILL."""

    process: trio.Process
    own_group: bool = False
    stdout: Tail = field(default_factory=Tail)
    stderr: Tail = field(default_factory=Tail)
    killed: bool = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.returncode is None:
            self.process.send_signal(number)

    async def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """Wait for the exit code; trio.TooSlowError after ``seconds``."""
        with trio.fail_after(seconds):
            return await self.process.wait()

    async def kill(self) -> None:
        """End it with SIGKILL, together with what is left of the process group that it leads."""
        self.killed = True
        if self.own_group:
            await self._kill_group()
        elif self.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def _kill_group(self) -> None:
        with suppress(ProcessLookupError), trio.move_on_after(STOP_SECONDS):
            os.killpg(self.pid, signal.SIGKILL)
            await self.process.wait()
            while _lives(self.pid):
                await trio.sleep(0.02)

    async def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, then SIGKILL after ``seconds``; gives the exit code."""
        self.signal(signal.SIGTERM)
        with trio.move_on_after(seconds):
            return await self.process.wait()
        await self.kill()
        return await self.process.wait()


def _lives(group: int) -> bool:
    """Tell whether a process of the group still runs; a dead one may wait to be reaped for long."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, leader = path.read_text().rpartition(")")[2].split()[:3]
            if int(leader) == group and state not in "ZX":
                return True
    return False


@asynccontextmanager
async def child(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    own_group: bool = False,
) -> AsyncGenerator[Child]:
    """Run a command; it is gone when the block is left, one way or the other."""
    process = await trio.lowlevel.open_process(
        list(command),
        env={**os.environ, **(env or {})},
        cwd=ROOT,
        stdout=-1,
        stderr=-1,
        start_new_session=own_group,
    )
    running = Child(process, own_group)
    assert process.stdout is not None
    assert process.stderr is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.stdout.drain, process.stdout)
        nursery.start_soon(running.stderr.drain, process.stderr)
        try:
            yield running
        except BaseException as error:
            error.add_note(f"stderr of {' '.join(command[:4])}:\n{running.stderr.text[-8000:]}")
            raise
        finally:
            with trio.CancelScope(shield=True):
                if own_group:
                    await running.kill()
                else:
                    await running.stop(seconds=STOP_SECONDS)
            # A grandchild may hold the pipes open; what it writes concerns nobody any more.
            nursery.cancel_scope.deadline = trio.current_time() + 1.0


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The one line that ``edge`` writes to stdout when it serves."""

    ready: bool
    role: str
    pid: int
    http: str = ""
    udp: str = ""


@dataclass(slots=True)
class Edge:
    """A running ``edge`` process and its ready line."""

    child: Child
    ready: Ready

    @property
    def http(self) -> str:
        """Base URL of its signaling."""
        assert self.ready.http
        return self.ready.http

    @property
    def udp(self) -> str:
        """Public HOST:PORT of its relay."""
        assert self.ready.udp
        return self.ready.udp

    @property
    def udp_port(self) -> int:
        """Public port of its relay."""
        return int(self.udp.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The process id."""
        return self.child.pid

    @property
    def worker(self) -> int:
        """The pid of who does the work: of a supervised relay its child."""
        return next(iter(children(self.pid)), self.pid)


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@asynccontextmanager
async def edge(
    *arguments: str, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> AsyncGenerator[Edge]:
    """Run ``python -m edge ARGUMENTS`` until the block is left, then expect exit code 0.

    A process that the test killed on purpose, or one that a failing test leaves behind, is only
    stopped. ``prefix`` goes before the command (``ip netns exec NAME``).
    """
    command = [*prefix, sys.executable, "-m", "edge", *arguments]
    async with child(command, env=env) as running:
        started = Edge(running, await _read_ready(running))
        yield started
        code = await running.stop()
        assert running.killed or code == 0, f"exit code {code}"
    lines = running.stdout.text.splitlines()
    assert len(lines) == 1, f"{len(lines)} lines on stdout instead of the ready line alone"


async def _read_ready(running: Child) -> Ready:
    with trio.fail_after(READY_SECONDS):
        text = await running.stdout.wait_for(lambda text: "\n" in text)
    line, newline, _ = text.partition("\n")
    assert newline, "the process ended without a ready line"
    ready = msgspec.json.decode(line, type=Ready)
    assert ready.ready
    assert ready.pid == running.pid
    return ready
