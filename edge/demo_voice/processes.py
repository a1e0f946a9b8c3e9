"""The end of a child process, in bounded time and by its pid."""

from __future__ import annotations

from typing import Final

import trio

STOP_SECONDS: Final = 2.0


async def end(process: trio.Process) -> None:
    """SIGTERM, after 2 s SIGKILL; closes its pipes. Being cancelled does not shorten it."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            process.terminate()
        with trio.move_on_after(STOP_SECONDS):
            await process.wait()
        if process.poll() is None:
            process.kill()
            await process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                await stream.aclose()
