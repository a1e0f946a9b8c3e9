#!/usr/bin/env python3
"""What a backend's messages to clients cost a transceiver, and how long each one takes.

A relay, a transceiver, a Redis, and this process: the clients, with 50 packets of audio a second
each way, and the backend, which echoes them and sends every client so many events a second, at
times that are random. All of it on one machine, on loopback.

    scripts/bench_messages --sessions 20 --rate 0 --rate 10 --rate 20
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from random import Random
from typing import Final

import click
import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.usage import Usage

from edge.backends.server import BackendSession, serve_backend
from edge.client import LoadClient, open_load
from edge.client.load_report import percentiles
from tests.support.edges import Fleet, fleet
from tests.support.redis_server import running_redis

SETTLE_SECONDS: Final = 1.0
TEXT: Final = "a few words of a transcript, "
HEADER: Final = "events/s   CPU of a session   each event   p50 ms    p95    p99"


class Event(msgspec.Struct):
    """What a client is told; those of the edge have no time."""

    type: str
    at: float = 0.0
    delta: str = TEXT


class Heard(deque[str | bytes]):
    """Takes the place of what a client has received: notes how long it was on its way."""

    def __init__(self, delays: list[float]) -> None:
        super().__init__(maxlen=0)
        self._delays = delays

    def append(self, data: str | bytes) -> None:
        """Take a message."""
        event = msgspec.json.decode(data, type=Event)
        if event.at:
            self._delays.append(time.monotonic() - event.at)


class Talkative:
    """A backend that echoes what it hears, and sends events at random times."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._random = Random(1)

    async def serve(self, session: BackendSession) -> None:
        """Serve a call."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, session)
            async for heard in session:
                if isinstance(heard, bytes):
                    await session.say(heard)
            nursery.cancel_scope.cancel()

    async def _tell(self, session: BackendSession) -> None:
        while self._rate:
            await trio.sleep(self._random.expovariate(self._rate))
            event = Event("response.output_audio_transcript.delta", time.monotonic())
            await session.send_event(msgspec.structs.asdict(event))


async def measure(
    group: Fleet, sessions: int, rate: float, seconds: float
) -> tuple[float, list[float]]:
    """CPU seconds a second of the transceiver, and how long each event took."""
    delays: list[float] = []
    async with open_load(channel=True) as load:
        calls: list[LoadClient] = []
        for _ in range(sessions):
            calls.append(await load.open_call(group.transceivers[0].http))
            await trio.sleep(0.02)
        for call in calls:
            assert call.channel is not None
            call.channel.received = Heard(delays)
        await trio.sleep(SETTLE_SECONDS)
        delays.clear()
        pid = group.transceivers[0].pid
        before, start = Usage.read(pid).cpu_seconds, time.monotonic()
        await trio.sleep(seconds)
        return (Usage.read(pid).cpu_seconds - before) / (time.monotonic() - start), delays


async def run(rates: tuple[float, ...], sessions: int, seconds: float, redis: str) -> None:
    """Measure and print."""
    click.echo(f"{sessions} sessions\n{HEADER}")
    silent: float | None = None
    for rate in rates:
        async with serve_backend("127.0.0.1:0", Talkative(rate).serve) as address:
            os.environ["EDGE_BACKEND_ADDRESS"] = address
            async with fleet(redis, transceivers=1) as group:
                cpu, delays = await measure(group, sessions, rate, seconds)
        if not delays:
            silent = cpu
            click.echo(f"{rate:>8g}{cpu * 100 / sessions:>17.2f} %")
            continue
        each = f"{(cpu - silent) * seconds / len(delays) * 1e6:.0f} us" if silent else "?"
        found = percentiles(delays)
        times = f"{found['p50']:>9.2f}{found['p95']:>7.2f}{found['p99']:>7.2f}"
        click.echo(f"{rate:>8g}{cpu * 100 / sessions:>17.2f} %{each:>15}{times}")


@click.command()
@click.option("--sessions", default=20, show_default=True)
@click.option("--rate", "rates", type=float, multiple=True, default=(0.0, 1.0, 10.0, 20.0))
@click.option("--seconds", default=8.0, show_default=True)
def main(sessions: int, rates: tuple[float, ...], seconds: float) -> None:
    """Measure what a backend's messages to clients cost."""
    os.environ["EDGE_BACKEND_KIND"] = "frames"
    os.environ["EDGE_BACKEND_AUDIO"] = "opus"
    os.environ["EDGE_HTTP_ALLOW_ANONYMOUS"] = "true"
    os.environ["EDGE_TRANSCEIVER_MAX_LOAD"] = "1"
    with running_redis() as server:
        trio.run(run, rates, sessions, seconds, server.url)


if __name__ == "__main__":
    main()
