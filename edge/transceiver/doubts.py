"""Which of the sessions that we keep may speak: all that are ours beyond doubt.

Whoever stood still may have lost its sessions (``Fence``), so each wake of the loop comes by here
before any task of it: in doubt, nothing leaves for any session until the registry has told whose
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from edge.errors import EndReason
from edge.registry.lease import Lease
from edge.registry.protocol import RegistryUnavailable
from edge.transceiver.fence import Fence
from edge.transceiver.keeper import Clocks, Keeper
from edge.transceiver.vault import Vault
from edge.transceiver.voice import Voice

DOUBT_SECONDS: Final = 0.05
"""How soon a question is asked again that keeps sessions silent."""
LOOK_SECONDS: Final = 0.25
"""How often we look whether our lease was broken."""


class Doubts:
    """Takes sessions their voice when they are in doubt, and gives it back."""

    def __init__(self, vault: Vault, fence: Fence, lease: Lease, clocks: Clocks) -> None:
        self.keepers: dict[str, Keeper] = {}
        """Of our sessions, by name."""
        self._vault = vault
        self._fence = fence
        self._lease = lease
        self._clocks = clocks
        self._doubt = trio.Event()
        lease.returning = self._return

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask whose our sessions are when we stood still, and when our lease has been broken."""
        wakes = _Wakes(self.wake)
        trio.lowlevel.add_instrument(wakes)
        try:
            task_status.started()
            await self._settle()
        finally:
            trio.lowlevel.remove_instrument(wakes)

    def wake(self) -> float:
        """Find out whether we stood still, before anything else is done; returns the time."""
        now = self._clocks.monotonic()
        if self._fence.tick(now=now):
            for keeper in self.keepers.values():
                keeper.session.voice = Voice.NONE
            self._doubt.set()
        return now

    def give_voice(self, keeper: Keeper) -> None:
        """Let a session speak as its keeper says, if it is ours beyond doubt."""
        name, session = keeper.claim.session, keeper.session
        kept = self.keepers.get(name) is keeper and session.reason is None
        if kept and self._fence.speaks(name):
            session.voice = keeper.voice

    async def _return(self) -> None:
        """End what was taken over, before a relay knows of us again and asks us for it."""
        if not await self._ask_owners(self.keepers):
            raise RegistryUnavailable

    async def _settle(self) -> None:
        breaks = self._lease.breaks
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await self._doubt.wait()
            self._doubt = trio.Event()
            while self._fence.doubtful:
                await self._ask_owners(self._fence.doubtful)
            if self._lease.breaks != breaks and await self._ask_owners(self.keepers):
                breaks = self._lease.breaks

    async def _ask_owners(self, sessions: Iterable[str]) -> bool:
        """Ask whose they are, and end what is another's; False: there is no answer."""
        names = list(sessions)
        if not names:
            return True
        asked = self._clocks.monotonic()
        try:
            held = await self._vault.owners_of(names)
        except RegistryUnavailable:
            await trio.sleep(DOUBT_SECONDS)
            return False
        now = self.wake()
        for name in self._fence.confirm(names, held, asked=asked, now=now):
            if name in self.keepers:
                fence_off(self.keepers[name])
        for name in names:
            if name in self.keepers:
                self.give_voice(self.keepers[name])
        return True


def fence_off(keeper: Keeper) -> None:
    """End a session that is another's, silently."""
    keeper.session.end(EndReason.FENCED)


class _Wakes(trio.abc.Instrument):
    """Calls when Trio's loop goes on, before any of its tasks."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake

    def after_io_wait(self, timeout: float) -> None:
        """See Trio's ``Instrument``."""
        self._wake()
