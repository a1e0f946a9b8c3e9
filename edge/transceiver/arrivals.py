"""The door of a transceiver: a bounded channel that sessions come through into their nursery."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from edge.transceiver.admission import Overloaded
from edge.transceiver.session import Session

ARRIVALS: Final = 64
"""Sessions that may wait for the nursery to start them."""


class Arrivals:
    """Sessions that were made and that nobody serves yet."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Session](ARRIVALS)

    def __len__(self) -> int:
        return self._receive.statistics().current_buffer_used

    def add_nowait(self, session: Session) -> None:
        """Have a session served; raises Overloaded when too many wait."""
        try:
            self._send.send_nowait(session)
        except trio.WouldBlock:
            raise Overloaded(1.0) from None

    async def add(self, session: Session) -> None:
        """Have a session served, as soon as there is room."""
        await self._send.send(session)

    async def run(self, nursery: trio.Nursery, serve: Callable[[Session], Awaitable[None]]) -> None:
        """Start what comes, until cancelled.

        Those that came just before run as well: they are cancelled at once, and say goodbye.
        """
        try:
            async for session in self._receive:
                nursery.start_soon(serve, session)
        finally:
            while len(self):
                nursery.start_soon(serve, self._receive.receive_nowait())
