"""Who owns a session, and what its next owner needs: claims and checkpoints.

A session has one owner at a time, told apart by an *epoch*: 1 for who opened it, one more at every
take-over. A claim is a compare-and-set: epoch ``n`` is granted to whoever asks first while
``n - 1`` is held. To ask again for what one holds already is granted too, because the answer may
have been lost.

So these hold, however slow and lossy the way to the registry is:

- No two processes are ever granted the same epoch of a session.
- What a former owner stores after its successor's claim is refused (``FENCED``), and what it stored
  before is there for the successor, who loads it *with* the claim, in one: ``inherit``.
- Who leaves stores its last checkpoint and claims the next epoch for an heir in one: ``hand_over``.
- Of one owner's checkpoints the newest stays: an older one that comes late is refused
  (``SUPERSEDED``), as its reserve has been spent.

A registry that forgets (emptied, or fallen back to an old copy of itself) can promise nothing.
Then an owner's store finds no claim (``LOST``). It may claim ``anew`` what it held, to be overruled
by who held a higher epoch; nobody else may. When it may rely on that: ``transceiver.mark``.

A *lead* is what a lone datagram tells of its session: the routing token of a check, or the path of
anything else. An heir finds the session by it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple, NewType, Protocol

import msgspec

from edge.errors import LocalProtocolError
from edge.wire.spp import Path

Slot = NewType("Slot", int)
"""A transceiver's number inside its cluster, 1 to 2**24 - 1; a restarted process gets a new one."""

SESSION_SECONDS: Final = 60.0
"""How long a claim and a checkpoint live after the last write of either."""
MAX_CHECKPOINT_BYTES: Final = 131_072
MAX_SESSIONS: Final = 100_000
"""Sessions of a cluster that are remembered; in Redis its ``maxmemory`` is the bound."""
MAX_EPOCH: Final = 2**31 - 1
MAX_SERIAL: Final = 2**48 - 1
MAX_LEADS: Final = 20
"""What leads to one session: tokens, as ICE restarts make them, and paths."""

Lead = NewType("Lead", str)
"""What leads to a session; made by ``token_lead`` and ``path_lead``. Tells a client's address."""

_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """``owner`` holds ``session`` under ``epoch``."""

    session: str
    owner: Slot
    epoch: int

    def next_of(self, owner: Slot) -> Claim:
        """What ``owner`` has to claim to be the next one."""
        return Claim(session=self.session, owner=owner, epoch=self.epoch + 1)


class StoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint as it was stored: by whom, which of his, and its sealed bytes."""

    claim: Claim
    serial: int
    sealed: bytes

    def __repr__(self) -> str:
        return f"StoredCheckpoint({self.claim}, serial={self.serial}, {len(self.sealed)} bytes)"


class Inheritance(NamedTuple):
    """What came of inheriting a session."""

    held: Claim | None
    """Who holds it now; None: nobody, so there is nothing to take over."""
    stored: StoredCheckpoint | None
    """The newest checkpoint, for who was granted the session; None: there is none."""


class StoreOutcome(Enum):
    """What came of storing a checkpoint."""

    STORED = "stored"
    """It is what an heir will get."""
    SUPERSEDED = "superseded"
    """A newer one of the same owner is there; that one counts."""
    FENCED = "fenced"
    """Somebody else owns the session: end it, silently."""
    LOST = "lost"
    """No such claim is known. Claim anew what was held, and store again."""
    TOO_LONG = "too_long"
    """More than ``MAX_CHECKPOINT_BYTES``; the former one stays."""


class SessionBook(Protocol):
    """The claim book of a cluster's sessions; each call is one round trip.

    ``async`` methods may block, be cancelled, or raise RegistryUnavailable. After either of these
    what was asked for may have been done, or may still be: ask again.
    """

    async def claim(self, wanted: Claim, *, anew: bool = False) -> Claim | None:
        """Claim a session; returns who holds it now: ``wanted`` itself where it was granted.

        None: nobody holds it, so there is nothing to take over (only epoch 1 is granted then).
        ``anew`` grants every higher epoch than the one that is held, also where none is; what was
        stored under a lower one is gone then, as its successor never saw it. Raises
        LocalProtocolError for a session or an epoch that can not be.
        """

    async def owner_of(self, session: str) -> Claim | None:
        """Tell who holds a session; None also for what is no session's name."""

    async def owners_of(self, sessions: Sequence[str]) -> Sequence[Claim | None]:
        """Tell who holds each of these sessions."""

    async def store(self, claim: Claim, serial: int, sealed: bytes) -> StoreOutcome:
        """Store the checkpoint with this number, which rises with each, of who holds a claim."""

    async def hand_over(self, claim: Claim, serial: int, sealed: bytes, heir: Slot) -> StoreOutcome:
        """Store the last checkpoint of who holds a claim, and claim the next epoch for an heir.

        STORED again where just that was done: the answer may have been lost.
        """

    async def inherit(self, wanted: Claim, former: Slot) -> Inheritance:
        """Claim a session that ``former`` holds under the epoch before, and load what is stored.

        Granted again to who holds ``wanted``: the answer may have been lost.
        """

    async def forget(self, claim: Claim) -> None:
        """Take a session that has ended out, with all that is stored; unless it is another's."""

    def save_leads(self, session: str, leads: Sequence[Lead]) -> None:
        """Queue what leads to a session, to live like a checkpoint; never blocks.

        The latest call for a session counts while it waits; more than ``MAX_LEADS`` are dropped and
        counted. Leads are not forgotten with the session: they live for at most
        ``SESSION_SECONDS`` more, or until another session saves the same.
        """

    async def find_session(self, lead: Lead) -> str | None:
        """Find a session by what leads to it. It may have ended: ``owner_of`` tells."""


def token_lead(token: str) -> Lead:
    """Lead by a routing token, the username of a check."""
    return Lead(f"token|{token}")


def path_lead(path: Path) -> Lead:
    """Lead by a path, the SPP header of any datagram."""
    return Lead(f"path|{path.hex()}")


def is_session(text: str) -> bool:
    """Whether this could be the name of a session."""
    return _SESSION.fullmatch(text) is not None


def check_claim(claim: Claim) -> None:
    """Raise LocalProtocolError for a claim that nobody can hold."""
    if not is_session(claim.session) or not 1 <= claim.epoch <= MAX_EPOCH or claim.owner < 1:
        raise LocalProtocolError("no session's name, owner or epoch")


def check_serial(serial: int) -> None:
    """Raise LocalProtocolError for a number that no checkpoint can have."""
    if not 1 <= serial <= MAX_SERIAL:
        raise LocalProtocolError("the number of a checkpoint is out of range")


def grants(held: Claim | None, wanted: Claim, *, anew: bool) -> bool:
    """Whether a claim is granted while ``held`` is; the whole rule."""
    epoch = 0 if held is None else held.epoch
    return held == wanted or epoch == wanted.epoch - 1 or (anew and epoch < wanted.epoch)


def inherits(held: Claim | None, wanted: Claim, former: Slot) -> bool:
    """Whether a session is inherited while ``held`` is; the whole rule."""
    before = Claim(session=wanted.session, owner=former, epoch=wanted.epoch - 1)
    return held in (wanted, before)


def refusal(held: Claim | None, claim: Claim) -> StoreOutcome | None:
    """Why who says to hold ``claim`` may not store while ``held`` is; the whole rule."""
    if held is None or held.epoch < claim.epoch:
        return StoreOutcome.LOST
    return None if held == claim else StoreOutcome.FENCED
