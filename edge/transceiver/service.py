"""The transceiver: every session of a process on one shared UDP socket.

It puts the parts together, and is what signaling asks: sessions are opened, watched and ended here.
They arrive through a bounded channel and live in the nursery of ``run``; their datagrams come by
way of the ``Dispatcher``, and where there is a fleet they move by ``Mobility``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import structlog
import trio

from edge.backends.protocol import Backend, CallQuality
from edge.config import AudioConfig, TransceiverConfig
from edge.datagram import Datagrams
from edge.errors import EndReason
from edge.geo import Place
from edge.registry.protocol import Slot, TransceiverRecord
from edge.registry.sessions import Claim
from edge.token import TokenSealer
from edge.transceiver.admission import Admission, Opener, TooManySessions
from edge.transceiver.answers import Answers, IceRestart, OpenedCall, RelayView
from edge.transceiver.arrivals import Arrivals
from edge.transceiver.call_ids import make_call_id
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.credentials import CredentialMaker
from edge.transceiver.custody import CustodyCounts
from edge.transceiver.dispatch import Dispatcher, Senders
from edge.transceiver.ended_log import log_end
from edge.transceiver.environment import Environment
from edge.transceiver.events import Holder
from edge.transceiver.keeper import Clocks
from edge.transceiver.maker import SessionMaker
from edge.transceiver.mobility import Directory, Fleet, Mobility
from edge.transceiver.peers import PeerMaker
from edge.transceiver.playout import Pacer
from edge.transceiver.roster import Roster
from edge.transceiver.session import Session
from edge.transceiver.surroundings import Surroundings, session_limits
from edge.transceiver.totals import Totals
from edge.transceiver.voice import Voice
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.ice import IceCredentials
from edge.webrtc.offload import MediaOffload

GOODBYE_SECONDS: Final = 1.0
"""How long sessions that nobody takes over have for their goodbyes."""

log = structlog.get_logger()


class FleetView(RelayView, Senders, Directory, Protocol):
    """What a transceiver must know of the fleet."""


class Transceiver:
    """The service behind signaling: opens, serves and ends sessions."""

    def __init__(
        self,
        datagrams: Datagrams,
        *,
        slot: Slot,
        cluster: int,
        sealer: TokenSealer,
        directory: FleetView,
        backend: Backend,
        certificate: DtlsCertificate,
        config: TransceiverConfig,
        audio: AudioConfig | None = None,
        environment: Environment,
        offload: MediaOffload | None = None,
        fleet: Fleet | None = None,
        observe_setup: Callable[[float], None] = lambda seconds: None,
        observe_quality: Callable[[CallQuality], None] = lambda quality: None,
    ) -> None:
        """With a ``fleet``, sessions outlive this process."""
        audio = audio or AudioConfig()
        self.slot = slot
        self.draining = False
        self.admission = Admission(
            max_sessions=config.max_sessions,
            max_load=config.max_load,
            max_lag_seconds=config.max_lag_seconds,
        )
        self.roster = Roster()
        self.totals = Totals(self.roster)
        self._config = config
        self._environment = environment
        self._pacer = Pacer(environment.clock, hold=datagrams.hold, flush=datagrams.flush)
        surroundings = Surroundings(
            backend=backend,
            pacer=self._pacer,
            send=datagrams.send_framed,
            clock=environment.clock,
            audio=audio,
            limits=session_limits(config),
            offload=offload,
            observe_setup=observe_setup,
            observe_quality=observe_quality,
        )
        peers = PeerMaker(
            certificate, config=config, environment=environment, kept=fleet is not None
        )
        self._maker = SessionMaker(peers, surroundings, environment)
        self._answers = Answers(directory, certificate, cluster=cluster, config=config, audio=audio)
        self._credentials = CredentialMaker(
            sealer,
            slot=slot,
            cluster=cluster,
            environment=environment,
            session_seconds=config.max_session_seconds,
        )
        self.lease = None if fleet is None else fleet.lease
        self.mobility = None if fleet is None else self._make_mobility(fleet, directory)
        self._dispatcher = Dispatcher(
            datagrams,
            self.roster,
            directory,
            strays=self.mobility,
            offload=offload,
            clock=environment.clock,
            drops=self.totals.dropped,
        )
        self._arrivals = Arrivals()

    def _make_mobility(self, fleet: Fleet, directory: Directory) -> Mobility:
        return Mobility(
            fleet,
            self,
            directory,
            slot=self.slot,
            pacer=self._pacer,
            clocks=Clocks(self._environment.clock, self._environment.unix),
            consent_seconds=self._config.consent_timeout_seconds,
        )

    @property
    def sessions(self) -> int:
        """Sessions that are open now."""
        return len(self.roster)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every session has said goodbye."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._dispatcher.run)
            nursery.start_soon(self._pacer.run)
            if self.mobility is not None:
                await nursery.start(self.mobility.run)
            task_status.started()
            try:
                await self._arrivals.run(nursery, self._serve)
            finally:
                self.draining = True  # nobody would serve a session opened from now on

    # What signaling asks for.

    async def open_call(
        self,
        offer: bytes,
        *,
        session: bytes | None = None,
        place: Place | None = None,
        opener: Opener = Opener(),  # noqa: B008
    ) -> OpenedCall:
        """Answer an SDP offer and open its session; ``place`` is where the client is, if known.

        ``session`` is the session configuration for the backend, a JSON object. Raises
        RemoteProtocolError for an offer that can not be served and Overloaded when there is no
        room or no relay.
        """
        await trio.lowlevel.checkpoint()
        self._admit(opener)
        relays = self._answers.relays()
        negotiated = self._answers.negotiate(offer)
        credentials = self._credentials.make()
        call_id = make_call_id(self.slot, self._environment.entropy)
        opened = self._maker.make(call_id, negotiated, credentials, opener, session)
        answered = self._answers.answer(opened, negotiated, credentials, relays, place)
        self._arrivals.add_nowait(opened)
        self.roster.enter(opened)
        if self.mobility is not None:
            self.mobility.custody.watch(opened)
        self.totals.opened += 1
        return answered

    def hang_up(self, call_id: str) -> bool:
        """End a session by its public id; False when there is none."""
        session = self.roster.by_call.get(call_id)
        if session is None:
            return False
        session.end(EndReason.HANGUP)
        return True

    def opener_of(self, call_id: str) -> Opener | None:
        """Whose session this is; None when there is none, or it may be another's."""
        session = self.roster.by_call.get(call_id)
        if session is None or session.reason is not None or session.voice is Voice.NONE:
            return None
        return session.opener

    @contextmanager
    def join(self, call_id: str, holder: Holder) -> Iterator[Callable[[bytes], None]]:
        """Hold a session's events for as long as the block; yields what takes the client's.

        Raises LookupError when there is no such session, TooManyHolders when too many hold it.
        """
        session = self.roster.by_call[call_id]
        with session.events.joined(holder):
            yield session.receive_event

    def ice_generation(self, call_id: str) -> tuple[int, str]:
        """How often a session's ICE has restarted, and the client's ufrag. Raises LookupError."""
        ice = self.roster.by_call[call_id].peer.ice
        return ice.restarts, ice.remote_ufrag

    def restart_ice(self, call_id: str, remote: IceCredentials, place: Place | None) -> IceRestart:
        """Take the client's new credentials and make ours; the former live on for a moment.

        Raises LookupError when there is no such session, Overloaded when there is no relay.
        """
        session = self.roster.by_call[call_id]
        relays = self._answers.relays()
        local = self._credentials.make()
        ice = session.peer.ice
        ice.restart(local, remote)
        self.roster.readdress(session, set(ice.ufrags))
        session.note_change(at_once=True)  # the client uses them from now on
        return self._answers.answer_restart(session, local, relays, place)

    async def drain(self) -> None:
        """Take no new sessions, hand the running ones over, and end those that nobody takes.

        For those for which time runs out our end is as good as a crash: an heir finds them.
        """
        self.draining = True
        running = self.roster.by_call
        if self.mobility is not None:
            with trio.move_on_after(self._config.drain_seconds):
                await self.mobility.hand_over(lambda: tuple(running.values()))
        for session in tuple(running.values()):
            moved = self.mobility is not None and self.mobility.outlives(session)
            session.end(EndReason.MOVED if moved else EndReason.SHUTDOWN)
        with trio.move_on_after(GOODBYE_SECONDS):
            while running:
                await trio.sleep(0.01)
            if self.mobility is not None:
                await self.mobility.settle()

    def custody_counts(self) -> CustodyCounts:
        """What became of sessions that move, and of their checkpoints."""
        return CustodyCounts() if self.mobility is None else self.mobility.custody.counts()

    # Sessions that move; see ``mobility.Host``.

    async def revive(self, checkpoint: Checkpoint, claim: Claim) -> None:
        """Restore a session of which we are the heir, and serve it."""
        assert self.mobility is not None
        session = self._maker.remake(checkpoint, claim)
        self.roster.enter(session)
        now = self._environment.clock()
        for path in session.relays:
            self.roster.paths.claim(path, session, now=now)
        try:
            self.mobility.custody.adopt(session, claim)
        except BaseException:  # nobody would serve it
            self.mobility.custody.leave(session)
            self.roster.leave(session)
            raise
        log.info("session taken over", session=claim.session, epoch=claim.epoch)
        await self._arrivals.add(session)

    def withdraw(self, session: Session) -> None:
        """Take no more datagrams for a session that leaves: they are stray from now on."""
        self.roster.withdraw(session)

    def give(self, session: Session, record: TransceiverRecord, *, epoch: int) -> None:
        """Tell a session's heir, for whom it was claimed, and its relays that it is his."""
        self._dispatcher.give(session, record, epoch=epoch)

    def pass_on(self, datagram: bytes, record: TransceiverRecord) -> None:
        """Send an internal datagram to another transceiver, as it came."""
        self._dispatcher.pass_on(datagram, record)

    # A session's life.

    def _admit(self, opener: Opener) -> None:
        if self.roster.per_key[opener.key_id] >= self._config.max_sessions_per_key:
            raise TooManySessions(2.0, "this key has as many calls as it may have")
        self.admission.check(len(self.roster), draining=self.draining)

    async def _serve(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self.roster.leave(session)
        if self.mobility is not None:
            self.mobility.custody.leave(session)
        log_end(session, self._environment)
        self._dispatcher.release(session)
        self.totals.end(session)
