"""Sessions that come from other transceivers and go to them: custody, take-over and hand-over.

The service has one where it is part of a fleet that shares a secret (docs/handover.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from edge.audio.pacer import Pacer
from edge.errors import Drop
from edge.registry.lease import Lease
from edge.registry.protocol import Slot, TransceiverRecord
from edge.registry.sessions import Claim, Lead, SessionBook, path_lead
from edge.transceiver.checkpoint import Checkpoint, CheckpointKeys
from edge.transceiver.custody import Custody
from edge.transceiver.handover import HandOver, Living, Owner
from edge.transceiver.keeper import Clocks
from edge.transceiver.session import Session
from edge.transceiver.takeover import Peers, TakeOver
from edge.transceiver.vault import Vault
from edge.transceiver.voice import Voice
from edge.transceiver.word import Kind, Word, encode_word
from edge.wire.spp import Path


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the transceivers of a cluster share, and our lease among them."""

    book: SessionBook
    lease: Lease
    keys: CheckpointKeys = field(repr=False)


class Directory(Peers, Living, Protocol):
    """The other transceivers."""


class Host(Owner, Protocol):
    """The service that sessions come to and go from."""

    async def revive(self, checkpoint: Checkpoint, claim: Claim) -> None:
        """Restore a session, put it into our custody, and serve it."""

    def pass_on(self, datagram: bytes, record: TransceiverRecord) -> None:
        """Send an internal datagram to another transceiver, as it came."""


class Mobility:
    """See the parts; ``run`` serves them."""

    def __init__(
        self,
        fleet: Fleet,
        host: Host,
        directory: Directory,
        *,
        slot: Slot,
        pacer: Pacer,
        clocks: Clocks,
        consent_seconds: float,
    ) -> None:
        vault = Vault(fleet.book, fleet.keys, unix=clocks.unix)
        self.custody = Custody(
            vault,
            fleet.lease,
            slot=slot,
            pacer=pacer,
            clocks=clocks,
            consent_seconds=consent_seconds,
        )
        self._takeover = TakeOver(
            self.custody,
            directory,
            revive=host.revive,
            pass_on=host.pass_on,
            clock=clocks.monotonic,
        )
        self._handover = HandOver(self.custody, self._takeover, directory, host)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.custody.run)
            await nursery.start(self._takeover.run)
            task_status.started()

    def take_stray(
        self,
        lead: Lead,
        datagram: bytes,
        retry: Callable[[float], None] | None,
        *,
        own: bool,
        now: float,
    ) -> Drop | None:
        """See ``TakeOver.take``."""
        return self._takeover.take(lead, datagram, retry, own=own, now=now)

    def take_word(
        self, word: Word, path: Path, answer: Callable[[bytes], None], *, now: float
    ) -> Drop | None:
        """Take what another transceiver tells of a session, which this path leads to.

        ``answer`` sends him a word.
        """
        if word.kind is Kind.TAKEN:
            self._handover.note_taken(word.session)
            return None
        left = Claim(session=word.session, owner=self.custody.slot, epoch=word.epoch)
        taken = encode_word(word._replace(kind=Kind.TAKEN))
        return self._takeover.take_up(left, path_lead(path), lambda now: answer(taken), now=now)

    async def settle(self) -> None:
        """See ``Custody.settle``."""
        await self.custody.settle()

    def outlives(self, session: Session) -> bool:
        """Whether a session that ends here without a word goes on elsewhere."""
        return session.voice is Voice.NONE or self._handover.finds(session)

    async def hand_over(self, sessions: Callable[[], Iterable[Session]]) -> None:
        """See ``HandOver.run``."""
        await self._handover.run(sessions)
