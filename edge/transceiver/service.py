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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

import structlog
import trio

from edge.address import Address, mask_address
from edge.backends.protocol import AudioFormat, Backend, Call
from edge.config import AudioConfig, TransceiverConfig
from edge.datagram import Datagrams
from edge.errors import Drop, EndReason, RemoteProtocolError
from edge.geo import Place, pick
from edge.registry.protocol import RelayRecord, Slot
from edge.token import TokenSealer
from edge.transceiver.admission import Overloaded
from edge.transceiver.paths import PathTable
from edge.transceiver.playout import Pacer
from edge.transceiver.session import Session, SessionLimits
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.dtls import Dtls
from edge.webrtc.ice import IceCredentials, IceLite
from edge.webrtc.media import Media
from edge.webrtc.peer import Peer
from edge.webrtc.streams import SendStream
from edge.wire.sdp import Negotiated, decode_offer, encode_answer, negotiate
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
class Environment:
    """Time and randomness, injected: a monotonic and a Unix clock in seconds, random bytes."""

    clock: Callable[[], float]
    unix: Callable[[], float]
    entropy: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class OpenedCall:
    """A session that waits for its client: its public id and the SDP answer."""

    call_id: str
    answer: str


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
        observe_setup: Callable[[float], None] = lambda seconds: None,
        observe_round_trip: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.drops: Counter[Drop] = Counter()
        self.ended: Counter[EndReason] = Counter()
        self.opened = 0
        self.draining = False
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
        self._observe_setup = observe_setup
        self._observe_round_trip = observe_round_trip
        self._pacer = Pacer(environment.clock)
        self._by_token: dict[str, Session] = {}
        self._paths = PathTable()
        self._by_call: dict[str, Session] = {}
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
        self, offer: bytes, *, session: bytes | None = None, place: Place | None = None
    ) -> OpenedCall:
        """Answer an SDP offer and open its session; ``place`` is where the client is, if known.

        Raises RemoteProtocolError for an offer that can not be served and Overloaded when there
        is no room or no relay. ``session`` (the OpenAI dialect's configuration) is not used yet.
        """
        await trio.lowlevel.checkpoint()
        relays = self._admit()
        negotiated = negotiate(decode_offer(offer), red=self._audio.red)
        token = self._seal_token()
        credentials = IceCredentials(token, b32encode(self._environment.entropy(20)).decode())
        codec = AudioFormat(negotiated.audio.name, negotiated.audio.clock_rate)
        call = Call("rtc_" + self._environment.entropy(16).hex(), self._backend.wants(codec))
        opened, ssrc = self._make_session(call, codec, negotiated, credentials)
        best = pick(relays, place, cluster=self._cluster, session=call.session)
        answer = encode_answer(
            negotiated,
            ufrag=credentials.ufrag,
            password=credentials.password,
            fingerprint=self._certificate.fingerprint,
            candidates=[relay.public for relay in best],
            ssrc=ssrc,
            cname=call.session,
            session_id=ssrc,
        )
        try:
            self._arrive.send_nowait((token, opened))
        except trio.WouldBlock:
            raise Overloaded(1.0) from None
        self._by_token[token] = opened
        self._by_call[call.session] = opened
        self.opened += 1
        return OpenedCall(call.session, answer)

    def hang_up(self, call_id: str) -> bool:
        """End a session by its public id; False when there is none."""
        session = self._by_call.get(call_id)
        if session is None:
            return False
        session.end(EndReason.HANGUP)
        return True

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

    def _admit(self) -> Sequence[RelayRecord]:
        if self.draining:
            raise Overloaded(2.0, "this server is about to stop")
        if len(self._by_call) >= self._config.max_sessions:
            raise Overloaded(2.0)
        relays = self._directory.relays
        # What comes by way of other clusters' relays needs one of ours as well.
        if not any(relay.cluster == self._cluster for relay in relays):
            self._directory.hint_stale()
            raise Overloaded(1.0, "no relay is up")
        return relays

    def _seal_token(self) -> str:
        self._nonce = (self._nonce + 1) & 0xFFFF_FFFF
        expiry = int(self._environment.unix() + self._config.max_session_seconds) + TOKEN_MARGIN
        return self._sealer.seal(self.slot, self._cluster, expiry, self._nonce)

    def _make_session(
        self, call: Call, codec: AudioFormat, negotiated: Negotiated, credentials: IceCredentials
    ) -> tuple[Session, int]:
        now = self._environment.clock()
        entropy = self._environment.entropy
        ssrc = int.from_bytes(entropy(4), "big") or 1
        ice = IceLite(
            credentials,
            IceCredentials(negotiated.remote_ice.ufrag, negotiated.remote_ice.password),
            tie_breaker=int.from_bytes(entropy(8), "big"),
            entropy=entropy,
            now=now,
            consent_timeout=self._config.consent_timeout_seconds,
        )
        mid_extension = (
            None if negotiated.mid_extension is None else (negotiated.mid_extension, negotiated.mid)
        )
        stream = SendStream(
            ssrc,
            negotiated.audio.payload_type,
            negotiated.audio.clock_rate,
            # Half of the number space is left before the first roll-over (RFC 3711, 3.3.1).
            first_index=int.from_bytes(entropy(2), "big") >> 1,
            first_timestamp=int.from_bytes(entropy(4), "big"),
            mid_extension=mid_extension,
        )
        peer = Peer(
            ice=ice,
            dtls=Dtls(
                self._certificate, role=negotiated.dtls_role, fingerprints=negotiated.fingerprints
            ),
            media=Media(
                stream,
                cname=call.session,
                ntp_offset=self._environment.unix() - now,
                now=now,
                red_payload_type=None if negotiated.red is None else negotiated.red.payload_type,
            ),
        )
        session = Session(
            call,
            peer,
            self._backend,
            self._pacer,
            self._datagrams.send_framed,
            codec=codec,
            audio=self._audio,
            clock=self._environment.clock,
            limits=SessionLimits(
                setup_seconds=self._config.setup_timeout_seconds,
                session_seconds=self._config.max_session_seconds,
                idle_seconds=self._config.max_idle_seconds,
                playout_seconds=self._config.playout_queue_seconds,
            ),
            sends=negotiated.sends,
            observe_setup=self._observe_setup,
            observe_round_trip=self._observe_round_trip,
        )
        return session, ssrc

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

    def _dispatch_request(self, payload: bytes, path: Path, relay: Address, now: float) -> None:
        token = peek_username(payload).partition(":")[0]
        session = self._by_token.get(token)
        if session is None:
            raise RemoteProtocolError("no session for this token", Drop.UNKNOWN_SESSION)
        session.receive(payload, path, relay, now=now)
        if path in session.relays:
            for old, former in self._paths.claim(path, session, now=now):
                self._give_back(old, former)

    def _give_back(self, path: Path, relay: Address) -> None:
        """A header with nothing behind it gives the flow back to the relay."""
        self._datagrams.send_framed(path, b"", relay)

    async def _serve(self, token: str, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._forget(token, session)

    def _forget(self, token: str, session: Session) -> None:
        self._by_token.pop(token, None)
        self._by_call.pop(session.call.session, None)
        clients = {mask_address(decode_path(path)[0]) for path in session.relays}
        for path, relay in tuple(session.relays.items()):
            if self._paths.release(path, session):
                self._give_back(path, relay)
        self.drops.update(session.drops())
        reason = session.reason or EndReason.INTERNAL_ERROR
        self.ended[reason] += 1
        times = session.times
        log.info(
            "session ended",
            session=session.call.session,
            reason=reason.value,
            seconds=round(self._environment.clock() - times.opened, 3),
            setup_ms=_milliseconds(times.connected - times.opened),
            client=" ".join(sorted(clients)),
        )


def _milliseconds(seconds: float) -> float | None:
    return None if seconds == inf else round(seconds * 1000, 1)
