"""More calls than a transceiver can carry, made by a process of their own."""

from __future__ import annotations

import sys
from typing import Final

import msgspec
import trio

from chaos_rig.runs import Injected
from chaos_rig.scene import Scene
from edge.client.http import request
from edge.client.load_report import LoadReport
from tests.support.processes import child

SESSIONS: Final = 150
RAMP: Final = 75
"""Calls offered, and how many a second; a share of them is all that there is room for."""
REFUSAL: Final = "the server answered 503"
OFFER: Final = (("Content-Type", "application/sdp"),)


async def offer_too_much(scene: Scene, number: int) -> Injected:
    """Offer calls to one transceiver until it refuses, and a while longer."""
    url = (await scene.busiest()).http
    plan = ("--sessions", str(SESSIONS), "--ramp", str(RAMP), "--duration", "1", "--json")
    command = (sys.executable, "-m", "edge", "load-test", "--http", url, *plan)
    async with trio.open_nursery() as nursery, child(command) as load:
        hints: set[str] = set()
        nursery.start_soon(_ask_when_to_retry, url, hints)
        await load.wait(seconds=60.0)
        report = msgspec.json.decode(
            await load.stdout.wait_for(lambda text: False), type=LoadReport
        )
        nursery.cancel_scope.cancel()
    refused = report.failed.get(REFUSAL, 0)
    wrong = "" if refused and hints and "" not in hints else "no 503 with Retry-After came"
    if report.connected + refused != SESSIONS:
        wrong = f"not all that were not refused connected: {report.failed}"
    note = f"{report.connected} taken, {refused} refused"
    return Injected(wrong=wrong, notes=(note,))


async def _ask_when_to_retry(url: str, hints: set[str]) -> None:
    while True:
        response = await request("POST", f"{url}/v1/realtime/calls", b"", headers=OFFER)
        if response.status == 503:
            hints.add(response.headers.get("retry-after", ""))
        await trio.sleep(0.1)
