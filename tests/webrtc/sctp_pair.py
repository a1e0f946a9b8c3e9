"""Two associations, and a seeded terrible network between them on a clock of numbers."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from edge.webrtc.sctp import Association
from edge.webrtc.sctp_outputs import SctpMessage, SctpOutput, SctpTransmit
from edge.webrtc.sctp_state import SctpConfig, SctpState

Fate = Callable[[int, int], Sequence[float]]
"""(sender 0 or 1, index of its packet) -> the delays of the copies that arrive, in seconds."""


def entropy(seed: object) -> Callable[[int], bytes]:
    return Random(str(seed)).randbytes


def perfect(sender: int, index: int) -> Sequence[float]:
    return (0.01,)


def terrible(seed: object, *, loss: float = 0.2, copies: float = 0.1, spread: float = 0.08) -> Fate:
    """Each packet's fate depends on the seed, its sender and its index alone."""

    def fate(sender: int, index: int) -> Sequence[float]:
        rng = Random(f"{seed}:{sender}:{index}")
        if rng.random() < loss:
            return ()
        number = 2 if rng.random() < copies else 1
        return tuple(0.01 + rng.random() * spread for _ in range(number))

    return fate


@dataclass
class Net:
    """What two sides have handed out, in order, and the packets between them."""

    sides: list[Association]
    fate: Fate = perfect
    now: float = 100.0
    outputs: tuple[list[SctpOutput], list[SctpOutput]] = field(default_factory=lambda: ([], []))
    packets: tuple[list[bytes], list[bytes]] = field(default_factory=lambda: ([], []))
    react: Callable[[int, SctpOutput], Sequence[SctpOutput]] = lambda side, output: ()
    before_step: Callable[[], None] = lambda: None
    _sent: list[int] = field(default_factory=lambda: [0, 0])
    _flying: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _counter: int = 0

    def carry(self, side: int, outputs: Sequence[SctpOutput]) -> None:
        for output in outputs:
            if isinstance(output, SctpTransmit):
                self._put(side, output.data)
            else:
                self.outputs[side].append(output)
                self.carry(side, self.react(side, output))

    def _put(self, side: int, packet: bytes) -> None:
        self.packets[side].append(packet)
        self._sent[side] += 1
        for delay in self.fate(side, self._sent[side]):
            self._counter += 1
            heapq.heappush(self._flying, (self.now + delay, self._counter, 1 - side, packet))

    @property
    def next_event(self) -> float:
        arrival = self._flying[0][0] if self._flying else math.inf
        return min(arrival, *(side.deadline for side in self.sides))

    def step(self) -> bool:
        """Do the next thing; False when nothing is left to do."""
        self.before_step()
        at = self.next_event
        if at == math.inf:
            return False
        self.now = max(self.now, at)
        if self._flying and self._flying[0][0] <= self.now:
            _, _, side, packet = heapq.heappop(self._flying)
            self.carry(side, self.sides[side].receive(packet, now=self.now))
            return True
        for number, side_ in enumerate(self.sides):
            if side_.deadline <= self.now:
                self.carry(number, side_.tick(now=self.now))
        return True

    def run(self, *, seconds: float = 300.0, until: Callable[[], bool] = lambda: False) -> None:
        """Go on until nothing is left to do, ``until`` holds, or the time is over."""
        end, steps = self.now + seconds, 0
        while not until() and self.next_event <= end and self.step():
            steps += 1
            assert steps < 200_000, "they talk without end"

    def messages(self, side: int) -> list[SctpMessage]:
        return [each for each in self.outputs[side] if isinstance(each, SctpMessage)]

    def data(self, side: int) -> list[bytes]:
        return [message.data for message in self.messages(side)]

    def kinds(self, side: int) -> list[str]:
        return [type(each).__name__ for each in self.outputs[side]]


def make(seed: object = 1, **options: object) -> Association:
    config = SctpConfig(**options)  # type: ignore[arg-type]
    return Association(entropy=entropy(seed), config=config)


def make_net(fate: Fate = perfect, *, seed: object = 1, **options: object) -> Net:
    return Net([make(f"{seed}a", **options), make(f"{seed}b", **options)], fate)


def connected(fate: Fate = perfect, *, seed: object = 1, **options: object) -> Net:
    """Two associations that have just come up over a perfect network."""
    net = make_net(perfect, seed=seed, **options)
    net.carry(0, net.sides[0].connect(now=net.now))
    net.run()
    assert [side.state for side in net.sides] == [SctpState.ESTABLISHED] * 2
    net.fate = fate
    for outputs in (*net.outputs, *net.packets):
        outputs.clear()
    return net
