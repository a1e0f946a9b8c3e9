"""A fleet of pods on one bridge: relays, transceivers, a real Redis, and a numbered backend."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from chaos_rig.members import INTERNAL_PORT, PUBLIC_PORT, Member, relay_flags, transceiver_flags
from chaos_rig.records import wait_settled
from tests.support.edges import FLEET_ENV, metric, wait_ready
from tests.support.egress import Egress, Waking
from tests.support.numbered_calls import Conversations
from tests.support.pods import PodNetwork, pod_network
from tests.support.processes import ROOT
from tests.support.redis_server import RedisServer, running_redis
from tests.support.slow_line import SlowLine
from tests.support.sniffer import Sniffer, sniffing

BACKEND_PORT: Final = 7000
KNOWN_SECONDS: Final = 20.0
STALL_SECONDS: Final = 2.0
"""A backend that takes nothing for so long is taken for dead here."""
REOPEN_SECONDS: Final = 10.0
STOP_SECONDS: Final = 20.0


class Backend:
    """The numbered backend's process, which can be killed, stopped, and started again."""

    def __init__(self, address: str, conversations: Conversations, nursery: trio.Nursery) -> None:
        self._address = address
        self._conversations = conversations
        self._nursery = nursery
        self._process: trio.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it listens."""
        program = (sys.executable, "-m", "tests.support.numbered_backend")
        command = [*program, self._address, str(self._conversations.message_seconds)]
        process = self._process = await trio.lowlevel.open_process(
            command, cwd=ROOT, stdout=-1, stderr=-1
        )
        assert process.stdout is not None
        assert process.stderr is not None
        self._nursery.start_soon(self._conversations.read_reports, process.stdout)
        await process.stderr.receive_some()
        self._nursery.start_soon(_drain, process.stderr)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    async with stream:
        async for _ in stream:
            pass


class Fleet:
    """All of it; made by ``running_fleet``."""

    def __init__(
        self,
        nursery: trio.Nursery,
        network: PodNetwork,
        redis: RedisServer,
        conversations: Conversations,
        env: Mapping[str, str],
        logs: Path | None,
    ) -> None:
        self.network = network
        self.redis = redis
        self.redis_line = SlowLine(redis.port)
        backend = f"{network.gateway}:{BACKEND_PORT}"
        self.backend = Backend(backend, conversations, nursery)
        self.relays: list[Member] = []
        self.transceivers: list[Member] = []
        self.egress = Egress()
        self.waking: Waking | None = None
        self._sniffer: Sniffer | None = None
        self._nursery = nursery
        self._registry = ""
        self._logs = logs
        self._env = {
            **FLEET_ENV,
            "EDGE_HTTP_ALLOW_ANONYMOUS": "true",
            "EDGE_BACKEND_KIND": "frames",
            "EDGE_BACKEND_ADDRESS": backend,
            "EDGE_BACKEND_AUDIO": "opus",
            "EDGE_BACKEND_STALL_SECONDS": str(STALL_SECONDS),
            "EDGE_BACKEND_REOPEN_SECONDS": str(REOPEN_SECONDS),
            **env,
        }

    @property
    def missed(self) -> int:
        """What crossed the bridge and was not seen by us."""
        return self._sniffer.count_missed() if self._sniffer is not None else 0

    @property
    def members(self) -> list[Member]:
        """All processes."""
        return self.relays + self.transceivers

    async def start(self, relays: int, transceivers: int) -> None:
        """Start everything, and wait until all know each other."""
        port = await self._nursery.start(self.redis_line.serve, self.network.gateway)
        self._registry = f"redis://{self.network.gateway}:{port}/0"
        await self.backend.start()
        for count, add in ((relays, self.add_relay), (transceivers, self.add_transceiver)):
            async with trio.open_nursery() as starting:
                for _ in range(count):
                    starting.start_soon(add)
        await self.wait_known()
        with trio.fail_after(KNOWN_SECONDS):
            await wait_settled(self.redis)

    async def add_relay(self) -> Member:
        """Start one more relay, in a pod of its own."""
        return await self._add(self.relays, relay=True)

    async def add_transceiver(self) -> Member:
        """Start one more transceiver; it is ready when it knows a relay."""
        member = await self._add(self.transceivers, relay=False)
        await wait_ready(member.http)
        return member

    async def _add(self, members: list[Member], *, relay: bool) -> Member:
        pod = await self.network.add()
        flags = (relay_flags if relay else transceiver_flags)(pod, self._registry)
        member = Member(self._nursery, pod, flags, self._env, self._logs)
        await member.start()
        members.append(member)
        return member

    async def retire(self, member: Member) -> None:
        """Take down the pod of a transceiver that is gone."""
        self.transceivers.remove(member)
        await self.network.remove(member.pod)

    async def wait_known(self) -> None:
        """Wait until every member knows all relays."""
        with trio.fail_after(KNOWN_SECONDS):
            for member in self.members:
                while await metric(member.http, "edge_directory_relays") != len(self.relays):
                    await trio.sleep(0.05)

    def hear(self, source: str, port: int, host: str, to: int, datagram: bytes) -> None:
        """Take what the bridge carries: to a relay's inner side, or from its outer one."""
        if to == INTERNAL_PORT and any(host == relay.pod.address for relay in self.relays):
            self.egress.note(datagram)
            if self.waking is not None:
                self.waking.note_framed(source, datagram)
        elif port == PUBLIC_PORT and self.waking is not None:
            self.waking.note_plain(datagram)

    async def sniff(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear what crosses the bridge until cancelled."""
        async with sniffing(self.network.bridge, self.hear) as self._sniffer:
            task_status.started()
            await trio.sleep_forever()

    async def stop(self) -> None:
        """Ask all to leave."""
        self.redis_line.delay = 0.0
        for member in self.members:
            await self.network.mend(member.pod)
            member.leave()
        for member in self.members:
            await member.wait_left()
        await self.backend.kill()


@asynccontextmanager
async def running_fleet(
    conversations: Conversations,
    *,
    relays: int = 2,
    transceivers: int = 3,
    env: Mapping[str, str] | None = None,
    sniff: bool = True,
    logs: Path | None = None,
) -> AsyncGenerator[Fleet]:
    """Run a fleet for as long as the block; ``env`` is added to the environment of all.

    With ``sniff`` all that crosses the bridge is looked at; each leaves its log in ``logs``.
    """
    with running_redis() as redis:
        async with pod_network() as network, trio.open_nursery() as nursery:
            fleet = Fleet(nursery, network, redis, conversations, env or {}, logs)
            if sniff:
                await nursery.start(fleet.sniff)
            try:
                await fleet.start(relays, transceivers)
                yield fleet
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_SECONDS):
                    await fleet.stop()
            nursery.cancel_scope.cancel()
