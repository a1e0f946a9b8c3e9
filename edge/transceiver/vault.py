"""The registry's claims and checkpoints, as a transceiver asks for them: sealed, with deadlines.

An answer that does not come in ``ANSWER_SECONDS`` is none: what was asked for may have been done
all the same, as with ``RegistryUnavailable`` in general.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import structlog
import trio

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.registry.protocol import RegistryUnavailable
from edge.registry.sessions import (
    Claim,
    Lead,
    SessionBook,
    StoredCheckpoint,
    StoreOutcome,
    path_lead,
    token_lead,
)
from edge.transceiver.checkpoint import Checkpoint, CheckpointKeys

ANSWER_SECONDS: Final = 2.0

log = structlog.get_logger()


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

    async def load(self, claim: Claim) -> Checkpoint | None:
        """Load the checkpoint of a session that is claimed; None: there is none that opens."""
        with _deadline():
            stored = await self._book.load(claim)
        return None if stored is None else self._open(stored)

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
        if outcome is StoreOutcome.STORED:
            self.stored += 1
            self._book.save_leads(checkpoint.claim.session, leads(checkpoint))
        else:
            self.failed += 1
        return outcome

    def _open(self, stored: StoredCheckpoint) -> Checkpoint | None:
        try:
            return self._keys.open(stored, now=self._unix())
        except RemoteProtocolError as error:
            log.warning("checkpoint refused", session=stored.claim.session, error=str(error))
            return None


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
