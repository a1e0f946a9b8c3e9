"""ICE-lite answerer: which paths lead to the client, which one is used, and until when.

A lite agent (RFC 8445, 2.5) gathers nothing and starts no checks: it answers the client's, learns
the client's addresses from them, and follows its nominations (``ice_paths``) and its restarts
(``ice_credentials``). Around that stand two rules:

Return-routability. A check can be replayed from a forged source, so an unproven path gets at most
three times the bytes that came from it. DTLS proves the path that has carried all of our flights;
another path is proven by one check of our own (``ice_probes``), which only its reader can answer.
While the proven selected path is alive, an unproven path does not take its place; and as clients
are not always talking, only a long silence is its death. Until DTLS has completed there is no such
path to defend: then a check that was seen on another path before is refused as its replay.

Consent (RFC 7675, 5.1) is the client's wish to receive, renewed here by each of its valid checks
and by each valid answer to ours; a lite agent sends no consent checks of its own. Media renews
nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

from edge.address import Address
from edge.errors import Drop, EndReason, RemoteProtocolError
from edge.webrtc.ice_credentials import Credentials, Generations, IceCredentials
from edge.webrtc.ice_paths import AMPLIFICATION_LIMIT, Paths
from edge.webrtc.ice_probes import Probes
from edge.webrtc.ice_snapshot import IceSnapshot
from edge.webrtc.outputs import Ended, PathSelected, Transmit
from edge.wire import stun, stun_peek
from edge.wire.spp import Path, decode_path
from edge.wire.stun import CarriedDtls

__all__ = ["Check", "IceCredentials", "IceLite", "IceOutput"]

MAX_EARLY_CHECKS: Final = 64
"""Checks remembered, by transaction id, until DTLS has completed; the oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class Check:
    """A valid check that waits for ``IceLite.answer``, with what it carries of DTLS."""

    path: Path
    client: Address = field(repr=False)
    transaction_id: bytes
    password: str = field(repr=False)
    carried: CarriedDtls | None


IceOutput = Check | Transmit | PathSelected | Ended


class IceLite:
    """The controlled, lite side of one ICE session with one component (RFC 8445).

    ``entropy(n)`` gives n random bytes for transaction ids. ``deadline`` is when to call ``tick``.
    With ``defers`` a valid check is handed out as a ``Check``, to be answered by ``answer``.
    """

    def __init__(
        self,
        local: IceCredentials,
        remote: IceCredentials,
        *,
        tie_breaker: int,
        entropy: Callable[[int], bytes],
        now: float,
        consent_timeout: float = 30.0,
        max_paths: int = 8,
        defers: bool = False,
    ) -> None:
        self.deadline = math.inf
        self.drops: Counter[Drop] = Counter()
        self.paths = Paths(limit=max_paths, drops=self.drops)
        self._defers = defers
        self._generations = Generations(Credentials(local, remote))
        self._probes = Probes(
            self.paths, self._generations, tie_breaker=tie_breaker, entropy=entropy
        )
        self._consent_timeout = consent_timeout
        self._consent_until = math.inf
        self._established = False
        self._ended = False
        self._early_checks: dict[bytes, Path] = {}

    @property
    def ufrags(self) -> tuple[str, ...]:
        """Our ufrags that count now, the current one first."""
        return self._generations.ufrags

    @property
    def remote_ufrag(self) -> str:
        """The client's ufrag."""
        return self._generations.current.remote.ufrag

    @property
    def restarts(self) -> int:
        """How many generations of credentials came after the first."""
        return self._generations.restarts

    def restart(self, local: IceCredentials, remote: IceCredentials) -> None:
        """Begin a new generation of credentials; ``ufrags`` tells which count from now on."""
        self._generations.restart(Credentials(local, remote))
        for _, state in self.paths:
            state.nominated = False  # by the generation before: it does not bind this one
            if not state.proven:
                state.probe = None
        self._reschedule()

    def receive(self, datagram: bytes, path: Path, *, now: float) -> list[IceOutput]:
        """Take one STUN datagram; what is not valid is counted in ``drops`` and changes nothing."""
        if self._ended:
            return []
        try:
            outputs = self._receive(datagram, path, now)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return []
        self._reschedule()
        return outputs

    def answer(self, check: Check, carried: CarriedDtls | None = None) -> Transmit:
        """Write the answer to a check, ``room`` bytes at most, with what it shall carry of DTLS."""
        response = stun.encode_success(
            check.transaction_id, check.client, password=check.password, carried=carried
        )
        # One that carries nothing is smaller than three times its check.
        state = self.paths.state(check.path)
        assert state is not None  # its check has just come
        state.budget -= len(response)
        return Transmit(check.path, response)

    def tick(self, *, now: float) -> list[IceOutput]:
        """Do what is due at ``now``: end without consent, or repeat our own checks."""
        if self._ended:
            return []
        if now >= self._consent_until:
            self._ended = True
            self.deadline = math.inf
            return [Ended(EndReason.CONSENT_EXPIRED)]
        self._generations.expire(now)
        outputs: list[IceOutput] = [*self._probes.repeat(now=now)]
        self._reschedule()
        return outputs

    def heard_at(self, path: Path) -> float:
        """See ``Paths.heard_at``."""
        return self.paths.heard_at(path)

    def transmit(self, data: bytes) -> list[Transmit]:
        """Send a datagram on the selected path, if there is one and its budget allows it."""
        path = self.paths.selected
        if path is None or not self.paths.allow(path, len(data)):
            return []
        return [Transmit(path, data)]

    def prove(self, path: Path) -> None:
        """Note that the client reads what we send to ``path``."""
        state = self.paths.state(path)
        if state is not None:
            state.proven = True
            self._reschedule()

    def establish(self, *, now: float) -> list[Transmit]:
        """Note that DTLS has completed; a selected path that it has not proven gets a check."""
        self._established = True
        self._early_checks.clear()
        path = self.paths.selected
        state = None if path is None else self.paths.state(path)
        if path is None or state is None:
            return []
        outputs = self._probes.start(path, state, now=now)
        self._reschedule()
        return outputs

    def snapshot(self, *, now: float) -> IceSnapshot:
        """Return all state, with times relative to ``now``; ``drops`` is not part of it."""
        generations = self._generations
        return IceSnapshot(
            local=generations.current.local,
            remote=generations.current.remote,
            tie_breaker=self._probes.tie_breaker,
            consent_timeout=self._consent_timeout,
            max_paths=self.paths.limit,
            consent_until=_finite(self._consent_until - now),
            established=self._established,
            ended=self._ended,
            selected=self.paths.selected,
            paths=tuple((path, state.shifted(-now)) for path, state in self.paths),
            early_checks=tuple(self._early_checks.items()),
            restarts=self.restarts,
            used=generations.used,
            former=generations.former,
            former_until=_finite(generations.former_until - now),
        )

    @classmethod
    def restore(
        cls, snapshot: IceSnapshot, *, entropy: Callable[[int], bytes], now: float
    ) -> IceLite:
        """Build an agent that goes on where ``snapshot`` was taken."""
        agent = cls(
            snapshot.local,
            snapshot.remote,
            tie_breaker=snapshot.tie_breaker,
            entropy=entropy,
            now=now,
            consent_timeout=snapshot.consent_timeout,
            max_paths=snapshot.max_paths,
        )
        if snapshot.consent_until is not None:
            agent._consent_until = now + snapshot.consent_until
        agent._established = snapshot.established
        agent._ended = snapshot.ended
        states = {path: state.shifted(now) for path, state in snapshot.paths}
        agent.paths.restore(snapshot.selected, states)
        agent._early_checks = dict(snapshot.early_checks)
        generations = agent._generations
        generations.restarts, generations.used = snapshot.restarts, snapshot.used
        generations.former = snapshot.former
        if snapshot.former_until is not None:
            generations.former_until = now + snapshot.former_until
        agent._reschedule()
        return agent

    def _receive(self, datagram: bytes, path: Path, now: float) -> list[IceOutput]:
        message_class, _ = stun_peek.peek(datagram)
        match message_class:
            case stun_peek.MessageClass.REQUEST:
                return self._receive_check(datagram, path, now)
            case stun_peek.MessageClass.SUCCESS | stun_peek.MessageClass.ERROR:
                return self._receive_response(datagram, path, now)
            case stun_peek.MessageClass.INDICATION:
                return []  # a keepalive without integrity (RFC 8445, 11): it moves nothing
            case _:
                assert_never(message_class)

    def _receive_check(self, datagram: bytes, path: Path, now: float) -> list[IceOutput]:
        credentials = self._generations.of(datagram, now)
        password = credentials.local.password
        request = stun.decode_request(datagram, password=password)
        if request.username != credentials.username:
            raise RemoteProtocolError("check for another session", Drop.BAD_INTEGRITY)
        client, _ = decode_path(path)
        if refusal := self._refuse(request, password):
            return [Transmit(path, refusal)]
        if not self._established:
            self._refuse_replay(request.transaction_id, path)

        self._generations.use(credentials, now)
        state = self.paths.admit(path, now=now)
        state.heard = now
        state.priority = request.priority or state.priority
        state.nominated = request.use_candidate
        self._consent_until = now + self._consent_timeout
        state.budget += AMPLIFICATION_LIMIT * len(datagram)
        check = Check(path, client, request.transaction_id, password, request.carried)
        outputs: list[IceOutput] = [check if self._defers else self.answer(check)]
        outputs += self.paths.select(path, state, now=now)
        if self._established:
            outputs += self._probes.start(path, state, now=now)
        return outputs

    def _refuse(self, request: stun.BindingRequest, password: str) -> bytes | None:
        """Return the error answer to a check that is authentic but not acceptable."""
        if request.unknown_required:
            code, reason = 420, "Unknown Attribute"
        elif request.controlled is not None:
            code, reason = 487, "Role Conflict"  # a lite agent is controlled, always (6.1.1)
        else:
            return None
        return stun.encode_error(
            request.transaction_id,
            code,
            reason,
            password=password,
            unknown=request.unknown_required,
        )

    def _refuse_replay(self, transaction_id: bytes, path: Path) -> None:
        if self._early_checks.setdefault(transaction_id, path) != path:
            raise RemoteProtocolError("a check of another path", Drop.REPLAY)
        if len(self._early_checks) > MAX_EARLY_CHECKS:
            del self._early_checks[next(iter(self._early_checks))]

    def _receive_response(self, datagram: bytes, path: Path, now: float) -> list[IceOutput]:
        state = self._probes.receive(datagram, path, now=now)
        if state is None:
            return []
        self._consent_until = now + self._consent_timeout
        return list(self.paths.select(path, state, now=now))

    def _reschedule(self) -> None:
        due = min(self._consent_until, self._generations.former_until, self._probes.deadline)
        self.deadline = math.inf if self._ended else due


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
