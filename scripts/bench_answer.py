#!/usr/bin/env python3
"""The CPU of an answer: what ``edge serve`` spends from an offer's arrival until it is answered.

Calls come one at a time, each on a connection of its own and after a pause, so that nothing is
shared between two and caches are as cold as a lone call finds them. CPU is that of the whole server
process, all its threads, from its clock (clock_gettime(2)): read before the connection is made,
again as soon as the answer has come, and once more when all that the call sets off is done. The
offer is Chromium's, with audio and a data channel. No check is ever sent: the call itself, with
ICE, DTLS and media, is measured by ``bench_first``.

    scripts/bench_answer --calls 200
"""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click
import msgspec
import trio
from reporting import json_option, write_json

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge.client.load_steps import by_percentile  # noqa: E402
from tests.support.edges import SERVE, wait_ready  # noqa: E402
from tests.support.processes import edge  # noqa: E402

OFFER: Final = ROOT / "tests" / "wire" / "golden" / "chromium_channel.sdp"
WARM_UP: Final = 20
"""Calls that are not counted, beyond the first, which is reported by itself."""
CALLS: Final = "/v1/realtime/calls"

Percentiles = dict[str, float]


class Sample(msgspec.Struct, frozen=True):
    """One call; milliseconds."""

    answer_cpu: float
    whole_cpu: float
    """With what follows the answer: the session's start, the connection's end."""
    answer: float
    """By the clock on the wall, from connecting on."""


class Result(msgspec.Struct, frozen=True):
    """Everything that is printed; milliseconds, percentiles by their name."""

    calls: int
    first: Sample
    """Of the process's first call."""
    answer_cpu_ms: Percentiles
    whole_cpu_ms: Percentiles
    answer_ms: Percentiles
    idle_cpu_ms: float
    """What the process spends in a pause without a call; it is within ``whole_cpu_ms``."""


def cpu_ms(pid: int) -> float:
    """CPU time of a process; the clock's id is made as clock_getcpuclockid(3) does."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e6


def post(http: str, path: str, body: bytes = b"") -> bytes:
    """Send a request on a new connection, and read the response."""
    parts = urlsplit(http)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=10.0) as connection:
        connection.sendall(head.encode() + body)
        return read_response(connection)


def read_response(connection: socket.socket) -> bytes:
    """Read one response; it has a Content-Length."""
    data = b""
    while True:
        head, blank, body = data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if blank and len(body) >= int(length):
            return data
        more = connection.recv(65_536)
        if not more:
            raise ConnectionError("the server closed the connection")
        data += more


async def measure_one(pid: int, http: str, offer: bytes, pause: float) -> Sample:
    """One call. This process blocks meanwhile, so that it takes nothing from the server's core."""
    before, began = cpu_ms(pid), time.perf_counter()
    answer = post(http, CALLS, offer)
    answered, took = cpu_ms(pid), time.perf_counter() - began
    location = re.search(rb"^location: (\S+)", answer, re.I | re.M)
    if not answer.startswith(b"HTTP/1.1 201") or location is None:
        raise click.ClickException(answer[:200].decode(errors="replace"))
    await trio.sleep(pause)
    sample = Sample(answered - before, cpu_ms(pid) - before, took * 1000)
    post(http, f"{location[1].decode()}/hangup")
    await trio.sleep(pause)
    return sample


async def measure(calls: int, pause: float) -> Result:
    """Run a server and call it."""
    offer = OFFER.read_bytes()
    async with edge(*SERVE, "--log-level", "error") as server:
        await wait_ready(server.http)
        samples = [
            await measure_one(server.pid, server.http, offer, pause)
            for _ in range(1 + WARM_UP + calls)
        ]
        before = cpu_ms(server.pid)
        await trio.sleep(pause)
        idle = cpu_ms(server.pid) - before
    return summarize(samples[0], samples[-calls:], idle)


def summarize(first: Sample, samples: Sequence[Sample], idle: float) -> Result:
    """Put the calls together."""
    return Result(
        calls=len(samples),
        first=first,
        answer_cpu_ms=by_percentile([each.answer_cpu for each in samples]),
        whole_cpu_ms=by_percentile([each.whole_cpu for each in samples]),
        answer_ms=by_percentile([each.answer for each in samples]),
        idle_cpu_ms=idle,
    )


def table(result: Result) -> str:
    """The result for a person."""
    rows = (
        ("answer: CPU ms", result.answer_cpu_ms, result.first.answer_cpu),
        ("with what follows: CPU ms", result.whole_cpu_ms, result.first.whole_cpu),
        ("answer: ms by the clock", result.answer_ms, result.first.answer),
    )
    names = ("p50", "p95", "p99", "max")
    lines = [
        f"{result.calls} offers, one at a time; a pause takes {result.idle_cpu_ms:.2f} ms of CPU",
        "",
        f"{'':<26}" + "".join(f"{name:>8}" for name in names) + f"{'first':>8}",
    ]
    for title, values, first in rows:
        figures = "".join(f"{values[name]:>8.2f}" for name in names)
        lines.append(f"{title:<26}{figures}{first:>8.2f}")
    return "\n".join(lines)


@click.command()
@click.option("--calls", default=200, show_default=True, help="Offers that are counted.")
@click.option("--pause", default=0.1, show_default=True, help="Seconds between two.")
@json_option
def main(calls: int, pause: float, json_file: Path | None) -> None:
    """Measure the CPU of an answer."""
    result = trio.run(measure, calls, pause)
    click.echo(table(result))
    write_json(json_file, result)


if __name__ == "__main__":
    main()
