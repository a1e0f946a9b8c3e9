"""Processes that take sessions over from each other, badly: late, lost and mistaken.

Every choice is a seeded random one. What a process asks of the registry may be carried out at once,
later, after its asker has given up on it, or never; and answers come in any order. A process may
stand still at any moment; the registry may be away for minutes, for all or for one of them. Heirs
need no reason: they claim what they like. The checkpoint of this world is the next index to be
sent, whether its owner sends nothing more, and when it was written; the registry keeps it for ever.

The client's checks go to whoever has restored its session last, and to nobody else. They are its
consent, and without consent for long enough a session ends.

What must hold is checked at each step, and a violation is an AssertionError.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final

import msgspec

from edge.registry.lease import Lease
from edge.registry.protocol import RegistryUnavailable
from edge.registry.sessions import Claim, SessionBook, Slot, StoredCheckpoint, StoreOutcome
from edge.transceiver.checkpoint import MAX_AGE
from edge.transceiver.checkpoint_writer import CONSENT_SECONDS, Answer, CheckpointWriter
from edge.transceiver.fence import Fence
from edge.webrtc.reserve import HEIR_SKIPS, NO_RESERVE, OWNER_USES, Reserve

SESSIONS: Final = 2
"""How many sessions are going on at a time."""
TICK: Final = 0.02
WAKE: Final = 0.2
"""How often who runs looks whether it stood still, at least."""
MOST_PACKETS: Final = 4_000

Step = Callable[[], None]


@dataclass
class Asked:
    """Something a process waits for; ``answer`` is called at most once, with a result or not."""

    node: Node
    work: Callable[[], Awaitable[Step]]
    unknown: Step
    answered: bool = False


@dataclass
class Owned:
    """A session that a process believes to hold."""

    claim: Claim
    writer: CheckpointWriter
    next_index: int
    heir: Node
    """Who it is left to when it is handed over."""
    heard: float
    """When the client's last check came."""
    written: int | None = None
    """The index of the last checkpoint that the registry said to hold."""
    frozen: bool = False

    @property
    def used(self) -> Reserve:
        return Reserve(rtp=self.next_index)


@dataclass
class Node:
    """One transceiver process."""

    slot: Slot
    lease: Lease
    fence: Fence
    owned: dict[str, Owned] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    """Sessions that it is claiming."""
    asking: bool = False
    stopped_until: float = -1.0
    cut_off_until: float = -1.0
    """Until then the registry is away for it."""


class World:
    """Some processes and their registry; ``run`` takes so many random steps."""

    def __init__(
        self, book: SessionBook, seed: int, *, nodes: int = 3, outages: bool = False
    ) -> None:
        self.happened: Counter[str] = Counter()
        self._book = book
        self._random = Random(seed)
        self._now = 0.0
        self._nodes = [self._make_node(Slot(n + 1)) for n in range(nodes)]
        self._asked: list[Asked] = []
        self._late: list[Step] = []
        self._holders: dict[tuple[str, int], Slot] = {}
        self._sent: defaultdict[str, set[int]] = defaultdict(set)
        self._sessions = [f"rtc_{number}" for number in range(SESSIONS)]
        self._begun = SESSIONS
        self._outages = outages
        self._routes: dict[str, Owned] = {}
        """Where the checks of each session's client go."""

    async def run(self, steps: int) -> None:
        """Live on for so many steps."""
        for _ in range(steps):
            if self._outages:
                self._pass_time()
            else:
                self._now += self._random.choice((0.0, TICK, TICK))
            await self._step(self._random.choice(self._nodes))

    def _pass_time(self) -> None:
        """Let more time pass where the registry is away; who runs wakes often, and hears."""
        away = any(self._is_cut_off(node) for node in self._nodes)
        for _ in range(self._random.choice((0, 1, 2, 10)) if away else 1):
            self._now += WAKE if away else TICK
            self._wake_all()
        if not away and self._random.random() < 0.01:
            self._begin_outage()

    def _wake_all(self) -> None:
        for node in self._nodes:
            if not self._is_stopped(node):
                self.happened["stood still"] += node.fence.tick(now=self._now)
                for owned in tuple(node.owned.values()):
                    self._hear(node, owned)

    def _begin_outage(self) -> None:
        for_all = self._random.random() < 0.3
        seconds = self._random.choice((5.0, 80.0, 120.0, 200.0))
        for node in self._nodes if for_all else [self._random.choice(self._nodes)]:
            node.cut_off_until = self._now + seconds
        self.happened["away for all" if for_all else "away for one"] += 1

    def _hear(self, node: Node, owned: Owned) -> None:
        """The client's checks, or their end."""
        if self._routes.get(owned.claim.session) is owned:
            owned.heard = self._now
        elif self._now >= owned.heard + CONSENT_SECONDS:
            self._end(node, owned.claim.session, "without consent")

    async def _step(self, node: Node) -> None:
        choice = self._random.random()
        if choice < 0.35:
            await self._carry_out()
        elif choice < 0.5 and self._late:
            self._late.pop(self._random.randrange(len(self._late)))()
        elif choice < 0.52:
            node.stopped_until = self._now + self._random.choice((0.1, 0.4, 1.0, 5.0))
            self.happened["stopped"] += 1
        else:
            self._live(node)

    # The registry's side.

    async def _carry_out(self) -> None:
        """Do, lose or give up on something that was asked for, not always the oldest."""
        if not self._asked:
            return
        asked = self._asked[self._random.randrange(min(8, len(self._asked)))]
        choice = self._random.random()
        if choice < 0.15 and not asked.answered:
            asked.answered = True  # given up on; it may be carried out all the same
            self._late.append(asked.unknown)
            self.happened["given up"] += 1
            return
        self._asked.remove(asked)
        if self._is_cut_off(asked.node):
            answer = asked.unknown
            if choice > 0.95:  # it was under way before, and is carried out all the same
                answer = await self._done_unseen(asked)
        elif choice < 0.25:
            self.happened["lost"] += 1
            answer = asked.unknown
        else:
            try:
                answer = await asked.work()
            except RegistryUnavailable:
                answer = asked.unknown
        if not asked.answered:
            self._late.append(answer)

    async def _done_unseen(self, asked: Asked) -> Step:
        await asked.work()
        return asked.unknown

    def _ask(self, node: Node, work: Callable[[], Awaitable[Step]], unknown: Step) -> None:
        self._asked.append(Asked(node, work, unknown))

    # A process's side.

    def _live(self, node: Node) -> None:
        if self._is_stopped(node):
            return
        if node.fence.tick(now=self._now):
            self.happened["stood still"] += 1
        self._renew(node)
        if node.fence.doubtful and not node.asking:
            self._confirm(node)
        session = self._random.choice(self._sessions)
        owned = node.owned.get(session)
        if owned is None:
            if session not in node.busy and self._random.random() < 0.1:
                self._take_over(node, session)
        else:
            self._talk(node, owned)
            if not owned.frozen and self._random.random() < 0.02:
                self._freeze(node, owned)
            self._write(node, owned)

    def _talk(self, node: Node, owned: Owned) -> None:
        session = owned.claim.session
        if not node.fence.speaks(session):
            return
        room = owned.writer.room(owned.used, now=self._now).rtp
        packets = min(self._random.randrange(MOST_PACKETS), room)
        indexes = range(owned.next_index, owned.next_index + packets)
        sent = self._sent[session]
        assert sent.isdisjoint(indexes), "an index was used twice"
        sent.update(indexes)
        owned.next_index += packets
        if owned.written is not None and owned.next_index > owned.written + OWNER_USES.rtp:
            self.happened["beyond its reserve"] += 1
        self.happened["packets"] += packets

    def _renew(self, node: Node) -> None:
        if self._now < node.lease.deadline:
            return
        node.lease.ask(now=self._now)
        renewed = self._random.random() < 0.9 and not self._is_cut_off(node)
        self._late.append(
            self._unless_stopped(node, lambda: node.lease.answer(renewed=renewed, now=self._now))
        )

    def _confirm(self, node: Node) -> None:
        sessions, at = node.fence.doubtful, self._now
        node.asking = True

        def done(held: list[Claim | None] | None) -> None:
            node.asking = False
            if held is not None:
                for session in node.fence.confirm(sessions, held, asked=at, now=self._now):
                    self._end(node, session, "fenced")

        async def work() -> Step:
            held = list(await self._book.owners_of(sessions))
            return self._unless_stopped(node, lambda: done(held))

        self._ask(node, work, self._unless_stopped(node, lambda: done(None)))

    def _take_over(self, node: Node, session: str) -> None:
        node.busy.add(session)

        async def work() -> Step:
            held = await self._book.owner_of(session)
            return self._unless_stopped(node, lambda: self._answer(node, session, held))

        self._ask(node, work, self._unless_stopped(node, lambda: node.busy.discard(session)))

    def _answer(self, node: Node, session: str, held: Claim | None) -> None:
        if held is None:
            self._claim(node, Claim(session=session, owner=node.slot, epoch=1))
        else:
            self._inherit(node, held)

    def _claim(self, node: Node, wanted: Claim) -> None:
        """Open a session."""
        at = self._now

        def done(held: Claim | None) -> None:
            node.busy.discard(wanted.session)
            if held == wanted and node.fence.hold(wanted, asked=at, now=self._now):
                self._note_holder(node, wanted)
                self._go_on(node, wanted, None)

        async def work() -> Step:
            held = await self._book.claim(wanted)
            return self._unless_stopped(node, lambda: done(held))

        self._ask(node, work, self._unless_stopped(node, lambda: self._claim(node, wanted)))

    def _inherit(self, node: Node, former: Claim) -> None:
        at, wanted = self._now, former.next_of(node.slot)

        def done(held: Claim | None, stored: StoredCheckpoint | None) -> None:
            node.busy.discard(wanted.session)
            if held != wanted or not node.fence.hold(wanted, asked=at, now=self._now):
                return
            self._note_holder(node, wanted)
            if stored is None or self._is_too_old(stored):
                self.happened["too old"] += stored is not None
                node.fence.release(wanted.session)
                self._bury(wanted.session)
            else:
                self._go_on(node, wanted, stored)

        async def work() -> Step:
            held, stored = await self._book.inherit(wanted, former.owner)
            return self._unless_stopped(node, lambda: done(held, stored))

        self._ask(node, work, self._unless_stopped(node, lambda: self._inherit(node, former)))

    def _go_on(self, node: Node, claim: Claim, stored: StoredCheckpoint | None) -> None:
        self.happened["taken over" if stored else "opened"] += 1
        owned = node.owned[claim.session] = self._restore(node, claim, stored)
        self._routes[claim.session] = owned

    def _bury(self, session: str) -> None:
        """Its owner was lost before the first checkpoint; another session begins."""
        if session in self._sessions:
            self._sessions[self._sessions.index(session)] = f"rtc_{self._begun}"
            self._begun += 1
            self.happened["buried"] += 1

    def _is_too_old(self, stored: StoredCheckpoint) -> bool:
        *_, written = msgspec.json.decode(stored.sealed, type=tuple[int, bool, float])
        return self._now - written >= MAX_AGE

    def _restore(self, node: Node, claim: Claim, stored: StoredCheckpoint | None) -> Owned:
        if stored is None:
            writer = CheckpointWriter(now=self._now)
            writer.change(now=self._now)
            return Owned(claim, writer, 0, node, heard=self._now)
        index, exact, _ = msgspec.json.decode(stored.sealed, type=tuple[int, bool, float])
        start = Reserve(rtp=index).plus(NO_RESERVE if exact else HEIR_SKIPS)
        self.happened["taken over exactly"] += exact
        writer = CheckpointWriter.for_heir(start, now=self._now)
        return Owned(claim, writer, start.rtp, node, heard=self._now)

    def _write(self, node: Node, owned: Owned) -> None:
        if not owned.writer.look(owned.used, now=self._now):
            return
        if owned.frozen:
            self._freeze(node, owned)
        else:
            self._store(node, owned, owned.writer.begin(owned.used, now=self._now))

    def _freeze(self, node: Node, owned: Owned) -> None:
        if not owned.frozen:
            owned.frozen, owned.heir = True, self._random.choice(self._nodes)
        self._store(node, owned, owned.writer.freeze(owned.used, now=self._now))

    def _store(self, node: Node, owned: Owned, serial: int) -> None:
        claim = owned.claim
        index = owned.next_index
        sealed = msgspec.json.encode((index, owned.frozen, self._now))

        def done(answer: Answer, outcome: StoreOutcome | None = None) -> None:
            if answer is Answer.STORED:
                owned.written = index
            owned.writer.end(serial, answer, now=self._now)
            if outcome is StoreOutcome.FENCED and node.owned.get(claim.session) is owned:
                self._end(node, claim.session, "fenced by a store")

        async def work() -> Step:
            if owned.frozen:
                outcome = await self._hand_over(owned, serial, sealed)
            else:
                outcome = await self._book.store(claim, serial, sealed)
                if outcome is StoreOutcome.STORED:
                    held = await self._book.owner_of(claim.session)
                    assert held == claim, "a zombie has stored"
            self.happened[outcome.value] += 1
            return self._unless_stopped(node, lambda: done(Answer.of(outcome), outcome))

        self._ask(node, work, self._unless_stopped(node, lambda: done(Answer.UNKNOWN)))

    async def _hand_over(self, owned: Owned, serial: int, sealed: bytes) -> StoreOutcome:
        """Hand over to an heir; a word of it may reach him, at once or late, or somebody else."""
        claim, heir = owned.claim, owned.heir
        outcome = await self._book.hand_over(claim, serial, sealed, heir.slot)
        if outcome is StoreOutcome.STORED:
            held = await self._book.owner_of(claim.session)
            assert held == claim.next_of(heir.slot), "a zombie has handed over"
            for node in (heir, self._random.choice(self._nodes)):
                self._late.append(partial(self._take_up, node, claim.next_of(node.slot)))
        return outcome

    def _take_up(self, node: Node, left: Claim) -> None:
        """Believe that a session was left to us."""
        if self._is_stopped(node) or left.session in {*node.owned, *node.busy}:
            return
        self.happened["left"] += 1
        node.busy.add(left.session)
        self._inherit(node, left)

    def _end(self, node: Node, session: str, why: str) -> None:
        node.owned.pop(session, None)
        node.fence.release(session)
        self.happened[why] += 1

    def _note_holder(self, node: Node, claim: Claim) -> None:
        holder = self._holders.setdefault((claim.session, claim.epoch), node.slot)
        assert holder == node.slot, "two believe to hold the same epoch"

    def _unless_stopped(self, node: Node, step: Step) -> Step:
        """Give an answer now, or when its process runs again."""

        def give() -> None:
            if self._is_stopped(node):
                self._late.append(self._unless_stopped(node, step))
            else:
                step()

        return give

    def _is_cut_off(self, node: Node) -> bool:
        return self._now < node.cut_off_until

    def _is_stopped(self, node: Node) -> bool:
        return self._now < node.stopped_until

    def _make_node(self, slot: Slot) -> Node:
        lease = Lease(now=0.0)
        return Node(slot, lease, Fence(lease, now=0.0))
