"""What a process of a fleet holds: the claims on its sessions, and their checkpoints.

A session is claimed when its client has connected, and from then on written down by its ``Keeper``;
here is what of that must wait for the registry. Whoever stood still may have lost its sessions
(``Fence``), so each wake of the loop comes by here before any task of it: in doubt, nothing leaves
for any session until the registry has told whose it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from edge.audio.pacer import Pacer
from edge.errors import EndReason
from edge.registry.lease import Lease
from edge.registry.protocol import RegistryUnavailable
from edge.registry.sessions import SESSION_SECONDS, Claim, Slot, StoreOutcome
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.checkpoint_writer import Answer, CheckpointWriter
from edge.transceiver.fence import Fence
from edge.transceiver.keeper import Clocks, Keeper
from edge.transceiver.session import Session
from edge.transceiver.vault import Vault
from edge.transceiver.voice import SILENT_ENDS, Voice

RETRY_SECONDS: Final = 0.5
DOUBT_SECONDS: Final = 0.05
"""How soon a question is asked again that keeps sessions silent."""
LOOK_SECONDS: Final = 0.25
"""How often we look whether our lease was broken."""
ATTEMPTS: Final = 3
"""How often a claim is asked for while its answers are old news."""
MAX_ENDED: Final = 10_000

log = structlog.get_logger()


@dataclass(slots=True)
class CustodyCounts:
    """Since the start."""

    stored: int = 0
    """Checkpoints."""
    failed: int = 0
    """Checkpoints that the registry did not take, or did not say so."""
    taken_over: int = 0
    lost: int = 0
    """Sessions whose owner is gone and of whom nothing could be restored."""


class Custody:
    """The claims of one transceiver. ``run`` serves what must wait."""

    def __init__(
        self,
        vault: Vault,
        lease: Lease,
        *,
        slot: Slot,
        pacer: Pacer,
        clocks: Clocks,
        consent_seconds: float,
    ) -> None:
        self.vault = vault
        self.slot = slot
        self.taken_over = 0
        self.lost = 0
        self._fence = Fence(lease, now=clocks.monotonic())
        self._lease = lease
        self._pacer = pacer
        self._clocks = clocks
        self._consent_seconds = consent_seconds
        self._keepers: dict[str, Keeper] = {}
        self._ended: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Under which epoch, and until when that counts."""
        self._nursery: trio.Nursery | None = None
        self._doubt = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Claim, store and ask, until cancelled."""
        wakes = _Wakes(self.wake)
        trio.lowlevel.add_instrument(wakes)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                try:
                    await self._settle_doubts()
                finally:
                    self._nursery = None
        finally:
            trio.lowlevel.remove_instrument(wakes)

    def wake(self) -> float:
        """Find out whether we stood still, before anything else is done; returns the time."""
        now = self._clocks.monotonic()
        if self._fence.tick(now=now):
            for keeper in self._keepers.values():
                keeper.session.voice = Voice.NONE
            self._doubt.set()
        return now

    def counts(self) -> CustodyCounts:
        """Count."""
        vault = self.vault
        return CustodyCounts(vault.stored, vault.failed, self.taken_over, self.lost)

    # A session's life.

    def watch(self, session: Session) -> None:
        """Claim a session when it connects, and keep it from then on."""
        session.custodian = _Custodian(self, session)

    def keeper(self, session: str) -> Keeper | None:
        """Who keeps a session of ours."""
        return self._keepers.get(session)

    def has_ended(self, held: Claim) -> bool:
        """Whether the session of a claim was ours and is over: nobody shall bring it back.

        Not where it had been taken over before, and ended here as we did not know of it.
        """
        return held.epoch <= self._ended.get(held.session, (0, 0.0))[0]

    def leave(self, session: Session) -> None:
        """A session of ours has ended; its record goes too, unless it lives on elsewhere."""
        keeper = self._keepers.get(session.call.session)
        if keeper is None or keeper.session is not session:  # it may have come back
            return
        del self._keepers[session.call.session]
        self._fence.release(session.call.session)
        keeper.close()
        if session.reason not in SILENT_ENDS:
            self._note_ended(keeper.claim)
            self._start(partial(self._forget, keeper.claim))

    def connected(self, session: Session) -> None:
        """Claim a session that has just connected."""
        self._start(partial(self._enrol, session))

    def changed(self, session: Session, *, at_once: bool) -> None:
        """Have a session written down soon."""
        keeper = self._keepers.get(session.call.session)
        if keeper is not None:
            keeper.change(at_once=at_once)
        elif at_once:  # it is not claimed yet, and nothing shall wait for that
            session.note_checkpoint(stored=False)

    # What an heir does.

    async def claim(self, wanted: Claim, *, anew: bool = False) -> Claim | None:
        """Claim a session; returns who holds it, as ``SessionBook.claim`` does.

        None too where we stood still each time that it was granted, and can not be sure.
        """
        for _ in range(ATTEMPTS):
            asked = self._clocks.monotonic()
            held = await self.vault.claim(wanted, anew=anew)
            now = self.wake()
            if held != wanted or self._fence.hold(wanted, asked=asked, now=now):
                return held
        return None

    def adopt(self, session: Session, claim: Claim) -> Keeper:
        """Keep a session that was restored; it says nothing until it has been written down."""
        self.taken_over += 1
        self.watch(session)
        used = session.peer.used()
        now = self._clocks.monotonic()
        writer = CheckpointWriter.for_heir(used, now=now, consent_seconds=self._consent_seconds)
        keeper = self._keep(session, claim, writer)
        keeper.voice = session.voice = Voice.CHECKS
        keeper.write()
        return keeper

    def holds(self, claim: Claim) -> bool:
        """Whether a claim is still ours, beyond doubt."""
        return self._fence.speaks(claim.session) and self._fence.claim_of(claim.session) == claim

    def let_go(self, claim: Claim) -> None:
        """Hold a claim no more, unless its session is kept."""
        if claim.session not in self._keepers:
            self._fence.release(claim.session)

    async def give_up(self, claim: Claim) -> None:
        """Forget a session of ours that can not be restored: it is lost."""
        self.lost += 1
        await self.vault.forget(claim)

    # What an owner does that leaves.

    async def may_move(self, keeper: Keeper) -> bool:
        """Whether a session is ours beyond doubt, and the registry is there to take it."""
        if keeper.too_large or not self._fence.speaks(keeper.claim.session):
            return False
        try:
            held = await self.vault.owner_of(keeper.claim.session)
        except RegistryUnavailable:
            return False
        if held is None:
            await self._claim_anew(keeper)
        elif self._fence.hears(held):
            self._fence_off(keeper)
        return held == keeper.claim and keeper.session.reason is None

    async def store_exact(self, keeper: Keeper) -> Checkpoint | None:
        """Store the last checkpoint of a session, which says no more; None: it can not be.

        A registry that is away is waited for, as the session can not go on here.
        """
        checkpoint = keeper.freeze()
        while keeper.session.reason is None:
            outcome = await self._store_last(checkpoint)
            if outcome is StoreOutcome.STORED:
                return checkpoint
            if outcome is StoreOutcome.LOST:
                await self._claim_anew(keeper)
            if outcome is not None and keeper.claim == checkpoint.claim:
                break
            await trio.sleep(DOUBT_SECONDS)
            checkpoint = keeper.freeze()
        return None

    # Waiting for the registry.

    def _start(self, task: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(_guard, task)

    async def _enrol(self, session: Session) -> None:
        """Claim a session as its first owner, however long the registry is away."""
        claim = Claim(session=session.call.session, owner=self.slot, epoch=1)
        while session.reason is None:
            try:
                held = await self.claim(claim)
            except RegistryUnavailable:
                await trio.sleep(RETRY_SECONDS)
                continue
            if held == claim:
                await self._begin(session, claim)
            return

    async def _begin(self, session: Session, claim: Claim) -> None:
        if session.reason is None:
            now = self._clocks.monotonic()
            writer = CheckpointWriter(now=now, consent_seconds=self._consent_seconds)
            self._keep(session, claim, writer).change(at_once=True)
        else:
            self._fence.release(claim.session)
            await self._forget(claim)

    def _keep(self, session: Session, claim: Claim, writer: CheckpointWriter) -> Keeper:
        keeper = Keeper(
            session,
            claim,
            writer,
            pacer=self._pacer,
            clocks=self._clocks,
            store=self._begin_store,
        )
        self._keepers[claim.session] = keeper
        return keeper

    def _begin_store(self, keeper: Keeper, checkpoint: Checkpoint) -> None:
        sealed = self.vault.seal(checkpoint)
        keeper.too_large = sealed is None
        if sealed is None:  # the call goes on, and can not be taken over
            self._take_answer(keeper, checkpoint, Answer.REFUSED)
            return
        self._start(partial(self._store, keeper, checkpoint, sealed))

    async def _store(self, keeper: Keeper, checkpoint: Checkpoint, sealed: bytes) -> None:
        outcome = await self.vault.store(checkpoint, sealed)
        if outcome is StoreOutcome.LOST:
            await self._claim_anew(keeper)
        elif outcome is StoreOutcome.FENCED:
            self._fence_off(keeper)
        answer = Answer.UNKNOWN if outcome is None else Answer.of(outcome)
        self._take_answer(keeper, checkpoint, answer)

    async def _store_last(self, checkpoint: Checkpoint) -> StoreOutcome | None:
        sealed = self.vault.seal(checkpoint)
        return await self.vault.store(checkpoint, sealed) if sealed else StoreOutcome.TOO_LONG

    def _take_answer(self, keeper: Keeper, checkpoint: Checkpoint, answer: Answer) -> None:
        """Give an heir its voice before it is told what may leave now."""
        keeper.note(checkpoint.serial, answer)
        self._give_voice(keeper)
        keeper.tell(stored=answer is Answer.STORED)

    async def _claim_anew(self, keeper: Keeper) -> None:
        """Claim a session that the registry has forgotten, if nobody else can have."""
        name = keeper.claim.session
        if not self._fence.may_claim_anew(name, now=self._clocks.monotonic()):
            return
        wanted = keeper.claim.next_of(self.slot)
        try:
            held = await self.claim(wanted, anew=True)
        except RegistryUnavailable:
            return
        if held != wanted:
            if self._fence.hears(held):
                self._fence_off(keeper)
        elif self._keepers.get(name) is keeper:
            keeper.claim = wanted
        else:  # it has ended meanwhile
            self.let_go(wanted)
            await self._forget(wanted)

    # Whose are they?

    async def _settle_doubts(self) -> None:
        """Ask whose our sessions are when we stood still, and when our lease has been broken."""
        breaks = self._lease.breaks
        while True:
            with trio.move_on_after(LOOK_SECONDS):
                await self._doubt.wait()
            self._doubt = trio.Event()
            while self._fence.doubtful:
                await self._ask_owners(self._fence.doubtful)
            if self._lease.breaks != breaks and await self._ask_owners(self._keepers):
                breaks = self._lease.breaks

    async def _ask_owners(self, sessions: Iterable[str]) -> bool:
        """Ask whose they are, and end what is another's; False: there is no answer."""
        names = list(sessions)
        asked = self._clocks.monotonic()
        try:
            held = await self.vault.owners_of(names)
        except RegistryUnavailable:
            await trio.sleep(DOUBT_SECONDS)
            return False
        now = self.wake()
        for name in self._fence.confirm(names, held, asked=asked, now=now):
            self._fence_off(self._keepers.get(name))
        for name in names:
            keeper = self._keepers.get(name)
            if keeper is not None:
                self._give_voice(keeper)
        return True

    def _give_voice(self, keeper: Keeper) -> None:
        name, session = keeper.claim.session, keeper.session
        kept = self._keepers.get(name) is keeper and session.reason is None
        if kept and self._fence.speaks(name):
            session.voice = keeper.voice

    def _fence_off(self, keeper: Keeper | None) -> None:
        if keeper is not None:
            keeper.session.end(EndReason.FENCED)

    def _note_ended(self, claim: Claim) -> None:
        now = self._clocks.monotonic()
        self._ended[claim.session] = claim.epoch, now + SESSION_SECONDS
        while len(self._ended) > MAX_ENDED or next(iter(self._ended.values()))[1] < now:
            self._ended.popitem(last=False)

    async def _forget(self, claim: Claim) -> None:
        """Take a session that has ended out, as soon as the registry is there."""
        until = self._clocks.monotonic() + SESSION_SECONDS
        while not await self.vault.forget(claim) and self._clocks.monotonic() < until:
            await trio.sleep(RETRY_SECONDS)


async def _guard(task: Callable[[], Awaitable[None]]) -> None:
    """Run a task that must not take the others with it."""
    try:
        await task()
    except Exception:
        log.exception("bug in the custody of sessions")


class _Custodian:
    """One session's way to its custody."""

    def __init__(self, custody: Custody, session: Session) -> None:
        self._custody = custody
        self._session = session

    def connected(self) -> None:
        self._custody.connected(self._session)

    def changed(self, *, at_once: bool = False) -> None:
        self._custody.changed(self._session, at_once=at_once)


class _Wakes(trio.abc.Instrument):
    """Calls when Trio's loop goes on, before any of its tasks."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake

    def after_io_wait(self, timeout: float) -> None:
        """See Trio's ``Instrument``."""
        self._wake()
