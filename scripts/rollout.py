#!/usr/bin/env python3
"""A rolling update of a whole fleet under live calls: docs/chaos.md tells how to read the table.

Processes are pods with addresses of their own on one bridge. All transceivers are replaced, each by
a pod with another address, then all relays, each on its node's; audio and messages are numbered
both ways. Exit code 1 when a call or a packet was lost that should not be, or a hole was too long.

    scripts/rollout --calls 100 --json rollout.json
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos_rig.fleet import running_fleet
from chaos_rig.rolling import HEAD, Stage, roll_relays, roll_transceivers, run_stage, stage_line
from chaos_rig.runs import SLACK_MS
from chaos_rig.scene import Scene
from reporting import json_option, write_json

from edge.client import open_load
from tests.support.numbered_calls import open_conversations

MESSAGE_SECONDS: Final = 1.0
"""Each is written down at once at the transceiver; this is what a talkative agent sends."""


class Rollout(msgspec.Struct, frozen=True):
    """Everything that is printed."""

    calls: int
    transceivers: int
    relays: int
    stages: list[Stage]

    @property
    def passed(self) -> bool:
        """Whether every stage went as it should."""
        return all(stage.passed for stage in self.stages)


async def roll_out(*, calls: int, transceivers: int, relays: int, slack: float) -> Rollout:
    """Replace every process of a fleet under so many calls."""
    async with (
        open_load(channel=True) as load,
        open_conversations(load, message_seconds=MESSAGE_SECONDS) as conversations,
        running_fleet(
            conversations, relays=relays, transceivers=transceivers, sniff=False
        ) as fleet,
    ):
        scene = Scene(fleet, conversations, seed=0)
        await scene.open_calls(calls)
        names = f"{transceivers} transceivers", f"{relays} relays"
        stages = [
            await run_stage(scene, names[0], roll_transceivers, lossless=True, slack=slack),
            await run_stage(scene, names[1], roll_relays, lossless=False, slack=slack),
        ]
    return Rollout(calls, transceivers, relays, stages)


def table(result: Rollout) -> str:
    """The result for a person."""
    seconds = sum(stage.seconds for stage in result.stages)
    head = f"{result.calls} calls, {seconds:.0f} s; longest hole of each call in ms"
    return "\n".join([head, "", HEAD, *map(stage_line, result.stages)])


@click.command()
@click.option("--calls", default=100, show_default=True, help="Calls at the same time.")
@click.option("--transceivers", default=3, show_default=True, help="Pods to replace.")
@click.option("--relays", default=2, show_default=True, help="Nodes with a relay each.")
@click.option("--slack", default=SLACK_MS, show_default=True, help="Granted to a hole, in ms.")
@json_option
def main(calls: int, transceivers: int, relays: int, slack: float, json_file: Path | None) -> None:
    """Replace every process of a fleet, one after the other, under live calls."""
    sizes = {"calls": calls, "transceivers": transceivers, "relays": relays}
    result = trio.run(partial(roll_out, **sizes, slack=slack / 1000))
    click.echo(table(result))
    write_json(json_file, result)
    sys.exit(0 if result.passed else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the pods are taken down either way
    main()
