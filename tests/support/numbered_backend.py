"""A ``frames`` backend that says numbered audio and messages, and reports what it hears.

A process of its own, so that it can be killed: every frame and message that it hears is a record on
stdout at once. It keeps a call's counters however often the call is opened again.

    python -m tests.support.numbered_backend 10.0.0.1:7000 0.1
"""

from __future__ import annotations

import os
import secrets
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Final

import trio

from edge.backends.server import BackendSession, serve_backend
from edge.client.journal import FRAME_SECONDS, MARK_BYTES
from tests.support.numbered import decode_numbered, encode_numbered

AUDIO: Final = 0
MESSAGE: Final = 1
MAX_LATE_SECONDS: Final = 0.1
"""After a longer stall of our own the frames in between are never made."""
MESSAGE_TYPE: Final = "numbered"

RECORD: Final = struct.Struct(f"!B{MARK_BYTES}sQ{MARK_BYTES}sd")
"""Kind, mark, number, stream, time."""


@dataclass(slots=True)
class Call:
    """What is known of a call, by its public id."""

    stream: bytes = field(default_factory=lambda: secrets.token_bytes(MARK_BYTES))
    mark: bytes = b""
    said: int = 0
    messages: int = 0


class NumberedBackend:
    """All calls of this process."""

    def __init__(self, report: int, message_seconds: float) -> None:
        self._report = report
        self._message_seconds = message_seconds
        self._calls: dict[str, Call] = {}

    async def serve(self, session: BackendSession) -> None:
        """Serve a session; of a call that was open before it goes on with the counts."""
        call = self._calls.setdefault(session.call, Call())
        async with trio.open_nursery() as nursery:
            if call.mark:
                self._speak(nursery, session, call)
            async for heard in session:
                self._take(heard, call)
                if call.mark and not nursery.child_tasks:
                    self._speak(nursery, session, call)

    def _speak(self, nursery: trio.Nursery, session: BackendSession, call: Call) -> None:
        nursery.start_soon(self._say, session, call)
        nursery.start_soon(self._send_messages, session, call)

    def _take(self, heard: bytes | dict[str, object], call: Call) -> None:
        now = time.monotonic()
        if isinstance(heard, bytes):
            numbered = decode_numbered(heard)
            if numbered is not None:
                call.mark, number, stream = numbered
                self._write(RECORD.pack(AUDIO, call.mark, number, stream, now))
        elif heard.get("type") == MESSAGE_TYPE:
            mark, count = bytes.fromhex(str(heard["mark"])), int(str(heard["number"]))
            self._write(RECORD.pack(MESSAGE, mark, count, mark, now))

    async def _say(self, session: BackendSession, call: Call) -> None:
        due = trio.current_time()
        while True:
            await session.say(encode_numbered(call.mark, call.said, call.stream))
            call.said += 1
            due = max(due + FRAME_SECONDS, trio.current_time() - MAX_LATE_SECONDS)
            await trio.sleep_until(due)

    async def _send_messages(self, session: BackendSession, call: Call) -> None:
        while True:
            number, stream = call.messages, call.stream.hex()
            call.messages += 1
            await session.send_event({"type": MESSAGE_TYPE, "number": number, "stream": stream})
            await trio.sleep(self._message_seconds)

    def _write(self, record: bytes) -> None:
        os.write(self._report, record)  # shorter than PIPE_BUF: whole or not at all


async def main(address: str, message_seconds: float) -> None:
    """Serve until killed, and send each call a message every so many seconds."""
    backend = NumberedBackend(os.dup(1), message_seconds)
    os.dup2(2, 1)  # what is logged is no record
    async with serve_backend(address, backend.serve) as bound:
        print(bound, file=sys.stderr, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], float(sys.argv[2]))
