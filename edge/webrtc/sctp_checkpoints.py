"""What may be acknowledged, where an heir must be able to take over after a crash.

What is acknowledged is never sent again. So an owner with an heir acknowledges what its last stored
snapshot holds: a due acknowledgement asks for a snapshot, the snapshot takes along what could be
acknowledged at that moment, and ``stored`` releases it. The same goes for answers to stream resets.
Where no snapshot can be stored, nobody can take over either: then nothing is held (``release``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge.webrtc.sctp_outputs import CheckpointWanted
from edge.wire.sctp_chunks import Sack
from edge.wire.sctp_parameters import ResetResponse

MAX_STORING: Final = 8  # snapshots on their way at the same time; the oldest is forgotten
MAX_HELD: Final = 16  # answers that wait


class Checkpoint(msgspec.Struct, frozen=True):
    """What becomes allowed when a snapshot is stored."""

    next_tsn: int
    sack: Sack | None
    answers: tuple[ResetResponse, ...]


class Checkpoints:
    """Counts snapshots, and keeps what waits for each."""

    def __init__(self, serial: int = 0) -> None:
        self.serial = serial
        self.wanted = False
        self.held: list[ResetResponse] = []
        self._storing: dict[int, Checkpoint] = {}

    def ask(self) -> list[CheckpointWanted]:
        """Ask for a snapshot, once."""
        if self.wanted:
            return []
        self.wanted = True
        return [CheckpointWanted()]

    def hold(self, answer: ResetResponse) -> list[CheckpointWanted]:
        """Keep an answer for the next snapshot; what does not fit the peer will ask for again."""
        if len(self.held) < MAX_HELD:
            self.held.append(answer)
        return self.ask()

    def written(self, next_tsn: int, sack: Sack | None) -> int:
        """A snapshot was written: its serial number."""
        self.serial += 1
        self.wanted = False
        self._storing[self.serial] = Checkpoint(next_tsn, sack, tuple(self.held))
        self.held = []
        while len(self._storing) > MAX_STORING:
            del self._storing[next(iter(self._storing))]
        return self.serial

    def release(self) -> tuple[ResetResponse, ...]:
        """No snapshot can be stored: every answer that waits for one."""
        waiting = (*self._storing.values(), Checkpoint(0, None, tuple(self.held)))
        self._storing, self.held, self.wanted = {}, [], False
        return tuple(answer for each in waiting for answer in each.answers)

    def stored(self, serial: int) -> Checkpoint | None:
        """A snapshot is safe: what it allows, which includes what older ones would have."""
        checkpoint = self._storing.get(serial)
        answers = [
            answer
            for number in sorted(self._storing)
            if number <= serial
            for answer in self._storing.pop(number).answers
        ]
        if checkpoint is None:
            return None
        return Checkpoint(checkpoint.next_tsn, checkpoint.sack, tuple(answers))
