"""Writes back what the registry has forgotten: the claims that we hold, as they were.

Of several who held a session the highest epoch stays. When the registry may have forgotten is told
by its ``Mark``, and by a lease that was broken: it may have been emptied while we were away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import trio

from edge.registry.lease import Lease
from edge.registry.protocol import RegistryUnavailable
from edge.registry.sessions import Claim
from edge.transceiver.keeper import Keeper
from edge.transceiver.mark import MARK, Mark
from edge.transceiver.vault import Vault

LOOK_SECONDS: Final = 0.25
AWAY_SECONDS: Final = 0.05
"""While the registry is away: an owner that dies before it has written back leaves nothing."""
AT_ONCE: Final = 16
"""Claims that are on their way together."""

WriteBack = Callable[[Keeper], Awaitable[object]]


class Recall:
    """The memory of one transceiver; ``run`` looks whether the registry still has the same."""

    def __init__(
        self,
        vault: Vault,
        mark: Mark,
        lease: Lease,
        keepers: Mapping[str, Keeper],
        *,
        write_back: WriteBack,
        clock: Callable[[], float],
    ) -> None:
        self._vault = vault
        self._mark = mark
        self._lease = lease
        self._keepers = keepers
        self._write_back = write_back
        self._clock = clock
        self._breaks = lease.breaks
        self._due = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            pause = AWAY_SECONDS
            with suppress(RegistryUnavailable):
                await self.look()
                pause = LOOK_SECONDS
            await trio.sleep(pause)

    async def look(self) -> None:
        """Look for the mark, and write back what is forgotten; raises RegistryUnavailable."""
        asked, breaks = self._clock(), self._lease.breaks
        held = await self._vault.owner_of(MARK)
        forgot = self._mark.note(held, asked=asked)
        self._due |= forgot or breaks != self._breaks
        self._breaks = breaks
        await self._keep_mark(held)
        if self._due:
            await self._recall()
            self._due = False

    async def _keep_mark(self, held: Claim | None) -> None:
        wanted = self._mark.wanted(held, now=self._clock())
        if wanted is not None and held is not None:
            await self._vault.inherit(wanted, held.owner)
        elif wanted is not None:
            await self._vault.claim(wanted)

    async def _recall(self) -> None:
        names = list(self._keepers)
        held = await self._vault.owners_of(names) if names else ()
        known = dict(zip(names, held, strict=True))
        keepers = [keeper for keeper in self._keepers.values() if _is_forgotten(keeper, known)]
        for first in range(0, len(keepers), AT_ONCE):
            async with trio.open_nursery() as nursery:
                for keeper in keepers[first : first + AT_ONCE]:
                    nursery.start_soon(self._write_back, keeper)


def _is_forgotten(keeper: Keeper, known: Mapping[str, Claim | None]) -> bool:
    """Whether nothing is known of a session, or only what a former owner has written back."""
    claim = keeper.claim
    held = known.get(claim.session, claim)
    return held is None or held.epoch < claim.epoch
