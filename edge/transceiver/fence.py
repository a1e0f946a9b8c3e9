"""For which sessions a process may speak, and how it learns that it may not. No I/O.

Whoever is out of sight for a lease is taken for dead, and its sessions may be taken over. Two ways
lead there, and they need opposite answers:

- The process *stood still* (stopped, swapped, its host asleep). Then nothing may leave it before it
  has asked who owns its sessions: what is another's now ends at once, silently, and what nobody is
  known to own ends too, as the registry may have lost an heir's claim.
- The *registry* can not be reached. Then the calls go on, as nobody can take them over there
  either; if it is only us who can not reach it, the reserve keeps us from doing harm.

``tick`` finds out about standing still and has to come first at each wake of the loop, before any
datagram or timer is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

from edge.registry.lease import LEASE_SECONDS, Lease
from edge.registry.sessions import Claim

STALL_SECONDS: Final = LEASE_SECONDS / 2
"""A shorter pause costs no lease: two renewals were overdue before, so it is the registry."""


class Fence:
    """The claims that one process holds. Times are monotonic seconds."""

    def __init__(self, lease: Lease, *, now: float) -> None:
        self._lease = lease
        self._ticked = now
        self._claims: dict[str, Claim] = {}
        self._doubtful: set[str] = set()
        self._stalled_at = -inf

    def __len__(self) -> int:
        return len(self._claims)

    def hold(self, claim: Claim, *, asked: float, now: float) -> bool:
        """Note a claim that was granted; False where it is not certain any more.

        ``asked`` is when it was asked for. If we stood still since, the answer is old news: ask
        again. So it is if a higher epoch is known already.
        """
        self.tick(now=now)
        known = self._claims.get(claim.session)
        if asked < self._stalled_at or (known is not None and known.epoch > claim.epoch):
            return False
        self._claims[claim.session] = claim
        self._doubtful.discard(claim.session)
        return True

    def release(self, session: str) -> None:
        """Forget a session that has ended or was handed over."""
        self._claims.pop(session, None)
        self._doubtful.discard(session)

    def speaks(self, session: str) -> bool:
        """Whether anything may leave for this session now."""
        return session in self._claims and session not in self._doubtful

    @property
    def doubtful(self) -> Sequence[str]:
        """The sessions whose owners have to be asked for before they may speak again."""
        return tuple(self._doubtful)

    def tick(self, *, now: float) -> bool:
        """Note that we run; True where we stood still, and all sessions are in doubt."""
        stalled = self._stood_still(self._ticked, now)
        self._ticked = now
        if stalled:
            self._stalled_at = now
            self._doubtful.update(self._claims)
        return stalled

    def confirm(
        self, sessions: Iterable[str], held: Iterable[Claim | None], *, asked: float, now: float
    ) -> list[str]:
        """Take the owners that the registry tells; returns the sessions that must end, FENCED.

        An answer to a question from before we last stood still ends a session or says nothing.
        """
        self.tick(now=now)
        lost: list[str] = []
        for session, holder in zip(sessions, held, strict=True):
            mine = self._claims.get(session)
            if mine is None:
                continue
            if holder != mine and (session in self._doubtful or self.hears(holder)):
                lost.append(session)
            elif holder == mine and asked >= self._stalled_at:
                self._doubtful.discard(session)
        for session in lost:
            self.release(session)
        return lost

    def hears(self, claim: Claim | None) -> bool:
        """Whether this claim, wherever it was heard of, ends a session of ours: FENCED."""
        if claim is None:
            return False
        mine = self._claims.get(claim.session)
        return mine is not None and claim.epoch > mine.epoch

    def _stood_still(self, since: float, now: float) -> bool:
        """Whether a pause may have cost the lease, which the registry did not take before."""
        pause, lease = now - since, self._lease
        if pause < STALL_SECONDS or not lease.lapsed(now=now):
            return False
        return pause >= LEASE_SECONDS or not lease.lapsed(now=since)
