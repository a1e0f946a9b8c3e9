"""A TCP line to a server that can be made slow: everything arrives later, in order."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

READ_BYTES: Final = 65_536
MAX_UNDER_WAY: Final = 1_024

Chunk = tuple[float, bytes]
"""When it is due, and what."""


class SlowLine:
    """Forwards connections to ``port`` of the loopback interface."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        """Seconds, each way."""
        self._port = port

    async def serve(
        self, host: str, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen on a free port, which the task status tells."""
        [listener] = await trio.open_tcp_listeners(0, host=host)
        task_status.started(listener.socket.getsockname()[1])
        await trio.serve_listeners(self._forward, [listener])

    async def _forward(self, near: trio.SocketStream) -> None:
        async with near:
            with suppress(OSError):
                async with await trio.open_tcp_stream("127.0.0.1", self._port) as far:
                    await self._join(near, far)

    async def _join(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            for source, sink in ((near, far), (far, near)):
                arrive, arrivals = trio.open_memory_channel[Chunk](MAX_UNDER_WAY)
                nursery.start_soon(self._read, source, arrive, nursery.cancel_scope)
                nursery.start_soon(_deliver, arrivals, sink, nursery.cancel_scope)

    async def _read(
        self,
        source: trio.SocketStream,
        arrive: trio.MemorySendChannel[Chunk],
        over: trio.CancelScope,
    ) -> None:
        with suppress(trio.BrokenResourceError):
            while data := await source.receive_some(READ_BYTES):
                await arrive.send((trio.current_time() + self.delay, data))
        over.cancel()


async def _deliver(
    arrivals: trio.MemoryReceiveChannel[Chunk], sink: trio.SocketStream, over: trio.CancelScope
) -> None:
    with suppress(trio.BrokenResourceError):
        async for due, data in arrivals:
            await trio.sleep_until(due)
            await sink.send_all(data)
    over.cancel()
