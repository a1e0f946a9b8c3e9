"""The outgoing half of an association: which chunks go into which packet, and how it ends."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

from edge.errors import Drop
from edge.webrtc.sctp_checkpoints import Checkpoints
from edge.webrtc.sctp_congestion import RTO_INITIAL
from edge.webrtc.sctp_handshake import (
    Entropy,
    Handshake,
    Remote,
    Side,
    new_side,
)
from edge.webrtc.sctp_outputs import (
    MAX_PACKET,
    WORD,
    SctpClosed,
    SctpEnd,
    SctpOutput,
    SctpTransmit,
)
from edge.webrtc.sctp_receiver import Receiver
from edge.webrtc.sctp_resets import StreamResets
from edge.webrtc.sctp_sender import Sender
from edge.webrtc.sctp_shutdown import ShutdownTimer
from edge.webrtc.sctp_state import (
    SENDING,
    SctpConfig,
    SctpState,
)
from edge.wire.sctp import HEADER_SIZE, encode_packet
from edge.wire.sctp_chunks import Abort, Chunk, Reconfig, Shutdown, ShutdownAck
from edge.wire.sctp_codec import encode_chunk

MAX_CONTROL: Final = 64  # chunks that wait for one flush: the answers to one packet
SACK_SIZE: Final = 16  # bytes of one without gaps


class Outgoing:
    """The parts of an association, and the packets that they make; see ``sctp``."""

    def __init__(self, *, entropy: Entropy, config: SctpConfig = SctpConfig()) -> None:  # noqa: B008
        self.config = config
        self.state = SctpState.CLOSED
        self.drops: Counter[Drop] = Counter()
        self.remote: Remote | None = None
        self.paused = False
        """Nothing may leave now; what would, waits."""
        self._waits = False
        self._unstored = False  # no snapshot can be stored now
        self._entropy = entropy
        self._handshake = Handshake(
            new_side(entropy),
            window=config.window,
            zero_checksum=config.zero_checksum,
            interval=RTO_INITIAL,
        )
        self._shutdown = ShutdownTimer()
        self._checkpoints = Checkpoints()
        self._control: list[bytes] = []
        self._costly = 0
        self._begin(self._handshake.local)

    def _begin(self, local: Side) -> None:
        config = self.config
        self._sender = Sender(local.tsn, outbox_limit=config.outbox, holds=config.hold_messages)
        self._receiver: Receiver | None = None
        self._resets: StreamResets | None = None

    @property
    def _holds_acks(self) -> bool:
        return self.config.hold_acks and not self._unstored

    def _queue(self, chunk: Chunk) -> None:
        if len(self._control) < MAX_CONTROL:
            self._control.append(encode_chunk(chunk))

    def _flush(self, now: float) -> list[SctpOutput]:
        """As many packets as may be sent now: control chunks first, then data."""
        self._waits = self.paused
        if self.paused or self.remote is None or self.state is SctpState.ENDED:
            return []
        outputs = self._queue_ack(now)
        sender, may_send = self._sender, self.state in SENDING
        while True:
            self._collect(now)
            chunks, room = self._take_control()
            control = len(chunks)
            while may_send and (chunk := sender.next_chunk(room, now=now)) is not None:
                chunks.append(chunk)
                room -= len(chunk)
            if not chunks:
                break
            if len(chunks) > control and room >= SACK_SIZE:
                self._bundle_ack(chunks)
            sender.packet_sent()
            outputs.append(self._packet(chunks))
        return outputs + self._guard_reserve() + self._hold_messages(now)

    def _collect(self, now: float) -> None:
        forward = self._sender.next_forward(now=now)
        if forward is not None:
            self._queue(forward)
        if self._resets is not None and self.state is SctpState.ESTABLISHED:
            request = self._resets.next_request(self._sender, now=now)
            if request is not None:
                self._queue(Reconfig((request,)))
        if self.state in SENDING and self.state is not SctpState.ESTABLISHED:
            self._progress_shutdown(now)

    def _take_control(self) -> tuple[list[bytes], int]:
        room, count = MAX_PACKET - HEADER_SIZE, 0
        for chunk in self._control:
            if len(chunk) > room and count:
                break
            room -= len(chunk)
            count += 1
        chunks, self._control = self._control[:count], self._control[count:]
        return chunks, room

    def _queue_ack(self, now: float) -> list[SctpOutput]:
        receiver = self._receiver
        if receiver is None or now < receiver.deadline:
            return []
        if self._holds_acks:
            return [*self._checkpoints.ask()]
        self._queue(receiver.sack())
        return []

    def _bundle_ack(self, chunks: list[bytes]) -> None:
        receiver = self._receiver
        if receiver is None or receiver.deadline == math.inf or self._holds_acks:
            return
        chunks.insert(0, encode_chunk(receiver.sack()))

    def _guard_reserve(self) -> list[SctpOutput]:
        left = self._sender.limit - self._sender.flight.next_tsn
        return [*self._checkpoints.ask()] if left <= self.config.reserve / 2 else []

    def _hold_messages(self, now: float) -> list[SctpOutput]:
        sender = self._sender
        sender.hold.wait(sender.waits, now=now)
        return [*self._checkpoints.ask()] if sender.unstaged else []

    def _packet(self, chunks: Iterable[bytes]) -> SctpTransmit:
        remote, config = self.remote, self.config
        assert remote is not None
        zero = remote.zero_checksum and config.zero_checksum
        return SctpTransmit(
            encode_packet(
                config.port, config.remote_port, remote.side.tag, chunks, zero_checksum=zero
            )
        )

    def _send_alone(self, chunk: Chunk, tag: int) -> SctpTransmit:
        """An INIT, INIT ACK or COOKIE ECHO: with a checksum in any case (RFC 9653, 5.2)."""
        config = self.config
        return SctpTransmit(
            encode_packet(config.port, config.remote_port, tag, [encode_chunk(chunk)])
        )

    def _progress_shutdown(self, now: float) -> None:
        if not self._sender.idle:
            return
        if self.state is SctpState.SHUTDOWN_PENDING:
            self.state = SctpState.SHUTDOWN_SENT
            self._send_shutdown(now)
        elif self.state is SctpState.SHUTDOWN_RECEIVED:
            self.state = SctpState.SHUTDOWN_ACK_SENT
            self._send_shutdown(now)

    def _send_shutdown(self, now: float) -> None:
        assert self._receiver is not None
        if self.state is SctpState.SHUTDOWN_SENT:
            self._queue(Shutdown(self._receiver.tsns.cumulative & WORD))
        else:
            self._queue(ShutdownAck())
        self._shutdown.sent(self._sender.round_trip.timeout, now=now)

    def _abort(self, cause: int, reason: SctpEnd) -> list[SctpOutput]:
        if self.state is SctpState.ENDED:
            return []
        if self.remote is None:
            return self._end(reason)
        return [self._packet([encode_chunk(Abort(((cause, b""),)))]), *self._end(reason)]

    def _say_again(self) -> list[SctpOutput]:
        """What is unacknowledged, once more and in one packet at most: there is no later."""
        if self.remote is None or self.paused or self.state is SctpState.ENDED:
            return []
        chunks = self._sender.flight.unacknowledged(MAX_PACKET - HEADER_SIZE)
        return [self._packet(chunks)] if chunks else []

    def _end(self, reason: SctpEnd) -> list[SctpOutput]:
        self.state = SctpState.ENDED
        self._control.clear()
        return [SctpClosed(reason)]
