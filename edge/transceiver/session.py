"""A session: one client talking to one model, as one nursery.

The nursery owns all that runs for the session: the timer pump of its peer and the backend's
stream. Datagrams do not pass through it; the service hands them over by a plain call to
``receive``, which carries the peer's outputs out at once. Whatever ends the session calls ``end``,
which cancels the nursery; ``run`` then says goodbye and returns the one ``EndReason``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final, assert_never

import msgspec
import structlog
import trio

from edge.address import Address
from edge.audio.listener import Listener
from edge.backends.protocol import AudioFormat, Backend, Call, CallQuality
from edge.config import AudioConfig
from edge.errors import BackendError, Drop, EndReason
from edge.transceiver.events import EventChannel
from edge.transceiver.playout import Pacer, Playout
from edge.webrtc.outputs import (
    AudioReceived,
    Connected,
    Ended,
    PathSelected,
    PeerOutput,
    RoundTripMeasured,
    Transmit,
)
from edge.webrtc.peer import Peer
from edge.wire.demux import is_rtp
from edge.wire.spp import Path

IDLE_CHECKS: Final = 8
"""How often in its limit a session looks whether anybody has spoken."""

log = structlog.get_logger()

SendFramed = Callable[[Path, bytes, Address], bool]
"""``(path, payload, relay)``: sends one datagram to the relay that serves the path."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a session may take to connect, may last and may be silent; its playout bound.

    All in seconds.
    """

    setup_seconds: float
    session_seconds: float
    idle_seconds: float
    playout_seconds: float


@dataclass(slots=True)
class SessionTimes:
    """When a session's steps happened, on the service's clock; ``math.inf`` is not yet."""

    opened: float
    first_check: float = field(default=inf)
    connected: float = field(default=inf)
    first_audio: float = field(default=inf)


class Session:
    """One session; made by the service, which owns the socket and the pacer."""

    def __init__(
        self,
        call: Call,
        peer: Peer,
        backend: Backend,
        pacer: Pacer,
        send: SendFramed,
        *,
        codec: AudioFormat,
        audio: AudioConfig,
        clock: Callable[[], float],
        limits: SessionLimits,
        sends: bool = True,
        observe_setup: Callable[[float], None] = lambda seconds: None,
        observe_round_trip: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.call = call
        self.peer = peer
        self.events = EventChannel()
        self.times = SessionTimes(opened=clock())
        self.reason: EndReason | None = None
        self.relays: dict[Path, Address] = {}
        """The paths that passed a check, each with the relay that serves it."""
        self._send = send
        self._clock = clock
        self._limits = limits
        self._sends = sends
        self._observe_setup = observe_setup
        self._observe_round_trip = observe_round_trip
        self._playout = Playout(
            pacer,
            self._play,
            codec=codec,
            wanted=call.audio,
            media_time=lambda now: peer.media.media_time(now=now),
            queue_seconds=limits.playout_seconds,
            fade_seconds=audio.fade_seconds,
            quality=self.quality,
        )
        self._conversation = backend.open(call, self._playout, self.events)
        self._listener = Listener(
            codec=codec,
            wanted=call.audio,
            hear=self._conversation.hear,
            pacer=pacer,
            settings=audio,
            fail=self._fail_by_bug,
        )
        self._drops: Counter[Drop] = Counter()
        self._scope = trio.CancelScope()
        self._timer = trio.CancelScope()
        self._connected = trio.Event()

    def receive(self, datagram: bytes, path: Path, relay: Address, *, now: float) -> None:
        """Take a datagram that ``relay`` brought from ``path``; never raises."""
        try:
            if is_rtp(datagram):
                self._receive_rtp(datagram, path, relay, now)
                return
            outputs = self.peer.receive(datagram, path, now=now)
            if self.relays.get(path) != relay:
                self._learn_relay(path, relay, now)
            self._carry_out(outputs)
        except Exception:
            self._fail_by_bug()
        if self.peer.deadline < self._timer.deadline:
            self._timer.deadline = self.peer.deadline

    def end(self, reason: EndReason) -> None:
        """End the session; the first reason given stands. Both sides' events tell it."""
        if self.reason is None:
            self.reason = reason
            self._tell_end(reason)
        self._scope.cancel()

    def receive_event(self, event: bytes) -> None:
        """Take an event for the backend from whoever holds the event channel; never raises."""
        try:
            self._conversation.receive_event(event)
        except Exception:
            self._fail_by_bug()

    def quality(self) -> CallQuality:
        """How the network treats the session now."""
        media, heard = self.peer.media.statistics(), self._listener.statistics()
        return CallQuality(
            round_trip=media.round_trip_time,
            jitter=media.jitter,
            lost=media.lost,
            concealed=heard.concealed,
            delay=heard.delay,
            remote_jitter=media.remote_jitter,
            remote_fraction_lost=media.remote_fraction_lost,
        )

    async def run(self) -> EndReason:
        """Serve the session until something ends it; being cancelled from outside is SHUTDOWN."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump_timers)
                    nursery.start_soon(self._converse)
                    await self._watch_limits()
        except* Exception:  # also out of a group with the Cancelled of those around us
            self._fail_by_bug()
        finally:
            self.end(EndReason.SHUTDOWN)  # unless there is a reason already
            self._say_goodbye()
        return self.reason or EndReason.SHUTDOWN

    def drops(self) -> Counter[Drop]:
        """What this session discarded so far, by cause."""
        return (
            self._drops
            + self.peer.statistics().drops
            + self._playout.drops
            + self._listener.drops
            + self._conversation.drops
            + self.events.drops
        )

    def _receive_rtp(self, datagram: bytes, path: Path, relay: Address, now: float) -> None:
        """Most of what comes: it has one output at most, and moves no deadline."""
        audio = self.peer.receive_rtp(datagram, path, now=now)
        if self.relays.get(path) != relay:
            self._learn_relay(path, relay, now)
        if audio is not None:
            self._hear(audio)

    def _learn_relay(self, path: Path, relay: Address, now: float) -> None:
        # A relay that came back with another internal port serves its flows at once. It is
        # registered, but that proves nothing of the client: this datagram must be authentic.
        if self.peer.ice.heard_at(path) == now:
            self.relays[path] = relay

    def _carry_out(self, outputs: list[PeerOutput]) -> None:
        for output in outputs:
            match output:
                case AudioReceived():
                    self._hear(output)
                case Transmit(path, data):
                    self._transmit(path, data)
                case PathSelected():
                    self.times.first_check = min(self.times.first_check, self._clock())
                case Connected():
                    self.times.connected = self._clock()
                    self._observe_setup(self.times.connected - self.times.opened)
                    self._connected.set()
                case RoundTripMeasured(seconds):
                    self._observe_round_trip(seconds)
                case Ended(reason):
                    self.end(reason)
                case _:
                    assert_never(output)

    def _transmit(self, path: Path, data: bytes) -> None:
        relay = self.relays.get(path)
        if relay is None:
            self._drops[Drop.UNKNOWN_PATH] += 1
        else:
            self._send(path, data, relay)

    def _hear(self, audio: AudioReceived) -> None:
        now = self._clock()
        if self.times.first_audio == inf:
            self.times.first_audio = now
        self._listener.receive(audio, now=now)

    def _play(self, payload: bytes, timestamp: int, marker: bool, now: float) -> None:
        if not self._sends:  # the client does not listen; its backend is paced all the same
            return
        if not self.peer.connected:
            self._drops[Drop.NOT_READY] += 1
            return
        try:
            output = self.peer.send_audio(payload, timestamp=timestamp, marker=marker, now=now)
            if output is not None:
                self._transmit(output.path, output.data)
        except Exception:  # the pacer, which calls us, serves all sessions
            self._fail_by_bug()

    async def _pump_timers(self) -> None:
        while True:
            with trio.CancelScope(deadline=self.peer.deadline) as self._timer:
                await trio.sleep_forever()
            try:
                self._carry_out(self.peer.tick(now=self._clock()))
            except Exception:
                self._fail_by_bug()

    async def _converse(self) -> None:
        await self._connected.wait()
        try:
            await self._conversation.run()
        except* BackendError as group:
            error = str(group.exceptions[0])
            log.warning("backend failed", session=self.call.session, error=error)
            self.end(EndReason.BACKEND_FAILED)
        except* Exception:
            log.exception("backend failed", session=self.call.session)
            self.end(EndReason.BACKEND_FAILED)
        else:
            self.end(EndReason.BACKEND_CLOSED)

    async def _watch_limits(self) -> None:
        with trio.move_on_after(self._limits.setup_seconds):
            await self._connected.wait()
        if not self._connected.is_set():
            self.end(EndReason.NEVER_CONNECTED)
        with trio.move_on_after(self._limits.session_seconds):
            await self._wait_idle()
            self.end(EndReason.IDLE)
        self.end(EndReason.MAX_DURATION)

    async def _wait_idle(self) -> None:
        """Wait until neither the client nor the backend has sent audio for the idle limit."""
        spoken, since = self._spoken(), self._clock()
        while self._clock() - since < self._limits.idle_seconds:
            await trio.sleep(self._limits.idle_seconds / IDLE_CHECKS)
            if self._spoken() != spoken:
                spoken, since = self._spoken(), self._clock()

    def _spoken(self) -> tuple[int, int]:
        media = self.peer.media.statistics()
        return media.packets_received, media.packets_sent

    def _tell_end(self, reason: EndReason) -> None:
        event = msgspec.json.encode({"type": "session.ended", "reason": reason.value})
        if self.events.is_held:
            self.events.send_event(event)
        try:
            self._conversation.receive_event(event)
        except Exception:
            log.exception("backend failed", session=self.call.session)

    def _say_goodbye(self) -> None:
        self._listener.close()
        self._playout.close()
        try:
            self._carry_out(self.peer.close(now=self._clock()))
        except Exception:
            log.exception("goodbye failed", session=self.call.session)

    def _fail_by_bug(self) -> None:
        log.exception("bug in a session", session=self.call.session)
        self._drops[Drop.BUG] += 1
        self.end(EndReason.INTERNAL_ERROR)
