"""The demo voice as a process: ``edge demo-voice``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Final

import msgspec
import structlog
import trio

from edge.backends.server import BackendSession, serve_backend
from edge.demo_voice.conversation import Conversation
from edge.demo_voice.ears import Ears, open_ears
from edge.demo_voice.mouth import Mouth
from edge.demo_voice.vad import RATE
from edge.ready import StartupError

AUDIO: Final = f"pcm16/{RATE}"
MAX_SESSIONS: Final = 32
"""One core recognises for some dozens: a sentence takes 20 to 600 ms of it."""

log = structlog.get_logger()


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """The one line on stdout when it serves."""

    ready: bool = True
    role: str = "demo-voice"
    address: str
    pid: int


class Demo:
    """The parts that all sessions share."""

    def __init__(self, ears: Ears) -> None:
        self._ears = ears
        self._mouth = Mouth()

    async def converse(self, session: BackendSession) -> None:
        """Serve one session; the handler of ``serve_backend``."""
        if session.audio != AUDIO:
            raise ValueError(f"the demo voice speaks {AUDIO}, not {session.audio}")
        conversation = Conversation(session, self._ears, self._mouth)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversation.run)
            async for heard in session:
                if isinstance(heard, bytes):
                    conversation.hear(heard)


def serve(address: str, *, with_parent: bool) -> None:
    """Answer on ``unix:/PATH`` or HOST:PORT until SIGTERM or SIGINT; raises StartupError.

    ``with_parent`` ends it with our stdin as well.
    """
    try:
        trio.run(_serve, address, with_parent)
    except ExceptionGroup as group:
        causes = list(_causes(group))
        if not all(isinstance(cause, OSError) for cause in causes):
            raise
        raise StartupError(f"--address {address}: {causes[0]}") from None


def _causes(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield error


async def _serve(address: str, with_parent: bool) -> None:
    async with (
        open_ears() as ears,
        serve_backend(address, Demo(ears).converse, max_sessions=MAX_SESSIONS) as bound,
        trio.open_nursery() as nursery,
    ):
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            line = msgspec.json.encode(Serving(address=bound, pid=os.getpid()))
            print(line.decode(), flush=True)
            log.info("demo voice", address=bound)
            if with_parent:
                nursery.start_soon(_watch_parent, nursery.cancel_scope)
            await anext(signals)
        nursery.cancel_scope.cancel()


async def _watch_parent(scope: trio.CancelScope) -> None:
    """Our stdin is a pipe that nobody writes to: its end is our parent's."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        while await stream.receive_some(1024):
            pass
    scope.cancel()
