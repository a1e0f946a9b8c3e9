"""ICE-lite answerer: which paths lead to the client, which one is used, and until when.

A lite agent (RFC 8445, 2.5) gathers nothing and starts no checks: it answers the client's, learns
the client's addresses from them, and follows its nominations. Around that stand three rules:

Selection. The first valid check selects its path, nominated or not, so that DTLS can start. From
then on nominated checks move it, where the selected path is weaker: its own latest check was not
nominated, its priority is not higher (equal after a NAT rebinding), or it has gone silent.
Aggressive nomination (every check nominated) so settles on the highest priority.

Return-routability. A check can be replayed from a forged source, so an unproven path gets at most
three times the bytes that came from it. DTLS proves the path that has carried all of our flights;
another path is proven by one check of our own, which only a reader of that address can answer.
While the proven selected path is alive, an unproven path does not take its place; and as clients
are not always talking, only a long silence is its death. Until DTLS has completed there is no such
path to defend: then a check that was seen on another path before is refused as its replay. This
triggered check is more than RFC 8445 asks of a lite agent (7.3).

Consent (RFC 7675, 5.1) is the client's wish to receive, renewed here by each of its valid checks
and by each valid answer to ours; a lite agent sends no consent checks of its own. Media renews
nothing.

Restart (RFC 8445, 9). The client brings new credentials over signaling and gets new ones of ours;
DTLS, SRTP and the paths stay. Until the client has used the new ones, the former count as before;
``FORMER_LIFETIME`` after the first valid check with the new they are gone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

import msgspec
from msgspec.structs import replace

from edge.address import Address
from edge.errors import Drop, EndReason, LocalProtocolError, RemoteProtocolError
from edge.webrtc.outputs import Ended, PathSelected, Transmit
from edge.wire import stun
from edge.wire.spp import Path, decode_path
from edge.wire.stun import CarriedDtls

AMPLIFICATION_LIMIT: Final = 3
"""Bytes we may send for each byte received on an unproven path; DESIGN 6, after RFC 9000, 8.1."""
UNLIMITED: Final = 1 << 16
"""Room on a proven path: more than any datagram."""
SILENCE: Final = 1.0  # seconds without authenticated bytes until a path yields to a proven one
LONG_SILENCE: Final = 15.0  # until a proven path yields to an unproven one; three consent intervals
MAX_EARLY_CHECKS: Final = 64
"""Checks remembered, by transaction id, until DTLS has completed; the oldest is forgotten."""
PROBE_TIMES: Final = (0.0, 0.1, 0.2, 0.4)  # seconds from the start of our own check
PROBE_LIFETIME: Final = 2.0  # seconds in which its answer is accepted and no other one starts
PROBE_PRIORITY: Final = (110 << 24) + (65_535 << 8) + 255  # peer-reflexive; RFC 8445, 5.1.2.1

FORMER_LIFETIME: Final = 5.0  # seconds, for what is still under way after a restart


@dataclass(frozen=True, slots=True)
class Check:
    """A valid check that waits for ``IceLite.answer``, with what it carries of DTLS."""

    path: Path
    client: Address = field(repr=False)
    transaction_id: bytes
    password: str = field(repr=False)
    carried: CarriedDtls | None


IceOutput = Check | Transmit | PathSelected | Ended


@dataclass(frozen=True, slots=True)
class IceCredentials:
    """One side's ``a=ice-ufrag`` and ``a=ice-pwd``."""

    ufrag: str = field(repr=False)
    password: str = field(repr=False)


class Credentials(msgspec.Struct, frozen=True):
    """Both sides' credentials of one generation; a restart begins the next one."""

    local: IceCredentials
    remote: IceCredentials

    @property
    def username(self) -> str:
        """Of the client's checks (RFC 8445, 7.2.2)."""
        return f"{self.local.ufrag}:{self.remote.ufrag}"

    def __repr__(self) -> str:
        return "Credentials()"


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


class IceSnapshot(msgspec.Struct, frozen=True):
    """All of an agent's state, on a clock that is 0 when it is taken.

    Holds both passwords: seal it before it leaves the process.
    """

    local: IceCredentials
    remote: IceCredentials
    tie_breaker: int
    consent_timeout: float
    max_paths: int
    consent_until: float | None
    """None before the first valid check."""
    established: bool
    ended: bool
    selected: Path | None
    paths: tuple[tuple[Path, PathState], ...]
    early_checks: tuple[tuple[bytes, Path], ...]
    restarts: int = 0
    used: bool = False
    former: Credentials | None = None
    former_until: float | None = None

    def __repr__(self) -> str:
        return f"IceSnapshot(paths={len(self.paths)}, established={self.established})"


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
        if max_paths < 2:
            raise LocalProtocolError("a client that moves needs two paths")
        self.selected: Path | None = None
        self.deadline = math.inf
        self.drops: Counter[Drop] = Counter()
        self.restarts = 0
        self._defers = defers
        self._current = Credentials(local, remote)
        self._used = False  # the client has used the current credentials
        self._former: Credentials | None = None
        self._former_until = math.inf
        self._tie_breaker = tie_breaker
        self._entropy = entropy
        self._consent_timeout = consent_timeout
        self._max_paths = max_paths
        self._consent_until = math.inf
        self._established = False
        self._ended = False
        self._paths: dict[Path, PathState] = {}
        self._early_checks: dict[bytes, Path] = {}

    @property
    def ufrags(self) -> tuple[str, ...]:
        """Our ufrags that count now, the current one first."""
        return tuple(one.local.ufrag for one in (self._current, self._former) if one is not None)

    @property
    def remote_ufrag(self) -> str:
        """The client's ufrag."""
        return self._current.remote.ufrag

    def restart(self, local: IceCredentials, remote: IceCredentials) -> None:
        """Begin a new generation of credentials; ``ufrags`` tells which count from now on."""
        if self._used:
            self._former, self._former_until = self._current, math.inf
        self._current, self._used = Credentials(local, remote), False
        self.restarts += 1
        for state in self._paths.values():
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
        self._paths[check.path].budget -= len(response)
        return Transmit(check.path, response)

    def room(self, path: Path) -> int:
        """Bytes that may be sent on a path now."""
        state = self._paths.get(path)
        if state is None:
            return 0
        return UNLIMITED if state.proven else state.budget

    def tick(self, *, now: float) -> list[IceOutput]:
        """Do what is due at ``now``: end without consent, or repeat our own checks."""
        if self._ended:
            return []
        if now >= self._consent_until:
            self._ended = True
            self.deadline = math.inf
            return [Ended(EndReason.CONSENT_EXPIRED)]
        if now >= self._former_until:
            self._former, self._former_until = None, math.inf
        outputs: list[IceOutput] = []
        for path, state in self._paths.items():
            if state.probe is not None and not state.proven and now >= state.probe.due:
                outputs += self._send_probe(path, state, state.probe)
        self._reschedule()
        return outputs

    def knows(self, path: Path) -> bool:
        """Whether a valid check came from ``path`` and it was not evicted since."""
        return path in self._paths

    def state(self, path: Path) -> PathState | None:
        """What is known of a path; for the hot path, which notes there what ``heard`` would."""
        return self._paths.get(path)

    def heard_at(self, path: Path) -> float:
        """When something authentic last came from ``path``; ``-math.inf`` for an unknown one."""
        state = self._paths.get(path)
        return -math.inf if state is None else state.heard

    def heard(self, path: Path, nbytes: int, *, now: float, authenticated: bool = True) -> None:
        """Count a datagram other than STUN from ``path``.

        It adds to the path's budget; authenticated, it also shows that the path is alive. It
        never renews consent. A path that no check came from stays unknown.
        """
        state = self._paths.get(path)
        if state is None:
            return
        state.budget += AMPLIFICATION_LIMIT * nbytes
        if authenticated:
            state.heard = now

    def allow(self, path: Path, nbytes: int) -> bool:
        """Take ``nbytes`` from the path's budget; False (drop AMPLIFICATION) when it is short."""
        state = self._paths.get(path)
        if state is not None:
            if state.proven:
                return True
            if state.budget >= nbytes:
                state.budget -= nbytes
                return True
        self.drops[Drop.AMPLIFICATION] += 1
        return False

    def prove(self, path: Path) -> None:
        """Note that the client reads what we send to ``path``."""
        state = self._paths.get(path)
        if state is not None:
            state.proven = True
            self._reschedule()

    def establish(self, *, now: float) -> list[IceOutput]:
        """Note that DTLS has completed; a selected path that it has not proven gets a check."""
        self._established = True
        self._early_checks.clear()
        if self.selected is None:
            return []
        outputs = self._start_probe(self.selected, self._paths[self.selected], now)
        self._reschedule()
        return list(outputs)

    def snapshot(self, *, now: float) -> IceSnapshot:
        """Return all state, with times relative to ``now``; ``drops`` is not part of it."""
        until = self._consent_until - now
        return IceSnapshot(
            local=self._current.local,
            remote=self._current.remote,
            tie_breaker=self._tie_breaker,
            consent_timeout=self._consent_timeout,
            max_paths=self._max_paths,
            consent_until=until if math.isfinite(until) else None,
            established=self._established,
            ended=self._ended,
            selected=self.selected,
            paths=tuple((path, state.shifted(-now)) for path, state in self._paths.items()),
            early_checks=tuple(self._early_checks.items()),
            restarts=self.restarts,
            used=self._used,
            former=self._former,
            former_until=(self._former_until - now if math.isfinite(self._former_until) else None),
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
        agent._paths = {path: state.shifted(now) for path, state in snapshot.paths}
        agent._early_checks = dict(snapshot.early_checks)
        agent.selected = snapshot.selected
        agent.restarts, agent._used = snapshot.restarts, snapshot.used
        agent._former = snapshot.former
        if snapshot.former_until is not None:
            agent._former_until = now + snapshot.former_until
        agent._reschedule()
        return agent

    def _receive(self, datagram: bytes, path: Path, now: float) -> list[IceOutput]:
        message_class, _ = stun.peek(datagram)
        match message_class:
            case stun.MessageClass.REQUEST:
                return self._receive_check(datagram, path, now)
            case stun.MessageClass.SUCCESS | stun.MessageClass.ERROR:
                return self._receive_response(datagram, path, now)
            case stun.MessageClass.INDICATION:
                return []  # a keepalive without integrity (RFC 8445, 11): it moves nothing
            case _:
                assert_never(message_class)

    def _receive_check(self, datagram: bytes, path: Path, now: float) -> list[IceOutput]:
        credentials = self._credentials_of(datagram, now)
        password = credentials.local.password
        request = stun.decode_request(datagram, password=password)
        if request.username != credentials.username:
            raise RemoteProtocolError("check for another session", Drop.BAD_INTEGRITY)
        client, _ = decode_path(path)
        if refusal := self._refuse(request, password):
            return [Transmit(path, refusal)]
        if not self._established:
            self._refuse_replay(request.transaction_id, path)

        if credentials is self._current:
            self._use_current(now)
        state = self._admit(path, now)
        state.heard = now
        state.priority = request.priority or state.priority
        state.nominated = request.use_candidate
        self._consent_until = now + self._consent_timeout
        state.budget += AMPLIFICATION_LIMIT * len(datagram)
        check = Check(path, client, request.transaction_id, password, request.carried)
        outputs: list[IceOutput] = [check if self._defers else self.answer(check)]
        outputs += self._select(path, state, now)
        outputs += self._start_probe(path, state, now)
        return outputs

    def _credentials_of(self, datagram: bytes, now: float) -> Credentials:
        """Which generation a check is of; nothing is proven by that yet."""
        former = self._former
        if former is None or now >= self._former_until:
            return self._current
        return former if stun.peek_username(datagram) == former.username else self._current

    def _use_current(self, now: float) -> None:
        """Note that the client uses the current credentials: the former go soon."""
        if not self._used:
            self._used = True
            self._former_until = now + FORMER_LIFETIME if self._former else math.inf

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
        state = self._paths.get(path)
        response = stun.decode_response(datagram, password=self._current.remote.password)
        if (
            state is None
            or state.probe is None
            or state.probe.transaction_id != response.transaction_id
            or now >= state.probe.started + PROBE_LIFETIME
        ):
            raise RemoteProtocolError("answer to no check of ours", Drop.BAD_INTEGRITY)
        if isinstance(response, stun.BindingError):
            return []  # it may come without integrity: it proves nothing and ends nothing
        state.proven = True
        state.heard = now
        self._consent_until = now + self._consent_timeout
        return list(self._select(path, state, now))

    def _admit(self, path: Path, now: float) -> PathState:
        state = self._paths.get(path)
        if state is None:
            if len(self._paths) >= self._max_paths:
                others = (known for known in self._paths if known != self.selected)
                del self._paths[min(others, key=lambda known: self._paths[known].heard)]
                self.drops[Drop.TABLE_FULL] += 1
            state = self._paths[path] = PathState(heard=now)
        return state

    def _select(self, path: Path, state: PathState, now: float) -> list[PathSelected]:
        if path == self.selected or not self._beats_selected(state, now):
            return []
        self.selected = path
        return [PathSelected(path)]

    def _beats_selected(self, state: PathState, now: float) -> bool:
        if self.selected is None:
            return True
        if not state.nominated:
            return False
        selected = self._paths[self.selected]
        silence = now - selected.heard
        if selected.proven and not state.proven:
            return silence > LONG_SILENCE
        if silence > SILENCE:
            return True
        return not selected.nominated or state.priority >= selected.priority

    def _start_probe(self, path: Path, state: PathState, now: float) -> list[Transmit]:
        """Check a path that a live session has not proven yet, one transaction at a time."""
        if not self._established or state.proven:
            return []
        if state.probe is not None and now < state.probe.started + PROBE_LIFETIME:
            return []
        state.probe = Probe(self._entropy(stun.TRANSACTION_ID_BYTES), now)
        return self._send_probe(path, state, state.probe)

    def _send_probe(self, path: Path, state: PathState, probe: Probe) -> list[Transmit]:
        probe.sent += 1
        local, remote = self._current.local, self._current.remote
        request = stun.encode_request(
            probe.transaction_id,
            username=f"{remote.ufrag}:{local.ufrag}",
            password=remote.password,
            priority=PROBE_PRIORITY,
            controlled=self._tie_breaker,
        )
        return [Transmit(path, request)] if self.allow(path, len(request)) else []

    def _reschedule(self) -> None:
        self.deadline = math.inf if self._ended else min(self._consent_until, self._former_until)
        for state in self._paths.values():
            if state.probe is not None and not state.proven:
                self.deadline = min(self.deadline, state.probe.due)
