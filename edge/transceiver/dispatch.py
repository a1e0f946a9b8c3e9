"""The way of datagrams: from the one socket that relays send to, to the session each is for.

Datagrams come from relays in Simple Proxy Protocol framing. A STUN request finds its session by
the token in its username, so that a new call from an address used before reaches the new session;
everything else finds it by the path, which counts only once a check on it was valid. What finds
nobody is stray: its session may be another transceiver's, or come here. All of it is called on the
packet's way and never waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol

import structlog

from edge.address import Address
from edge.datagram import Datagrams
from edge.errors import Drop, RemoteProtocolError
from edge.registry.protocol import TransceiverRecord
from edge.registry.sessions import Lead, path_lead, token_lead
from edge.transceiver.roster import Roster
from edge.transceiver.session import Session
from edge.transceiver.voice import SILENT_ENDS, Voice
from edge.transceiver.word import Kind, Word, decode_word, encode_word
from edge.webrtc.offload import MediaOffload
from edge.wire.spp import Path, decode_path, encode_give, split
from edge.wire.stun_peek import MessageClass, peek, peek_username

log = structlog.get_logger()


class Senders(Protocol):
    """Whose datagrams we take."""

    def is_relay(self, address: Address) -> bool:
        """Whether this internal address is a relay's of our cluster."""

    def is_transceiver(self, address: Address) -> bool:
        """Whether this is a transceiver's of our cluster, which passes datagrams on."""

    def relay_serving(self, proxy: Address) -> Address | None:
        """Find the internal address of our cluster's relay with this proxy address."""

    def hint_stale(self) -> None:
        """Ask for an early refresh."""


class Strays(Protocol):
    """Where datagrams go whose session is not here; see ``Mobility``."""

    def take_stray(
        self,
        lead: Lead,
        datagram: bytes,
        retry: Callable[[float], None] | None,
        *,
        own: bool,
        now: float,
    ) -> Drop | None:
        """See ``TakeOver.take``."""

    def take_word(
        self, word: Word, path: Path, answer: Callable[[bytes], None], *, now: float
    ) -> Drop | None:
        """See ``Mobility.take_word``."""


class Dispatcher:
    """Brings datagrams to the sessions of a roster; without ``strays`` there are no others."""

    def __init__(
        self,
        datagrams: Datagrams,
        roster: Roster,
        senders: Senders,
        *,
        strays: Strays | None,
        offload: MediaOffload | None,
        clock: Callable[[], float],
        drops: Counter[Drop],
    ) -> None:
        """``drops`` is where what reaches no session is counted."""
        self._datagrams = datagrams
        self._by_token = roster.by_token
        self._paths = roster.paths
        self._senders = senders
        self._strays = strays
        self._offload = offload
        self._clock = clock
        self._drops = drops

    async def run(self) -> None:
        """Take what comes, until cancelled."""
        while True:
            batch = await self._datagrams.receive_batch()
            now = self._clock()
            self._datagrams.hold()
            if self._offload is not None:
                for hear, payload, index, timestamp in self._offload.heard:
                    hear(payload, index, timestamp, now)
            for datagram, source in batch:
                if datagram:  # an empty one asks only whether we listen: ``edge.probe``
                    self._dispatch_safely(datagram, source, now)
            self._datagrams.flush()

    def release(self, session: Session) -> None:
        """Give back the paths of a session that has ended, unless it goes on elsewhere."""
        for path, relay in tuple(session.relays.items()):
            if self._paths.release(path, session) and session.reason not in SILENT_ENDS:
                self._give_back(path, relay)

    def give(self, session: Session, record: TransceiverRecord, *, epoch: int) -> None:
        """Tell a session's heir, for whom it was claimed, and its relays that it is his."""
        left = encode_word(Word(Kind.LEFT, session.call.session, epoch))
        for path, relay in session.relays.items():
            self._datagrams.send_framed(path, left, record.address)
            if self._paths.owner(path) is None:  # nobody who stays here is served by that flow
                self._datagrams.send_framed(path, encode_give(record.slot), relay)

    def pass_on(self, datagram: bytes, record: TransceiverRecord) -> None:
        """Send an internal datagram to another transceiver, as it came.

        The relay is told whose the path is, unless a session of ours is served there: a check of
        another one may come from a forged address.
        """
        path, payload = split(datagram)
        self._datagrams.send_framed(path, payload, record.address)
        if self._paths.owner(path) is None:
            relay = self._senders.relay_serving(decode_path(path)[1])
            if relay is not None:
                self._datagrams.send_framed(path, encode_give(record.slot), relay)

    def _dispatch_safely(
        self, datagram: bytes, sender: Address, now: float, *, again: bool = False
    ) -> None:
        try:
            self._dispatch(datagram, sender, now, again=again)
        except RemoteProtocolError as error:
            self._drops[error.drop] += 1
        except Exception:
            self._drops[Drop.BUG] += 1
            log.exception("bug in the datagram dispatch")

    def _dispatch(
        self, datagram: bytes, sender: Address, now: float, *, again: bool = False
    ) -> None:
        """Hand a datagram to its session; ``again``: it has waited for that one to be found."""
        path, payload = split(datagram)
        if self._senders.is_relay(sender):
            relay = sender
        else:
            relay = self._relay_behind(sender, path)
            word = decode_word(payload)
            if word is not None:
                self._take_word(word, path, sender, now)
                return
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
        session.receiver.receive(payload, path, relay, now=now)
        challenger = self._paths.challenger(path)
        if challenger is not None:
            challenger.receiver.receive(payload, path, relay, now=now)
        else:
            session.receiver.lend(path)

    def _take_word(self, word: Word, path: Path, sender: Address, now: float) -> None:
        """Take what another transceiver tells of a session."""
        assert self._strays is not None  # who has none knows no transceiver
        answer = partial(self._answer, path, sender)
        drop = self._strays.take_word(word, path, answer, now=now)
        if drop is not None:
            raise RemoteProtocolError("too many sessions are left to us", drop)

    def _answer(self, path: Path, sender: Address, word: bytes) -> None:
        self._datagrams.send_framed(path, word, sender)

    def _dispatch_request(
        self, payload: bytes, session: Session, path: Path, relay: Address, now: float
    ) -> None:
        session.receiver.receive(payload, path, relay, now=now)
        if path in session.relays:
            self._claim(path, session, now)

    def _claim(self, path: Path, session: Session, now: float) -> None:
        """Note that a check on a path was valid."""
        owner = self._paths.owner(path)
        if owner is not None:
            owner.peer.recall()  # it may have to share the path now
        for old, relay in self._paths.claim(path, session, now=now):
            self._give_back(old, relay)
        if owner is session and self._paths.challenger(path) is None:
            session.receiver.lend(path)

    def _relay_behind(self, sender: Address, path: Path) -> Address:
        """Find the relay of a datagram that comes from none: a transceiver passes it on."""
        if self._strays is None or not self._senders.is_transceiver(sender):
            self._senders.hint_stale()
            raise RemoteProtocolError("not from a relay", Drop.UNKNOWN_RELAY)
        session = self._paths.owner(path)
        known = None if session is None else session.relays.get(path)
        relay = known or self._senders.relay_serving(decode_path(path)[1])
        if relay is None:
            raise RemoteProtocolError("passed on from no relay of ours", Drop.UNKNOWN_RELAY)
        return relay

    def _stray(
        self, lead: Lead, drop: Drop, datagram: bytes, sender: Address, now: float, again: bool
    ) -> None:
        """Take a datagram whose session is not here; it may have been, or shall be."""
        if self._strays is None:
            raise RemoteProtocolError("no session for this", drop)
        own = self._senders.is_relay(sender)
        retry = None if again else partial(self._retry, datagram, sender)
        dropped = self._strays.take_stray(lead, datagram, retry, own=own, now=now)
        if dropped is not None:
            raise RemoteProtocolError("no session for this", drop if again else dropped)

    def _retry(self, datagram: bytes, sender: Address, now: float) -> None:
        self._dispatch_safely(datagram, sender, now, again=True)

    def _give_back(self, path: Path, relay: Address) -> None:
        """A header with nothing behind it gives the flow back to the relay."""
        self._datagrams.send_framed(path, b"", relay)
