#!/usr/bin/env python3
"""What bad networks do to a call: a real edge behind a proxy that loses and delays on purpose.

Two processes: the edge, and this one, which is the client with real Opus, the network between, and
the backend, which hears PCM and says it again. Counts are of packets from the client; recovered and
concealed audio and the delay are the edge's own figures from /metrics, 25 times a second.

    scripts/bench_loss --seconds 10 --json FILE
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Final

import click
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reporting import json_option, write_json

from tests.support.loss_runs import Row, Trouble, open_loss_scene

HEAD: Final = (
    f"{'trouble':22}{'packets':>8}{'lost':>6}{'FEC':>6}{'RED':>6}{'NACK':>6}{'made up':>9}"
    f"{'delay p50':>10}{'p99':>7}{'max':>7}{'back in':>9}{'frames':>8}{'answered':>9}"
)


def troubles(seconds: float) -> tuple[Trouble, ...]:
    """One after the other; what has a length of its own keeps it."""
    return (
        Trouble(name="none", seconds=seconds),
        Trouble(name="1 % loss", seconds=seconds, loss=0.01),
        Trouble(name="5 % loss", seconds=seconds, loss=0.05),
        Trouble(name="20 % loss", seconds=seconds, loss=0.2),
        Trouble(name="5 % loss, RED", seconds=seconds, loss=0.05, red=True),
        Trouble(name="20 % loss, RED", seconds=seconds, loss=0.2, red=True),
        Trouble(name="5 % loss, NACK", seconds=seconds, loss=0.05, nack=True),
        Trouble(name="20 % loss, NACK", seconds=seconds, loss=0.2, nack=True),
        Trouble(name="jitter of 100 ms", seconds=seconds, jitter=0.1),
        Trouble(name="stall of 200 ms", seconds=0.2, stalls=True),
        Trouble(name="200 ms lost", seconds=0.2, loss=1.0),
        Trouble(name="blackout of 10 s", seconds=10.0, loss=1.0),
    )


def line(row: Row) -> str:
    """A line of the table."""
    return (
        f"{row.name:22}{row.packets:8}{row.lost:6}{row.fec:6}{row.red:6}{row.nack:6}"
        f"{row.concealed_ms:6.0f} ms"
        f"{row.delay_p50_ms:7.0f} ms{row.delay_p99_ms:7.0f}{row.delay_max_ms:7.0f}"
        f"{row.back_seconds:7.2f} s{row.frames:8.3f}{row.answered:9.3f}"
    )


async def measure(seconds: float) -> list[Row]:
    """Suffer them all, and print each line as it is known."""
    print(HEAD)
    rows = []
    async with open_loss_scene() as scene:
        for trouble in troubles(seconds):
            rows.append(await scene.suffer(trouble))
            print(line(rows[-1]), flush=True)
    return rows


@click.command(help=__doc__)
@click.option("--seconds", default=10.0, show_default=True, help="Of losses and of jitter.")
@json_option
def main(seconds: float, json_file: Path | None) -> None:
    """Measure, print, and write."""
    rows = trio.run(partial(measure, seconds))
    write_json(json_file, rows)


if __name__ == "__main__":
    main()
