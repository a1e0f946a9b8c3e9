"""Sessions that have ended here: for a minute nobody brings them back, and their records go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

from edge.registry.sessions import SESSION_SECONDS, Claim
from edge.transceiver.vault import Vault

RETRY_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 0.01
MAX_ENDED: Final = 10_000


class Departed:
    """The ended sessions of one transceiver."""

    def __init__(self, vault: Vault, clock: Callable[[], float]) -> None:
        self._vault = vault
        self._clock = clock
        self._ended: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Under which epoch, and until when that counts."""
        self._leaving = 0

    def note(self, claim: Claim) -> None:
        """Note that a session has ended that we held by this claim."""
        now = self._clock()
        self._ended[claim.session] = claim.epoch, now + SESSION_SECONDS
        while len(self._ended) > MAX_ENDED or next(iter(self._ended.values()))[1] < now:
            self._ended.popitem(last=False)

    def has(self, held: Claim) -> bool:
        """Whether the session of a claim was ours and is over: nobody shall bring it back.

        Not where it had been taken over before, and ended here as we did not know of it.
        """
        return held.epoch <= self._ended.get(held.session, (0, 0.0))[0]

    async def forget(self, claim: Claim) -> None:
        """Take the record of a session out, as soon as the registry is there."""
        self._leaving += 1
        try:
            until = self._clock() + SESSION_SECONDS
            while not await self._vault.forget(claim) and self._clock() < until:
                await trio.sleep(RETRY_SECONDS)
        finally:
            self._leaving -= 1

    async def settle(self) -> None:
        """Wait until all records are out that are to be; the caller sets a deadline."""
        await trio.sleep(LOOK_SECONDS)  # what was begun just now has begun then
        while self._leaving:
            await trio.sleep(LOOK_SECONDS)
