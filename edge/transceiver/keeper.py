"""Writes one session down, behind its back, so that another process could go on with it.

When, is the ``CheckpointWriter``'s to say; a keeper looks at its session when that wants it to, on
the pacer's wheel, makes the checkpoint and gives it away to be stored. What is known of that comes
back to ``note``, and bounds how far the session may count (docs/handover.md, "Reserves").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from edge.audio.pacer import Pacer
from edge.errors import EndReason
from edge.registry.sessions import Claim
from edge.transceiver.alarm import Alarm
from edge.transceiver.checkpoint import Checkpoint, Positions, Terms
from edge.transceiver.checkpoint_writer import CHANGE_SECONDS, Answer, CheckpointWriter
from edge.transceiver.session import Session
from edge.transceiver.voice import Voice
from edge.webrtc.reserve import HEIR_SKIPS, NO_RESERVE, Reserve

log = structlog.get_logger()

Store = Callable[["Keeper", Checkpoint], None]
"""Begins to store a checkpoint; never blocks."""
Soon = Callable[[Callable[[], None]], None]
"""Has something called when all that is to be done now is done."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The process's monotonic clock, and unix time, in seconds."""

    monotonic: Callable[[], float]
    unix: Callable[[], float]


class Keeper:
    """One session's claim, its writer, and the alarm on which they look after it."""

    def __init__(
        self,
        session: Session,
        claim: Claim,
        writer: CheckpointWriter,
        *,
        pacer: Pacer,
        clocks: Clocks,
        store: Store,
        soon: Soon,
    ) -> None:
        self.session = session
        self.claim = claim
        self.writer = writer
        self.voice = Voice.FULL
        """What the session may say while its claim is beyond doubt."""
        self.written_back: float | None = None
        """When the claim was told to a registry that had forgotten it; None: it never had."""
        self.was_stored = trio.Event()
        self.too_large = False
        """The session did not fit into its last checkpoint."""
        self._clocks = clocks
        self._store = store
        self._soon = soon
        self._alarm = Alarm(pacer, self._ring)

    def change(self, *, at_once: bool = False) -> None:
        """Have the session written down soon, or at once where somebody waits for it."""
        now = self._clocks.monotonic()
        self.writer.change(now=now, within=0.0 if at_once else CHANGE_SECONDS)
        self._plan(now)

    def write(self) -> None:
        """Have the session written down now."""
        now = self._clocks.monotonic()
        used = self.session.peer.used()
        self._give_away(self.writer.begin(used, now=now), HEIR_SKIPS)
        self._limit(used, now)

    def retry(self) -> None:
        """Have the session written down at once, however often that has failed."""
        now = self._clocks.monotonic()
        self.writer.retry(now=now)
        self._plan(now)

    def freeze(self) -> Checkpoint:
        """Make the last checkpoint, an exact one: from now on the session says nothing here.

        Again, where the claim has changed since.
        """
        self.session.part()
        self.voice = Voice.NONE
        self._alarm.close()
        serial = self.writer.freeze(self.session.peer.used(), now=self._clocks.monotonic())
        return write_down(self.session, self.claim, serial, NO_RESERVE, self._clocks)

    def note(self, serial: int, answer: Answer) -> None:
        """Note what became of a checkpoint; then the session is to be told."""
        self.writer.end(serial, answer, now=self._clocks.monotonic())
        if answer is Answer.STORED:
            self.was_stored.set()
            if self.voice is Voice.CHECKS:
                self.voice = Voice.FULL

    def tell(self, *, stored: bool) -> None:
        """Have the session go on with what waited for a checkpoint; it must have its voice."""
        session = self.session
        if session.reason is None and self.voice is not Voice.NONE:
            self._limit(session.peer.used(), self._clocks.monotonic())
            session.note_checkpoint(stored=stored)
            self._plan(self._clocks.monotonic())

    def close(self) -> None:
        """Look after the session no more."""
        self._alarm.close()

    def _plan(self, now: float) -> None:
        """Look when the writer wants it; who waits for that now need not wait for a tick."""
        if self.writer.deadline > now:
            self._alarm.set(self.writer.deadline)
        else:
            self._soon(lambda: self._alarm.set(self._ring(self._clocks.monotonic())))

    def _ring(self, now: float) -> float:
        try:
            self._look(now)
        except Exception:  # the pacer, which calls us, serves all sessions
            log.exception("bug in a checkpoint", session=self.claim.session)
            self.session.end(EndReason.INTERNAL_ERROR)
            self._alarm.close()
        return self.writer.deadline

    def _look(self, now: float) -> None:
        peer = self.session.peer
        if self.session.reason is not None or peer.ended:
            return
        used = peer.used()
        if self.writer.look(used, now=now):
            self._give_away(self.writer.begin(used, now=now), HEIR_SKIPS)
        self._limit(used, now)

    def _limit(self, used: Reserve, now: float) -> None:
        self.session.peer.limit(self.writer.room(used, now=now))

    def _give_away(self, serial: int, reserve: Reserve) -> None:
        checkpoint = write_down(self.session, self.claim, serial, reserve, self._clocks)
        self._store(self, checkpoint)


def write_down(
    session: Session, claim: Claim, serial: int, reserve: Reserve, clocks: Clocks
) -> Checkpoint:
    """Make the checkpoint of a connected session, as of now."""
    now, unix = clocks.monotonic(), clocks.unix()
    played, heard, timestamp = session.place
    call = session.call
    return Checkpoint(
        claim=claim,
        serial=serial,
        written=unix,
        reserve=reserve,
        peer=session.peer.snapshot(now=now),
        terms=Terms(codec=session.codec, wanted=call.audio, mid=session.mid, sends=session.sends),
        positions=Positions(played=played, heard=heard, timestamp=timestamp),
        relays=tuple(session.relays.items()),
        opened=unix - now + session.times.opened,
        connected=unix - now + session.times.connected,
        opener=session.opener,
        session_config=call.session_config,
        resume=session.resume_token(),
        dialect=session.events.snapshot(),
    )
