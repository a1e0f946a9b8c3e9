"""Writes to one transceiver: what its sessions send while a write is under way goes as one piece.

Who sends waits only while much is waiting already, so a transceiver that does not read holds back
whoever speaks, and a write costs one call for all that speak at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

WRITE_SECONDS: Final = 5.0
"""For one piece; a transceiver that takes longer is gone."""
MAX_WAITING: Final = 65_536
"""Bytes that may wait before senders do."""

_GONE: Final = trio.BrokenResourceError, trio.ClosedResourceError


class FrameWriter:
    """See ``Wire``; ``run`` writes, and returns when nothing more can be written."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self._waiting = bytearray()
        self._work = trio.Event()
        self._room = trio.Event()
        self._turns = trio.Lock()
        self._writing: trio.CancelScope | None = None
        self._lost = False

    async def send(self, frame: bytes, before: Callable[[], None] = lambda: None) -> None:
        """Have a frame written whole, behind those before it; see ``Wire``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._turns.locked() or self._full:
            async with self._turns:  # frames keep their order
                while self._full:
                    await self._room.wait()
                self._add(frame, before)
        else:
            self._add(frame, before)
            await trio.lowlevel.cancel_shielded_checkpoint()

    def give_up(self) -> None:
        """Wait no more for what is being written."""
        if self._writing is not None:
            self._writing.cancel()

    async def run(self) -> None:
        """Write until cancelled; returns when the transceiver is gone, or does not read."""
        try:
            while not self._lost:
                await self._work.wait()
                await self._write()
        finally:
            self._lost = True
            self._room.set()

    @property
    def _full(self) -> bool:
        return len(self._waiting) >= MAX_WAITING and not self._lost

    def _add(self, frame: bytes, before: Callable[[], None]) -> None:
        if not self._lost:
            before()
            self._waiting += frame
            self._work.set()

    async def _write(self) -> None:
        piece, self._waiting = self._waiting, bytearray()
        self._work = trio.Event()
        self._room.set()
        self._room = trio.Event()
        written = False
        with trio.move_on_after(WRITE_SECONDS) as self._writing, suppress(*_GONE):
            await self._stream.send_all(piece)
            written = True
        self._writing = None
        self._lost = self._lost or not written
