"""What comes to a session from its client, and what its peer then wants done.

``receive`` takes a datagram; it never waits, and carries the peer's outputs out at once. What the
client says goes to the ``Listener``, what its data channels bring to ``ClientChannels``. Media that
is as usual may be lent to an offload beside the socket, which then gives us what it has opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Protocol, assert_never

from edge.address import Address
from edge.audio.listener import Listener
from edge.backends.protocol import AudioFormat, AudioFrame, Call
from edge.errors import Drop, EndReason
from edge.transceiver.alarm import Alarm
from edge.transceiver.client_channels import ChannelEvent, ClientChannels
from edge.transceiver.lending import Lender
from edge.transceiver.sender import Sender
from edge.transceiver.session_times import SessionTimes
from edge.transceiver.surroundings import Surroundings
from edge.transceiver.voice import Voice
from edge.webrtc.channel_outputs import (
    ChannelClosed,
    ChannelDrained,
    ChannelMessage,
    ChannelOpened,
)
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


class Owner(Protocol):
    """The session itself, which is told what matters to its life."""

    call: Call
    codec: AudioFormat
    peer: Peer
    relays: dict[Path, Address]
    times: SessionTimes
    reason: EndReason | None

    def note_connected(self) -> None:
        """The client is there: the conversation may begin."""

    def note_quality(self) -> None:
        """A report of the client's has come."""

    def note_change(self, *, at_once: bool = False) -> None:
        """Something matters that was not written down yet; ``at_once``: somebody waits for it."""

    def end(self, reason: EndReason) -> None:
        """The session is over."""

    def fail_by_bug(self) -> None:
        """Call it inside of an exception's handler: end the session for it."""


class Receiver:
    """Takes what comes for one session."""

    def __init__(
        self,
        owner: Owner,
        sender: Sender,
        channels: ClientChannels,
        lender: Lender,
        alarm: Alarm,
        surroundings: Surroundings,
        *,
        hear: Callable[[AudioFrame], None],
    ) -> None:
        """``alarm`` shall ring when the peer has something due; ``hear`` is the backend's."""
        self.drops: Counter[Drop] = Counter()
        self._owner = owner
        self._peer = owner.peer
        self._relays = owner.relays
        self._times = owner.times
        self._sender = sender
        self._channels = channels
        self._lender = lender
        self._alarm = alarm
        self._clock = surroundings.clock
        self.listener = Listener(
            codec=owner.codec,
            wanted=owner.call.audio,
            hear=hear,
            pacer=surroundings.pacer,
            settings=surroundings.audio,
            fail=owner.fail_by_bug,
            repair_seconds=owner.peer.media.repair_seconds,
        )
        self._asker = owner.peer.media.asker
        self._asker.patience = self.listener.patience
        self._usual = False  # the last packet was one that an offload could have opened

    def receive(self, datagram: bytes, path: Path, relay: Address, *, now: float) -> None:
        """Take a datagram that ``relay`` brought from ``path``; never raises."""
        if self._sender.voice is Voice.NONE:
            self.drops[Drop.NOT_OWNER] += 1
            return
        try:
            if is_rtp(datagram):
                self._receive_rtp(datagram, path, relay, now)
                return
            moved = self._relays.get(path) != relay and self._peer.heard_at(path) != now
            outputs = self._peer.receive(datagram, path, now=now)
            if moved:
                self._learn_relay(path, relay, now)
            self.carry_out(outputs)
        except Exception:
            self._owner.fail_by_bug()
        self._alarm.set(self._peer.deadline)

    def lend(self, path: Path) -> None:
        """Lend media that is as usual to the offload, if there is one and if it is.

        To be called after ``receive``, while ``path`` is no other session's as well.
        """
        if not self._usual or self._lender.stream is None:
            return
        if self._sender.voice is Voice.FULL and self._owner.reason is None:
            self._lender.lend(path)

    def carry_out(self, outputs: list[PeerOutput]) -> None:
        """Do what the peer wants done, in order."""
        for output in outputs:
            match output:
                case AudioReceived():
                    self._hear(output)
                case Transmit(path, data):
                    self._sender.transmit(path, data)
                case PathSelected():
                    self._times.first_check = min(self._times.first_check, self._clock())
                    self._owner.note_change()
                case Connected():
                    self._owner.note_connected()
                case RoundTripMeasured():
                    self._owner.note_quality()
                case ChannelOpened() | ChannelMessage() | ChannelDrained() | ChannelClosed():
                    self._follow(output)
                case CheckpointWanted():
                    self._owner.note_change(at_once=True)
                case Ended(reason):
                    self._channels.close()  # nobody is there to be told
                    self._owner.end(reason)
                case _:
                    assert_never(output)

    def _receive_rtp(self, datagram: bytes, path: Path, relay: Address, now: float) -> None:
        """Most of what comes: it has one output at most, and only a gap moves a deadline."""
        moved = self._relays.get(path) != relay and self._peer.heard_at(path) != now
        audio = self._peer.receive_rtp(datagram, path, now=now)
        if moved:
            self._learn_relay(path, relay, now)
        self._usual = audio is not None and not audio.redundant
        if audio is not None:
            self._hear(audio)
        if self._asker.missing:
            self._alarm.set(self._peer.deadline)

    def _learn_relay(self, path: Path, relay: Address, now: float) -> None:
        # A relay that came back with another internal port serves its flows at once. It is
        # registered, but that proves nothing of the client: this datagram must be authentic, the
        # first such of its batch, since all of a batch have one time.
        if self._peer.ice.heard_at(path) == now:
            self._relays[path] = relay

    def _hear(self, audio: AudioReceived) -> None:
        now = self._clock()
        if self._times.first_audio == inf:
            self._times.first_audio = now
        self.listener.receive(audio, now=now)

    def _follow(self, event: ChannelEvent) -> None:
        self._channels.follow(event, now=self._clock())
        if not isinstance(event, ChannelMessage):
            self._owner.note_change()
