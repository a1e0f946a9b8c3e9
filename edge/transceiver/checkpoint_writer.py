"""When a session writes its checkpoint, and how far it may count meanwhile. No I/O.

A checkpoint is due when something that matters has changed (``change``), when a part of the reserve
is used, and before the stored one ends; never for a packet. Changes are gathered for a moment, but
not those that somebody waits for: a message of ours, an acknowledgement. One write is under way at
a time, one begins every ``SPACING_SECONDS`` on average, and ``BURST_WRITES`` more at once. How much
is used is looked at now and then, so that twice the present rate would not surprise us.

The rule of the reserve: an heir may find the last checkpoint that was stored, or any begun later
whose answer is not known. The oldest of these bounds the owner, which must stop (``room``) at the
end of its reserve. So a session that never began a checkpoint is free, as nobody can take it over,
and one that was taken over may send nothing before its own first checkpoint is stored: its former
owner's would lead the next heir to the same numbers.

The rule of age: a checkpoint that is older than ``MAX_AGE`` opens nowhere, and who has opened it
before has the client's checks from then on, so that consent ends the session here. Whoever still
speaks after both times can not have been taken over by that checkpoint: it bounds no more. So a
registry that is away for long stops nobody who uses less than a reserve in that time.

    if writer.look(used, now=now):              # at ``deadline``
        serial = writer.begin(used, now=now)    # then snapshot, seal, and store elsewhere
    writer.end(serial, Answer.STORED, now=now)
    peer.limit(writer.room(used, now=now))
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import Final

from edge.errors import LocalProtocolError
from edge.registry.sessions import SESSION_SECONDS, StoreOutcome
from edge.transceiver.checkpoint import MAX_AGE
from edge.webrtc.reserve import OWNER_USES, RENEW_AFTER, Reserve

CHANGE_SECONDS: Final = 0.25
"""How long a usual change waits for others."""
SPACING_SECONDS: Final = 0.025
BURST_WRITES: Final = 8
REFRESH_SECONDS: Final = SESSION_SECONDS / 3
FIRST_LOOK_SECONDS: Final = 1.0
SHORTEST_LOOK_SECONDS: Final = 0.25
LONGEST_LOOK_SECONDS: Final = 5.0
FIRST_PAUSE: Final = 0.1  # seconds after a failure; each next one is twice as long
LAST_PAUSE: Final = 2.0
CONSENT_SECONDS: Final = 30.0  # RFC 7675, 5.1
HEIR_SECONDS: Final = 1.0
"""After an heir's first checkpoint, until one that knows of its packets: jumps do not add up."""
UNSURE_SECONDS: Final = 1.0
"""How soon a checkpoint is followed by another that may extend the reserve where it could not."""
AGE_MARGIN: Final = 8.0
"""Seconds for clocks that differ, and from the opening of a checkpoint until a relay knows it."""
MAX_WRITES: Final = 128
"""Of unknown outcome that are kept apart; further ones count with the last."""

UNLIMITED: Final = Reserve(2**48, 2**48, 2**48, 2**48)


class Answer(Enum):
    """What is known of a write that is over."""

    STORED = "stored"
    UNSURE = "unsure"
    """An heir will find it, but may have found an earlier one before, of which nobody told yet."""
    REFUSED = "refused"
    """It was certainly not stored."""
    UNKNOWN = "unknown"
    """The registry could not be reached: it may have been, or may still be."""

    @classmethod
    def of(cls, outcome: StoreOutcome) -> Answer:
        """Read the registry's answer."""
        return cls.STORED if outcome is StoreOutcome.STORED else cls.REFUSED


@dataclass(frozen=True, slots=True)
class WriterStatistics:
    """Counts since the start."""

    begun: int
    stored: int
    failed: int
    longest: float
    """Seconds that the slowest write that was stored took."""


@dataclass(frozen=True, slots=True)
class _Write:
    serial: int
    used: Reserve
    begun: float


class CheckpointWriter:
    """One session's policy. ``used`` is the next number of each kind; ``now`` is monotonic.

    ``consent_seconds`` is how long after the client's last check the session ends.
    """

    def __init__(
        self,
        *,
        now: float,
        owner_uses: Reserve = OWNER_USES,
        renew_after: Reserve = RENEW_AFTER,
        consent_seconds: float = CONSENT_SECONDS,
    ) -> None:
        self._owner_uses = owner_uses
        self._renew_after = renew_after
        self._forget_after = MAX_AGE + consent_seconds + AGE_MARGIN
        self._bar: Reserve | None = None
        """Nothing from here on may be used: by an heir that has stored nothing, or at the end."""
        self._frozen = False
        self._writing: _Write | None = None
        self._findable: deque[_Write] = deque()
        """What an heir may find: the last that was stored, and later ones that may have been."""
        self._stored: Reserve | None = None
        self._serial = 0
        self._due = inf
        self._not_before = self._spent_until = now
        self._refresh_at = inf
        self._look_at = inf
        self._looked: tuple[Reserve, float] | None = None
        self._pause = FIRST_PAUSE
        self._begun = self._counted = self._failed = 0
        self._longest = 0.0

    @classmethod
    def for_heir(
        cls, used: Reserve, *, now: float, consent_seconds: float = CONSENT_SECONDS
    ) -> CheckpointWriter:
        """Start where a session was taken over: nothing may be sent, and a write is due.

        No age frees it: while the former owner's checkpoint still opened, another heir may have
        begun at the same numbers; and a call that is silent for so long is over.
        """
        writer = cls(now=now, consent_seconds=consent_seconds)
        writer._bar = used
        writer._due = now
        return writer

    @property
    def deadline(self) -> float:
        """When ``look`` wants to be called; ``math.inf`` while a write is under way."""
        if self._writing is not None:
            return inf
        return min(max(self._due, self._not_before), self._refresh_at, self._look_at)

    def change(self, *, now: float, within: float = CHANGE_SECONDS) -> None:
        """Note that something matters; it is written within so many seconds, 0 for at once."""
        self._due = min(self._due, now + within)

    def retry(self, *, now: float) -> None:
        """Note that it is to be written now, whatever failure has put that off."""
        self._pause = FIRST_PAUSE
        self._due = self._not_before = now

    def look(self, used: Reserve, *, now: float) -> bool:
        """Whether a write is due; also looks how fast the reserve is being used."""
        if self._writing is not None:
            return False
        if now >= self._refresh_at or self._is_used(used):
            self._due = min(self._due, now)
        self._plan_look(used, now)
        return now >= max(self._due, self._not_before)

    def begin(self, used: Reserve, *, now: float) -> int:
        """Note that a checkpoint of now is being written; returns its serial number.

        Raises LocalProtocolError while another one is under way.
        """
        if self._writing is not None or self._frozen:
            raise LocalProtocolError("one checkpoint at a time, and none after the last")
        return self._begin(used, now)

    def freeze(self, used: Reserve, *, now: float) -> int:
        """Begin the last checkpoint, an exact one for a planned hand-over; returns its number.

        From now on nothing may be used any more, whatever becomes of it or of another write that
        is under way. ``look`` is true until it is stored: ``freeze`` again, with the same numbers.
        """
        self._frozen = True
        self._bar = used
        self._look_at = inf
        return self._begin(used, now)

    def end(self, serial: int, answer: Answer, *, now: float) -> None:
        """Note what became of a write; nothing but the one under way counts."""
        write = self._writing
        if write is None or write.serial != serial:
            return
        self._writing = None
        if answer is Answer.STORED:
            self._note_stored(write, now)
            return
        if answer is Answer.UNSURE:
            self._stored = write.used
            self.change(now=now, within=UNSURE_SECONDS)
            return
        self._failed += 1
        if answer is Answer.REFUSED and self._findable and self._findable[-1].serial == serial:
            self._findable.pop()
        self._due = self._not_before = now + self._pause
        self._pause = min(2 * self._pause, LAST_PAUSE)

    def room(self, used: Reserve, *, now: float) -> Reserve:
        """How many more of each kind may be used now; at 0 the owner must stop."""
        if self._bar is not None:
            return used.left_of(self._bar)
        while self._findable and now - self._findable[0].begun > self._forget_after:
            self._findable.popleft()
        if not self._findable:
            return used.left_of(UNLIMITED)
        return used.left_of(self._findable[0].used.plus(self._owner_uses))

    def statistics(self) -> WriterStatistics:
        """Count."""
        return WriterStatistics(self._begun, self._counted, self._failed, self._longest)

    def _begin(self, used: Reserve, now: float) -> int:
        self._serial += 1
        self._begun += 1
        self._writing = write = _Write(self._serial, used, now)
        if len(self._findable) == MAX_WRITES:
            write = replace(self._findable.pop(), begun=now)
        self._findable.append(write)
        self._due = self._refresh_at = inf
        self._spent_until = max(self._spent_until, now) + SPACING_SECONDS
        self._not_before = self._spent_until - BURST_WRITES * SPACING_SECONDS
        return self._serial

    def _note_stored(self, write: _Write, now: float) -> None:
        self._counted += 1
        self._longest = max(self._longest, now - write.begun)
        self._stored = write.used
        self._pause = FIRST_PAUSE
        self._findable = deque([write])
        if self._frozen:
            return
        if self._bar is not None:
            self.change(now=now, within=HEIR_SECONDS)
        self._bar = None
        self._refresh_at = write.begun + REFRESH_SECONDS
        self._plan_look(write.used, now)

    def _is_used(self, used: Reserve) -> bool:
        if self._stored is None or self._frozen:
            return False
        return used.left_of(self._stored.plus(self._renew_after)).least == 0

    def _plan_look(self, used: Reserve, now: float) -> None:
        if self._stored is None or self._frozen:
            return
        pause = FIRST_LOOK_SECONDS
        if self._looked is not None and now > self._looked[1]:
            before, at = self._looked
            left = used.left_of(self._stored.plus(self._renew_after))
            pause = _seconds_until_used(before, used, left) * (now - at) / 2
        self._looked = used, now
        self._look_at = now + min(max(pause, SHORTEST_LOOK_SECONDS), LONGEST_LOOK_SECONDS)


def _seconds_until_used(before: Reserve, used: Reserve, left: Reserve) -> float:
    """In how many intervals like the last one what is left is used; infinite for none."""
    kinds = zip(_numbers(before), _numbers(used), _numbers(left), strict=True)
    return min((rest / (now - then) for then, now, rest in kinds if now > then), default=inf)


def _numbers(reserve: Reserve) -> tuple[int, int, int, int]:
    return reserve.rtp, reserve.rtcp, reserve.dtls, reserve.tsn
