"""The transceiver: every session of a process on one shared UDP socket.

Datagrams come from relays in Simple Proxy Protocol framing. A STUN request finds its session by
the token in its username, so that a new call from an address used before reaches the new session;
everything else finds it by the path, which counts only once a check on it was valid. Sessions
arrive through a bounded channel and live in the nursery of ``run``; what is not ``async`` here is
called on the packet's way and never waits.
"""

from __future__ import annotations

from base64 import b32encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final, Protocol

import structlog
import trio

from edge.address import Address, mask_address
from edge.backends.protocol import (
    AudioFormat,
    Backend,
    Call,
    CallQuality,
)
from edge.config import AudioConfig, TransceiverConfig
from edge.datagram import Datagrams
from edge.errors import Drop, EndReason, RemoteProtocolError
from edge.geo import Place, candidates, pick
from edge.registry.protocol import RelayRecord, Slot, TransceiverRecord
from edge.registry.sessions import Claim, Lead, path_lead, token_lead
from edge.token import TokenSealer
from edge.transceiver.admission import Admission, Opener, Overloaded, TooManySessions
from edge.transceiver.call_ids import make_call_id
from edge.transceiver.checkpoint import Checkpoint
from edge.transceiver.client_channels import ChannelCounts
from edge.transceiver.custody import CustodyCounts
from edge.transceiver.events import Holder
from edge.transceiver.keeper import Clocks
from edge.transceiver.losses import Losses, LossTally
from edge.transceiver.maker import Environment, SessionMaker
from edge.transceiver.mobility import Directory, Fleet, Mobility
from edge.transceiver.paths import PathTable
from edge.transceiver.playout import Pacer
from edge.transceiver.session import Session
from edge.transceiver.voice import SILENT_ENDS, Voice
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.ice import IceCredentials
from edge.webrtc.nack import Repair
from edge.webrtc.offload import MediaOffload
from edge.wire.sdp import decode_offer, encode_answer, negotiate
from edge.wire.sdp_fragment import encode_fragment
from edge.wire.spp import Path, decode_path, encode_give, split
from edge.wire.stun import MessageClass, peek, peek_username

ARRIVALS: Final = 64
"""Sessions that may wait for the nursery to start them."""
TOKEN_MARGIN: Final = 60
"""Seconds by which a token outlives the longest session: clocks of relays differ."""
GOODBYE_SECONDS: Final = 1.0
"""How long sessions that nobody takes over have for their goodbyes."""

log = structlog.get_logger()


class FleetView(Directory, Protocol):
    """What a transceiver must know of the fleet."""

    @property
    def relays(self) -> Sequence[RelayRecord]:
        """The living relays of all clusters."""

    def is_relay(self, address: Address) -> bool:
        """Whether this internal address is a relay's of our cluster, whose datagrams we take."""

    def is_transceiver(self, address: Address) -> bool:
        """Whether this is a transceiver's of our cluster, which passes datagrams on."""

    def relay_serving(self, proxy: Address) -> Address | None:
        """Find the internal address of our cluster's relay with this proxy address."""


@dataclass(frozen=True, slots=True)
class OpenedCall:
    """A session that waits for its client: its public id and the SDP answer."""

    call_id: str
    answer: str


@dataclass(frozen=True, slots=True)
class IceRestart:
    """What the client is told of a restart: an SDP fragment, and how many there were."""

    fragment: str = field(repr=False)
    generation: int


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
        self.drops: Counter[Drop] = Counter()
        self.ended: Counter[EndReason] = Counter()
        self.opened = 0
        self.draining = False
        self.admission = Admission(
            max_sessions=config.max_sessions,
            max_load=config.max_load,
            max_lag_seconds=config.max_lag_seconds,
        )
        self._datagrams = datagrams
        self.slot = slot
        self._cluster = cluster
        self._sealer = sealer
        self._directory = directory
        self._backend = backend
        self._certificate = certificate
        self._config = config
        self._audio = audio or AudioConfig()
        self._environment = environment
        self._offload = offload
        self._pacer = Pacer(environment.clock, hold=datagrams.hold, flush=datagrams.flush)
        self._maker = SessionMaker(
            backend=backend,
            certificate=certificate,
            config=config,
            audio=self._audio,
            environment=environment,
            pacer=self._pacer,
            send=datagrams.send_framed,
            offload=offload,
            kept=fleet is not None,
            observe_setup=observe_setup,
            observe_quality=observe_quality,
        )
        self.lease = None if fleet is None else fleet.lease
        self.mobility = None
        if fleet is not None:
            clocks = Clocks(environment.clock, environment.unix)
            self.mobility = Mobility(
                fleet,
                self,
                directory,
                slot=slot,
                pacer=self._pacer,
                clocks=clocks,
                consent_seconds=config.consent_timeout_seconds,
            )
        self._losses = LossTally()
        self._repairs: Counter[Repair] = Counter()
        self._channel_counts = ChannelCounts()
        self._by_token: dict[str, Session] = {}
        self._paths = PathTable()
        self._by_call: dict[str, Session] = {}
        self._per_key: Counter[str] = Counter()
        self._arrive, self._arrivals = trio.open_memory_channel[Session](ARRIVALS)
        self._nonce = int.from_bytes(environment.entropy(4), "big")

    @property
    def sessions(self) -> int:
        """Sessions that are open now."""
        return len(self._by_call)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every session has said goodbye."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_datagrams)
            nursery.start_soon(self._pacer.run)
            if self.mobility is not None:
                await nursery.start(self.mobility.run)
            task_status.started()
            await self._start_sessions(nursery)

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
        relays = self._admit(opener)
        negotiated = negotiate(
            decode_offer(offer),
            red=self._audio.red,
            nack=self._audio.nack,
            snap=self._config.snap,
            sped=self._config.sped,
        )
        credentials = self._make_credentials()
        token = credentials.ufrag
        codec = AudioFormat(negotiated.audio.name, negotiated.audio.clock_rate)
        call_id = make_call_id(self.slot, self._environment.entropy)
        call = Call(call_id, self._backend.wants(codec), session)
        opened, ssrc = self._maker.make(call, codec, negotiated, credentials, opener)
        best = candidates(pick(relays, place, cluster=self._cluster, session=call.session))
        answer = encode_answer(
            negotiated,
            ufrag=credentials.ufrag,
            password=credentials.password,
            fingerprint=self._certificate.fingerprint,
            candidates=best.udp,
            tcp=best.tcp,
            ssrc=ssrc,
            cname=call.session,
            session_id=ssrc,
            sctp_init=opened.peer.local_sctp_init,
        )
        try:
            self._arrive.send_nowait(opened)
        except trio.WouldBlock:
            raise Overloaded(1.0) from None
        opened.tokens.add(token)
        self._enter(opened)
        if self.mobility is not None:
            self.mobility.custody.watch(opened)
        self.opened += 1
        return OpenedCall(call.session, answer)

    def hang_up(self, call_id: str) -> bool:
        """End a session by its public id; False when there is none."""
        session = self._by_call.get(call_id)
        if session is None:
            return False
        session.end(EndReason.HANGUP)
        return True

    def opener_of(self, call_id: str) -> Opener | None:
        """Whose session this is; None when there is none, or it may be another's."""
        session = self._by_call.get(call_id)
        if session is None or session.reason is not None or session.voice is Voice.NONE:
            return None
        return session.opener

    @contextmanager
    def join(self, call_id: str, holder: Holder) -> Iterator[Callable[[bytes], None]]:
        """Hold a session's events for as long as the block; yields what takes the client's.

        Raises LookupError when there is no such session, TooManyHolders when too many hold it.
        """
        session = self._by_call[call_id]
        with session.events.joined(holder):
            yield session.receive_event

    def ice_generation(self, call_id: str) -> tuple[int, str]:
        """How often a session's ICE has restarted, and the client's ufrag. Raises LookupError."""
        ice = self._by_call[call_id].peer.ice
        return ice.restarts, ice.remote_ufrag

    def restart_ice(self, call_id: str, remote: IceCredentials, place: Place | None) -> IceRestart:
        """Take the client's new credentials and make ours; the former live on for a moment.

        Raises LookupError when there is no such session, Overloaded when there is no relay.
        """
        session = self._by_call[call_id]
        relays = self._relays()
        local = self._make_credentials()
        ice = session.peer.ice
        ice.restart(local, remote)
        for token in session.tokens.difference(ice.ufrags):
            del self._by_token[token]
        session.tokens = set(ice.ufrags)
        self._by_token[local.ufrag] = session
        session.note_change()
        best = candidates(pick(relays, place, cluster=self._cluster, session=call_id))
        fragment = encode_fragment(
            local.ufrag,
            local.password,
            mid=session.mid,
            candidates=best.udp,
            tcp=best.tcp,
        )
        return IceRestart(fragment, ice.restarts)

    async def drain(self) -> None:
        """Take no new sessions, hand the running ones over, and end those that nobody takes."""
        self.draining = True
        if self.mobility is not None:
            with trio.move_on_after(self._config.drain_seconds):
                await self.mobility.hand_over(lambda: tuple(self._by_call.values()))
        for session in tuple(self._by_call.values()):
            gone = session.voice is Voice.NONE  # its heir may have it any moment
            session.end(EndReason.MOVED if gone else EndReason.SHUTDOWN)
        with trio.move_on_after(GOODBYE_SECONDS):
            while self._by_call:
                await trio.sleep(0.01)

    # Sessions that come and go; see ``mobility.Host``.

    async def revive(self, checkpoint: Checkpoint, claim: Claim) -> None:
        """Restore a session of which we are the heir, and serve it."""
        assert self.mobility is not None
        session = self._maker.remake(checkpoint, claim)
        self._enter(session)
        now = self._environment.clock()
        for path in session.relays:
            self._paths.claim(path, session, now=now)
        self.mobility.custody.adopt(session, claim)
        log.info("session taken over", session=claim.session, epoch=claim.epoch)
        await self._arrive.send(session)

    def withdraw(self, session: Session) -> None:
        """Take no more datagrams for a session that leaves: they are stray from now on."""
        for token in session.tokens:
            self._by_token.pop(token, None)
        for path, relay in tuple(session.relays.items()):
            self._paths.release(path, session)
            session.relays[path] = relay

    def give(self, session: Session, record: TransceiverRecord) -> None:
        """Tell the relays of a session, and its heir, that it is his."""
        for path, relay in session.relays.items():
            self._datagrams.send_framed(path, encode_give(record.slot), relay)
            self._datagrams.send_framed(path, b"", record.address)

    def pass_on(self, datagram: bytes, transceiver: Address) -> None:
        """Send an internal datagram to another transceiver, as it came."""
        path, payload = split(datagram)
        self._datagrams.send_framed(path, payload, transceiver)

    def all_drops(self) -> Counter[Drop]:
        """What the service and its sessions, ended ones included, discarded so far."""
        return sum((s.drops() for s in self._by_call.values()), self.drops.copy())

    def losses(self) -> Losses:
        """What clients said and was not heard, ended sessions included."""
        return self._losses.read(session.quality() for session in self._by_call.values())

    def repairs(self) -> Counter[Repair]:
        """What was asked for again and sent again, ended sessions included."""
        running = (session.peer.media.repairs for session in self._by_call.values())
        return sum(running, self._repairs.copy())

    def channel_counts(self) -> ChannelCounts:
        """What went over clients' data channels, ended sessions included."""
        counts = ChannelCounts()
        counts.add(self._channel_counts)
        for session in self._by_call.values():
            counts.add(session.channel_counts)
        return counts

    def custody_counts(self) -> CustodyCounts:
        """What became of sessions that move, and of their checkpoints."""
        return CustodyCounts() if self.mobility is None else self.mobility.custody.counts()

    def longest_delay(self) -> tuple[float, float]:
        """Of the session whose jitter buffer holds back the most: that, and its target."""
        return max((each.delays() for each in self._by_call.values()), default=(0.0, 0.0))

    def _admit(self, opener: Opener) -> Sequence[RelayRecord]:
        if self._per_key[opener.key_id] >= self._config.max_sessions_per_key:
            raise TooManySessions(2.0, "this key has as many calls as it may have")
        self.admission.check(len(self._by_call), draining=self.draining)
        return self._relays()

    def _relays(self) -> Sequence[RelayRecord]:
        relays = self._directory.relays
        # What comes by way of other clusters' relays needs one of ours as well.
        if not any(relay.cluster == self._cluster for relay in relays):
            self._directory.hint_stale()
            raise Overloaded(1.0, "no relay is up")
        return relays

    def _make_credentials(self) -> IceCredentials:
        password = b32encode(self._environment.entropy(20)).decode()
        return IceCredentials(self._seal_token(), password)

    def _seal_token(self) -> str:
        self._nonce = (self._nonce + 1) & 0xFFFF_FFFF
        expiry = int(self._environment.unix() + self._config.max_session_seconds) + TOKEN_MARGIN
        return self._sealer.seal(self.slot, self._cluster, expiry, self._nonce)

    async def _start_sessions(self, nursery: trio.Nursery) -> None:
        try:
            async for session in self._arrivals:
                nursery.start_soon(self._serve, session)
        finally:
            # Nobody would serve a session opened from now on. Those that came just before run
            # as well: they are cancelled at once, and say goodbye.
            self.draining = True
            while self._arrivals.statistics().current_buffer_used:
                nursery.start_soon(self._serve, self._arrivals.receive_nowait())

    async def _receive_datagrams(self) -> None:
        while True:
            batch = await self._datagrams.receive_batch()
            now = self._environment.clock()
            self._datagrams.hold()
            if self._offload is not None:
                for hear, payload, index, timestamp in self._offload.heard:
                    hear(payload, index, timestamp, now)
            for datagram, source in batch:
                self._dispatch_safely(datagram, source, now)
            self._datagrams.flush()

    def _dispatch_safely(
        self, datagram: bytes, sender: Address, now: float, *, again: bool = False
    ) -> None:
        try:
            self._dispatch(datagram, sender, now, again=again)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
        except Exception:
            self.drops[Drop.BUG] += 1
            log.exception("bug in the datagram dispatch")

    def _dispatch(
        self, datagram: bytes, sender: Address, now: float, *, again: bool = False
    ) -> None:
        """Hand a datagram to its session; ``again``: it has waited for that one to be found."""
        path, payload = split(datagram)
        if self._directory.is_relay(sender):
            relay = sender
        elif self.mobility is not None and self._directory.is_transceiver(sender):
            relay = self._relay_behind(path)
        else:
            self._directory.hint_stale()
            raise RemoteProtocolError("not from a relay", Drop.UNKNOWN_RELAY)
        if b"" < payload[:1] < b"\x04" and peek(payload)[0] is MessageClass.REQUEST:  # RFC 7983
            token = peek_username(payload).partition(":")[0]
            session = self._by_token.get(token)
            if session is not None:
                self._dispatch_request(payload, session, path, relay, now)
            else:
                self._stray(token_lead(token), Drop.UNKNOWN_SESSION, datagram, sender, now, again)
            return
        session = self._paths.owner(path)
        if session is None or (session.voice is Voice.CHECKS and not again):  # soon it may answer
            self._stray(path_lead(path), Drop.UNKNOWN_PATH, datagram, sender, now, again)
            return
        if not payload:  # its former owner tells that it is ours
            return
        session.receive(payload, path, relay, now=now)
        challenger = self._paths.challenger(path)
        if challenger is not None:
            challenger.receive(payload, path, relay, now=now)
        else:
            session.lend(path)

    def _relay_behind(self, path: Path) -> Address:
        """Find the relay of a datagram that another transceiver passes on."""
        session = self._paths.owner(path)
        known = None if session is None else session.relays.get(path)
        relay = known or self._directory.relay_serving(decode_path(path)[1])
        if relay is None:
            raise RemoteProtocolError("passed on from no relay of ours", Drop.UNKNOWN_RELAY)
        return relay

    def _stray(
        self, lead: Lead, drop: Drop, datagram: bytes, sender: Address, now: float, again: bool
    ) -> None:
        """Take a datagram whose session is not here; it may have been, or shall be."""
        if self.mobility is None:
            raise RemoteProtocolError("no session for this", drop)
        own = self._directory.is_relay(sender)
        retry = partial(self._retry, datagram, sender)
        dropped = self.mobility.take_stray(
            lead, datagram, None if again else retry, own=own, now=now
        )
        if dropped is not None:
            raise RemoteProtocolError("no session for this", drop if again else dropped)

    def _retry(self, datagram: bytes, sender: Address, now: float) -> None:
        self._dispatch_safely(datagram, sender, now, again=True)

    def _dispatch_request(
        self, payload: bytes, session: Session, path: Path, relay: Address, now: float
    ) -> None:
        session.receive(payload, path, relay, now=now)
        if path in session.relays:
            owner = self._paths.owner(path)
            if owner is not None:
                owner.peer.recall()  # it may have to share the path now
            for old, former in self._paths.claim(path, session, now=now):
                self._give_back(old, former)
            if owner is session and self._paths.challenger(path) is None:
                session.lend(path)

    def _give_back(self, path: Path, relay: Address) -> None:
        """A header with nothing behind it gives the flow back to the relay."""
        self._datagrams.send_framed(path, b"", relay)

    def _enter(self, session: Session) -> None:
        for token in session.tokens:
            self._by_token[token] = session
        self._by_call[session.call.session] = session
        self._per_key[session.opener.key_id] += 1

    async def _serve(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        for token in session.tokens:
            if self._by_token.get(token) is session:
                del self._by_token[token]
        self._leave(session)
        if self.mobility is not None:
            self.mobility.custody.leave(session)
        clients = {mask_address(decode_path(path)[0]) for path in session.relays}
        for path, relay in tuple(session.relays.items()):
            if self._paths.release(path, session) and session.reason not in SILENT_ENDS:
                self._give_back(path, relay)
        self.drops.update(session.drops())
        self._losses.end(session.quality())
        self._repairs.update(session.peer.media.repairs)
        self._channel_counts.add(session.channel_counts)
        reason = session.reason or EndReason.INTERNAL_ERROR
        self.ended[reason] += 1
        times = session.times
        opened_at = self._environment.unix() - self._environment.clock() + times.opened
        log.info(
            "session ended",
            session=session.call.session,
            key=session.opener.key_id,
            secret=session.opener.secret_id or None,
            opened=round(opened_at, 3),
            offered_by=session.opener.address or None,
            reason=reason.value,
            seconds=round(self._environment.clock() - times.opened, 3),
            setup_ms=_milliseconds(times.connected - times.opened),
            client=" ".join(sorted(clients)),
        )

    def _leave(self, session: Session) -> None:
        """Take a session out of the count of its key, once."""
        if self._by_call.get(session.call.session) is not session:
            return
        del self._by_call[session.call.session]
        key = session.opener.key_id
        self._per_key[key] -= 1
        if not self._per_key[key]:
            del self._per_key[key]


def _milliseconds(seconds: float) -> float | None:
    return None if seconds == inf else round(seconds * 1000, 1)
