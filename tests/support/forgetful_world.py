"""Processes whose registry forgets everything now and then, while some of them are cut off from it.

Every choice is a seeded random one. Heirs need no reason to take a session over. What was asked is
carried out late or never, and answers get lost; so an owner that is cut off, and was taken over,
comes back to an empty registry, where its heir may not have been yet. Of one thing this world is
sure, as the rule must be: who holds a session's highest epoch lives, and reaches the registry soon
after it has forgotten.

That no index is ever used twice is checked at each step; a violation is an AssertionError.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgspec

from edge.registry.memory_sessions import MemorySessions
from edge.registry.sessions import Claim, Slot, StoreOutcome
from edge.transceiver.checkpoint_writer import Answer, CheckpointWriter
from edge.transceiver.mark import MARK, SETTLE_SECONDS, Mark, is_settled
from edge.webrtc.reserve import HEIR_SKIPS, Reserve

NODES: Final = 3
SESSIONS: Final = ("rtc_0", "rtc_1")
TICK: Final = 0.02
LOOK: Final = 0.25
MOST_PACKETS: Final = 4_000
BACK_SECONDS: Final = 2.0
"""In which who lives reaches a registry that was emptied."""

Work = Callable[[], Awaitable[None]]


@dataclass
class Owned:
    """A session that a process believes to hold."""

    claim: Claim
    writer: CheckpointWriter
    next_index: int
    written_back: float | None = None

    @property
    def used(self) -> Reserve:
        return Reserve(rtp=self.next_index)


@dataclass
class Node:
    """One transceiver process."""

    slot: Slot
    mark: Mark
    owned: dict[str, Owned] = field(default_factory=dict)
    away_until: float = -1.0
    looks_at: float = 0.0


class ForgetfulWorld:
    """Some processes and their registry; ``run`` takes so many random steps."""

    def __init__(self, seed: int) -> None:
        self.happened: Counter[str] = Counter()
        self._book = MemorySessions(lambda: 0.0, Counter())
        self._random = Random(seed)
        self._now = 0.0
        self._forgot = -SETTLE_SECONDS
        self._nodes = [self._make_node(Slot(n + 1)) for n in range(NODES)]
        self._pending: list[Work] = []
        self._opened: set[str] = set()
        self._sent: defaultdict[str, set[int]] = defaultdict(set)

    async def run(self, steps: int) -> None:
        """Live on for so many steps."""
        for _ in range(steps):
            self._now += TICK
            choice = self._random.random()
            if choice < 0.004:
                self._forget()
            elif choice < 0.01:
                self._cut_off(self._random.choice(self._nodes))
            elif choice < 0.4 and self._pending:
                await self._pending.pop(self._random.randrange(len(self._pending)))()
            await self._live(self._random.choice(self._nodes))

    def _make_node(self, slot: Slot) -> Node:
        return Node(slot, Mark(slot, entropy=self._random.randbytes))

    def _forget(self) -> None:
        """The registry is started again, empty; what was on its way to it is lost."""
        self._forgot = self._now
        self._book.empty()
        self._pending.clear()
        self.happened["emptied"] += 1
        for node in self._nodes:
            back = self._now + self._random.uniform(0.0, BACK_SECONDS)
            if self._is_last(node) or self._random.random() < 0.5:
                node.away_until = back
        for node in self._nodes:  # answers are overdue
            for owned in node.owned.values():
                self._end_write(owned, Answer.UNKNOWN)

    def _cut_off(self, node: Node) -> None:
        if self._now < self._forgot + SETTLE_SECONDS:
            return
        node.away_until = self._now + self._random.choice((0.5, 5.0, 15.0))
        self.happened["cut off"] += 1

    def _is_last(self, node: Node) -> bool:
        """Whether it holds the highest epoch of a session."""
        return any(
            owned.claim.epoch == max(_epoch(other.owned.get(session)) for other in self._nodes)
            for session, owned in node.owned.items()
        )

    def _is_away(self, node: Node) -> bool:
        return self._now < node.away_until

    async def _live(self, node: Node) -> None:
        if self._now >= node.looks_at and not self._is_away(node):
            node.looks_at = self._now + LOOK
            await self._look(node)
        session = self._random.choice(SESSIONS)
        owned = node.owned.get(session)
        if owned is not None:
            self._talk(session, owned)
            self._write(node, owned)
        elif self._random.random() < 0.03 and not self._is_away(node):
            await self._take_over(node, session)

    def _talk(self, session: str, owned: Owned) -> None:
        room = owned.writer.room(owned.used, now=self._now).rtp
        indexes = range(
            owned.next_index, owned.next_index + min(self._random.randrange(MOST_PACKETS), room)
        )
        sent = self._sent[session]
        assert sent.isdisjoint(indexes), "an index was used twice"
        sent.update(indexes)
        owned.next_index += len(indexes)
        self.happened["stopped at its reserve"] += room == 0

    # What the registry is asked.

    def _is_lost(self) -> bool:
        return self._random.random() < 0.1

    async def _look(self, node: Node) -> None:
        """Look for the mark, and whose the sessions are; write back what is forgotten."""
        asked = self._now
        held = await self._book.owner_of(MARK)
        if self._is_lost():
            return
        node.mark.note(held, asked=asked)
        wanted = node.mark.wanted(held, now=self._now)
        if wanted is not None and held is not None:
            await self._book.inherit(wanted, held.owner)
        elif wanted is not None:
            await self._book.claim(wanted)
        for session, owned in tuple(node.owned.items()):
            holder = await self._book.owner_of(session)
            if holder is None or holder.epoch < owned.claim.epoch:
                await self._write_back(node, owned)
            elif holder.epoch > owned.claim.epoch:
                self._end(node, session, "fenced")

    async def _write_back(self, node: Node, owned: Owned) -> None:
        owned.written_back = self._now
        held = await self._book.claim(owned.claim, anew=True)
        self.happened["written back"] += held == owned.claim
        if held != owned.claim:
            self._end(node, owned.claim.session, "fenced")
        else:
            owned.writer.retry(now=self._now)

    async def _take_over(self, node: Node, session: str) -> None:
        held, mark = await self._book.owners_of((session, MARK))
        if held is None:
            await self._open(node, session)
        elif not is_settled(mark):
            self.happened["not taken over yet"] += 1
        elif not self._is_lost():
            await self._inherit(node, held)

    async def _open(self, node: Node, session: str) -> None:
        if session not in self._opened:
            self._opened.add(session)
            claim = Claim(session=session, owner=node.slot, epoch=1)
            await self._book.claim(claim)
            writer = CheckpointWriter(now=self._now)
            writer.change(now=self._now)
            node.owned[session] = Owned(claim, writer, 0)

    async def _inherit(self, node: Node, former: Claim) -> None:
        wanted = former.next_of(node.slot)
        held, stored = await self._book.inherit(wanted, former.owner)
        if held == wanted and stored is not None:
            index = msgspec.json.decode(stored.sealed, type=int)
            start = Reserve(rtp=index).plus(HEIR_SKIPS)
            writer = CheckpointWriter.for_heir(start, now=self._now)
            node.owned[wanted.session] = Owned(wanted, writer, start.rtp)
            self.happened["taken over"] += 1

    def _write(self, node: Node, owned: Owned) -> None:
        if owned.writer.look(owned.used, now=self._now):
            serial = owned.writer.begin(owned.used, now=self._now)
            index, sure = owned.next_index, node.mark.follows(owned.written_back)
            self._pending.append(lambda: self._store(node, owned, serial, index, sure=sure))

    async def _store(
        self, node: Node, owned: Owned, serial: int, index: int, *, sure: bool
    ) -> None:
        if self._is_away(node):
            owned.writer.end(serial, Answer.UNKNOWN, now=self._now)
            return
        outcome = await self._book.store(owned.claim, serial, msgspec.json.encode(index))
        answer = Answer.of(outcome)
        if answer is Answer.STORED and not sure:
            answer = Answer.UNSURE
        owned.writer.end(serial, Answer.UNKNOWN if self._is_lost() else answer, now=self._now)
        self.happened[answer.value] += 1
        if outcome is StoreOutcome.FENCED:
            self._end(node, owned.claim.session, "fenced")

    def _end_write(self, owned: Owned, answer: Answer) -> None:
        owned.writer.end(owned.writer.statistics().begun, answer, now=self._now)

    def _end(self, node: Node, session: str, why: str) -> None:
        node.owned.pop(session, None)
        self.happened[why] += 1


def _epoch(owned: Owned | None) -> int:
    return 0 if owned is None else owned.claim.epoch
