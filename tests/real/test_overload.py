"""More calls than a transceiver can carry: it refuses, and running calls notice nothing.

It stays ready all the same: a rollout removes first who is not (docs/kubernetes.md).
"""

from __future__ import annotations

import pytest
import trio

from edge.client.http import request
from edge.client.load import CallRefused, open_load
from edge.client.load_test import LoadPlan, LoadTest
from edge.http.problem import Cause
from tests.support.edges import SERVE, metric, wait_ready
from tests.support.processes import edge

SESSIONS, RAMP = 150, 75.0
"""Calls offered, and how many a second: far more than ``MAX_LOAD`` lets in."""
MAX_LOAD = "0.15"
"""Of a processor; low, so that the machine that plays the clients has time to spare."""


@pytest.mark.alone
async def test_calls_are_refused_before_the_running_ones_suffer() -> None:
    limits = {"EDGE_TRANSCEIVER_MAX_LOAD": MAX_LOAD, "EDGE_TRANSCEIVER_ENGINE": "pure"}
    async with edge(*SERVE, env=limits) as server, open_load() as load:
        plan = LoadPlan(urls=(server.http,), sessions=SESSIONS, ramp=RAMP, duration=1.0)
        report = await LoadTest(plan, load).run(trio.Event())
        refused = report.failed.get("the server answered 503", 0)
        assert report.failed == {"the server answered 503": refused}
        assert report.connected >= 5
        assert refused >= SESSIONS / 10
        assert report.connected + refused == SESSIONS
        assert report.lost <= report.sent / 100
        assert report.longest_hole_ms <= 100
        counted = await metric(
            server.http, rf'edge_http_refusals_total\{{cause="{Cause.OVERLOADED.value}"\}}'
        )
        assert counted == refused


async def test_a_full_transceiver_refuses_and_stays_ready() -> None:
    limits = {"EDGE_TRANSCEIVER_MAX_SESSIONS": "1"}
    async with edge(*SERVE, env=limits) as server, open_load() as load:
        await wait_ready(server.http)
        call = await load.open_call(server.http)
        with pytest.raises(CallRefused) as refused:
            await load.open_call(server.http)
        assert refused.value.status == 503
        assert await metric(server.http, "edge_load") == 1
        assert (await request("GET", f"{server.http}/readyz")).status == 200
        call.close()
