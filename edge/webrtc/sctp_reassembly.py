"""Fragments become messages, and messages come in order (RFC 9260, sections 6.5 and 6.9).

The fragments of one message have consecutive TSNs. So what has arrived is kept as runs: fragments
side by side are one run, and a run that has both a beginning and an end is a message. A run that
can no longer become one is dead: it holds no bytes, and only swallows what would have belonged to
it. Every fragment costs a few dictionary look-ups, in whatever order they arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from edge.errors import RemoteProtocolError
from edge.webrtc.sctp_outputs import SctpMessage, SctpTooLong, unwrap16
from edge.wire.sctp_chunks import BEGIN, END, UNORDERED, Data

OVERHEAD: Final = 96
"""Bytes that a kept fragment or message is taken to cost besides its payload."""

Delivered = SctpMessage | SctpTooLong


class Run(msgspec.Struct):
    """Fragments with the TSNs ``first`` to ``last``."""

    first: int
    last: int
    flags: int
    """BEGIN if the first one is here, END if the last one is, UNORDERED."""
    stream: int
    ssn: int
    ppid: int
    size: int
    parts: list[bytes]
    dead: bool = False

    @property
    def cost(self) -> int:
        """What it takes of the receive window."""
        return self.size + OVERHEAD * len(self.parts)

    def kill(self) -> None:
        """Give up what is here; the rest of the message will be swallowed."""
        self.dead, self.size, self.parts = True, 0, []

    def copy(self) -> Run:
        """A value that does not change with this one."""
        return msgspec.structs.replace(self, parts=list(self.parts))


class Stream(msgspec.Struct):
    """Where the order of one incoming stream stands; ``waiting`` by SSN."""

    next_ssn: int = 0
    waiting: dict[int, SctpMessage] = {}

    def copy(self) -> Stream:
        """A value that does not change with this one."""
        return Stream(self.next_ssn, dict(self.waiting))


class ReassemblySnapshot(msgspec.Struct, frozen=True):
    """The state of a ``Reassembly``."""

    runs: tuple[Run, ...]
    streams: dict[int, Stream]
    refused: tuple[int, ...]


class Reassembly:
    """Holds what is not deliverable yet; ``buffered`` is its cost in bytes."""

    def __init__(self, max_message_size: int) -> None:
        self.buffered = 0
        self._max_message_size = max_message_size
        self._by_first: dict[int, Run] = {}
        self._by_last: dict[int, Run] = {}
        self._streams: dict[int, Stream] = {}
        self._refused: set[int] = set()

    def add(self, tsn: int, data: Data, *, seen: Callable[[int], bool]) -> list[Delivered]:
        """Take a fragment that was not seen before; ``seen`` tells of the TSNs beside it."""
        if data.flags & 3 == 3 and not self._by_first:  # a whole message and nothing else around
            return self._complete(data.stream, data.ssn, data.ppid, data.flags, data.payload)
        run = self._join(_new_run(tsn, data), seen)
        if run.dead:
            return []
        if run.size > self._max_message_size:
            self._kill(run)
            self._refused.add(run.stream)
            return [SctpTooLong(run.stream)]
        if run.flags & 3 != 3:
            return []
        self._remove(run)
        return self._complete(run.stream, run.ssn, run.ppid, run.flags, b"".join(run.parts))

    def forward(self, tsn: int, skipped: Iterable[tuple[int, int]]) -> list[Delivered]:
        """Nothing up to ``tsn`` will come any more (RFC 3758, 3.6)."""
        for run in list(self._by_first.values()):
            if run.last < tsn or (run.dead and run.last == tsn):
                self._remove(run)
            elif run.first <= tsn + 1 and not run.flags & BEGIN:
                self._kill(run)
        delivered: list[Delivered] = []
        for number, ssn in skipped:
            delivered += self._skip(number, ssn)
        return delivered

    def reset(self, streams: Iterable[int]) -> None:
        """Start the numbering of these streams anew (RFC 6525, 5.2.2); none: of all."""
        for number in list(streams) or list({*self._streams, *self._refused}):
            stream = self._streams.pop(number, None)
            self._refused.discard(number)
            for message in stream.waiting.values() if stream else ():
                self.buffered -= len(message.data) + OVERHEAD

    def snapshot(self) -> ReassemblySnapshot:
        """The whole state, as values of its own."""
        return ReassemblySnapshot(
            runs=tuple(run.copy() for run in self._by_first.values()),
            streams={number: stream.copy() for number, stream in self._streams.items()},
            refused=tuple(self._refused),
        )

    @classmethod
    def restore(cls, snapshot: ReassemblySnapshot, max_message_size: int) -> Reassembly:
        """Go on from a snapshot."""
        reassembly = cls(max_message_size)
        for run in snapshot.runs:
            reassembly._insert(run.copy())
        reassembly._streams = {number: each.copy() for number, each in snapshot.streams.items()}
        reassembly._refused = set(snapshot.refused)
        for stream in snapshot.streams.values():
            reassembly.buffered += sum(
                len(message.data) + OVERHEAD for message in stream.waiting.values()
            )
        return reassembly

    def _join(self, run: Run, seen: Callable[[int], bool]) -> Run:
        """Put a run of one fragment beside its neighbours, and give what it has become part of."""
        left = self._by_last.get(run.first - 1)
        if run.flags & BEGIN:
            if left is not None and not left.flags & END:
                self._remove(left)  # its end can not come any more
        elif left is not None:
            run = self._merge(left, run)
        elif seen(run.first - 1):
            run.kill()  # a fragment without the one before it
        right = self._by_first.get(run.last + 1)
        if run.flags & END:
            if right is not None and not right.flags & BEGIN:
                self._kill(right)
        elif right is not None and not right.flags & BEGIN:
            return self._merge(run, right)
        elif right is not None or seen(run.last + 1):
            return self._give_up(run)  # another message stands where this one should go on
        return self._give_up(run) if run.dead and run.flags & END else self._insert(run)

    def _merge(self, left: Run, right: Run) -> Run:
        self._remove(left)
        self._remove(right)
        if left.dead or right.dead or _differ(left, right):
            left.kill()
        else:
            left.parts += right.parts
            left.size += right.size
        left.last = right.last
        left.flags |= right.flags
        return left if left.dead and left.flags & END else self._insert(left)

    def _insert(self, run: Run) -> Run:
        if self._by_first.get(run.first) is not run:
            self._by_first[run.first] = self._by_last[run.last] = run
            self.buffered += run.cost
        return run

    def _give_up(self, run: Run) -> Run:
        self._remove(run)
        run.kill()
        return run

    def _remove(self, run: Run) -> None:
        if self._by_first.get(run.first) is run:
            del self._by_first[run.first], self._by_last[run.last]
            self.buffered -= run.cost

    def _kill(self, run: Run) -> None:
        self._give_up(run)
        if not run.flags & END:
            self._insert(run)

    def _complete(
        self, number: int, ssn: int, ppid: int, flags: int, data: bytes
    ) -> list[Delivered]:
        if number in self._refused:
            return []
        if len(data) > self._max_message_size:
            self._refused.add(number)
            return [SctpTooLong(number)]
        message = SctpMessage(number, ppid, data)
        if flags & UNORDERED:
            return [message]
        stream = self._streams.get(number)
        if stream is None:
            stream = self._streams[number] = Stream()
        ssn = unwrap16(ssn, stream.next_ssn)
        if ssn == stream.next_ssn and not stream.waiting:
            stream.next_ssn += 1
            return [message]
        if ssn < stream.next_ssn or ssn in stream.waiting:
            raise RemoteProtocolError("a stream sequence number came twice")
        stream.waiting[ssn] = message
        self.buffered += len(data) + OVERHEAD
        return self._drain(stream)

    def _drain(self, stream: Stream) -> list[Delivered]:
        delivered: list[Delivered] = []
        while (message := stream.waiting.pop(stream.next_ssn, None)) is not None:
            stream.next_ssn += 1
            self.buffered -= len(message.data) + OVERHEAD
            delivered.append(message)
        return delivered

    def _skip(self, number: int, ssn: int) -> list[Delivered]:
        stream = self._streams.setdefault(number, Stream())
        ssn = unwrap16(ssn, stream.next_ssn)
        delivered: list[Delivered] = []
        for waiting in sorted(each for each in stream.waiting if each <= ssn):
            message = stream.waiting.pop(waiting)
            self.buffered -= len(message.data) + OVERHEAD
            delivered.append(message)
        stream.next_ssn = max(stream.next_ssn, ssn + 1)
        return delivered + self._drain(stream)


def _new_run(tsn: int, data: Data) -> Run:
    return Run(
        tsn,
        tsn,
        data.flags,
        data.stream,
        data.ssn,
        data.ppid,
        len(data.payload),
        [data.payload],
    )


def _differ(left: Run, right: Run) -> bool:
    return (left.stream, left.ssn, left.flags & UNORDERED) != (
        right.stream,
        right.ssn,
        right.flags & UNORDERED,
    )
