"""Playout: backends may speak faster than real time, the client hears 20 ms every 20 ms.

Inside a talk spurt RTP timestamps advance by the frames' durations; a new spurt takes its timestamp
from the clock, so that silence is silence for the listener too (RFC 3550, section 5.1; the marker
bit as in RFC 3551, section 4.1). A frame that is late by less than ``SPURT_GAP``, or only because
this process was, is still part of its spurt: it goes out at once, the listener's jitter buffer
levels it, and no delay stays behind. Nor is a frame that comes alone held back for less than
``LEAD``: whoever speaks in real time, as the echo does, is paced by itself, and its jitter is the
listener's to level. One that comes earlier still waits, and moves the grid forward by ``LEAN``: a
spurt that began late catches up.

Barge-in: ``flush`` and ``pause`` put a fade, made of the very next audio, in the place of the
queue, so the last audible packet leaves within 20 ms and the fade's length. After a pause the queue
goes on from where the fade began: those 20 ms were heard falling, and would be missed.
``played`` goes back with it, so it is always the place in the stream.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from math import inf
from typing import Final

import trio

from edge.audio.pacer import TICK, Pacer
from edge.audio.pieces import Cutter, Piece
from edge.backends.protocol import AudioFormat, AudioFrame, CallQuality
from edge.errors import Drop, RemoteProtocolError
from edge.transceiver.fades import Fades, count_samples

__all__ = ["MediaTime", "Pacer", "Playout", "SendFrame"]

SPURT_GAP: Final = 0.060  # seconds; three usual frames
LEAD: Final = 0.015  # seconds
LEAN: Final = 0.001  # seconds a frame
REST_WAIT: Final = 0.020  # seconds that less than a frame waits for more before it is padded

SendFrame = Callable[[bytes, int, bool, float], None]
"""``(payload, timestamp, marker, now)``: hands one due frame to the session's peer."""

MediaTime = Callable[[float], int]
"""Clock units of the codec from the start of the media to ``now``."""


class Playout:
    """One session's queue of audio to be heard; the ``Speaker`` of its conversation."""

    def __init__(
        self,
        pacer: Pacer,
        send: SendFrame,
        *,
        codec: AudioFormat,
        wanted: AudioFormat,
        media_time: MediaTime,
        queue_seconds: float,
        fade_seconds: float,
        quality: Callable[[], CallQuality],
    ) -> None:
        """``codec`` is what the client takes, ``wanted`` what the backend speaks.

        Raises StartupError when a codec between the two is missing.
        """
        self.drops: Counter[Drop] = Counter()
        self._pacer = pacer
        self._send = send
        self._cutter = None if wanted == codec else Cutter(codec, wanted)
        self._encode = self._cutter.encode if self._cutter else None
        self._clock_rate = codec.clock_rate
        # Everything is counted in samples of the backend's: floats would drift.
        self._rate = self._cutter.rate if self._cutter else codec.clock_rate
        self._queue_limit = round(queue_seconds * self._rate)
        self._fades = Fades(codec, self._cutter, round(fade_seconds * self._rate))
        self._frames: deque[Piece] = deque()
        self._held: deque[Piece] | None = None  # while paused
        self._queued = 0
        self._played = 0
        self._drained = trio.Event()
        self._wake_at = -1.0
        self._media_time = media_time
        self._quality = quality
        self._timestamp = 0
        self._next_due = -inf
        self._pad_at = inf
        self._scheduled = False
        self._starved = True
        self._closed = False

    @property
    def queued(self) -> float:
        """Seconds of audio that wait to be played."""
        if self._cutter is None:
            return self._queued / self._rate
        return self._waiting() / self._rate

    @property
    def played(self) -> float:
        """Seconds of the backend's audio that were sent so far."""
        return self._played / self._rate

    @property
    def quality(self) -> CallQuality:
        """How the call goes."""
        return self._quality()

    def play(self, frame: AudioFrame) -> None:
        """Queue a frame; over the bound the oldest (in a pause the newest) is dropped, counted."""
        if self._closed:
            self.drops[Drop.NOT_READY] += 1
            return
        if self._cutter is None:
            samples = round(frame.duration * self._rate)
            if not self._scheduled and self._held is None:
                now = self._pacer.now()
                if self._next_due <= now + LEAD:  # as most do; the queue would cost 1 us
                    self._emit_one(frame.payload, samples, samples, now)
                    return
            self._add((frame.payload, samples, samples))
        else:
            self._cut(self._cutter, frame.payload)
        if not self._scheduled and self._held is None:
            self._start()

    @property
    def place(self) -> tuple[int, int]:
        """Samples of the backend's that were sent, and the codec's timestamp of what comes next."""
        return self._played, self._timestamp

    def go_on(self, *, played: int = 0, timestamp: int = 0) -> None:
        """Start in a new talk spurt after where another process was, before anything is played."""
        self._played += played
        self._timestamp = max(self._timestamp, timestamp)

    async def wait_queued_below(self, seconds: float) -> None:
        """Wait until ``queued`` is this much or less, or until the session has ended."""
        level = max(seconds, 0.0) * self._rate
        await trio.lowlevel.checkpoint()
        while self._waiting() > level and not self._closed:
            self._wake_at = max(self._wake_at, level)
            await self._drained.wait()

    def flush(self) -> float:
        """Drop what is queued but for a short fade, and end a pause.

        Returns the seconds that will have been played when the fade is over.
        """
        fade = self._fall_silent() if self._held is None else self._fades.unsent(self._frames)
        self._frames, self._held = deque(fade), None
        if self._cutter is not None:
            self._cutter.clear()
        self._queued = count_samples(fade)
        self._starved = True
        self._wake()
        self._start_fade()
        return (self._played + self._queued) / self._rate

    def pause(self) -> float:
        """Hold back what is queued, after a fade.

        Returns the seconds that will have been played when the fade is over.
        """
        if self._held is None:
            waiting = self._frames
            fade = self._fall_silent()
            if not self._fades.repeats:  # it is of what a flush dropped: it lies in the queue
                for _ in fade:
                    waiting.popleft()
            self._frames, self._held = deque(fade), waiting
            self._start_fade()
        return (self._played + count_samples(self._fades.unsent(self._frames))) / self._rate

    def resume(self) -> None:
        """Go on where ``pause`` began to fade; nothing is lost. Without a pause, do nothing."""
        if self._held is None:
            return
        frames, self._frames, self._held = self._frames, self._held, None
        if self._fades.repeats:
            again = self._fades.take_back(frames, played=self._played)
            self._played -= again
            self._queued += again
        else:
            self._frames.extendleft(reversed(frames))
        if not self._scheduled and self._waiting():
            self._start()

    def note_loss(self, share: float) -> None:
        """Take what the client's report says was lost of what we sent, 0 to 1."""
        if self._cutter is not None:
            self._cutter.note_loss(share)

    def close(self) -> None:
        """Forget the queue and take nothing more."""
        self._closed = True
        self._frames.clear()
        self._held, self._queued = None, 0
        if self._cutter is not None:
            self._cutter.clear()
        self._wake()

    def emit(self, now: float) -> float:
        """Send what is due; return when the next frame is, ``math.inf`` when the queue is empty."""
        return self._emit(now, now + TICK / 2)

    def _emit(self, now: float, until: float) -> float:
        frames = self._frames
        while frames and self._next_due <= until:
            payload, ticks, samples = frames.popleft()
            self._queued -= samples
            self._emit_one(payload, ticks, samples, now)
            self._starved = False
        if self._queued <= self._wake_at:
            self._wake()
        due = self._next_due if frames else self._wait_for_rest(now)
        self._scheduled = due != inf
        self._starved = not self._scheduled
        return due

    def _emit_one(self, payload: bytes, ticks: int, samples: int, now: float) -> None:
        self._played += samples
        marker = now - self._next_due > SPURT_GAP and self._starved
        if marker:
            self._timestamp = max(self._timestamp, self._media_time(now))
            self._next_due = now
        if self._encode is None:
            self._fades.sent.append(payload)
        else:
            payload = self._encode(payload)
        self._send(payload, self._timestamp, marker, now)
        self._timestamp += ticks
        self._next_due += ticks / self._clock_rate

    def _start(self) -> None:
        now = self._pacer.now()
        self._starved = self._next_due < now
        alone = len(self._frames) == 1
        until = now + (LEAD if alone else TICK / 2)
        if self._next_due > until and alone:
            self._next_due -= LEAN
        due = self._emit(now, until) if self._next_due <= until else self._next_due
        self._scheduled = due != inf
        if self._scheduled:
            self._pacer.schedule(self, due)

    def _fall_silent(self) -> list[Piece]:
        in_spurt = self._pacer.now() - self._next_due <= SPURT_GAP
        return self._fades.begin(self._frames, played=self._played, in_spurt=in_spurt)

    def _start_fade(self) -> None:
        if self._frames and not self._scheduled:
            self._start()

    def _waiting(self) -> int:
        return self._queued + (self._cutter.rest if self._cutter else 0)

    def _wake(self) -> None:
        self._drained.set()
        self._drained = trio.Event()
        self._wake_at = -1.0

    def _add(self, piece: Piece) -> None:
        frames = self._frames if self._held is None else self._held
        frames.append(piece)
        self._queued += piece[2]
        while self._queued > self._queue_limit and len(frames) > 1:
            dropped = frames.popleft() if self._held is None else frames.pop()
            self._queued -= dropped[2]
            self.drops[Drop.QUEUE_FULL] += 1

    def _cut(self, cutter: Cutter, payload: bytes) -> None:
        try:
            pieces = cutter.cut(payload)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return
        for piece in pieces:
            self._add(piece)
            self._pad_at = inf

    def _wait_for_rest(self, now: float) -> float:
        """Give less than a frame some time to become one, then send it as it is."""
        if self._cutter is None or not self._cutter.rest or self._held is not None:
            return inf
        if self._pad_at == inf:
            self._pad_at = max(self._next_due, now) + REST_WAIT
        if now + TICK / 2 < self._pad_at:
            return self._pad_at
        self._pad_at = inf
        self._add(self._cutter.pad())
        return self.emit(now)
