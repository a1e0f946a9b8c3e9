"""``python -m edge.demo_voice --address unix:/PATH``: serve the demo voice until a signal."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

import click
import structlog
import trio

from edge import logs
from edge.backends.server import BackendSession, serve_backend
from edge.config import LogConfig
from edge.demo_voice.conversation import Conversation
from edge.demo_voice.ears import Ears, open_ears
from edge.demo_voice.mouth import Mouth
from edge.demo_voice.vad import RATE

AUDIO: Final = f"pcm16/{RATE}"
MAX_SESSIONS: Final = 32
"""One core recognises for some dozens: a sentence takes 20 to 600 ms of it."""

log = structlog.get_logger()


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


@click.command()
@click.option("--address", required=True, metavar="unix:PATH|HOST:PORT", help="Listen here.")
@click.option("--with-parent", is_flag=True, help="End when stdin is closed.")
def main(address: str, with_parent: bool) -> None:
    """Answer offline, on the frames protocol, with audio as pcm16/16000.

    Writes one line to stdout when it serves, and ends on SIGTERM or SIGINT.
    """
    logs.configure(LogConfig())
    try:
        trio.run(_serve, address, with_parent)
    except OSError as error:
        click.echo(f"demo-voice: {address}: {error.strerror}", err=True)
        sys.exit(1)


async def _serve(address: str, with_parent: bool) -> None:
    async with (
        open_ears() as ears,
        serve_backend(address, Demo(ears).converse, max_sessions=MAX_SESSIONS) as bound,
        trio.open_nursery() as nursery,
    ):
        print(f"ready {bound}", flush=True)
        log.info("demo voice", address=bound)
        if with_parent:
            nursery.start_soon(_watch_parent, nursery.cancel_scope)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await anext(signals)
        nursery.cancel_scope.cancel()


async def _watch_parent(scope: trio.CancelScope) -> None:
    """Our stdin is a pipe that nobody writes to: its end is our parent's."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        while await stream.receive_some(1024):
            pass
    scope.cancel()


if __name__ == "__main__":
    main(prog_name="demo-voice")
