"""The paths that lead to a client: which one is used, and how much may be sent on each.

Selection. The first valid check selects its path, nominated or not, so that DTLS can start. From
then on nominated checks move it, where the selected path is weaker: its own latest check was not
nominated, its priority is not higher (equal after a NAT rebinding), or it has gone silent.
Aggressive nomination (every check nominated) so settles on the highest priority.

While the proven selected path is alive, an unproven path does not take its place; and as clients
are not always talking, only a long silence is its death. An unproven path gets at most three times
the bytes that came from it (``ice``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec.structs import replace

from edge.errors import Drop, LocalProtocolError
from edge.webrtc.outputs import PathSelected
from edge.wire.spp import Path

AMPLIFICATION_LIMIT: Final = 3
"""Bytes we may send for each byte received on an unproven path; DESIGN 6, after RFC 9000, 8.1."""
UNLIMITED: Final = 1 << 16
"""Room on a proven path: more than any datagram."""
SILENCE: Final = 1.0  # seconds without authenticated bytes until a path yields to a proven one
LONG_SILENCE: Final = 15.0  # until a proven path yields to an unproven one; three consent intervals
PROBE_TIMES: Final = (0.0, 0.1, 0.2, 0.4)  # seconds from the start of our own check


class Probe(msgspec.Struct):
    """Our own check of a path: one transaction, sent at most four times."""

    transaction_id: bytes
    started: float
    sent: int = 0

    @property
    def due(self) -> float:
        """When to send it again."""
        if self.sent == len(PROBE_TIMES):
            return math.inf
        return self.started + PROBE_TIMES[self.sent]


class PathState(msgspec.Struct):
    """What we know of one path."""

    heard: float
    priority: int = 0
    nominated: bool = False
    """Its latest check carried USE-CANDIDATE."""
    proven: bool = False
    budget: int = 0
    """Bytes we may still send while unproven."""
    probe: Probe | None = None

    def shifted(self, seconds: float) -> PathState:
        """Return a copy on a clock that is ``seconds`` ahead."""
        probe = self.probe
        if probe is not None:
            probe = replace(probe, started=probe.started + seconds)
        return replace(self, heard=self.heard + seconds, probe=probe)


class Paths:
    """Every path that a valid check came from; ``drops`` is where to count what is refused."""

    def __init__(self, *, limit: int, drops: Counter[Drop]) -> None:
        if limit < 2:
            raise LocalProtocolError("a client that moves needs two paths")
        self.limit = limit
        self.selected: Path | None = None
        self._states: dict[Path, PathState] = {}
        self._drops = drops

    def __iter__(self) -> Iterator[tuple[Path, PathState]]:
        return iter(self._states.items())

    def knows(self, path: Path) -> bool:
        """Whether a valid check came from ``path`` and it was not evicted since."""
        return path in self._states

    def state(self, path: Path) -> PathState | None:
        """What is known of a path; for the hot path, which notes there what ``heard`` would."""
        return self._states.get(path)

    def heard_at(self, path: Path) -> float:
        """When something authentic last came from ``path``; ``-math.inf`` for an unknown one."""
        state = self._states.get(path)
        return -math.inf if state is None else state.heard

    def heard(self, path: Path, nbytes: int, *, now: float, authenticated: bool = True) -> None:
        """Count a datagram other than STUN from ``path``.

        It adds to the path's budget; authenticated, it also shows that the path is alive. It
        never renews consent. A path that no check came from stays unknown.
        """
        state = self._states.get(path)
        if state is None:
            return
        state.budget += AMPLIFICATION_LIMIT * nbytes
        if authenticated:
            state.heard = now

    def allow(self, path: Path, nbytes: int) -> bool:
        """Take ``nbytes`` from the path's budget; False (drop AMPLIFICATION) when it is short."""
        state = self._states.get(path)
        if state is not None:
            if state.proven:
                return True
            if state.budget >= nbytes:
                state.budget -= nbytes
                return True
        self._drops[Drop.AMPLIFICATION] += 1
        return False

    def room(self, path: Path) -> int:
        """Bytes that may be sent on a path now."""
        state = self._states.get(path)
        if state is None:
            return 0
        return UNLIMITED if state.proven else state.budget

    def restore(self, selected: Path | None, states: dict[Path, PathState]) -> None:
        """Go on with what was written down."""
        self.selected, self._states = selected, states

    def admit(self, path: Path, *, now: float) -> PathState:
        """Note a valid check; where there are too many paths the most silent one goes."""
        state = self._states.get(path)
        if state is None:
            if len(self._states) >= self.limit:
                others = (known for known in self._states if known != self.selected)
                del self._states[min(others, key=lambda known: self._states[known].heard)]
                self._drops[Drop.TABLE_FULL] += 1
            state = self._states[path] = PathState(heard=now)
        return state

    def select(self, path: Path, state: PathState, *, now: float) -> list[PathSelected]:
        """Move to a path where it is better than the selected one."""
        if path == self.selected or not self._beats_selected(state, now):
            return []
        self.selected = path
        return [PathSelected(path)]

    def _beats_selected(self, state: PathState, now: float) -> bool:
        if self.selected is None:
            return True
        if not state.nominated:
            return False
        selected = self._states[self.selected]
        silence = now - selected.heard
        if selected.proven and not state.proven:
            return silence > LONG_SILENCE
        if silence > SILENCE:
            return True
        return not selected.nominated or state.priority >= selected.priority
