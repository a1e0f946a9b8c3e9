"""One call's offering side as a sans-IO machine: a full, controlling ICE agent for one server.

The server is ICE-lite, so there is one candidate pair and every check nominates (RFC 8445, 8.1.1):
a check at once, again after 50, 100 and 200 ms until one is answered, then one every 2.5 s, as
browsers do. DTLS follows the answer's role; once it is done a numbered packet leaves every 20 ms
(or as long as a frame is). Packets may be protected ahead of time, so that a load is light to send.
"""

from __future__ import annotations

import secrets
from collections import deque
from contextlib import suppress
from math import inf
from typing import Final

from edge.address import Address
from edge.client.channel import CallerChannel
from edge.client.journal import FRAME_SECONDS, CallStatistics, Journal, SetupTimes
from edge.client.offer import MID, MID_EXTENSION, OPUS, Answer, Offer
from edge.client.turns import Question, Turns
from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.dtls import (
    Dtls,
    DtlsClosed,
    DtlsData,
    DtlsEstablished,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
    DtlsTransmit,
)
from edge.webrtc.srtp import SrtpReceiver, SrtpSender
from edge.wire import stun, stun_peek
from edge.wire.demux import Kind, classify
from edge.wire.rtcp import ReceiverReport, SenderReport, decode_rtcp
from edge.wire.rtp import build_header, encode_extensions, header_length

__all__ = ["CallStatistics", "Caller", "SetupTimes"]

CHECK_SECONDS: Final = 2.5
"""Chromium's interval for a stable, writable connection."""
FIRST_CHECKS: Final = (0.05, 0.1, 0.2)
"""Waits before the repetitions of the first check, in seconds; then the last one again."""
CLOCK_RATE: Final = 48_000
"""Of Opus' RTP clock, in Hz (RFC 7587, 4.1)."""
MAX_LATE_SECONDS: Final = 0.1
"""After a longer stall of our own the frames in between are never made: a flood is no audio."""
PEER_REFLEXIVE_PRIORITY: Final = 110 << 24 | 65_535 << 8 | 255
MAX_PENDING_CHECKS: Final = 16

_MID_BLOCK: Final = encode_extensions([(MID_EXTENSION, MID.encode())])


class Caller:
    """The machine of one call; inputs return the datagrams to send to ``server``."""

    def __init__(
        self,
        certificate: DtlsCertificate,
        *,
        now: float,
        frame_seconds: float = FRAME_SECONDS,
        channel: CallerChannel | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.offer = Offer.make(
            certificate.fingerprint,
            channel=channel is not None,
            sctp_init=None if channel is None else channel.init,
        )
        self.channel = channel
        self.journal = journal or Journal(frame_seconds)
        self.server: Address | None = None
        """The one address that this call speaks to."""
        self.checks_answered = 0
        self.nominating = True
        """Whether checks carry USE-CANDIDATE; not while several paths are still compared."""
        self.closed = False
        self._certificate = certificate
        self._started = now
        self._turns = Turns()
        self._tie_breaker = secrets.randbits(64)
        self._pending: dict[bytes, float] = {}
        self._checks_sent = 0
        self._next_check = inf
        self._next_frame = inf
        self._answer: Answer | None = None
        self._dtls: Dtls | None = None
        self._sender: SrtpSender | None = None
        self._receiver: SrtpReceiver | None = None
        self._samples = round(frame_seconds * CLOCK_RATE)
        self._prepared: deque[bytes] = deque()
        self._first_index = secrets.randbits(15)
        self._first_timestamp = secrets.randbits(32)

    @property
    def secured(self) -> bool:
        """True once packets may flow."""
        return self._sender is not None

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next."""
        dtls = self._dtls.deadline if self._dtls is not None else inf
        channel = self.channel.deadline if self.channel is not None else inf
        return inf if self.closed else min(self._next_check, self._next_frame, dtls, channel)

    def take_answer(self, body: bytes, *, now: float, enter: Address | None = None) -> list[bytes]:
        """Read the SDP answer and begin; RemoteProtocolError when it does not serve.

        The call goes to the best candidate, or to the relay ``enter``, which may be any of a fleet.
        """
        self._answer = answer = Answer.decode(body)
        self.server = enter or answer.candidates[0]
        self._dtls = Dtls(
            self._certificate,
            role="passive" if answer.role == "passive" else "active",
            fingerprints=answer.fingerprints,
        )
        self.journal.setup.answered = now - self._started
        self._next_check = now
        return self.tick(now=now)

    def tick(self, *, now: float) -> list[bytes]:
        """Do what is due: a check, a DTLS repetition, a frame."""
        datagrams: list[bytes] = []
        if self.closed:
            return datagrams
        if now >= self._next_check:
            datagrams.append(self._make_check(now))
        if self._dtls is not None and now >= self._dtls.deadline:
            datagrams += self._follow_dtls(self._dtls.tick(now=now), now)
        if self.channel is not None and now >= self.channel.deadline:
            datagrams += self._send_packets(self.channel.tick(now=now), now)
        if now - self._next_frame > MAX_LATE_SECONDS:
            self._next_frame = now
        while now >= self._next_frame:
            datagrams.append(self._make_frame(now))
        return datagrams

    def receive(self, datagram: bytes, *, now: float) -> list[bytes]:
        """Take one datagram; what can not be read is counted as rejected."""
        if self.closed:
            return []
        try:
            match classify(datagram):
                case Kind.RTP:
                    return self._receive_rtp(datagram, now)
                case Kind.RTCP if self._receiver is not None:
                    self._receive_rtcp(self._receiver, datagram)
                    return []
                case Kind.STUN:
                    return self._receive_stun(datagram, now)
                case Kind.DTLS if self._dtls is not None:
                    return self._receive_dtls(self._dtls, datagram, now)
                case _:
                    return []
        except RemoteProtocolError as error:
            if error.drop is Drop.REPLAY:
                self.journal.duplicates += 1
            else:
                self.journal.rejected += 1
            return []

    def send_message(self, data: str | bytes, *, now: float) -> list[bytes]:
        """Send a message on the channel; LocalProtocolError when it is not open."""
        if self.channel is None or self.closed:
            raise LocalProtocolError("there is no channel")
        return self._send_packets(self.channel.send(data, now=now), now)

    def stop_checks(self) -> None:
        """Send no further check; the server's consent then runs out."""
        self._next_check = inf

    def close(self) -> list[bytes]:
        """Say goodbye with close_notify; the machine then does nothing more."""
        outputs = self._dtls.close() if self._dtls is not None and not self.closed else []
        self.closed = True
        return [output.data for output in outputs if isinstance(output, DtlsTransmit)]

    # ICE

    def _make_check(self, now: float) -> bytes:
        assert self._answer is not None
        if self.checks_answered:
            self._next_check = now + CHECK_SECONDS
        else:
            wait = FIRST_CHECKS[min(self._checks_sent, len(FIRST_CHECKS) - 1)]
            self._next_check = now + wait
        self._checks_sent += 1
        transaction_id = secrets.token_bytes(stun_peek.TRANSACTION_ID_BYTES)
        if len(self._pending) >= MAX_PENDING_CHECKS:
            del self._pending[next(iter(self._pending))]
        self._pending[transaction_id] = now
        return stun.encode_request(
            transaction_id,
            username=f"{self._answer.ufrag}:{self.offer.ufrag}",
            password=self._answer.password,
            priority=PEER_REFLEXIVE_PRIORITY,
            use_candidate=self.nominating,
            controlling=self._tie_breaker,
        )

    def _receive_stun(self, datagram: bytes, now: float) -> list[bytes]:
        assert self._answer is not None
        assert self.server is not None
        message_class, transaction_id = stun_peek.peek(datagram)
        if message_class is stun_peek.MessageClass.REQUEST:
            # A server that is a full agent checks as well; a lite one may test a path this way.
            request = stun.decode_request(datagram, password=self.offer.password)
            mapped = stun.encode_success(
                request.transaction_id, self.server, password=self.offer.password
            )
            return [mapped]
        if self._pending.pop(transaction_id, None) is None:
            raise RemoteProtocolError("the answer to no check of ours")
        response = stun.decode_response(datagram, password=self._answer.password)
        return self._checked(now) if isinstance(response, stun.BindingSuccess) else []

    def _checked(self, now: float) -> list[bytes]:
        self.checks_answered += 1
        if self.checks_answered > 1 or self._dtls is None:
            return []
        self.journal.setup.checked = now - self._started
        self.journal.trips.checked = self._turns.answered(Question.CHECK)
        if self._next_check < inf:
            self._next_check = now + CHECK_SECONDS
        hello = self._dtls.start(now=now)
        if hello:  # else the server has begun, and the check was what it answers
            self._turns.ask(Question.HANDSHAKE)
        return self._follow_dtls(hello, now)

    # DTLS

    def _receive_dtls(self, dtls: Dtls, datagram: bytes, now: float) -> list[bytes]:
        before = dtls.state, dtls.flights
        outputs = dtls.receive(datagram, now=now)
        if before != (dtls.state, dtls.flights):
            self._turns.answered(Question.HANDSHAKE)
            self._turns.ask(Question.HANDSHAKE)
        return self._follow_dtls(outputs, now)

    def _follow_dtls(self, outputs: list[DtlsOutput], now: float) -> list[bytes]:
        datagrams: list[bytes] = []
        for output in outputs:
            match output:
                case DtlsTransmit(data):
                    datagrams.append(data)
                case DtlsEstablished(keys):
                    self._sender = SrtpSender(keys.profile, keys.local_key, keys.local_salt)
                    self._receiver = SrtpReceiver(keys.profile, keys.remote_key, keys.remote_salt)
                    self.journal.setup.secured = now - self._started
                    self.journal.trips.secured = self._turns.count
                    self._next_frame = now
                    datagrams += self._start_channel(now)
                case DtlsData(data) if self.channel is not None:
                    datagrams += self._receive_packet(self.channel, data, now)
                case DtlsClosed() | DtlsFailed():
                    self.closed = True
                case _:
                    pass
        return datagrams

    def _start_channel(self, now: float) -> list[bytes]:
        answer = self._answer
        if self.channel is None or answer is None or not answer.has_channel:
            return []
        self._turns.ask(Question.CHANNEL)
        started = self.channel.start(answer.sctp_init, dtls_client=answer.role == "active", now=now)
        return self._send_packets(started, now)

    def _receive_packet(self, channel: CallerChannel, packet: bytes, now: float) -> list[bytes]:
        before, opened = channel.progress, channel.opened
        packets = channel.receive(packet, now=now)
        if channel.progress != before:
            trips = self._turns.answered(Question.CHANNEL)
            self._turns.ask(Question.CHANNEL)
            if channel.opened and not opened:
                self.journal.setup.opened = now - self._started
                self.journal.trips.opened = trips
        return self._send_packets(packets, now)

    def _send_packets(self, packets: list[bytes], now: float) -> list[bytes]:
        if self._dtls is None or self._dtls.state is not DtlsState.ESTABLISHED:
            return []  # a goodbye came in the same datagram
        sent = [self._follow_dtls(self._dtls.send(packet), now) for packet in packets]
        return [datagram for each in sent for datagram in each]

    # Media

    def prepare(self, packets: int) -> None:
        """Protect the next packets now: some 10 us each, which their sending then does not take."""
        start = self.journal.sent + len(self._prepared)
        self._prepared.extend(map(self._protect, range(start, start + packets)))

    def stop_frames(self) -> None:
        """Send no further frame; the call stays up."""
        self._next_frame = inf

    def _make_frame(self, now: float) -> bytes:
        journal = self.journal
        if not journal.sent:
            journal.setup.first_sent = now - self._started
            self._turns.ask(Question.AUDIO)
        packet = self._prepared.popleft() if self._prepared else self._protect(journal.sent)
        journal.note_sent(now)
        self._next_frame += journal.frame_seconds
        return packet

    def _protect(self, number: int) -> bytes:
        assert self._sender is not None
        index = self._first_index + number
        timestamp = self._first_timestamp + number * self._samples & 0xFFFFFFFF
        header = build_header(
            OPUS, number == 0, index & 0xFFFF, timestamp, self.offer.ssrc, _MID_BLOCK
        )
        return self._sender.protect_rtp(header, self.journal.payload(number), index=index)

    def _receive_rtp(self, datagram: bytes, now: float) -> list[bytes]:
        if self._receiver is None:
            raise RemoteProtocolError("media before the handshake was done")
        packet, index = self._receiver.unprotect_rtp(datagram)
        journal = self.journal
        journal.note_number(index)
        journal.check_off(packet[header_length(packet) :], now)
        if journal.received == 1:
            journal.setup.first_echo = now - self._started
            journal.trips.first_echo = self._turns.answered(Question.AUDIO)
        return []

    def _receive_rtcp(self, receiver: SrtpReceiver, datagram: bytes) -> None:
        with suppress(RemoteProtocolError):  # the journal's counters are those of audio
            for packet in decode_rtcp(receiver.unprotect_rtcp(datagram)):
                if isinstance(packet, SenderReport | ReceiverReport):
                    for block in packet.reports:
                        number = block.highest_sequence - self._first_index
                        self.journal.note_report(number, lost=block.cumulative_lost)
