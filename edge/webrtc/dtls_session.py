"""DTLS 1.2 after the handshake: data, alerts and the repeated last flight, without OpenSSL.

A session is a few keys and numbers: it costs a fraction of OpenSSL's connection, and another
process can go on with it (``snapshot`` and ``restore``).

* Only data and alerts are ever opened, and only under the keys of the handshake. What is not
  authentic, replayed, of another epoch, too long, or plaintext is dropped and counted; nothing
  but an authentic close_notify or fatal alert ends a session.
* A handshake message or ChangeCipherSpec means at most that the peer repeats its last flight
  because it lacks ours: ours is sent again, at most once in 50 ms. Messages are not even read, so
  a renegotiation has no way in. Only a client that never received our Finished wants it again, so
  its copies are the same bytes under the same number and use up none.
* Where the record numbers that a stored snapshot reserves are used up, what would need one more is
  dropped and counted: to SCTP above, a lost packet.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from edge.errors import Drop, EndReason, LocalProtocolError, RemoteProtocolError
from edge.webrtc.dtls_flight import Flight, FlightSnapshot
from edge.webrtc.dtls_outputs import (
    DtlsClosed,
    DtlsData,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
    DtlsTransmit,
    transmits,
)
from edge.webrtc.dtls_protection import (
    ReaderSnapshot,
    RecordReader,
    RecordWriter,
    WriterSnapshot,
)
from edge.webrtc.dtls_records import ContentType, Record, decode_records

WARNING: Final = 1
FATAL: Final = 2
CLOSE_NOTIFY: Final = 0


class DtlsSnapshot(msgspec.Struct, frozen=True):
    """An established session written down. Holds keys: store it sealed."""

    writer: WriterSnapshot
    reader: ReaderSnapshot
    flight: FlightSnapshot

    def __repr__(self) -> str:
        return f"DtlsSnapshot(next_sequence={self.writer.sequence}, ...)"


class DtlsSession:
    """One established association; ``flight`` is our last, or is empty if the peer's ended it."""

    def __init__(self, writer: RecordWriter, reader: RecordReader, flight: Flight) -> None:
        self.state = DtlsState.ESTABLISHED
        self.drops: Counter[Drop] = Counter()
        self._writer = writer
        self._reader = reader
        self._flight = flight

    @property
    def deadline(self) -> float:
        """When :meth:`tick` has something to do."""
        return self._flight.deadline

    @property
    def flight(self) -> Flight:
        """Our last one."""
        return self._flight

    @property
    def next_sequence(self) -> int:
        """The number of the next record that we write."""
        return self._writer.next_sequence

    def reserve(self, records: int) -> None:
        """Allow this many more records: as many as a stored snapshot's heir will skip."""
        self._writer.reserve(records)

    def receive(self, datagram: bytes, *, now: float) -> list[DtlsOutput]:
        """Take one datagram of the peer; whatever it holds, nothing is raised."""
        try:
            records = decode_records(datagram)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return []
        return self.receive_records(records, now=now)

    def receive_records(self, records: tuple[Record, ...], *, now: float) -> list[DtlsOutput]:
        """Take a datagram's records, or those that came before the handshake was done."""
        outputs: list[DtlsOutput] = []
        for record in records:
            try:
                outputs += self._receive_record(record, now)
            except RemoteProtocolError as error:
                self.drops[error.drop] += 1
        return outputs

    def tick(self, *, now: float) -> list[DtlsOutput]:
        """Do what is due at ``now``: the unasked copies of the last flight."""
        return transmits(self._flight.tick(now=now)) if now >= self.deadline else []

    def send(self, data: bytes) -> list[DtlsOutput]:
        """Application data in one record; LocalProtocolError after the end."""
        if self.state is not DtlsState.ESTABLISHED:
            raise LocalProtocolError("DTLS is not established")
        return self._write(ContentType.APPLICATION_DATA, data)

    def close(self) -> list[DtlsOutput]:
        """Say goodbye with close_notify, unless all is said."""
        if self.state is not DtlsState.ESTABLISHED:
            return []
        self._end(DtlsState.CLOSED)
        return self._write(ContentType.ALERT, bytes([WARNING, CLOSE_NOTIFY]))

    def snapshot(self) -> DtlsSnapshot:
        """The whole state. The original must not send afterwards."""
        if self.state is not DtlsState.ESTABLISHED:
            raise LocalProtocolError("only an established session can be written down")
        return DtlsSnapshot(
            self._writer.snapshot(), self._reader.snapshot(), self._flight.snapshot()
        )

    @classmethod
    def restore(cls, snapshot: DtlsSnapshot, *, skip: int = 0) -> DtlsSession:
        """Go on from a snapshot after which at most ``skip`` records may have been written.

        ``skip`` is 0 only after a planned hand-over. A stale snapshot's reader accepts once more
        what came since.
        """
        return cls(
            RecordWriter.restore(snapshot.writer, skip=skip),
            RecordReader.restore(snapshot.reader),
            Flight.restore(snapshot.flight, skip=skip),
        )

    def _receive_record(self, record: Record, now: float) -> list[DtlsOutput]:
        if self.state is not DtlsState.ESTABLISHED:
            raise RemoteProtocolError("DTLS is over", Drop.NOT_READY)
        if record.content_type is ContentType.APPLICATION_DATA:
            data = self._reader.open(record)
            return [DtlsData(data)] if data else []
        if record.content_type is ContentType.ALERT:
            return self._receive_alert(self._reader.open(record))
        self.drops[Drop.REPLAY] += 1
        return transmits(self._flight.asked(now=now))

    def _receive_alert(self, content: bytes) -> list[DtlsOutput]:
        if len(content) != 2:
            raise RemoteProtocolError("alert length is wrong")
        level, description = content
        if description == CLOSE_NOTIFY:
            return [*self.close(), DtlsClosed()]
        if level != FATAL:
            return []
        self._end(DtlsState.FAILED)
        return [DtlsFailed(EndReason.DTLS_FAILED, f"peer sent alert {description}")]

    def _write(self, content_type: ContentType, content: bytes) -> list[DtlsOutput]:
        if self._writer.left <= 0:
            self.drops[Drop.RESERVE_USED] += 1
            return []
        return [DtlsTransmit(self._writer.write(content_type, content).encode())]

    def _end(self, state: DtlsState) -> None:
        self.state = state
        self._flight.forget()
