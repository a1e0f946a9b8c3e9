"""INIT, INIT ACK and cookies: two sides learn each other's tag and first TSN (RFC 9260, section 5).

In WebRTC both sides send an INIT, so collisions are the rule: an INIT is answered with the tag and
TSN of our own. DTLS has authenticated the peer, so the cookie need not be sealed and the other
side's INIT is simply kept until its cookie comes back; there is one at a time. In an established
association an INIT that comes back with its cookie is a peer that has begun anew.

With SNAP (draft-hancke-tsvwg-snap) both INITs travel in SDP and none of this is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from edge.webrtc.sctp_receiver import MAX_STREAMS
from edge.wire.sctp_chunks import FORWARD_TSN, RECONFIG, CookieEcho, Init
from edge.wire.sctp_parameters import ZERO_CHECKSUM_DTLS, InitParameters

COOKIE_SIZE: Final = 16
MAX_ATTEMPTS: Final = 16  # INITs or COOKIE ECHOs; ICE consent ends a dead path before

Entropy = Callable[[int], bytes]


class Side(msgspec.Struct, frozen=True):
    """The tag that packets to a side bear, and the first TSN of its own."""

    tag: int
    tsn: int

    def __repr__(self) -> str:
        return "Side()"


class Remote(msgspec.Struct, frozen=True):
    """What the peer's INIT said."""

    side: Side
    window: int
    forward_tsn: bool
    reconfig: bool
    zero_checksum: bool
    outbound_streams: int
    """How many streams it lets us send on."""


class Offer(msgspec.Struct, frozen=True):
    """An INIT of the peer's that we have answered with this cookie, as this side."""

    remote: Remote
    local: Side
    cookie: bytes

    def __repr__(self) -> str:
        return "Offer()"


class HandshakeSnapshot(msgspec.Struct, frozen=True):
    """The state of a ``Handshake``; ``deadline`` in seconds from the moment of writing."""

    local: Side
    offer: Offer | None
    used_cookie: bytes | None
    cookie: bytes | None
    attempts: int
    interval: float
    deadline: float

    def __repr__(self) -> str:
        return "HandshakeSnapshot()"


class Handshake:
    """Our side, the peer's last INIT, and what is repeated until it is answered."""

    def __init__(self, local: Side, *, window: int, zero_checksum: bool, interval: float) -> None:
        self.local = local
        self.deadline = math.inf
        self._window = window
        self._zero_checksum = zero_checksum
        self._offer: Offer | None = None
        self._used_cookie: bytes | None = None
        self._cookie: bytes | None = None
        """The cookie that we echo; before, it is our INIT that is repeated."""
        self._attempts = 0
        self._first_interval = self._interval = interval

    @property
    def failed(self) -> bool:
        """Whether the peer was asked too often."""
        return self._attempts > MAX_ATTEMPTS

    def init(self) -> Init:
        """Our INIT."""
        return self._build(self.local, InitParameters())

    def answer(self, init: Init, *, fresh: bool, entropy: Entropy) -> Init:
        """The INIT ACK for the peer's INIT; ``fresh``: as a new side (RFC 9260, 5.2.2)."""
        remote, offer = read_remote(init), self._offer
        if offer is None or offer.remote != remote or fresh is (offer.local == self.local):
            local = new_side(entropy) if fresh else self.local
            offer = self._offer = Offer(remote, local, entropy(COOKIE_SIZE))
        reported = init.parameters.reported
        return self._build(offer.local, InitParameters(offer.cookie, reported=reported))

    def accept(self, cookie: bytes) -> Offer | None:
        """The offer whose cookie came back, once; None if it is not the last one's."""
        offer = self._offer
        if offer is None or offer.cookie != cookie:
            return None
        self._offer, self._used_cookie = None, cookie
        return offer

    def was_accepted(self, cookie: bytes) -> bool:
        """Whether this is the cookie that was accepted last: our COOKIE ACK was lost."""
        return cookie == self._used_cookie

    def offered_tag(self) -> int | None:
        """The tag under which a cookie may come back, besides our own."""
        return self._offer.local.tag if self._offer is not None else None

    def ask(self, cookie: bytes | None, *, now: float) -> Init | CookieEcho:
        """Begin to repeat our INIT, or the peer's cookie."""
        self._cookie, self._attempts = cookie, 1
        self._interval = self._first_interval
        self.deadline = now + self._interval
        return self._question()

    def again(self, *, now: float, longest: float) -> Init | CookieEcho:
        """No answer has come: ask again, and wait longer."""
        self._attempts += 1
        self._interval = min(2 * self._interval, longest)
        self.deadline = now + self._interval
        return self._question()

    def stop(self) -> None:
        """The answer is there."""
        self.deadline, self._attempts, self._cookie = math.inf, 0, None

    def snapshot(self, *, now: float) -> HandshakeSnapshot:
        """The whole state."""
        return HandshakeSnapshot(
            self.local,
            self._offer,
            self._used_cookie,
            self._cookie,
            self._attempts,
            self._interval,
            self.deadline - now,
        )

    def load(self, snapshot: HandshakeSnapshot, *, now: float) -> None:
        """Take a snapshot's state."""
        self.local, self._offer = snapshot.local, snapshot.offer
        self._used_cookie, self._cookie = snapshot.used_cookie, snapshot.cookie
        self._attempts, self._interval = snapshot.attempts, snapshot.interval
        self.deadline = snapshot.deadline + now

    def _question(self) -> Init | CookieEcho:
        return self.init() if self._cookie is None else CookieEcho(self._cookie)

    def _build(self, side: Side, parameters: InitParameters) -> Init:
        parameters = msgspec.structs.replace(
            parameters,
            forward_tsn=True,
            zero_checksum=ZERO_CHECKSUM_DTLS if self._zero_checksum else 0,
            extensions=bytes((RECONFIG, FORWARD_TSN)),
        )
        return Init(side.tag, self._window, MAX_STREAMS, MAX_STREAMS, side.tsn, parameters)


def new_side(entropy: Entropy) -> Side:
    """A random tag, which is never 0, and a random first TSN."""
    tag, tsn = (int.from_bytes(entropy(4), "big") for _ in range(2))
    return Side(tag or 1, tsn)


def read_remote(init: Init) -> Remote:
    """What an INIT or INIT ACK says of its sender."""
    parameters = init.parameters
    return Remote(
        side=Side(init.tag, init.tsn),
        window=init.window,
        forward_tsn=parameters.forward_tsn or FORWARD_TSN in parameters.extensions,
        reconfig=RECONFIG in parameters.extensions,
        zero_checksum=parameters.zero_checksum == ZERO_CHECKSUM_DTLS,
        outbound_streams=min(MAX_STREAMS, init.inbound_streams),
    )
