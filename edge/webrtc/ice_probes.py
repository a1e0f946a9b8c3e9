"""Our own checks of paths: more than RFC 8445 asks of a lite agent (7.3).

A client's check may be replayed from a forged source. Only a reader of that address can answer one
of ours (``ice``), which is one transaction, sent at most four times; its answer proves the path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from edge.errors import Drop, RemoteProtocolError
from edge.webrtc.ice_credentials import Credentials, Generations
from edge.webrtc.ice_paths import Paths, PathState, Probe
from edge.webrtc.outputs import Transmit
from edge.wire import stun
from edge.wire.spp import Path
from edge.wire.stun_peek import TRANSACTION_ID_BYTES

PROBE_LIFETIME: Final = 2.0  # seconds in which its answer is accepted and no other one starts
PROBE_PRIORITY: Final = (110 << 24) + (65_535 << 8) + 255  # peer-reflexive; RFC 8445, 5.1.2.1


class Probes:
    """Checks the paths of a session by its current credentials; ``entropy`` makes their ids."""

    def __init__(
        self,
        paths: Paths,
        generations: Generations,
        *,
        tie_breaker: int,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.tie_breaker: Final = tie_breaker
        self._paths = paths
        self._generations = generations
        self._entropy = entropy

    @property
    def deadline(self) -> float:
        """When the next one is due; ``math.inf`` for never."""
        unproven = (state.probe for _, state in self._paths if not state.proven)
        return min((probe.due for probe in unproven if probe is not None), default=math.inf)

    def start(self, path: Path, state: PathState, *, now: float) -> list[Transmit]:
        """Check a path that is not proven yet, one transaction at a time."""
        if state.proven:
            return []
        if state.probe is not None and now < state.probe.started + PROBE_LIFETIME:
            return []
        state.probe = Probe(self._entropy(TRANSACTION_ID_BYTES), now)
        return self._send(path, state.probe)

    def repeat(self, *, now: float) -> list[Transmit]:
        """Send again what is due."""
        outputs: list[Transmit] = []
        for path, state in self._paths:
            if state.probe is not None and not state.proven and now >= state.probe.due:
                outputs += self._send(path, state.probe)
        return outputs

    def receive(self, datagram: bytes, path: Path, *, now: float) -> PathState | None:
        """Take an answer; gives the path's state where it proves it, None for an error's answer.

        RemoteProtocolError (drop BAD_INTEGRITY) when it answers no check of ours.
        """
        state = self._paths.state(path)
        response = stun.decode_response(datagram, password=self._current.remote.password)
        if (
            state is None
            or state.probe is None
            or state.probe.transaction_id != response.transaction_id
            or now >= state.probe.started + PROBE_LIFETIME
        ):
            raise RemoteProtocolError("answer to no check of ours", Drop.BAD_INTEGRITY)
        if isinstance(response, stun.BindingError):
            return None  # it may come without integrity: it proves nothing and ends nothing
        state.proven = True
        state.heard = now
        return state

    @property
    def _current(self) -> Credentials:
        return self._generations.current

    def _send(self, path: Path, probe: Probe) -> list[Transmit]:
        probe.sent += 1
        local, remote = self._current.local, self._current.remote
        request = stun.encode_request(
            probe.transaction_id,
            username=f"{remote.ufrag}:{local.ufrag}",
            password=remote.password,
            priority=PROBE_PRIORITY,
            controlled=self.tie_breaker,
        )
        return [Transmit(path, request)] if self._paths.allow(path, len(request)) else []
