"""The incoming half of an association: the handshake, and what each chunk does (RFC 9260)."""

from __future__ import annotations

import math
from typing import Final, assert_never

from edge.errors import Drop, RemoteProtocolError
from edge.webrtc.sctp_handshake import (
    Offer,
    Remote,
    read_remote,
)
from edge.webrtc.sctp_outgoing import Outgoing
from edge.webrtc.sctp_outputs import (
    MAX_CHUNK,
    SctpEnd,
    SctpEstablished,
    SctpOutput,
    SctpRestarted,
)
from edge.webrtc.sctp_receiver import Receiver
from edge.webrtc.sctp_resets import StreamResets
from edge.webrtc.sctp_shutdown import ShutdownTimer
from edge.webrtc.sctp_state import (
    OPENING,
    RECEIVING,
    SctpState,
)
from edge.wire.sctp import Packet
from edge.wire.sctp_chunks import (
    Abort,
    Chunk,
    CookieAck,
    CookieEcho,
    Data,
    ForwardTsn,
    Heartbeat,
    Init,
    Reconfig,
    Sack,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    UnknownChunk,
)
from edge.wire.sctp_codec import encode_chunk
from edge.wire.sctp_parameters import ResetResponse

MAX_COSTLY: Final = 4  # SACK, FORWARD TSN and RE-CONFIG chunks in one packet

_OUT_OF_RESOURCE, _UNRECOGNIZED_CHUNK = 4, 6
"""Error causes; RFC 9260, 3.3.10."""


class Incoming(Outgoing):
    """What the peer's chunks do to an association; see ``sctp``."""

    # The handshake.

    def _adopt(self, remote: Remote) -> None:
        if self._receiver is not None and self.remote == remote:
            return
        self.remote = remote
        self._sender.peer_window = remote.window
        self._sender.flight.forward_tsn = remote.forward_tsn
        self._receiver = Receiver(
            remote.side.tsn,
            window=self.config.window,
            max_message_size=self.config.max_message_size,
        )
        self._resets = StreamResets(self._handshake.local.tsn, remote.side.tsn)

    def _establish(self) -> list[SctpOutput]:
        self.state = SctpState.ESTABLISHED
        self._handshake.stop()
        return [SctpEstablished()]

    def _take_init(self, init: Init, now: float) -> list[SctpOutput]:
        if init.parameters.cookie is not None:
            return self._take_init_ack(init, init.parameters.cookie, now)
        if self.state is SctpState.SHUTDOWN_ACK_SENT:
            return []  # the peer's SHUTDOWN COMPLETE is still to come
        fresh = self.state not in OPENING
        answer = self._handshake.answer(init, fresh=fresh, entropy=self._entropy)
        return [self._send_alone(answer, init.tag)]

    def _take_init_ack(self, init: Init, cookie: bytes, now: float) -> list[SctpOutput]:
        if self.state is not SctpState.COOKIE_WAIT:
            return []
        self._adopt(read_remote(init))
        self.state = SctpState.COOKIE_ECHOED
        return [self._send_alone(self._handshake.ask(cookie, now=now), init.tag)]

    def _take_cookie(self, cookie: bytes) -> list[SctpOutput]:
        """RFC 9260, 5.2.4: the association comes up, is up already, or begins anew."""
        offer = self._handshake.accept(cookie)
        if offer is None and not self._handshake.was_accepted(cookie):
            raise RemoteProtocolError("COOKIE ECHO with a cookie that is not ours")
        outputs = self._follow_cookie(offer) if offer is not None else []
        self._queue(CookieAck())
        return outputs

    def _follow_cookie(self, offer: Offer) -> list[SctpOutput]:
        if self.state in OPENING:
            self._adopt(offer.remote)
            return self._establish()
        if (offer.local, offer.remote) == (self._handshake.local, self.remote):
            return []  # our own cookie was faster
        self._handshake.local = offer.local
        self._shutdown = ShutdownTimer()
        self._begin(offer.local)
        self._checkpoints.release()  # what they would allow is of the former numbers
        self._adopt(offer.remote)
        self._establish()
        return [SctpRestarted()]

    # What comes in.

    def _check_tag(self, packet: Packet) -> None:
        first = packet.chunks[0]
        if any(isinstance(chunk, Init) for chunk in packet.chunks) and len(packet.chunks) > 1:
            raise RemoteProtocolError("INIT is not alone")
        allowed: tuple[int | None, ...] = (self._handshake.local.tag,)
        if isinstance(first, Init) and first.parameters.cookie is None:
            allowed = (0,)
        elif isinstance(first, CookieEcho):
            allowed = (self._handshake.local.tag, self._handshake.offered_tag())
        elif isinstance(first, Abort | ShutdownComplete) and first.reflected:
            allowed = (self.remote.side.tag if self.remote is not None else None,)
        if packet.tag not in allowed:
            raise RemoteProtocolError("SCTP verification tag is wrong")

    def _take(self, chunk: Chunk, now: float) -> list[SctpOutput]:
        match chunk:
            case Data():
                return self._take_data(chunk)
            case Sack():
                self._limit_costly()
                self._receiving()
                self._sender.acknowledge(chunk, now=now)
            case ForwardTsn():
                self._limit_costly()
                return [*self._receiving().forward(chunk)]
            case Reconfig():
                self._limit_costly()
                return self._take_reconfig(chunk)
            case Heartbeat(information, acknowledges):
                if not acknowledges and len(information) < MAX_CHUNK:
                    self._queue(Heartbeat(information, acknowledges=True))
            case Init():
                return self._take_init(chunk, now)
            case CookieEcho(cookie):
                return self._take_cookie(cookie)
            case CookieAck():
                return self._establish() if self.state is SctpState.COOKIE_ECHOED else []
            case Abort(fatal=fatal):
                return self._end(SctpEnd.ABORTED) if fatal else []
            case Shutdown(tsn):
                self._take_shutdown(tsn, now)
            case ShutdownAck():
                return self._take_shutdown_ack()
            case ShutdownComplete():
                if self.state is SctpState.SHUTDOWN_ACK_SENT:
                    return self._end(SctpEnd.SHUTDOWN)
            case UnknownChunk():
                if chunk.reported:
                    cause = (_UNRECOGNIZED_CHUNK, encode_chunk(chunk)[: MAX_CHUNK // 2])
                    self._queue(Abort((cause,), fatal=False))
            case _:
                assert_never(chunk)
        return []

    def _limit_costly(self) -> None:
        """Each of these may walk along all that is in flight or kept: one a packet is usual."""
        self._costly += 1
        if self._costly > MAX_COSTLY:
            raise RemoteProtocolError("too many such chunks in a packet", Drop.RATE_LIMIT)

    def _receiving(self) -> Receiver:
        if self._receiver is None or self.state is SctpState.ENDED:
            raise RemoteProtocolError("no association yet, or no more", Drop.NOT_READY)
        return self._receiver

    def _take_data(self, data: Data) -> list[SctpOutput]:
        receiver = self._receiving()
        # The peer has our cookie, or it could not send: its COOKIE ACK was lost.
        outputs = self._establish() if self.state is SctpState.COOKIE_ECHOED else []
        if self.state not in RECEIVING:
            raise RemoteProtocolError("DATA after SHUTDOWN", Drop.NOT_READY)
        outputs += receiver.receive(data)
        if receiver.exhausted:
            outputs += self._abort(_OUT_OF_RESOURCE, SctpEnd.EXHAUSTED)
        return outputs

    def _take_reconfig(self, chunk: Reconfig) -> list[SctpOutput]:
        receiver, resets = self._receiving(), self._resets
        assert resets is not None
        outputs: list[SctpOutput] = []
        for item in chunk.parameters:
            answer, events = resets.receive(item, receiver, self._sender)
            outputs += events
            if answer is not None:
                outputs += self._answer(answer)
        return outputs

    def _answer(self, answer: ResetResponse) -> list[SctpOutput]:
        if self._holds_acks:
            return [*self._checkpoints.hold(answer)]
        self._queue(Reconfig((answer,)))
        return []

    def _finish_packet(self, now: float) -> list[SctpOutput]:
        if self.state is SctpState.ENDED:
            return []
        receiver = self._receiver
        if receiver is not None:
            receiver.finish_packet(now=now)
            if self.state is SctpState.SHUTDOWN_SENT and receiver.deadline < math.inf:
                self._shutdown.attempts = 0  # it still has something to say
                self._send_shutdown(now)
        return self._flush(now)

    def _take_shutdown(self, tsn: int, now: float) -> None:
        self._receiving()
        self._sender.acknowledge_cumulative(tsn, now=now)
        if self.state in (SctpState.ESTABLISHED, SctpState.SHUTDOWN_PENDING):
            self.state = SctpState.SHUTDOWN_RECEIVED
        elif self.state in (SctpState.SHUTDOWN_SENT, SctpState.SHUTDOWN_ACK_SENT):
            self.state = SctpState.SHUTDOWN_ACK_SENT
            self._send_shutdown(now)

    def _take_shutdown_ack(self) -> list[SctpOutput]:
        if self.state not in (SctpState.SHUTDOWN_SENT, SctpState.SHUTDOWN_ACK_SENT):
            return []
        return [self._packet([encode_chunk(ShutdownComplete())]), *self._end(SctpEnd.SHUTDOWN)]
