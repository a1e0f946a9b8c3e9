"""The registry's claims and checkpoints, as a transceiver asks for them: sealed, with deadlines.

An answer that does not come in ``ANSWER_SECONDS`` is none: what was asked for may have been done
all the same, as with ``RegistryUnavailable`` in general.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

import structlog
import trio

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.registry.leases import Leases
from edge.registry.protocol import RegistryUnavailable
from edge.registry.sessions import (
    SESSION_SECONDS,
    Claim,
    Lead,
    SessionBook,
    Slot,
    StoredCheckpoint,
    StoreOutcome,
    path_lead,
    token_lead,
)
from edge.transceiver.checkpoint import Checkpoint, CheckpointKeys, OtherVersion

ANSWER_SECONDS: Final = 2.0
LEADS_SECONDS: Final = SESSION_SECONDS / 3
"""After which they are saved again, though they have not changed."""
MAX_SAVED: Final = 10_000

log = structlog.get_logger()


class Inherited(NamedTuple):
    """What came of inheriting a session."""

    held: Claim | None
    """Who holds it now."""
    checkpoint: Checkpoint | None = None
    """For who was granted it; None: there is none that opens."""
    unread: bool = False
    """There is one for who can read it: another version of this program wrote it."""


class Vault:
    """A ``SessionBook`` with keys. Methods that wait raise RegistryUnavailable."""

    def __init__(
        self, book: SessionBook, keys: CheckpointKeys, *, unix: Callable[[], float]
    ) -> None:
        self.stored = 0
        self.failed = 0
        """Checkpoints that the registry did not take, or did not say so."""
        self._book = book
        self._keys = keys
        self._unix = unix
        self._saved = Leases[str, list[Lead]](unix)
        """What leads to a session as it was last saved: most checkpoints change nothing of it."""

    async def find_session(self, lead: Lead) -> str | None:
        """Find a session by what leads to it."""
        with _deadline():
            return await self._book.find_session(lead)

    async def owner_of(self, session: str) -> Claim | None:
        """Tell who holds a session."""
        with _deadline():
            return await self._book.owner_of(session)

    async def owners_of(self, sessions: Sequence[str]) -> Sequence[Claim | None]:
        """Tell who holds each of these sessions."""
        with _deadline():
            return await self._book.owners_of(sessions)

    async def claim(self, wanted: Claim, *, anew: bool = False) -> Claim | None:
        """Claim a session; returns who holds it now."""
        with _deadline():
            return await self._book.claim(wanted, anew=anew)

    async def forget(self, claim: Claim) -> bool:
        """Take a session out; False: the registry was not there. It goes by itself."""
        with suppress(RegistryUnavailable), _deadline():
            await self._book.forget(claim)
            return True
        return False

    async def inherit(self, wanted: Claim, former: Slot) -> Inherited:
        """Claim a session of which ``former`` holds the epoch before, and load its checkpoint."""
        with _deadline():
            held, stored = await self._book.inherit(wanted, former)
        return Inherited(held) if stored is None else self._open(wanted, stored)

    def seal(self, checkpoint: Checkpoint) -> bytes | None:
        """Seal a checkpoint; None for one that is too long to be stored."""
        try:
            return self._keys.seal(checkpoint)
        except LocalProtocolError as error:
            log.warning("checkpoint failed", session=checkpoint.claim.session, error=str(error))
            return None

    async def store(self, checkpoint: Checkpoint, sealed: bytes) -> StoreOutcome | None:
        """Store a checkpoint, with what leads to it; None: it is not known what came of it."""
        outcome = None
        with suppress(RegistryUnavailable), _deadline():
            outcome = await self._book.store(checkpoint.claim, checkpoint.serial, sealed)
        self._count(checkpoint, outcome)
        return outcome

    async def hand_over(self, checkpoint: Checkpoint, heir: Slot) -> StoreOutcome | None:
        """Store the last checkpoint of an owner, and claim the next epoch for its heir."""
        sealed, outcome = self.seal(checkpoint), None
        if sealed is None:
            return StoreOutcome.TOO_LONG
        with suppress(RegistryUnavailable), _deadline():
            claim, serial = checkpoint.claim, checkpoint.serial
            outcome = await self._book.hand_over(claim, serial, sealed, heir)
        self._count(checkpoint, outcome)
        return outcome

    def _count(self, checkpoint: Checkpoint, outcome: StoreOutcome | None) -> None:
        if outcome is StoreOutcome.STORED:
            self.stored += 1
            self._save_leads(checkpoint)
        else:  # the registry may have been emptied, of the leads too
            self.failed += 1
            self._saved.remove(checkpoint.claim.session)

    def _save_leads(self, checkpoint: Checkpoint) -> None:
        session, found = checkpoint.claim.session, leads(checkpoint)
        if self._saved.get(session) != found:
            self._saved.put(session, found, LEADS_SECONDS)
            self._book.save_leads(session, found)
        if len(self._saved) > MAX_SAVED:
            self._saved.drop_oldest()

    def _open(self, wanted: Claim, stored: StoredCheckpoint) -> Inherited:
        try:
            return Inherited(wanted, self._keys.open(stored, now=self._unix()))
        except RemoteProtocolError as error:
            log.warning("checkpoint refused", session=wanted.session, error=str(error))
            return Inherited(wanted, unread=isinstance(error, OtherVersion))


def leads(checkpoint: Checkpoint) -> list[Lead]:
    """What leads to a session: its tokens, and its paths."""
    tokens = [token_lead(token) for token in checkpoint.tokens]
    return [*tokens, *(path_lead(path) for path, _ in checkpoint.relays)]


@contextmanager
def _deadline() -> Iterator[None]:
    try:
        with trio.fail_after(ANSWER_SECONDS):
            yield
    except trio.TooSlowError:
        raise RegistryUnavailable("no answer in time") from None
