"""What the client says, on its way to the backend.

A backend that takes the client's codec gets each packet as it comes, or from a jitter buffer where
the configuration wants one. Every other backend gets frames of exactly 20 ms, decoded from a jitter
buffer, one every 20 ms and without a hole, from the first packet until the session ends. The pacer
that drives the playouts drives this too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Final

import msgspec

from edge.audio.codec import Decoder, make_decoder
from edge.audio.decoding import Decoding
from edge.audio.jitter import JitterBuffer
from edge.audio.pacer import TICK, Pacer
from edge.audio.pulled import Frame
from edge.backends.protocol import AudioFormat, AudioFrame
from edge.config import AudioConfig
from edge.errors import Drop, RemoteProtocolError
from edge.webrtc.outputs import AudioReceived
from edge.wire.opus import opus_samples

OPUS_PAUSE_BYTES: Final = 2  # a packet that holds no frame: the client pauses; RFC 6716, 3.1
MAX_G711_SAMPLES: Final = 1_600
"""The longest packet that a receiver of G.711 should accept, 200 ms; RFC 3551, section 4.2."""
MAX_CATCH_UP: Final = 0.1  # seconds; who stood still for longer does not make up for it


class ListenerStatistics(msgspec.Struct, frozen=True):
    """Times in seconds, counts in packets; all zero where packets pass straight through.

    ``concealed`` was made up in the place of lost audio, with the silence that it fades to;
    ``silence`` are the pauses that the client made. ``skipped`` frames were left out and
    ``stretched`` ones put in so that the delay came back to its target.
    """

    delay: float = 0.0
    target: float = 0.0
    received: int = 0
    late: int = 0
    duplicates: int = 0
    lost: int = 0
    recovered_red: int = 0
    recovered_fec: int = 0
    skipped: int = 0
    stretched: int = 0
    concealed: float = 0.0
    silence: float = 0.0


class Listener:
    """One session's ear: ``receive`` takes the client's packets, ``hear`` gets what is wanted.

    ``fail`` is called inside of the handler of an exception that comes up while the pacer or the
    socket, which serve all sessions, calls us; without it the exception goes on.
    ``repair_seconds`` is the jitter buffer's.
    """

    def __init__(
        self,
        *,
        codec: AudioFormat,
        wanted: AudioFormat,
        hear: Callable[[AudioFrame], None],
        pacer: Pacer,
        settings: AudioConfig,
        fail: Callable[[], None] | None = None,
        decoder: Callable[[AudioFormat, int], Decoder] = make_decoder,
        repair_seconds: Callable[[], float] = float,
    ) -> None:
        self._hear = hear
        self._pacer = pacer
        self._fail = fail
        self._rate = codec.clock_rate
        self._samples = opus_samples if codec.name == "opus" else _g711_samples
        self._drops: Counter[Drop] = Counter()
        self._decoding = None if wanted == codec else Decoding(codec, wanted, hear, decoder)
        self._buffer = _make_buffer(codec, settings, repair_seconds, passthrough=wanted == codec)
        self._due = inf  # not yet running
        self._closed = False
        self._passed = 0

    @property
    def drops(self) -> Counter[Drop]:
        """What was discarded, by cause."""
        drops = self._drops.copy()
        if self._buffer is not None:
            drops[Drop.LATE] += self._buffer.late
            drops[Drop.REPLAY] += self._buffer.duplicates
            drops[Drop.QUEUE_FULL] += self._buffer.overflown
        return drops if self._decoding is None else drops + self._decoding.drops

    @property
    def heard(self) -> int:
        """Samples that the backend was given, in the clock of what it wants."""
        return self._passed if self._decoding is None else self._decoding.given

    def receive(self, audio: AudioReceived, *, now: float) -> None:
        """Take a packet; one that is no audio of the codec is dropped and counted."""
        self.take(audio.payload, audio.sequence, audio.timestamp, now)
        if audio.redundant and self._buffer is not None and not self._closed:
            self._fill(self._buffer, audio)

    def take(self, payload: bytes, sequence: int, timestamp: int, now: float) -> None:
        """Take a packet without redundant blocks, as ``receive`` does; ``fail`` counts here too."""
        try:
            samples = self._samples(payload)
            if self._buffer is None:
                self._passed += samples
                self._hear(AudioFrame(payload, samples / self._rate, timestamp))
            elif not self._closed:
                self._buffer.put(sequence, timestamp, payload, samples, now=now)
                self._start(self._buffer, now)
        except RemoteProtocolError as error:
            self._drops[error.drop] += 1
        except Exception:
            if self._fail is None:
                raise
            self._fail()

    def emit(self, now: float) -> float:
        """Give the backend what is due; for the pacer."""
        if self._closed or self._buffer is None:
            return inf
        if now - self._due > MAX_CATCH_UP:
            self._due = now
        try:
            while self._due <= now + TICK / 2:
                self._due += self._give(self._buffer)
        except Exception:
            self.close()
            if self._fail is None:
                raise
            self._fail()
            return inf
        return self._due

    def close(self) -> None:
        """Give the backend nothing more."""
        self._closed = True

    def delays(self) -> tuple[float, float]:
        """What the jitter buffer holds back now, and its target, in seconds."""
        return (0.0, 0.0) if self._buffer is None else (self._buffer.delay, self._buffer.target)

    def patience(self) -> float:
        """How many seconds after its time a packet that is missing is still waited for."""
        return 0.0 if self._buffer is None else max(self._buffer.delay, self._buffer.target)

    def statistics(self) -> ListenerStatistics:
        """What happened so far, and the delay now."""
        buffer, decoding = self._buffer, self._decoding
        if buffer is None:
            return ListenerStatistics()
        return ListenerStatistics(
            delay=buffer.delay,
            target=buffer.target,
            received=buffer.received,
            late=buffer.late,
            duplicates=buffer.duplicates,
            lost=buffer.lost,
            recovered_red=buffer.copied,
            recovered_fec=decoding.recovered if decoding else 0,
            skipped=buffer.skipped,
            stretched=buffer.stretched,
            concealed=decoding.concealed if decoding else 0.0,
            silence=decoding.silence if decoding else 0.0,
        )

    def _start(self, buffer: JitterBuffer, now: float) -> None:
        if self._due == inf:
            self._due = now + buffer.start_delay
            self._pacer.schedule(self, self._due)

    def _fill(self, buffer: JitterBuffer, audio: AudioReceived) -> None:
        """Put copies where packets are missing: the last block is of the packet before this one."""
        for distance, block in enumerate(reversed(audio.redundant), start=1):
            if not block.payload or not buffer.lacks(audio.sequence - distance):
                continue
            try:
                samples = self._samples(block.payload)
            except RemoteProtocolError as error:
                self._drops[error.drop] += 1
                continue
            timestamp = audio.timestamp - block.offset & 0xFFFFFFFF
            buffer.fill(audio.sequence - distance, timestamp, block.payload, samples)

    def _give(self, buffer: JitterBuffer) -> float:
        """Give one piece of audio; returns how long it plays, in seconds."""
        if self._decoding is not None:
            return self._decoding.give(buffer, now=self._due)
        piece = buffer.pull(now=self._due)
        if isinstance(piece, Frame):
            if piece.surplus:
                return 0.0
            self._passed += piece.samples
            self._hear(AudioFrame(piece.payload, piece.samples / self._rate, piece.timestamp))
        return piece.samples / self._rate


def _make_buffer(
    codec: AudioFormat,
    settings: AudioConfig,
    repair_seconds: Callable[[], float],
    *,
    passthrough: bool,
) -> JitterBuffer | None:
    most = settings.passthrough_delay_seconds if passthrough else settings.max_delay_seconds
    if passthrough and not most:
        return None
    return JitterBuffer(
        codec.clock_rate,
        min_delay=settings.min_delay_seconds,
        max_delay=most,
        pause_bytes=OPUS_PAUSE_BYTES if codec.name == "opus" else 0,
        repair_seconds=repair_seconds,
    )


def _g711_samples(payload: bytes) -> int:
    if not 0 < len(payload) <= MAX_G711_SAMPLES:  # one byte a sample
        raise RemoteProtocolError("G.711 packet of no or more than 200 ms")
    return len(payload)
