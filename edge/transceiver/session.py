"""A session: one client talking to one model, as one task.

The task runs the backend's conversation. The rest is plain calls that never wait: the service hands
datagrams over to ``receive``, which carries the peer's outputs out at once, and the pacer rings
when the peer or the leash has something due. Media that is as usual may be lent to an offload
beside the socket (``lend``), which then gives us what it has opened. Whatever ends the session
calls ``end``, which cancels the task; ``run`` then says goodbye and returns the one ``EndReason``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import assert_never

import msgspec
import structlog
import trio

from edge.address import Address
from edge.audio.listener import Listener
from edge.backends.protocol import AudioFormat, Backend, Call, CallQuality, Resumable
from edge.config import AudioConfig
from edge.errors import BackendError, Drop, EndReason
from edge.transceiver.admission import Opener
from edge.transceiver.alarm import Alarm
from edge.transceiver.client_channels import ChannelCounts, ClientChannels
from edge.transceiver.dialect import Dialect
from edge.transceiver.events import EventChannel
from edge.transceiver.leash import Leash, SessionLimits
from edge.transceiver.playout import Pacer, Playout
from edge.transceiver.voice import SILENT_ENDS, Custodian, Voice
from edge.webrtc.channel_outputs import (
    ChannelClosed,
    ChannelDrained,
    ChannelMessage,
    ChannelOpened,
)
from edge.webrtc.offload import MediaOffload, RtpOffload
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
from edge.webrtc.sctp_outputs import CheckpointWanted
from edge.wire.demux import is_rtp
from edge.wire.spp import Path

log = structlog.get_logger()

SendFramed = Callable[[Path, bytes, Address], bool]
"""``(path, payload, relay)``: sends one datagram to the relay that serves the path."""


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
        dialect: Dialect | None = None,
        opener: Opener = Opener(),  # noqa: B008
        mid: str = "",
        sends: bool = True,
        echo_messages: bool = False,
        offload: MediaOffload | None = None,
        observe_setup: Callable[[float], None] = lambda seconds: None,
        observe_quality: Callable[[CallQuality], None] = lambda quality: None,
    ) -> None:
        self.call = call
        self.peer = peer
        self.opener = opener
        self.mid = mid
        self.events = EventChannel(dialect)
        self.times = SessionTimes(opened=clock())
        self.reason: EndReason | None = None
        self.relays: dict[Path, Address] = {}
        """The paths that passed a check, each with the relay that serves it."""
        self.tokens: set[str] = set()
        """What the client's checks may be addressed to."""
        self.custodian: Custodian | None = None
        """Who writes the session down; None where it can not move."""
        self.codec = codec
        self.sends = sends
        """The client listens."""
        self._voice = Voice.FULL
        self._send = send
        self._clock = clock
        self._limits = limits
        self._offload = offload
        self._stream: RtpOffload | None = None
        self._usual = False  # the last packet was one that an offload could have opened
        self._observe_setup = observe_setup
        self._observe_quality = observe_quality
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
        self._heard_before = 0
        if call.resumed is not None:
            self._heard_before = call.resumed.heard
            self._playout.go_on(played=call.resumed.played)
        self._channels = ClientChannels(
            self.events,
            receive_event=self.receive_event,
            send=self._send_message,
            now=self.times.opened,
            echo=echo_messages,
        )
        self._conversation = backend.open(call, self._playout, self.events)
        if isinstance(self._conversation, Resumable):
            self._conversation.watch(self.note_change)
        self._listener = Listener(
            codec=codec,
            wanted=call.audio,
            hear=self._conversation.hear,
            pacer=pacer,
            settings=audio,
            fail=self._fail_by_bug,
            repair_seconds=peer.media.repair_seconds,
        )
        self._asker = peer.media.asker
        self._asker.patience = self._listener.patience
        self._drops: Counter[Drop] = Counter()
        self._scope = trio.CancelScope()
        self._alarm = Alarm(pacer, self._ring)
        self._leash = Leash(limits)
        self._connected = trio.Event()

    def receive(self, datagram: bytes, path: Path, relay: Address, *, now: float) -> None:
        """Take a datagram that ``relay`` brought from ``path``; never raises."""
        if self._voice is Voice.NONE:
            self._drops[Drop.NOT_OWNER] += 1
            return
        try:
            if is_rtp(datagram):
                self._receive_rtp(datagram, path, relay, now)
                return
            moved = self.relays.get(path) != relay and self.peer.heard_at(path) != now
            outputs = self.peer.receive(datagram, path, now=now)
            if moved:
                self._learn_relay(path, relay, now)
            self._carry_out(outputs)
        except Exception:
            self._fail_by_bug()
        self._alarm.set(self.peer.deadline)

    def lend(self, path: Path) -> None:
        """Lend media that is as usual to the offload, if there is one and if it is.

        To be called after ``receive``, while ``path`` is no other session's as well.
        """
        if self._voice is not Voice.FULL:
            return
        if self._stream is not None and self._offload is not None and self._usual:
            relay = self.relays.get(path)
            if relay is not None and self.reason is None:
                endpoint = self._offload.endpoint(relay)
                self.peer.lend(self._stream, path, endpoint, sends=self.sends)

    @property
    def voice(self) -> Voice:
        """How much of what the session would send may leave."""
        return self._voice

    @voice.setter
    def voice(self, voice: Voice) -> None:
        self._voice = voice
        if voice is not Voice.FULL:
            self.peer.recall()

    @property
    def place(self) -> tuple[int, int, int]:
        """Samples played and heard, in the backend's clock, and the next frame's timestamp."""
        played, timestamp = self._playout.place
        return played, self._heard_before + self._listener.heard, timestamp

    def go_on(self, *, opened: float, connected: float, timestamp: int) -> None:
        """Take up, before ``run``, what another process has connected; times are our clock's."""
        self.times = SessionTimes(opened, connected, connected, connected)
        self._playout.go_on(timestamp=timestamp)
        self._leash.connect(now=connected)
        self._connected.set()
        self._open_stream()
        self._channels.adopt(self.peer.reopened())

    def end(self, reason: EndReason) -> None:
        """End the session; the first reason given stands. Both sides' events tell it.

        But when it goes on elsewhere, nobody is told.
        """
        if self.reason is None:
            self.reason = reason
            if reason in SILENT_ENDS:
                self.part()
            else:
                self._tell_end(reason)
        self._scope.cancel()

    def part(self) -> None:
        """Say nothing more to anybody: another process goes on with the session."""
        if self._voice is not Voice.NONE and isinstance(self._conversation, Resumable):
            self._conversation.move()
        self.voice = Voice.NONE

    def resume_token(self) -> bytes:
        """What the backend's next conversation needs."""
        conversation = self._conversation
        return conversation.resume_token() if isinstance(conversation, Resumable) else b""

    def note_checkpoint(self, *, stored: bool) -> None:
        """Tell what waits for a checkpoint whether one was stored."""
        now, peer = self._clock(), self.peer
        self._carry_out(
            peer.checkpoint_stored(now=now) if stored else peer.checkpoint_failed(now=now)
        )
        self._alarm.set(peer.deadline)

    def receive_event(self, event: bytes) -> None:
        """Take an event for the backend from whoever holds the event channel; never raises."""
        try:
            if self.events.receive(event):
                self._conversation.receive_event(event)
        except Exception:
            self._fail_by_bug()

    @property
    def channel_counts(self) -> ChannelCounts:
        """What went over the client's data channels."""
        return self._channels.counts

    def note_change(self, *, at_once: bool = False) -> None:
        """Have the session written down, where it is."""
        if self.custodian is not None:
            self.custodian.changed(at_once=at_once)

    def delays(self) -> tuple[float, float]:
        """What the jitter buffer holds back now, and its target, in seconds."""
        return self._listener.delays()

    def quality(self) -> CallQuality:
        """How the network treats the session now."""
        media, heard = self.peer.media_statistics(), self._listener.statistics()
        return CallQuality(
            round_trip=media.round_trip_time,
            jitter=media.jitter,
            lost=media.lost,
            concealed=heard.concealed,
            delay=heard.delay,
            remote_jitter=media.remote_jitter,
            remote_fraction_lost=media.remote_fraction_lost,
            target=heard.target,
            recovered_red=heard.recovered_red,
            recovered_fec=heard.recovered_fec,
        )

    async def run(self) -> EndReason:
        """Serve the session until something ends it; being cancelled from outside is SHUTDOWN."""
        self._leash.start(now=self._clock())
        self._alarm.set(self._next_due())
        try:
            with self._scope:
                await self._connected.wait()
                await self._converse()
        except* Exception:  # also out of a group with the Cancelled of those around us
            self._fail_by_bug()
        finally:
            self.end(EndReason.SHUTDOWN)  # unless there is a reason already
            self._say_goodbye()
        return self.reason or EndReason.SHUTDOWN

    def drops(self) -> Counter[Drop]:
        """What this session discarded so far, by cause."""
        drops = self.peer.statistics().drops
        for more in (
            self._drops,
            self._playout.drops,
            self._listener.drops,
            self._conversation.drops,
            self.events.drops,
            self._channels.drops,
        ):
            drops.update(more)
        return +drops

    def _receive_rtp(self, datagram: bytes, path: Path, relay: Address, now: float) -> None:
        """Most of what comes: it has one output at most, and only a gap moves a deadline."""
        moved = self.relays.get(path) != relay and self.peer.heard_at(path) != now
        audio = self.peer.receive_rtp(datagram, path, now=now)
        if moved:
            self._learn_relay(path, relay, now)
        self._usual = audio is not None and not audio.redundant
        if audio is not None:
            self._hear(audio)
        if self._asker.missing:
            self._alarm.set(self.peer.deadline)

    def _learn_relay(self, path: Path, relay: Address, now: float) -> None:
        # A relay that came back with another internal port serves its flows at once. It is
        # registered, but that proves nothing of the client: this datagram must be authentic, the
        # first such of its batch, since all of a batch have one time.
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
                    self.note_change()
                case Connected():
                    self.times.connected = self._clock()
                    self._observe_setup(self.times.connected - self.times.opened)
                    self._leash.connect(now=self.times.connected)
                    self._connected.set()
                    self._open_stream()
                    if self.custodian is not None:
                        self.custodian.connected()
                case RoundTripMeasured():
                    quality = self.quality()
                    self._observe_quality(quality)
                    self._playout.note_loss(quality.remote_fraction_lost or 0.0)
                case ChannelOpened() | ChannelMessage() | ChannelDrained() | ChannelClosed():
                    self._channels.follow(output, now=self._clock())
                    if not isinstance(output, ChannelMessage):
                        self.note_change()
                case CheckpointWanted():
                    self.note_change(at_once=True)
                case Ended(reason):
                    self._channels.close()  # nobody is there to be told
                    self.end(reason)
                case _:
                    assert_never(output)

    def _transmit(self, path: Path, data: bytes) -> None:
        relay = self.relays.get(path)
        if relay is None:
            self._drops[Drop.UNKNOWN_PATH] += 1
        elif self._voice is Voice.FULL or self._voice.allows(data):
            self._send(path, data, relay)
        else:
            self._drops[Drop.NOT_OWNER] += 1

    def _send_message(self, channel: int, data: str | bytes) -> None:
        self._carry_out(self.peer.send_message(channel, data, now=self._clock()))
        self._alarm.set(self.peer.deadline)

    def _hear(self, audio: AudioReceived) -> None:
        now = self._clock()
        if self.times.first_audio == inf:
            self.times.first_audio = now
        self._listener.receive(audio, now=now)

    def _open_stream(self) -> None:
        keys = self.peer.rtp_keys()
        if self._offload is not None and keys is not None:
            self._stream = self._offload.open_stream(keys, self._listener.take)

    def _play(self, payload: bytes, timestamp: int, marker: bool, now: float) -> None:
        if self._voice is not Voice.FULL:
            self._drops[Drop.NOT_OWNER] += 1
            return
        try:
            if self._stream is None or not self._stream.send(payload, timestamp, marker, now):
                self._send_audio(payload, timestamp, marker, now)
        except Exception:  # the pacer, which calls us, serves all sessions
            self._fail_by_bug()

    def _send_audio(self, payload: bytes, timestamp: int, marker: bool, now: float) -> None:
        if not self.sends:  # the client does not listen; its backend is paced all the same
            return
        if not self.peer.connected:
            self._drops[Drop.NOT_READY] += 1
            return
        output = self.peer.send_audio(payload, timestamp=timestamp, marker=marker, now=now)
        if output is not None:
            self._transmit(output.path, output.data)

    def _ring(self, now: float) -> float:
        """Do what is due, and return when the next is; the pacer, which calls us, serves all."""
        try:
            if self._voice is not Voice.NONE:
                self._carry_out(self.peer.tick(now=now))
            if now >= self._leash.deadline:
                self._check_leash(now)
        except Exception:
            self._fail_by_bug()
        return self._next_due()

    def _check_leash(self, now: float) -> None:
        reason = self._leash.check(self._spoken(), now=now)
        if reason is not None:
            self.end(reason)

    def _next_due(self) -> float:
        return min(self.peer.deadline, self._leash.deadline)

    async def _converse(self) -> None:
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

    def _spoken(self) -> tuple[int, int]:
        media = self.peer.media_statistics()
        return media.packets_received, media.packets_sent

    def _tell_end(self, reason: EndReason) -> None:
        event = msgspec.json.encode({"type": "session.ended", "reason": reason.value})
        try:
            if self.events.is_held:
                self.events.send_event(event)
        except Exception:
            log.exception("goodbye failed", session=self.call.session)
        try:
            self._conversation.receive_event(event)
        except Exception:
            log.exception("backend failed", session=self.call.session)

    def _say_goodbye(self) -> None:
        self._alarm.close()
        self.events.close()
        self._channels.close()
        self._listener.close()
        self._playout.close()
        try:
            if self.reason not in SILENT_ENDS:
                self._carry_out(self.peer.close(now=self._clock()))
        except Exception:
            log.exception("goodbye failed", session=self.call.session)
        finally:
            if self._stream is not None:
                self._stream.close()

    def _fail_by_bug(self) -> None:
        log.exception("bug in a session", session=self.call.session)
        self._drops[Drop.BUG] += 1
        self.end(EndReason.INTERNAL_ERROR)
