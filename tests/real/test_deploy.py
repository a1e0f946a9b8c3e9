"""The environment of the manifests makes a fleet: a process for each pod, an address for each."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
import trio

from edge.client.load import open_load
from edge.client.load_report import LoadReport
from edge.client.load_test import LoadPlan, LoadTest
from tests.support.edges import wait_metric, wait_ready, wait_sessions
from tests.support.manifests import SECRETS, Pod, environment, pods_of, read_folders
from tests.support.processes import ROOT, Edge, edge
from tests.support.redis_server import RedisServer, running_redis

KUSTOMIZE = ROOT / "deploy" / "kustomize"
RELAY, TRANSCEIVERS = "127.78.0.1", ("127.78.0.2", "127.78.0.3")
"""Pods have addresses of their own, so each can have the ports of the manifests."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What runs."""

    relay: Edge
    transceivers: list[Edge]
    redis: RedisServer


@asynccontextmanager
async def deployed(folder: Path) -> AsyncGenerator[Deployed]:
    pods = pods_of(
        read_folders(KUSTOMIZE / "base", KUSTOMIZE / "components" / "relay-loadbalancer")
    )
    (policy,) = (one for one in pods["redis"].spec.containers[0].args if "evict" in one)
    with running_redis() as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory-policy", policy)
        async with AsyncExitStack() as stack:

            async def start(pod: Pod, address: str) -> Edge:
                (container,) = pod.spec.containers
                own = environment(container, folder, address)
                own |= {"EDGE_REGISTRY_URL": server.url, "EDGE_HTTP_BIND": f"{address}:8080"}
                if "EDGE_RELAY_ADVERTISE" in own:
                    own["EDGE_RELAY_ADVERTISE"] = address
                return await stack.enter_async_context(edge(*container.args, env=own))

            relay = await start(pods["relay"], RELAY)
            others = [await start(pods["transceiver"], each) for each in TRANSCEIVERS]
            for each in others:
                await wait_ready(each.http)
            await wait_metric(relay.http, "edge_directory_transceivers", len(others))
            yield Deployed(relay, others, server)


def plan_for(fleet: Deployed, seconds: float) -> LoadPlan:
    urls = tuple(each.http for each in fleet.transceivers)
    return LoadPlan(urls=urls, sessions=4, ramp=50.0, duration=seconds, api_key=SECRETS["api-keys"])


async def test_calls_go_through_what_the_manifests_describe(tmp_path: Path) -> None:
    async with deployed(tmp_path) as fleet, open_load() as load:
        report = await LoadTest(plan_for(fleet, 0.5), load).run(trio.Event())
        assert (report.connected, report.failed, report.lost) == (4, {}, 0)
        assert report.sent >= 80


async def test_a_pod_that_goes_leaves_its_calls_to_the_other(tmp_path: Path) -> None:
    async with deployed(tmp_path) as fleet, open_load() as load:
        first, second = fleet.transceivers
        results: list[LoadReport] = []

        async def call() -> None:
            results.append(await LoadTest(plan_for(fleet, 3.0), load).run(trio.Event()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            for each in fleet.transceivers:
                await wait_sessions(each.http, 2)
            first.child.signal(signal.SIGTERM)
            await wait_sessions(second.http, 4)
            assert await first.child.wait() == 0
        (report,) = results
        assert (report.connected, report.failed, report.lost) == (4, {}, 0)


async def test_a_full_redis_costs_running_calls_nothing(tmp_path: Path) -> None:
    async with deployed(tmp_path) as fleet, open_load() as load:
        results: list[LoadReport] = []

        async def call() -> None:
            results.append(await LoadTest(plan_for(fleet, 4.0), load).run(trio.Event()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            for each in fleet.transceivers:
                await wait_sessions(each.http, 2)
            with redis.Redis.from_url(fleet.redis.url) as client:
                client.config_set("maxmemory", 1)
                await trio.sleep(2.5)  # several leases
                client.config_set("maxmemory", 0)
        (report,) = results
        assert (report.connected, report.failed, report.lost) == (4, {}, 0)
