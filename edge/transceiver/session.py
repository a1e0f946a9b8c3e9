"""A session: one client talking to one model, as one task.

The task runs the backend's conversation (``backend_side``). The rest is plain calls that never
wait: the dispatcher hands datagrams over to the ``receiver``, the playout audio to the ``sender``,
and the pacer rings when the peer or the leash has something due. Whatever ends the session calls
``end``, which cancels the task; ``run`` then says goodbye and returns the one ``EndReason``.
"""

from __future__ import annotations

from collections import Counter

import structlog
import trio

from edge.address import Address
from edge.backends.protocol import AudioFormat, Call, CallQuality
from edge.errors import Drop, EndReason
from edge.transceiver.admission import Opener
from edge.transceiver.alarm import Alarm
from edge.transceiver.backend_side import BackendSide
from edge.transceiver.client_channels import ClientChannels
from edge.transceiver.dialect import Dialect
from edge.transceiver.events import EventChannel
from edge.transceiver.leash import Leash
from edge.transceiver.lending import Lender
from edge.transceiver.quality import call_quality
from edge.transceiver.receiver import Receiver
from edge.transceiver.sender import Sender
from edge.transceiver.session_times import SessionTimes
from edge.transceiver.surroundings import Surroundings
from edge.transceiver.voice import SILENT_ENDS, Custodian, Voice
from edge.webrtc.peer import Peer
from edge.wire.spp import Path

log = structlog.get_logger()


class Session:
    """One session; made by the ``SessionMaker``."""

    def __init__(
        self,
        call: Call,
        peer: Peer,
        surroundings: Surroundings,
        *,
        codec: AudioFormat,
        dialect: Dialect,
        opener: Opener,
        mid: str,
        sends: bool,
        echo_messages: bool,
    ) -> None:
        """``sends``: the client listens. ``mid`` is that of its audio section."""
        self.call = call
        self.peer = peer
        self.opener = opener
        self.codec = codec
        self.mid = mid
        self.sends = sends
        self.events = EventChannel(dialect)
        self.times = SessionTimes(opened=surroundings.clock())
        self.reason: EndReason | None = None
        self.relays: dict[Path, Address] = {}
        """The paths that passed a check, each with the relay that serves it."""
        self.tokens: set[str] = set()
        """What the client's checks may be addressed to."""
        self.custodian: Custodian | None = None
        """Who writes the session down; None where it can not move."""
        self._surroundings = surroundings
        self._bugs = 0
        self._heard_before = 0 if call.resumed is None else call.resumed.heard
        self._scope = trio.CancelScope()
        self._connected = trio.Event()
        self._leash = Leash(surroundings.limits)
        self._alarm = Alarm(surroundings.pacer, self._ring)
        self._lender = Lender(surroundings.offload, peer, self.relays, sends=sends)
        self._sender = Sender(
            call,
            peer,
            self.relays,
            self._lender,
            surroundings,
            codec=codec,
            listens=sends,
            quality=self.quality,
            fail=self.fail_by_bug,
        )
        self._playout = self._sender.playout
        self.channels = ClientChannels(
            self.events,
            receive_event=self.receive_event,
            send=self._send_message,
            now=self.times.opened,
            echo=echo_messages,
        )
        self._backend = BackendSide(
            call, surroundings.backend, self._playout, self.events, changed=self.note_change
        )
        self.receiver = Receiver(
            self,
            self._sender,
            self.channels,
            self._lender,
            self._alarm,
            surroundings,
            hear=self._backend.conversation.hear,
        )
        self._listener = self.receiver.listener

    @property
    def voice(self) -> Voice:
        """How much of what the session would send may leave."""
        return self._sender.voice

    @voice.setter
    def voice(self, voice: Voice) -> None:
        self._sender.voice = voice
        if voice is not Voice.FULL:
            self.peer.recall()
        elif self.peer.connected:
            self._connected.set()
            self._alarm.set(self.peer.deadline)

    @property
    def place(self) -> tuple[int, int, int]:
        """Samples played and heard, in the backend's clock, and the next frame's timestamp."""
        played, timestamp = self._playout.place
        return played, self._heard_before + self._listener.heard, timestamp

    async def run(self) -> EndReason:
        """Serve the session until something ends it; being cancelled from outside is SHUTDOWN."""
        self._leash.start(now=self._surroundings.clock())
        self._alarm.set(self._next_due())
        try:
            with self._scope:
                await self._connected.wait()
                await self._backend.run(self.end)
        except* Exception:  # also out of a group with the Cancelled of those around us
            self.fail_by_bug()
        finally:
            self.end(EndReason.SHUTDOWN)  # unless there is a reason already
            self._say_goodbye()
        return self.reason or EndReason.SHUTDOWN

    def go_on(self, *, opened: float, connected: float, timestamp: int) -> None:
        """Take up, before ``run``, what another process has connected; times are our clock's.

        Its backend is met when it has its voice: what that says at once would be lost before.
        """
        self.voice = Voice.CHECKS
        self.times.adopt(opened=opened, connected=connected)
        self._playout.go_on(timestamp=timestamp)
        self._begin(connected)
        self.channels.adopt(self.peer.reopened())

    def end(self, reason: EndReason) -> None:
        """End the session; the first reason given stands. Both sides' events tell it.

        But when it goes on elsewhere, nobody is told.
        """
        if self.reason is None:
            self.reason = reason
            if reason in SILENT_ENDS:
                self.part()
            else:
                self._backend.tell_end(reason)
        self._scope.cancel()

    def part(self) -> None:
        """Say nothing more to anybody: another process goes on with the session."""
        self._backend.move()  # also where doubt has silenced us before
        self.voice = Voice.NONE

    def fail_by_bug(self) -> None:
        """End the session for the exception that is being handled."""
        log.exception("bug in a session", session=self.call.session)
        self._bugs += 1
        self.end(EndReason.INTERNAL_ERROR)

    def resume_token(self) -> bytes:
        """What the backend's next conversation needs."""
        return self._backend.resume_token()

    def receive_event(self, event: bytes) -> None:
        """Take an event for the backend from whoever holds the event channel; never raises."""
        try:
            if self.events.receive(event):
                self._backend.conversation.receive_event(event)
        except Exception:
            self.fail_by_bug()

    # What comes to pass; for the receiver and the custodian.

    def note_connected(self) -> None:
        """The client is there: the conversation begins."""
        now = self._surroundings.clock()
        self.times.connected = now
        self._surroundings.observe_setup(now - self.times.opened)
        self._begin(now)
        if self.custodian is not None:
            self.custodian.connected()

    def note_quality(self) -> None:
        """A report of the client's has come."""
        quality = self.quality()
        self._surroundings.observe_quality(quality)
        self._playout.note_loss(quality.remote_fraction_lost or 0.0)

    def note_change(self, *, at_once: bool = False) -> None:
        """Have the session written down, where it is."""
        if self.custodian is not None:
            self.custodian.changed(at_once=at_once)

    def note_checkpoint(self, *, stored: bool) -> None:
        """Tell what waits for a checkpoint whether one was stored."""
        now, peer = self._surroundings.clock(), self.peer
        self.receiver.carry_out(
            peer.checkpoint_stored(now=now) if stored else peer.checkpoint_failed(now=now)
        )
        self._alarm.set(peer.deadline)

    # What it has counted.

    def delays(self) -> tuple[float, float]:
        """What the jitter buffer holds back now, and its target, in seconds."""
        return self._listener.delays()

    def quality(self) -> CallQuality:
        """How the network treats the session now."""
        return call_quality(self.peer.media_statistics(), self._listener.statistics())

    def drops(self) -> Counter[Drop]:
        """What this session discarded so far, by cause."""
        drops = self.peer.statistics().drops
        drops[Drop.BUG] += self._bugs
        for more in (
            self.receiver.drops,
            self._sender.drops,
            self._playout.drops,
            self._listener.drops,
            self._backend.conversation.drops,
            self.events.drops,
            self.channels.drops,
        ):
            drops.update(more)
        return +drops

    def _begin(self, now: float) -> None:
        """The client has connected: its time runs, and media may be lent."""
        self._leash.connect(now=now)
        if self.voice is Voice.FULL:
            self._connected.set()
        self._lender.open(self._listener.take)

    def _send_message(self, channel: int, data: str | bytes) -> None:
        now = self._surroundings.clock()
        self.receiver.carry_out(self.peer.send_message(channel, data, now=now))
        self._alarm.set(self.peer.deadline)

    def _ring(self, now: float) -> float:
        """Do what is due, and return when the next is; the pacer, which calls us, serves all."""
        try:
            if self.voice is not Voice.NONE:
                self.receiver.carry_out(self.peer.tick(now=now))
            if now >= self._leash.deadline:
                self._check_leash(now)
        except Exception:
            self.fail_by_bug()
        return self._next_due()

    def _check_leash(self, now: float) -> None:
        media = self.peer.media_statistics()
        reason = self._leash.check((media.packets_received, media.packets_sent), now=now)
        if reason is not None:
            self.end(reason)

    def _next_due(self) -> float:
        if self.voice is Voice.NONE:  # nothing of the peer's is due until it has its voice back
            return self._leash.deadline
        return min(self.peer.deadline, self._leash.deadline)

    def _say_goodbye(self) -> None:
        self._alarm.close()
        self.events.close()
        self.channels.close()
        self._listener.close()
        self._playout.close()
        try:
            if self.reason not in SILENT_ENDS:
                self.receiver.carry_out(self.peer.close(now=self._surroundings.clock()))
        except Exception:
            log.exception("goodbye failed", session=self.call.session)
        finally:
            self._lender.close()
