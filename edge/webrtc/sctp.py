"""An SCTP association over DTLS as one machine: RFC 9260 as data channels use it (RFC 8831).

Inputs are ``connect`` or ``start_with``, ``receive``, ``send``, ``reset_streams``, ``shutdown``,
``abort`` and ``tick``; each returns what to do now. Time and entropy are arguments. The parts:

    Handshake     INIT, cookies, collisions, restarts     sctp_handshake
    Sender        outbox, flight, window, timer           sctp_sender, _outbox, _flight, _congestion
    Receiver      TSNs, reassembly, acknowledgements      sctp_receiver, _tsns, _reassembly
    StreamResets  RE-CONFIG requests both ways            sctp_resets
    Checkpoints   what a stored snapshot allows           sctp_checkpoints, _hold, _moves

An association is movable: ``snapshot`` writes it down, ``restore`` goes on from it. After a planned
move that is all. To survive a crash the owner sets ``hold_acks``, ``hold_messages``, ``reserve``:
it acknowledges only what a stored snapshot holds, so that the peer repeats the rest to the heir; it
sends only messages that one holds, which the heir repeats under the same numbers; and where it may
not wait (``sctp_hold``) it uses no more numbers than the heir will skip. So the peer gets a message
once, and we hand out once more what was handed out since the last stored snapshot.
While no snapshot can be stored (``unstored``) it holds nothing and counts on, as nobody can
take over then; an owner that dies before the next one is stored costs its heir the channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.webrtc.sctp_congestion import RTO_MAX
from edge.webrtc.sctp_handshake import (
    read_remote,
)
from edge.webrtc.sctp_moves import Movable
from edge.webrtc.sctp_outbox import OutMessage
from edge.webrtc.sctp_outputs import (
    SctpEnd,
    SctpOutput,
)
from edge.webrtc.sctp_receiver import MAX_STREAMS
from edge.webrtc.sctp_state import (
    OPENING,
    SctpState,
)
from edge.wire.sctp import decode_packet
from edge.wire.sctp_chunks import Init, UnknownChunk
from edge.wire.sctp_codec import decode_init, encode_chunk

_USER_ABORT: Final = 12  # error cause; RFC 9260, 3.3.10.12


class Association(Movable):
    """One side. After an ``SctpClosed`` output every input returns nothing."""

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next; ``math.inf`` when nothing is pending."""
        if self.state is SctpState.ENDED or self.paused:
            return math.inf
        if self._waits:
            return 0.0
        acks = self._receiver.deadline if self._receiver is not None else math.inf
        return min(
            self._handshake.deadline,
            self._sender.deadline,
            self._sender.hold.deadline,
            math.inf if self._holds_acks and self._checkpoints.wanted else acks,
            self._resets.deadline if self._resets is not None else math.inf,
            self._shutdown.deadline,
        )

    @property
    def streams(self) -> int:
        """How many streams we may send on."""
        return self.remote.outbound_streams if self.remote is not None else MAX_STREAMS

    def can_send(self, stream: int) -> bool:
        """Whether the peer has offered this stream and neither it nor the association closes."""
        resetting = self._resets is not None and self._resets.pending(stream)
        alive = self.state is SctpState.ESTABLISHED or self.state in OPENING
        return alive and not resetting and 0 <= stream < self.streams

    @property
    def can_reset(self) -> bool:
        """Whether the peer knows RE-CONFIG."""
        return self.remote is not None and self.remote.reconfig

    @property
    def outbox_bytes(self) -> int:
        """What waits to be sent, as the bound counts it."""
        return self._sender.outbox.bytes

    def buffered(self, stream: int) -> int:
        """What waits to be sent on one stream, 64 bytes a message included."""
        return self._sender.outbox.buffered(stream)

    # Inputs.

    def local_init(self) -> bytes:
        """Our INIT chunk for ``a=sctp-init`` (draft-hancke-tsvwg-snap)."""
        chunk = encode_chunk(self._handshake.init())
        return chunk[: int.from_bytes(chunk[2:4], "big")]  # without padding

    def connect(self, *, now: float) -> list[SctpOutput]:
        """Send our INIT; the peer's may come at the same time."""
        if self.state is not SctpState.CLOSED:
            return []
        self.state = SctpState.COOKIE_WAIT
        return [self._send_alone(self._handshake.ask(None, now=now), 0)]

    def start_with(self, remote_init: bytes, *, now: float) -> list[SctpOutput]:
        """Go without a handshake, from ``local_init`` and the peer's, once DTLS is up.

        Raises RemoteProtocolError if the bytes are no INIT; then ``connect`` is still possible.
        """
        if self.state is not SctpState.CLOSED:
            raise LocalProtocolError("the association was started before")
        self._adopt(read_remote(decode_init(remote_init)))
        return self._establish() + self._flush(now)

    def receive(self, packet: bytes, *, now: float) -> list[SctpOutput]:
        """Take one packet; never raises for what it holds, drops are counted by name."""
        outputs: list[SctpOutput] = []
        if self.state is SctpState.ENDED:
            return outputs
        try:
            decoded = decode_packet(packet, zero_checksum=self.config.zero_checksum)
            self._check_tag(decoded)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return outputs
        self._costly = 0
        for chunk in decoded.chunks:
            try:
                outputs += self._take(chunk, now)
            except RemoteProtocolError as error:
                self.drops[error.drop] += 1
            if isinstance(chunk, UnknownChunk) and chunk.stops:
                break
        return outputs + self._finish_packet(now)

    def send(
        self,
        stream: int,
        ppid: int,
        data: bytes,
        *,
        now: float,
        unordered: bool = False,
        max_retransmits: int | None = None,
        lifetime: float = math.inf,
        urgent: bool = False,
    ) -> list[SctpOutput]:
        """Queue a message of at least one byte; it may be given up after ``lifetime`` seconds.

        Before the association is up it waits. Raises OutboxFull where the bound is reached, unless
        the message is ``urgent``, and LocalProtocolError where ``can_send`` is false.
        """
        if not data or not self.can_send(stream):
            raise LocalProtocolError("an empty message, or a stream that is closing or not offered")
        self._sender.outbox.put(
            OutMessage(stream, ppid, data, unordered, max_retransmits, now + lifetime),
            urgent=urgent,
        )
        return self._flush(now)

    def reset_streams(self, streams: Iterable[int], *, now: float) -> list[SctpOutput]:
        """Reset these streams of ours when what is queued on them was sent (RFC 6525).

        ``StreamsReset`` follows when the peer has answered. Raises LocalProtocolError where
        ``can_reset`` is false.
        """
        if self._resets is None or not self.can_reset:
            raise LocalProtocolError("the peer can not reset streams")
        self._resets.ask(streams)
        return self._flush(now)

    def shutdown(self, *, now: float) -> list[SctpOutput]:
        """End when everything queued was acknowledged."""
        if self.state in OPENING:
            return self.abort(now=now)
        if self.state is SctpState.ESTABLISHED:
            self.state = SctpState.SHUTDOWN_PENDING
        return self._flush(now)

    def abort(self, *, now: float) -> list[SctpOutput]:
        """End at once and tell the peer. Not for an owner whose heir goes on.

        What waits for a snapshot goes first. A last message, sent a moment ago, may be lost, and
        nobody would repeat it: it goes twice. It must not be bundled with the ABORT (RFC 9260,
        3.3.7).
        """
        self._sender.hold.release()
        last = self._flush(now)
        return [*last, *self._say_again(), *self._abort(_USER_ABORT, SctpEnd.CLOSED)]

    def tick(self, *, now: float) -> list[SctpOutput]:
        """Do what is due at ``now``."""
        if self.state is SctpState.ENDED:
            return []
        outputs = self._ask_again(now)
        if now >= self._sender.deadline:
            self._sender.expire(now=now)
        if now >= self._sender.hold.deadline:
            self._sender.hold.release()
        if self._resets is not None and now >= self._resets.deadline:
            self._resets.expire()
        if now >= self._shutdown.deadline:
            self._send_shutdown(now)
        if self._is_unanswered():
            return outputs + self._abort(_USER_ABORT, SctpEnd.UNANSWERED)
        return outputs + self._flush(now)

    def _ask_again(self, now: float) -> list[SctpOutput]:
        if now < self._handshake.deadline:
            return []
        question = self._handshake.again(now=now, longest=RTO_MAX)
        tag = 0 if isinstance(question, Init) or self.remote is None else self.remote.side.tag
        return [self._send_alone(question, tag)]

    def _is_unanswered(self) -> bool:
        resets_failed = self._resets is not None and self._resets.failed
        return (
            self._handshake.failed or self._sender.failed or self._shutdown.failed or resets_failed
        )
