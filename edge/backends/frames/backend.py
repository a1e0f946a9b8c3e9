"""The ``frames`` backend: connects when a session needs it, and again after a loss."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from edge.address import parse_stream_address
from edge.backends.frames.conversation import FramesConversation, Patience
from edge.backends.frames.link import Link
from edge.backends.frames.wire import FORMATS
from edge.backends.protocol import AudioFormat, Call, EventSink, Speaker
from edge.errors import Drop

FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 5.0
"""Seconds from one attempt to the next, doubled from the first to the last; half is chance."""

log = structlog.get_logger()

Dial = Callable[[str], Awaitable[trio.abc.Stream]]


@dataclass(frozen=True, slots=True)
class FramesStatistics:
    """Numbers since the start, and of now."""

    connected: bool
    sessions: int
    connections: int
    lost: int
    failed_attempts: int
    drops: Counter[Drop]


@dataclass(slots=True)
class _Counts:
    connections: int = 0
    lost: int = 0
    failed_attempts: int = 0
    drops: Counter[Drop] = field(default_factory=Counter)


async def dial(address: str) -> trio.abc.Stream:
    """Connect to ``unix:/PATH`` or ``HOST:PORT``; raises OSError."""
    match parse_stream_address(address):
        case str(path):
            return await trio.open_unix_socket(path)
        case host, port:
            return await trio.open_tcp_stream(host, port)


class FramesBackend:
    """See ``Backend``. ``run`` must run for as long as there are conversations."""

    def __init__(
        self,
        address: str,
        *,
        audio: str,
        stall_seconds: float = 5.0,
        patience: Patience | None = None,
        dial: Dial = dial,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._address = address
        self._audio = FORMATS[audio]
        self._stall = stall_seconds
        self._patience = patience or Patience()
        self._dial = dial
        self._chance = chance
        self._counts = _Counts()
        self._current: Link | None = None
        self._links: set[Link] = set()
        self._found = trio.Event()
        self._wanted = trio.Event()
        self._waiting = 0
        self._failures = 0

    def wants(self, codec: AudioFormat) -> AudioFormat:
        """What the configuration says; of a client with another codec, pcm16 at 8 kHz."""
        if self._audio.name in ("pcm16", codec.name):
            return self._audio
        return FORMATS["pcm16/8000"]

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> FramesConversation:
        """Make one session's conversation."""
        return FramesConversation(
            call,
            speaker,
            events,
            audio_name=next(name for name, audio in FORMATS.items() if audio == call.audio),
            patience=self._patience,
            find_link=self._find_link,
        )

    def statistics(self) -> FramesStatistics:
        """Count."""
        counts = self._counts
        return FramesStatistics(
            connected=self._usable() is not None,
            sessions=sum(link.sessions for link in self._links),
            connections=counts.connections,
            lost=counts.lost,
            failed_attempts=counts.failed_attempts,
            drops=sum((link.drops for link in self._links), counts.drops.copy()),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a connection while sessions need one, until cancelled."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await self._wait_until_wanted()
                stream = await self._connect()
                if stream is None:
                    continue
                link = Link(stream, stall_seconds=self._stall)
                nursery.start_soon(self._serve, link)
                self._current = link
                self._found.set()
                await link.unusable.wait()
                self._failures = 0 if link.answered else self._failures + 1

    async def _find_link(self) -> Link:
        """Wait for a connection that takes new sessions."""
        self._waiting += 1
        try:
            while (link := self._usable()) is None:
                self._wanted.set()
                self._found = trio.Event() if self._found.is_set() else self._found
                await self._found.wait()
            return link
        finally:
            self._waiting -= 1

    def _usable(self) -> Link | None:
        link = self._current
        return None if link is None or link.unusable.is_set() else link

    async def _wait_until_wanted(self) -> None:
        while not self._waiting:
            self._wanted = trio.Event()
            await self._wanted.wait()

    async def _connect(self) -> trio.abc.Stream | None:
        """Try once, later the more often it failed."""
        await trio.sleep(self._delay())
        try:
            with trio.fail_after(self._patience.connect_seconds):
                return await self._dial(self._address)
        except (OSError, trio.TooSlowError) as error:
            self._failures += 1
            self._counts.failed_attempts += 1
            log.warning("backend unreachable", error=type(error).__name__)
            return None

    def _delay(self) -> float:
        if not self._failures:
            return 0.0
        longest = min(FIRST_DELAY * 2.0 ** min(self._failures - 1, 10), LAST_DELAY)
        return longest * (1.0 + self._chance()) / 2

    async def _serve(self, link: Link) -> None:
        self._links.add(link)
        self._counts.connections += 1
        log.info("backend connected")
        try:
            await link.serve()
        finally:
            self._links.discard(link)
            self._counts.drops.update(link.drops)
            if link.cause:
                self._counts.lost += 1
                log.warning("backend lost", cause=link.cause)
