"""Where a call is that is not here: with who holds its session, who may not be who opened it.

The claim book tells, where sessions can move at all. Else the call's id does: it names who opened
it. While a call is between two owners a request is to come again: an heir takes over within a
second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from edge.http.problem import Cause, Problem, retry_after
from edge.registry.protocol import RegistryUnavailable, Slot, TransceiverRecord
from edge.registry.sessions import Claim
from edge.transceiver.call_ids import slot_of

CLAIM_SECONDS: Final = 1.0
"""How long the registry may take to tell who holds a session."""
SETTLING_LOOKS: Final = 20
SETTLING_PAUSE: Final = 0.05
"""Seconds between two looks at a session that is ours, and either not here yet or no more."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Finds the owners of calls."""

    slot: Slot
    """Our own."""
    owner_of: Callable[[str], Awaitable[Claim | None]]
    """``SessionBook.owner_of``."""
    transceiver: Callable[[Slot], TransceiverRecord | None]
    """``Directory.transceiver``."""

    async def find(
        self, call_id: str, is_here: Callable[[], bool], *, last_hop: bool = False
    ) -> str | None:
        """Tell where the signaling of a call's owner is; None: it is here, or nowhere.

        On its last hop a request goes nowhere else. Raises a 503 Problem for a call that can not
        be reached now.
        """
        opener = slot_of(call_id)
        if opener is None:
            return None
        for _ in range(SETTLING_LOOKS):
            if is_here():
                return None
            try:
                claim = await self._claim(call_id)
            except RegistryUnavailable:
                return self._reach(opener, last_hop, _unknown())
            if claim is None:
                return self._reach(opener, last_hop, None)
            if claim.owner != self.slot:
                return self._reach(claim.owner, last_hop, _between_owners())
            # It has just ended, or we are taking it over.
            await trio.sleep(SETTLING_PAUSE)
        raise _between_owners()

    async def _claim(self, call_id: str) -> Claim | None:
        try:
            with trio.fail_after(CLAIM_SECONDS):
                return await self.owner_of(call_id)
        except trio.TooSlowError:
            raise RegistryUnavailable("the registry is slow") from None

    def _reach(self, slot: Slot, last_hop: bool, problem: Problem | None) -> str | None:
        """Give the URL of who may have it; where there is none, raise the problem, if it is one."""
        record = None if last_hop or slot == self.slot else self.transceiver(slot)
        if record is not None and record.http_url:
            return record.http_url
        if problem is not None:
            raise problem
        return None


def _between_owners() -> Problem:
    detail = "the server that has this call has changed or is gone, try again"
    return Problem(Cause.OWNER_UNREACHABLE, detail, retry_after(1))


def _unknown() -> Problem:
    detail = "which server has this call can not be told now, try again"
    return Problem(Cause.REGISTRY_UNAVAILABLE, detail, retry_after(1))
