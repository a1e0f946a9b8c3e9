"""Many sessions on one connection, without I/O: windows, fairness, heartbeats.

What a session sends waits in its ``Outgoing``: control frames go first, audio follows as far as the
backend's window reaches; over its bound the oldest audio is dropped, for what is late is worth
nothing. A ``Connection`` takes one frame from each session that has any in turn, so that none can
stop the others, and never more than a batch: what is still here can still be dropped.

Whoever does not send one whole frame within the stall time is taken for dead. A ``ping`` three
times as often sees to it that a backend with nothing to say is not.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from edge.backends.frames.wire import (
    CONNECTION,
    MAX_SESSION,
    Frame,
    FrameDecoder,
    Kind,
    encode_frame,
    encode_milliseconds,
)
from edge.errors import Drop, RemoteProtocolError

MAX_WAITING: Final = 64
MAX_WAITING_BYTES: Final = 262_144
"""Control frames of one session and kind that may wait; further ones are dropped and counted."""
PINGS: Final = 3
"""In one stall time."""


class Outgoing:
    """What one session has to send; it outlives a connection and may be attached to the next."""

    def __init__(self, *, clock_rate: int, queue_seconds: float, drops: Counter[Drop]) -> None:
        self.drops = drops
        self._clock_rate = clock_rate
        self._queue_limit = round(queue_seconds * clock_rate)
        self._control: deque[tuple[Kind, bytes]] = deque()
        self._waiting: Counter[Kind] = Counter()
        self._waiting_bytes = 0
        self._grant: int | None = None
        self._audio: deque[tuple[bytes, int]] = deque()
        self._queued = self._sent = 0  # samples
        self._window: int | None = None
        self._connection: Connection | None = None
        self.session = CONNECTION
        self.in_turn = False

    @property
    def queued(self) -> float:
        """Seconds of audio that wait."""
        return self._queued / self._clock_rate

    def attach(self, connection: Connection, session: int, opening: bytes) -> None:
        """Open the session on a connection; what waits follows."""
        self._connection, self.session = connection, session
        self._sent, self._window, self._grant = 0, None, None
        self._control.appendleft((Kind.OPEN, opening))
        connection.enqueue(self)

    @property
    def attached(self) -> bool:
        """Whether what waits goes anywhere."""
        return self._connection is not None

    def detach(self) -> None:
        """The connection is lost, or the session over: nothing more goes there.

        Audio stays for the next one, control frames do not: they belong to what is over.
        """
        self._connection = self._grant = None
        self._control.clear()
        self._waiting.clear()
        self._waiting_bytes = 0

    def add_audio(self, payload: bytes, samples: int) -> None:
        """Queue audio of ``samples`` in units of the clock."""
        self._audio.append((payload, samples))
        self._queued += samples
        while self._queued > self._queue_limit and len(self._audio) > 1:
            self._queued -= self._audio.popleft()[1]
            self.drops[Drop.QUEUE_FULL] += 1
        self._enqueue()

    def waiting(self, kind: Kind) -> int:
        """How many control frames of this kind wait."""
        return self._waiting[kind]

    def add_control(self, kind: Kind, payload: bytes = b"") -> bool:
        """Queue a frame that waits for no window; False, and counted, when there is no room."""
        size = self._waiting_bytes + len(payload)
        if self._waiting[kind] >= MAX_WAITING or size > MAX_WAITING_BYTES:
            self.drops[Drop.QUEUE_FULL] += 1
            return False
        self._waiting[kind] += 1
        self._waiting_bytes = size
        self._control.append((kind, payload))
        self._enqueue()
        return True

    def grant(self, milliseconds: int) -> None:
        """Tell the backend its window; of several that wait only the last one counts."""
        self._grant = milliseconds
        self._enqueue()

    def close(self, payload: bytes) -> None:
        """Say ``close`` after the control frames that wait; audio that waits is not sent.

        A session whose ``open`` still waits has never been there: nothing is said.
        """
        self._audio.clear()
        self._queued = 0
        if self._control and self._control[0][0] is Kind.OPEN:
            self.detach()
            return
        self._control.append((Kind.CLOSE, payload))
        self._enqueue()

    def widen(self, milliseconds: int) -> None:
        """Take the backend's window: so much audio in total since ``open``."""
        self._window = milliseconds * self._clock_rate // 1000
        self._enqueue()

    @property
    def ready(self) -> bool:
        """Whether there is a frame that may go now."""
        if self._connection is None:
            return False
        return bool(self._control) or self._grant is not None or self._may_speak()

    def take(self) -> bytes:
        """Take the next frame; only when ``ready``."""
        if self._control:
            return self._take_control()
        if self._grant is not None:
            window, self._grant = encode_milliseconds(self._grant), None
            return encode_frame(Kind.WINDOW, self.session, window)
        payload, samples = self._audio.popleft()
        self._queued -= samples
        self._sent += samples
        return encode_frame(Kind.AUDIO, self.session, payload)

    def _take_control(self) -> bytes:
        kind, payload = self._control.popleft()
        if kind in self._waiting:  # all but ``open`` and ``close``
            self._waiting[kind] -= 1
            self._waiting_bytes -= len(payload)
        return encode_frame(kind, self.session, payload)

    def _may_speak(self) -> bool:
        if not self._audio:
            return False
        return self._window is None or self._sent + self._audio[0][1] <= self._window

    def _enqueue(self) -> None:
        if self._connection is not None and not self.in_turn and self.ready:
            self._connection.enqueue(self)


class Connection:
    """The machine of one connection, on the transceiver's side."""

    def __init__(
        self, *, stall_seconds: float, now: float, on_work: Callable[[], None] = lambda: None
    ) -> None:
        self.drops: Counter[Drop] = Counter()
        self.draining = False
        """The backend wants no new sessions here."""
        self.heard = False
        """Whether a whole frame ever came."""
        self._decoder = FrameDecoder()
        self._stall = stall_seconds
        self._on_work = on_work
        self._turns: deque[Outgoing] = deque()
        self._sessions = 0
        self._ping_wanted = False
        self._pong: bytes | None = None
        self._next_ping = now + stall_seconds / PINGS
        self._dead_at = now + stall_seconds

    @property
    def deadline(self) -> float:
        """When ``tick`` is due."""
        return min(self._next_ping, self._dead_at)

    def next_session(self) -> int:
        """Number a new session; numbers are never used twice."""
        self._sessions += 1
        self.draining = self.draining or self._sessions == MAX_SESSION
        return self._sessions

    def receive(self, data: bytes | bytearray, *, now: float) -> list[Frame]:
        """Take what was read; return the frames of sessions.

        Raises RemoteProtocolError when the connection can not go on.
        """
        frames = self._decoder.decode(data)
        if frames:
            self._dead_at = now + self._stall
            self.heard = True
        return [frame for frame in frames if self._is_of_session(frame)]

    def tick(self, *, now: float) -> None:
        """Ask for a sign of life; RemoteProtocolError when there was none for too long."""
        if now >= self._dead_at:
            raise RemoteProtocolError("the backend does not answer")
        if now >= self._next_ping:
            self._next_ping = now + self._stall / PINGS
            self._ping_wanted = True
            self._on_work()

    def enqueue(self, outgoing: Outgoing) -> None:
        """Let a session that has something to send take turns."""
        outgoing.in_turn = True
        self._turns.append(outgoing)
        if len(self._turns) == 1:
            self._on_work()

    def take(self, limit: int) -> bytes:
        """Take a batch of whole frames, which ends with the first that reaches ``limit`` bytes."""
        parts = self._own_frames()
        size = sum(map(len, parts))
        while self._turns and size < limit:
            outgoing = self._turns.popleft()
            if outgoing.ready:
                parts.append(outgoing.take())
                size += len(parts[-1])
            outgoing.in_turn = outgoing.ready
            if outgoing.in_turn:
                self._turns.append(outgoing)
        return b"".join(parts)

    def _own_frames(self) -> list[bytes]:
        parts = []
        if self._pong is not None:
            parts.append(encode_frame(Kind.PONG, CONNECTION, self._pong))
        if self._ping_wanted:
            parts.append(encode_frame(Kind.PING, CONNECTION))
        self._pong, self._ping_wanted = None, False
        return parts

    def _is_of_session(self, frame: Frame) -> bool:
        if frame.session != CONNECTION:
            return True
        match frame.kind:
            case Kind.PING:
                self._pong = frame.payload
                self._on_work()
            case Kind.PONG:
                pass
            case Kind.CLOSE:
                self.draining = True
            case _:
                self.drops[Drop.UNKNOWN_KIND] += 1
        return False
