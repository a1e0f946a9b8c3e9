"""The recogniser as a child process: it works for some 100 ms, and nobody else shall wait for it.

One for all sessions, one utterance at a time. When it ends, the demo ends: whoever watches over
that starts both again.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

from edge.demo_voice.processes import end

LENGTH: Final = struct.Struct("!I")
"""Before what is asked and what is answered."""
ANSWER_SECONDS: Final = 10.0
"""For the longest utterance; it takes 2 s with much noise."""
READY_SECONDS: Final = 30.0


class Ears(Protocol):
    """Something that understands speech."""

    async def listen(self, pcm: bytes) -> str:
        """The words in PCM16 at 16 kHz, in lower case; empty when there are none."""


@asynccontextmanager
async def open_ears() -> AsyncIterator[Ears]:
    """Run a recogniser for as long as the block; raises RuntimeError when it ends before."""
    command = [sys.executable, "-m", "edge.demo_voice.recogniser"]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        ears = _Ears(process)
        await ears.wait_ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, process)
            yield ears
            nursery.cancel_scope.cancel()
    finally:
        await end(process)


async def _watch(process: trio.Process) -> None:
    raise RuntimeError(f"the recogniser ended with {await process.wait()}")


class _Ears:
    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self._lock = trio.Lock()

    async def wait_ready(self) -> None:
        """TooSlowError when it does not come up."""
        with trio.fail_after(READY_SECONDS):
            await self._answer()

    async def listen(self, pcm: bytes) -> str:
        """See ``Ears``. Once asked, the answer is waited for, whoever wants it: it would come."""
        async with self._lock:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + ANSWER_SECONDS):
                await self._stdin.send_all(LENGTH.pack(len(pcm)) + pcm)
                return await self._answer()
        raise RuntimeError("the recogniser does not answer")

    async def _answer(self) -> str:
        (length,) = LENGTH.unpack(await self._read(LENGTH.size))
        return (await self._read(length)).decode()

    async def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self._stdout.receive_some(size - len(data))
            if not more:
                raise trio.BrokenResourceError("the recogniser has ended")
            data += more
        return data
