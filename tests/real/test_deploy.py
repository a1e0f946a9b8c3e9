"""The environment of the manifests makes a fleet: a process for each pod, an address for each."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from edge.client.load import open_load
from edge.client.load_test import LoadPlan, LoadTest
from edge.errors import EndReason
from tests.support.edges import ended, wait_ready, wait_sessions
from tests.support.manifests import SECRETS, Pod, environment, pods_of, read_folders
from tests.support.processes import ROOT, Edge, edge
from tests.support.redis_server import running_redis

KUSTOMIZE = ROOT / "deploy" / "kustomize"
RELAY, TRANSCEIVERS = "127.78.0.1", ("127.78.0.2", "127.78.0.3")
"""Pods have addresses of their own, so each can have the ports of the manifests."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What runs."""

    relay: Edge
    transceivers: list[Edge]


@asynccontextmanager
async def deployed(folder: Path) -> AsyncGenerator[Deployed]:
    pods = pods_of(
        read_folders(KUSTOMIZE / "base", KUSTOMIZE / "components" / "relay-loadbalancer")
    )
    with running_redis() as redis:
        async with AsyncExitStack() as stack:

            async def start(pod: Pod, address: str) -> Edge:
                (container,) = pod.spec.containers
                own = environment(container, folder, address)
                own |= {"EDGE_REGISTRY_URL": redis.url, "EDGE_HTTP_BIND": f"{address}:8080"}
                if "EDGE_RELAY_ADVERTISE" in own:
                    own["EDGE_RELAY_ADVERTISE"] = address
                return await stack.enter_async_context(edge(*container.args, env=own))

            relay = await start(pods["relay"], RELAY)
            others = [await start(pods["transceiver"], each) for each in TRANSCEIVERS]
            yield Deployed(relay, others)


async def test_calls_go_through_what_the_manifests_describe(tmp_path: Path) -> None:
    async with deployed(tmp_path) as fleet, open_load() as load:
        for each in fleet.transceivers:
            await wait_ready(each.http)
        urls = tuple(each.http for each in fleet.transceivers)
        plan = LoadPlan(urls=urls, sessions=4, ramp=50.0, duration=0.5, api_key=SECRETS["api-keys"])
        report = await LoadTest(plan, load).run(trio.Event())
        assert (report.connected, report.failed, report.lost) == (4, {}, 0)
        assert report.sent >= 80
        first, second = fleet.transceivers
        await wait_sessions(second.http, 2)
        assert await first.child.stop() == 0
        assert await ended(second.http, EndReason.SHUTDOWN) == 0
        await wait_sessions(second.http, 2)
