"""What a process of a fleet holds: the claims on its sessions, and their checkpoints.

A session is claimed when its client has connected, and from then on written down by its ``Keeper``;
here is what of that must wait for the registry. Which of them may speak is said by ``Doubts``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from edge.audio.pacer import Pacer
from edge.registry.lease import Lease
from edge.registry.protocol import RegistryUnavailable
from edge.registry.sessions import Claim, Slot, StoreOutcome
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.checkpoint_writer import Answer, CheckpointWriter
from edge.transceiver.departed import Departed
from edge.transceiver.doubts import DOUBT_SECONDS, Doubts, fence_off
from edge.transceiver.fence import Fence
from edge.transceiver.keeper import Clocks, Keeper
from edge.transceiver.mark import Mark
from edge.transceiver.recall import Recall
from edge.transceiver.session import Session
from edge.transceiver.vault import Inherited, Vault
from edge.transceiver.voice import SILENT_ENDS, Voice

RETRY_SECONDS: Final = 0.5
ATTEMPTS: Final = 3
"""How often a claim is asked for while its answers are old news."""

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
        self._lease = lease
        self._fence = Fence(lease, now=clocks.monotonic())
        self._doubts = Doubts(vault, self._fence, lease, clocks)
        self._keepers = self._doubts.keepers
        self._departed = Departed(vault, clocks.monotonic)
        self._mark = Mark(slot)
        self._recall = Recall(
            vault,
            self._mark,
            lease,
            self._keepers,
            write_back=self._write_back,
            clock=clocks.monotonic,
        )
        self._pacer = pacer
        self._clocks = clocks
        self._consent_seconds = consent_seconds
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Claim, store and ask, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._doubts.run)
            nursery.start_soon(self._recall.run)
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def settle(self) -> None:
        """Wait until the registry knows what has ended here; the caller sets a deadline."""
        await self._departed.settle()

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
        """Whether the session of a claim was ours and is over: nobody shall bring it back."""
        return self._departed.has(held)

    def is_stored(self, session: str) -> bool:
        """Whether the registry, which we see, has a session for whoever comes after us."""
        keeper = self._keepers.get(session)
        if keeper is None or keeper.too_large or self._lease.lapsed(now=self._clocks.monotonic()):
            return False
        return keeper.was_stored.is_set() and self._fence.speaks(session)

    def leave(self, session: Session) -> None:
        """A session of ours has ended; its record goes too, unless it lives on elsewhere."""
        keeper = self._keepers.get(session.call.session)
        if keeper is None or keeper.session is not session:  # it may have come back
            return
        del self._keepers[session.call.session]
        self._fence.release(session.call.session)
        keeper.close()
        if session.reason not in SILENT_ENDS:
            self._departed.note(keeper.claim)
            self.forget(keeper.claim)

    def forget(self, claim: Claim) -> None:
        """Have the record of a session taken out that is over."""
        self._start(partial(self._departed.forget, claim))

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

        async def ask() -> Inherited:
            return Inherited(await self.vault.claim(wanted, anew=anew))

        return (await self._ask(wanted, ask)).held

    async def inherit(self, wanted: Claim, former: Slot) -> Inherited:
        """Claim a session of which ``former`` holds the epoch before, and load it, likewise."""
        return await self._ask(wanted, partial(self.vault.inherit, wanted, former))

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
        if self._fence.hears(held):
            fence_off(keeper)
        elif held != keeper.claim:
            await self._write_back(keeper)
        return held == keeper.claim and keeper.session.reason is None and self._is_sure(keeper)

    async def hand_over(self, keeper: Keeper, heir: Slot) -> Checkpoint | None:
        """Store the last checkpoint of a session and claim it for its heir; None: it can not be.

        It says no more here. A registry that is away is waited for, as it can not go on here.
        """
        checkpoint = keeper.freeze()
        while keeper.session.reason is None:
            outcome = None
            if self._is_sure(keeper):
                outcome = await self.vault.hand_over(checkpoint, heir)
            if outcome is StoreOutcome.STORED:
                return checkpoint
            lost = outcome is StoreOutcome.LOST and await self._write_back(keeper)
            if outcome is not None and not lost:
                break
            await trio.sleep(DOUBT_SECONDS)
            checkpoint = keeper.freeze()
        return None

    # Waiting for the registry.

    def _start(self, task: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(_guard, task)

    def _soon(self, call: Callable[[], None]) -> None:
        async def task() -> None:
            call()

        self._start(task)

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
            await self._departed.forget(claim)

    def _keep(self, session: Session, claim: Claim, writer: CheckpointWriter) -> Keeper:
        keeper = Keeper(
            session,
            claim,
            writer,
            pacer=self._pacer,
            clocks=self._clocks,
            store=self._begin_store,
            soon=self._soon,
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
        sure = self._is_sure(keeper)
        outcome = await self.vault.store(checkpoint, sealed)
        answer = Answer.UNKNOWN if outcome is None else Answer.of(outcome)
        if answer is Answer.STORED and not sure:
            answer = Answer.UNSURE
        if outcome is StoreOutcome.FENCED:
            fence_off(keeper)
        self._take_answer(keeper, checkpoint, answer)
        if outcome is StoreOutcome.LOST:
            await self._write_back(keeper)

    def _take_answer(self, keeper: Keeper, checkpoint: Checkpoint, answer: Answer) -> None:
        """Give an heir its voice before it is told what may leave now."""
        keeper.note(checkpoint.serial, answer)
        self._doubts.give_voice(keeper)
        keeper.tell(stored=answer in (Answer.STORED, Answer.UNSURE))

    def _is_sure(self, keeper: Keeper) -> bool:
        """Whether the registry would know by now of whoever took a session over."""
        return self._mark.follows(keeper.written_back)

    async def _write_back(self, keeper: Keeper) -> bool:
        """Tell the registry what it has forgotten; False: it may not be so, or has not come."""
        claim = keeper.claim
        if not self._fence.speaks(claim.session):
            return False
        keeper.written_back = self._clocks.monotonic()
        try:
            held = await self.claim(claim, anew=True)
        except RegistryUnavailable:
            return False
        if held is None:
            return False
        if held != claim:
            fence_off(keeper)
        elif self._keepers.get(claim.session) is keeper:
            keeper.retry()
        else:  # it has ended meanwhile
            self.let_go(claim)
            await self._departed.forget(claim)
        return held == claim

    async def _ask(self, wanted: Claim, ask: Callable[[], Awaitable[Inherited]]) -> Inherited:
        """Ask for a claim until it is certain that we hold it, or do not."""
        for _ in range(ATTEMPTS):
            asked = self._clocks.monotonic()
            answer = await ask()
            now = self._doubts.wake()
            if answer.held != wanted or self._fence.hold(wanted, asked=asked, now=now):
                return answer
        return Inherited(None)


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
