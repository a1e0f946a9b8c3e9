"""One ``edge`` process in a pod, kept as a supervisor would: killed, stopped, started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from edge.address import Address
from tests.support.edges import sessions
from tests.support.pods import Pod
from tests.support.processes import Edge, edge

HTTP_PORT: Final = 8080
PUBLIC_PORT: Final = 3478
INTERNAL_PORT: Final = 3479
EXIT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process left after SIGTERM."""

    code: int
    seconds: float


class Member:
    """A relay or a transceiver; its address is its pod's, and lasts as long."""

    def __init__(
        self,
        nursery: trio.Nursery,
        pod: Pod,
        flags: Sequence[str],
        env: Mapping[str, str],
        logs: Path | None = None,
    ) -> None:
        self.pod = pod
        self._logs = logs
        self._nursery = nursery
        self._flags = flags
        self._env = env
        self._edge: Edge | None = None
        self._leave = trio.Event()
        self._left = trio.Event()

    @property
    def http(self) -> str:
        """Base URL of its signaling."""
        return f"http://{self.pod.address}:{HTTP_PORT}"

    @property
    def public(self) -> Address:
        """Where clients reach a relay."""
        return self.pod.address, PUBLIC_PORT

    async def start(self) -> None:
        """Start it and wait for its ready line."""
        await self._nursery.start(self._live)

    async def sessions(self) -> int:
        """How many sessions it says it has."""
        return await sessions(self.http)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._edge is not None
        await self._edge.child.kill()
        await self._end()

    def kill_worker(self) -> None:
        """End a relay's worker with SIGKILL; its supervisor replaces it."""
        assert self._edge is not None
        os.kill(self._edge.worker, signal.SIGKILL)

    async def terminate(self) -> Exit:
        """Send SIGTERM and wait until it has left."""
        assert self._edge is not None
        began = trio.current_time()
        self.signal(signal.SIGTERM)
        code = await self._edge.child.wait(seconds=EXIT_SECONDS)
        self._edge.child.killed = True  # whatever its code is, it is told and not raised
        await self._end()
        return Exit(code, trio.current_time() - began)

    async def restart(self) -> float:
        """Kill it and start it at once; gives the seconds until it was ready again."""
        began = trio.current_time()
        await self.kill()
        await self.start()
        return trio.current_time() - began

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._edge is not None
        self._edge.child.signal(number)

    def leave(self) -> None:
        """Ask it to leave, as the whole fleet does."""
        if self._edge is not None:
            self.signal(signal.SIGCONT)
        self._leave.set()

    async def wait_left(self) -> None:
        """Wait until it is gone."""
        await self._left.wait()

    async def _end(self) -> None:
        self._leave.set()
        await self._left.wait()

    async def _live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        leave, left = self._leave, self._left = trio.Event(), trio.Event()
        try:
            async with edge(*self._flags, env=self._env, prefix=self.pod.prefix) as self._edge:
                task_status.started()
                await leave.wait()
        finally:
            left.set()
            self._keep_log()

    def _keep_log(self) -> None:
        """Append what it has logged, where that is wanted; of a long life the end only."""
        if self._logs is not None and self._edge is not None:
            with (self._logs / f"{self._flags[0]}-{self.pod.address}.log").open("a") as file:
                file.write(self._edge.child.stderr.text)


def relay_flags(pod: Pod, registry: str) -> tuple[str, ...]:
    """The command line of a relay."""
    udp = ("--udp", f"{pod.address}:{PUBLIC_PORT}", "--internal", f"{pod.address}:{INTERNAL_PORT}")
    return ("relay", *_common(pod, registry), *udp)


def transceiver_flags(pod: Pod, registry: str) -> tuple[str, ...]:
    """The command line of a transceiver."""
    internal = ("--internal", f"{pod.address}:{INTERNAL_PORT}")
    return ("transceiver", *_common(pod, registry), *internal)


def _common(pod: Pod, registry: str) -> tuple[str, ...]:
    return "--registry", registry, "--http", f"{pod.address}:{HTTP_PORT}"
