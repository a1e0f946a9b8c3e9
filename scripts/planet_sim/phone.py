"""A client: the real caller, with the way in which a browser keeps to the candidate that works.

Until somebody answers, checks go round the candidates, and the first that answers is taken. When
nothing has come for ``RECEIVING_SECONDS`` checks go round again, every ``SEARCH_SECONDS``. Both
times are those of Chromium (WEAK_CONNECTION_RECEIVE_TIMEOUT and WEAK_PING_INTERVAL in
p2p/base/p2p_constants.h). Only the relay that was taken is nominated, twice. The call's media
is thinned out: a frame a second, four around the outage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from math import inf, isnan, nan
from typing import Final

import trio

from edge.address import Address
from edge.client.caller import Caller
from edge.client.journal import FRAME_SECONDS
from edge.datagram import Datagrams
from edge.webrtc.certificate import DtlsCertificate
from planet_sim.calls import Times

RECEIVING_SECONDS: Final = 2.5
SEARCH_SECONDS: Final = 0.48
SPARSE_SECONDS: Final = 1.0
DENSE_SECONDS: Final = 0.25
"""Between two frames."""
DENSE_AFTER: Final = 4.5
"""Frames are dense from two sparse intervals before the outage to so many seconds after it."""
SETUP_SECONDS: Final = 15.0
"""Who is not connected by then gives up."""

_CANDIDATE: Final = re.compile(r"^a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host", re.M)


class ThinCaller(Caller):
    """A caller with fewer frames, and checks on demand."""

    def __init__(self, certificate: DtlsCertificate, *, now: float, outage: float) -> None:
        super().__init__(certificate, now=now)
        self._dense = outage - 2 * SPARSE_SECONDS, outage + DENSE_AFTER

    def check(self, *, now: float) -> bytes:
        """Make a check besides the regular ones."""
        return self._make_check(now)

    def _make_frame(self, now: float) -> bytes:
        frame = super()._make_frame(now)
        begin, end = self._dense
        seconds = DENSE_SECONDS if begin <= now < end else SPARSE_SECONDS
        self._next_frame += seconds - FRAME_SECONDS
        return frame


@dataclass(slots=True)
class Experience:
    """What one call was like; seconds, NaN for what has not happened, hosts empty."""

    connected: float = nan
    """From the POST until packets may flow both ways."""
    relay: str = ""
    """Host of the relay that answered first."""
    relay_at_outage: str = ""
    """Host of the relay that the call used when the outage came, if it was connected then."""
    last_echo: float = -inf
    longest_gap: float = 0.0
    """Between two echoes, since the outage."""


class Phone:
    """One call's client on its socket."""

    def __init__(self, socket: Datagrams, certificate: DtlsCertificate, times: Times) -> None:
        self.experience = Experience()
        self._socket = socket
        self._times = times
        self._opened = self._heard = trio.current_time()
        self._caller = ThinCaller(certificate, now=self._opened, outage=times.outage)
        self._caller.nominating = False
        self._candidates: Iterator[Address] = iter(())
        self._server: Address | None = None
        self._searched = -inf
        self._nominate_again = inf

    @property
    def offer(self) -> bytes:
        """The SDP to post."""
        return self._caller.offer.encode()

    async def talk(self, answer: str) -> None:
        """Connect, talk until the end, hang up."""
        found = _CANDIDATE.findall(answer.replace("\r", ""))
        self._candidates = cycle((host, int(port)) for host, port in found)
        self._send(self._caller.take_answer(answer.encode(), now=trio.current_time()))
        while not self._caller.closed and trio.current_time() < self._until:
            with trio.move_on_at(self._deadline):
                self._receive(await self._socket.receive_batch())
            self._tick(trio.current_time())
        self._note_gap(trio.current_time())
        self._send(self._caller.close())

    def note_outage(self) -> None:
        """Remember the relay that this call uses; gaps count from now on."""
        if self._caller.secured and self._server is not None:
            self.experience.relay_at_outage = self._server[0]

    @property
    def _deadline(self) -> float:
        ours = min(self._until, self._nominate_again, self._next_search)
        return min(self._caller.deadline, ours)

    @property
    def _next_search(self) -> float:
        if self._server is None:
            return inf  # the caller's own checks do it
        return max(self._heard + RECEIVING_SECONDS, self._searched + SEARCH_SECONDS)

    @property
    def _until(self) -> float:
        end = self._times.end
        return end if self._caller.secured else min(end, self._opened + SETUP_SECONDS)

    def _send(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:  # without a server these are checks
            self._socket.send(datagram, self._server or next(self._candidates))

    def _receive(self, batch: list[tuple[bytes, Address]]) -> None:
        now = trio.current_time()
        for datagram, source in batch:
            answered, echoed = self._caller.checks_answered, self._caller.journal.received
            replies = self._caller.receive(datagram, now=now)
            if self._caller.checks_answered > answered and self._is_searching(now):
                self._take_server(source, now)
            if self._caller.journal.received > echoed:
                self._note_gap(now)
                self.experience.last_echo = now
            for reply in replies:
                # A check is answered where it came from, RFC 8445, 7.3.1.1.
                self._socket.send(reply, source if datagram[0] < 4 else self._server or source)
            if source == self._server:
                self._heard = now

    def _is_searching(self, now: float) -> bool:
        return self._server is None or now - self._heard >= RECEIVING_SECONDS

    def _take_server(self, source: Address, now: float) -> None:
        """Settle on a relay and nominate it."""
        self.experience.relay = self.experience.relay or source[0]
        self._server, self._heard = source, now
        self._nominate(now)
        self._nominate_again = now + SEARCH_SECONDS

    def _nominate(self, now: float) -> None:
        self._caller.nominating = True
        self._send([self._caller.check(now=now)])
        self._nominate_again = inf

    def _tick(self, now: float) -> None:
        self._send(self._caller.tick(now=now))
        if now >= self._nominate_again:
            self._nominate(now)
        if now >= self._next_search:
            self._searched = now
            self._caller.nominating = False
            self._socket.send(self._caller.check(now=now), next(self._candidates))
        if isnan(self.experience.connected) and self._caller.secured:
            self.experience.connected = now - self._opened
            self.experience.last_echo = now

    def _note_gap(self, now: float) -> None:
        seen = self.experience
        # A gap that begins when frames are about to be sparse again would look like a hole.
        countable = seen.last_echo < self._times.outage + DENSE_AFTER - SPARSE_SECONDS
        if seen.relay_at_outage and countable:
            seen.longest_gap = max(seen.longest_gap, now - seen.last_echo)
