"""A backend at the other end of a stream, a speaker and an event sink, all to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio
import trio.testing

from edge.backends.frames.backend import FramesBackend
from edge.backends.frames.conversation import FramesConversation, Patience
from edge.backends.frames.wire import FORMATS, Frame, FrameDecoder, Kind, encode_frame
from edge.backends.protocol import AudioFrame, Call, CallQuality, Resumed
from edge.errors import BackendError

PCM = "pcm16/24000"
PIECE = bytes(960)
"""20 ms of PCM."""
QUALITY = CallQuality(None, 0.0, 0, 0.0, 0.0, None, None)


class ListedSpeaker:
    """Plays as fast as its ``rate``: 1 is real time, 0 nothing at all."""

    quality = QUALITY

    def __init__(self, *, rate: float = 1.0, played: float = 0.0) -> None:
        self.frames: list[AudioFrame] = []
        self.calls: list[str] = []
        self.most_queued = 0.0
        self._rate = rate
        self._queued, self._played = 0.0, played
        self._seen = trio.current_time()

    @property
    def queued(self) -> float:
        now = trio.current_time()
        done = min(self._queued, (now - self._seen) * self._rate)
        self._seen = now
        self._queued -= done
        self._played += done
        return self._queued

    @property
    def played(self) -> float:
        assert self.queued >= 0.0
        return self._played

    def stop(self) -> None:
        """Play nothing more."""
        assert self.queued >= 0.0
        self._rate = 0.0

    def play(self, frame: AudioFrame) -> None:
        self._queued = self.queued + frame.duration
        self.most_queued = max(self.most_queued, self._queued)
        self.frames.append(frame)

    async def wait_queued_below(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()
        while self.queued > seconds:
            await trio.sleep(0.01)

    def flush(self) -> float:
        self.calls.append("flush")
        played = self.played
        self._queued = 0.0
        return played

    def pause(self) -> float:
        self.calls.append("pause")
        return self.played

    def resume(self) -> None:
        self.calls.append("resume")

    @property
    def heard(self) -> bytes:
        return b"".join(frame.payload for frame in self.frames)


@dataclass
class ListedEvents:
    """Everything a backend told the client."""

    events: list[bytes] = field(default_factory=list)

    def send_event(self, event: bytes) -> bool:
        self.events.append(event)
        return True


class RawBackend:
    """The other end of one connection, by hand."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._decoder = FrameDecoder()
        self._frames: list[Frame] = []

    async def next(self, *kinds: Kind) -> Frame:
        """Read on to the next frame of these kinds; of any kind but ``ping`` if none is named."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.kind in kinds or (not kinds and frame.kind != Kind.PING):
                    return frame
            data = await self.stream.receive_some(65_536)
            assert data, "the transceiver is gone"
            self._frames += self._decoder.decode(bytes(data))

    async def send(self, kind: Kind, session: int = 1, payload: bytes = b"") -> None:
        await self.stream.send_all(encode_frame(kind, session, payload))

    async def serve_pings(self) -> None:
        """Read and forget everything, but stay alive."""
        while True:
            await self.next(Kind.PING)
            await self.send(Kind.PONG, 0)


class Dialled:
    """Stands for the network: each attempt to connect gives one end of a pair of streams."""

    def __init__(self) -> None:
        self.up = True
        self.attempts: list[float] = []
        self._send, self._receive = trio.open_memory_channel[RawBackend](100)

    async def dial(self, address: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.attempts.append(trio.current_time())
        if not self.up:
            raise ConnectionRefusedError
        ours, theirs = self.pair()
        self._send.send_nowait(RawBackend(theirs))
        return ours

    def pair(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        return trio.testing.memory_stream_pair()

    async def accept(self) -> RawBackend:
        return await self._receive.receive()


class Client:
    """One session's conversation and what came of it."""

    def __init__(
        self,
        backend: FramesBackend,
        *,
        audio: str = PCM,
        name: str = "rtc_1",
        rate: float = 1.0,
        resumed: Resumed | None = None,
    ) -> None:
        played = resumed.played / FORMATS[audio].clock_rate if resumed else 0.0
        self.speaker = ListedSpeaker(rate=rate, played=played)
        self.events = ListedEvents()
        self.outcome: str | None = None
        self.error: BackendError | None = None
        self.done = trio.Event()
        self.conversation: FramesConversation = backend.open(
            Call(name, FORMATS[audio], resumed=resumed), self.speaker, self.events
        )

    async def run(self) -> None:
        try:
            await self.conversation.run()
            self.outcome = "closed"
        except BackendError as error:
            self.outcome, self.error = str(error), error
        finally:
            self.done.set()

    def hear(self, payload: bytes = PIECE, duration: float = 0.02) -> None:
        self.conversation.hear(AudioFrame(payload, duration))

    async def ended(self, within: float = 30.0) -> str:
        with trio.fail_after(within):
            await self.done.wait()
        assert self.outcome is not None
        return self.outcome


def make_backend(dialled: Dialled, patience: Patience | None = None) -> FramesBackend:
    return FramesBackend(
        "unix:/nowhere", audio=PCM, patience=patience, dial=dialled.dial, chance=lambda: 1.0
    )


async def clients_of(backend: FramesBackend, nursery: trio.Nursery, count: int) -> Sequence[Client]:
    """Start some sessions, one after the other."""
    clients = [Client(backend, name=f"rtc_{number}") for number in range(1, count + 1)]
    for client in clients:
        nursery.start_soon(client.run)
        await trio.testing.wait_all_tasks_blocked()
    return clients
