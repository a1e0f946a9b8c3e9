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
from edge.registry.protocol import RelayRecord, Slot
from edge.token import TokenSealer
from edge.transceiver.admission import Admission, Opener, Overloaded, TooManySessions
from edge.transceiver.call_ids import make_call_id
from edge.transceiver.client_channels import ChannelCounts
from edge.transceiver.events import Holder
from edge.transceiver.losses import Losses, LossTally
from edge.transceiver.maker import Environment, SessionMaker
from edge.transceiver.paths import PathTable
from edge.transceiver.playout import Pacer
from edge.transceiver.session import Session
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.ice import IceCredentials
from edge.webrtc.nack import Repair
from edge.webrtc.offload import MediaOffload
from edge.wire.sdp import decode_offer, encode_answer, negotiate
from edge.wire.sdp_fragment import encode_fragment
from edge.wire.spp import Path, decode_path, split
from edge.wire.stun import MessageClass, peek, peek_username

ARRIVALS: Final = 64
"""Sessions that may wait for the nursery to start them."""
TOKEN_MARGIN: Final = 60
"""Seconds by which a token outlives the longest session: clocks of relays differ."""

log = structlog.get_logger()


class RelayDirectory(Protocol):
    """What a transceiver must know of the fleet."""

    @property
    def relays(self) -> Sequence[RelayRecord]:
        """The living relays of all clusters."""

    def is_relay(self, address: Address) -> bool:
        """Whether this internal address is a relay's of our cluster, whose datagrams we take."""

    def hint_stale(self) -> None:
        """Ask for an early refresh."""


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
        directory: RelayDirectory,
        backend: Backend,
        certificate: DtlsCertificate,
        config: TransceiverConfig,
        audio: AudioConfig | None = None,
        environment: Environment,
        offload: MediaOffload | None = None,
        observe_setup: Callable[[float], None] = lambda seconds: None,
        observe_quality: Callable[[CallQuality], None] = lambda quality: None,
    ) -> None:
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
            observe_setup=observe_setup,
            observe_quality=observe_quality,
        )
        self._losses = LossTally()
        self._repairs: Counter[Repair] = Counter()
        self._channel_counts = ChannelCounts()
        self._by_token: dict[str, Session] = {}
        self._paths = PathTable()
        self._by_call: dict[str, Session] = {}
        self._per_key: Counter[str] = Counter()
        self._arrive, self._arrivals = trio.open_memory_channel[tuple[str, Session]](ARRIVALS)
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
            self._arrive.send_nowait((token, opened))
        except trio.WouldBlock:
            raise Overloaded(1.0) from None
        self._by_token[token] = opened
        opened.tokens.add(token)
        self._by_call[call.session] = opened
        self._per_key[opener.key_id] += 1
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
        """Whose session this is; None when there is none."""
        session = self._by_call.get(call_id)
        return None if session is None or session.reason is not None else session.opener

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
        """Take no new sessions, end the running ones, and wait until each has said goodbye."""
        self.draining = True
        for session in tuple(self._by_call.values()):
            session.end(EndReason.SHUTDOWN)
        with trio.move_on_after(self._config.drain_seconds):
            while self._by_call:
                await trio.sleep(0.01)

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
            async for token, session in self._arrivals:
                nursery.start_soon(self._serve, token, session)
        finally:
            # Nobody would serve a session opened from now on. Those that came just before run
            # as well: they are cancelled at once, and say goodbye.
            self.draining = True
            while self._arrivals.statistics().current_buffer_used:
                nursery.start_soon(self._serve, *self._arrivals.receive_nowait())

    async def _receive_datagrams(self) -> None:
        while True:
            batch = await self._datagrams.receive_batch()
            now = self._environment.clock()
            self._datagrams.hold()
            if self._offload is not None:
                for hear, payload, index, timestamp in self._offload.heard:
                    hear(payload, index, timestamp, now)
            for datagram, source in batch:
                try:
                    self._dispatch(datagram, source, now)
                except RemoteProtocolError as error:
                    self.drops[error.drop] += 1
                except Exception:
                    self.drops[Drop.BUG] += 1
                    log.exception("bug in the datagram dispatch")
            self._datagrams.flush()

    def _dispatch(self, datagram: bytes, relay: Address, now: float) -> None:
        if not self._directory.is_relay(relay):
            self._directory.hint_stale()
            raise RemoteProtocolError("not from a relay", Drop.UNKNOWN_RELAY)
        path, payload = split(datagram)
        if b"" < payload[:1] < b"\x04" and peek(payload)[0] is MessageClass.REQUEST:  # RFC 7983
            self._dispatch_request(payload, path, relay, now)
            return
        session = self._paths.owner(path)
        if session is None:
            raise RemoteProtocolError("no check on this path yet", Drop.UNKNOWN_PATH)
        session.receive(payload, path, relay, now=now)
        challenger = self._paths.challenger(path)
        if challenger is not None:
            challenger.receive(payload, path, relay, now=now)
        else:
            session.lend(path)

    def _dispatch_request(self, payload: bytes, path: Path, relay: Address, now: float) -> None:
        token = peek_username(payload).partition(":")[0]
        session = self._by_token.get(token)
        if session is None:
            raise RemoteProtocolError("no session for this token", Drop.UNKNOWN_SESSION)
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

    async def _serve(self, token: str, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._forget(token, session)

    def _forget(self, token: str, session: Session) -> None:
        for each in (token, *session.tokens):
            self._by_token.pop(each, None)
        self._leave(session)
        clients = {mask_address(decode_path(path)[0]) for path in session.relays}
        for path, relay in tuple(session.relays.items()):
            if self._paths.release(path, session):
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
        if self._by_call.pop(session.call.session, None) is None:
            return
        key = session.opener.key_id
        self._per_key[key] -= 1
        if not self._per_key[key]:
            del self._per_key[key]


def _milliseconds(seconds: float) -> float | None:
    return None if seconds == inf else round(seconds * 1000, 1)
