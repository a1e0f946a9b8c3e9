"""The demo voice as a child process: started, watched, started again, and always ended by its pid.

The edge's own process imports none of the models: they live in the child, which listens on a unix
socket in a directory that nobody else may enter. The child ends by itself when its stdin is closed,
so it outlives no parent, whatever happens to that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
import trio

from edge.config import LogConfig
from edge.config_load import ENVIRONMENT_PREFIX
from edge.demo_voice.parts import require_parts
from edge.demo_voice.processes import end
from edge.ready import StartupError

READY_SECONDS: Final = 30.0
"""Loading the models takes 2 s."""
RESTART_SECONDS: Final = 1.0
"""Between the end of a child and the next one, so that a broken one costs little."""

log = structlog.get_logger()


@asynccontextmanager
async def open_demo_voice(log: LogConfig) -> AsyncIterator[str]:
    """Run the demo voice for as long as the block; yields its address, ``unix:/PATH``.

    It logs as ``log`` says, to our stderr.

    Raises StartupError when a part is not installed or the child does not come up.
    """
    require_parts("backend.kind")
    with tempfile.TemporaryDirectory(prefix="edge-voice-") as directory:
        address = f"unix:{Path(directory) / 'voice.sock'}"
        async with trio.open_nursery() as nursery:
            await nursery.start(_keep, address, _environment(log))
            yield address
            nursery.cancel_scope.cancel()


def _environment(log: LogConfig) -> dict[str, str]:
    """Ours without what configures an edge, which is secret in part; but it shall log as we do."""
    kept = {name: text for name, text in os.environ.items() if not _is_ours(name)}
    return kept | {
        f"{ENVIRONMENT_PREFIX}LOG_{key.upper()}": str(getattr(log, key))
        for key in log.__struct_fields__
    }


def _is_ours(name: str) -> bool:
    return name.startswith(ENVIRONMENT_PREFIX)


async def _keep(
    address: str,
    environment: Mapping[str, str],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run children one after the other; the first must come up."""
    first = True
    while True:
        async with _child(address, environment) as process:
            if await _is_ready(process):
                if first:
                    task_status.started()
                first = False
                await process.wait()
            elif first:
                raise StartupError("backend.kind: the demo voice does not start")
        log.warning("demo voice ended", code=process.returncode)
        await trio.sleep(RESTART_SECONDS)


@asynccontextmanager
async def _child(address: str, environment: Mapping[str, str]) -> AsyncIterator[trio.Process]:
    command = [sys.executable, "-m", "edge", "demo-voice", "--address", address, "--with-parent"]
    process = await trio.lowlevel.open_process(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal is for us: sessions are still to be drained
    )
    try:
        yield process
    finally:
        await end(process)


async def _is_ready(process: trio.Process) -> bool:
    """Wait for its line on stdout, or its end."""
    assert process.stdout is not None
    with trio.move_on_after(READY_SECONDS):
        return bool(await process.stdout.receive_some(1))
    return False
