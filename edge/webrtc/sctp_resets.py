"""Stream resets: how a data channel is closed (RFC 6525; RFC 8831, section 6.7).

Each side resets its own outgoing streams by a numbered request, one at a time; its last TSN tells
the peer what must have arrived before. A peer that still misses something answers "in progress",
and the request is made again under a new number, as libwebrtc does it; a repetition under the old
number is understood too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from edge.webrtc.sctp_outputs import WORD, StreamsReset, unwrap32
from edge.webrtc.sctp_receiver import MAX_STREAMS, Receiver
from edge.webrtc.sctp_sender import Sender
from edge.wire.sctp_parameters import (
    IncomingReset,
    OtherRequest,
    OutgoingReset,
    ReconfigParameter,
    ResetResponse,
)

MAX_PER_REQUEST: Final = 128  # streams
MAX_REQUESTS: Final = 16  # times one is sent

NOTHING_TO_DO, PERFORMED, DENIED, _, _, BAD_SEQUENCE, IN_PROGRESS = range(7)
"""Results; RFC 6525, 4.4."""

Answer = tuple[ResetResponse | None, list[StreamsReset]]


class ResetsSnapshot(msgspec.Struct, frozen=True):
    """The state of ``StreamResets``; ``deadline`` in seconds from the moment of writing."""

    next_sequence: int
    expected: int
    last: ResetResponse | None
    waiting: tuple[int, ...]
    request: OutgoingReset | None
    due: bool
    renumber: bool
    attempts: int
    deadline: float


class StreamResets:
    """Requests of ours, numbered from ``sequence``, and of the peer's, from ``expected``."""

    def __init__(self, sequence: int, expected: int) -> None:
        self.deadline = math.inf
        self._next_sequence = sequence & WORD
        self._expected = expected & WORD
        self._last: ResetResponse | None = None
        self._waiting: dict[int, None] = {}  # a set that keeps its order
        self._request: OutgoingReset | None = None
        self._due = False
        self._renumber = False
        """Whether the request is made under a new number next time."""
        self._attempts = 0

    @property
    def failed(self) -> bool:
        """Whether a request was repeated too often."""
        return self._attempts > MAX_REQUESTS

    def pending(self, stream: int) -> bool:
        """Whether our side of this stream is being reset."""
        request = self._request
        return stream in self._waiting or (request is not None and stream in request.streams)

    def ask(self, streams: Iterable[int]) -> None:
        """Reset these streams of ours once everything queued on them has been sent."""
        self._waiting.update((each, None) for each in streams if not self.pending(each))

    def next_request(self, sender: Sender, *, now: float) -> OutgoingReset | None:
        """The request that is to be sent now, if any."""
        if self._request is None:
            self._prepare(sender)
        if not self._due or self._request is None:
            return None
        if self._renumber:
            self._number(self._request.streams, sender)
        self._due = False
        self._attempts += 1
        self.deadline = now + sender.round_trip.timeout
        return self._request

    def expire(self) -> None:
        """No answer has come: send the request again."""
        self._due, self.deadline = True, math.inf

    def receive(self, item: ReconfigParameter, receiver: Receiver, sender: Sender) -> Answer:
        """Take one parameter of the peer's: what to answer, and what begins anew."""
        if isinstance(item, ResetResponse):
            return None, self._answered(item, sender)
        response = self._repeated(item.sequence)
        if response is not None:
            return response, []
        result, events = self._perform(item, receiver)
        self._expected = (item.sequence + 1) & WORD
        self._last = ResetResponse(item.sequence, result)
        return self._last, events

    def snapshot(self, *, now: float) -> ResetsSnapshot:
        """The whole state."""
        return ResetsSnapshot(
            next_sequence=self._next_sequence,
            expected=self._expected,
            last=self._last,
            waiting=tuple(self._waiting),
            request=self._request,
            due=self._due,
            renumber=self._renumber,
            attempts=self._attempts,
            deadline=self.deadline - now,
        )

    @classmethod
    def restore(cls, snapshot: ResetsSnapshot, *, now: float) -> StreamResets:
        """Go on from a snapshot."""
        resets = cls(snapshot.next_sequence, snapshot.expected)
        resets._last, resets._waiting = snapshot.last, dict.fromkeys(snapshot.waiting)
        resets._request, resets._due = snapshot.request, snapshot.due
        resets._renumber = snapshot.renumber
        resets._attempts, resets.deadline = snapshot.attempts, snapshot.deadline + now
        return resets

    def _prepare(self, sender: Sender) -> None:
        ready = [each for each in self._waiting if not sender.is_waiting(each)]
        ready = ready[:MAX_PER_REQUEST]
        if ready:
            for each in ready:
                del self._waiting[each]
            self._number(tuple(ready), sender)
            self._due = True

    def _number(self, streams: tuple[int, ...], sender: Sender) -> None:
        last_tsn = (sender.flight.next_tsn - 1) & WORD
        sequence, expected = self._next_sequence, (self._expected - 1) & WORD
        self._renumber = False
        self._request = OutgoingReset(sequence, expected, last_tsn, streams)
        self._next_sequence = (sequence + 1) & WORD

    def _answered(self, response: ResetResponse, sender: Sender) -> list[StreamsReset]:
        request = self._request
        if request is None or response.sequence != request.sequence:
            return []
        if response.result == IN_PROGRESS:
            self._renumber, self._attempts = True, 0  # when the timer expires
            return []
        # Denied, or a number out of step after a take-over: the channel is closed all the same.
        self._request, self.deadline = None, math.inf
        self._attempts, self._due, self._renumber = 0, False, False
        for stream in request.streams:
            sender.outbox.restart_stream(stream)
        return [StreamsReset(request.streams, incoming=False)]

    def _repeated(self, sequence: int) -> ResetResponse | None:
        if sequence == self._expected:
            return None
        if self._last is None or sequence != self._last.sequence:
            return ResetResponse(sequence, BAD_SEQUENCE)
        return None if self._last.result == IN_PROGRESS else self._last

    def _perform(
        self, item: OutgoingReset | IncomingReset | OtherRequest, receiver: Receiver
    ) -> tuple[int, list[StreamsReset]]:
        if isinstance(item, OtherRequest):
            return DENIED, []
        if isinstance(item, IncomingReset):
            self.ask(stream for stream in item.streams if stream < MAX_STREAMS)
            return NOTHING_TO_DO, []
        cumulative = receiver.tsns.cumulative
        if unwrap32(item.tsn, cumulative) > cumulative:
            return IN_PROGRESS, []
        receiver.reassembly.reset(item.streams)
        return PERFORMED, [StreamsReset(item.streams, incoming=True)]
