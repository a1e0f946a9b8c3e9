"""Many calls in one process with two tasks in all: one that receives and one that keeps time.

Every call has a UDP socket, hence a source port, of its own. All sockets stand in one epoll set,
and Trio waits for the set; a datagram costs one call of ``recv`` and one of its machine. The clock
task turns a wheel of ``TICK``s: a call stands in the bucket of its next deadline, so that a tick
costs only what is due.
"""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from math import ceil, inf
from typing import Final
from urllib.parse import urljoin

import trio

from edge.address import Address
from edge.client.caller import Caller
from edge.client.channel import CallerChannel
from edge.client.http import request
from edge.client.journal import FRAME_SECONDS, CallStatistics, Journal, SetupTimes
from edge.webrtc.certificate import DtlsCertificate

TICK: Final = 0.001
MAX_SLEEP: Final = 0.010
"""Of the clock task, in seconds; a new deadline is seen after this time at the latest."""
CHANNEL_LABEL: Final = "oai-events"
CONNECT_SECONDS: Final = 15.0
MAX_DATAGRAM: Final = 2_048
BATCH: Final = 256


class CallRefused(Exception):
    """The server answered the offer with something else than 201."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server answered {status}")
        self.status = status


class LoadClient:
    """One call. Made by ``Load.open_call``."""

    def __init__(self, load: Load, caller: Caller, location: str) -> None:
        self._load = load
        self._caller = caller
        self._socket = load.open_socket(self, caller)
        self._old_sockets: list[socket.socket] = []
        self._secured = trio.Event()
        self.tick_at: int | None = None
        """Where it stands in the wheel."""
        self.location = location
        """Absolute URL of the call at the server."""

    @property
    def setup(self) -> SetupTimes:
        """When the steps of the setup were done."""
        return self._caller.journal.setup

    @property
    def sent(self) -> int:
        """Packets sent so far: also the number of the next one."""
        return self._caller.journal.sent

    @property
    def received(self) -> int:
        """Different packets that came back so far."""
        return self._caller.journal.received

    @property
    def reordered(self) -> int:
        """Echoes that came after one with a higher number, so far."""
        return self._caller.journal.reordered

    @property
    def stale(self) -> int:
        """Datagrams that came to ports we have moved away from."""
        return self._caller.journal.stale

    @property
    def server(self) -> Address:
        """The relay that the call enters at."""
        assert self._caller.server is not None
        return self._caller.server

    @property
    def checks_answered(self) -> int:
        """Connectivity checks answered with success."""
        return self._caller.checks_answered

    @property
    def closed(self) -> bool:
        """True when either side has ended the call."""
        return self._caller.closed

    @property
    def port(self) -> int:
        """Our UDP source port."""
        return int(self._socket.getsockname()[1])

    def longest_hole(self, *, since: int = 0) -> float:
        """Seconds of audio in the longest run that was lost from ``since`` to the last echo."""
        return self._caller.journal.longest_hole(since=since)

    def statistics(self, *, since: int = 0) -> CallStatistics:
        """What happened so far; what is missing counts only from packet ``since`` on."""
        return self._caller.journal.statistics(now=trio.current_time(), since=since)

    async def wait_secured(self) -> None:
        """Wait until ICE and DTLS are done."""
        await self._secured.wait()

    async def wait_received(self, count: int) -> None:
        """Wait until this many packets came back."""
        while self.received < count:
            await trio.sleep(MAX_SLEEP)

    def rebind(self) -> None:
        """Go on from a new source port; the old socket stays and counts what it still gets."""
        self._old_sockets.append(self._socket)
        self._socket = self._load.open_socket(self, self._caller)

    @property
    def channel(self) -> CallerChannel | None:
        """Its data channel, where the load has one."""
        return self._caller.channel

    def send_message(self, data: str | bytes) -> None:
        """Send a message on the channel; LocalProtocolError when it is not open."""
        self.send(self._caller.send_message(data, now=trio.current_time()))
        self._load.schedule(self)

    def stop_checks(self) -> None:
        """Send no further connectivity check: the server's consent runs out."""
        self._caller.stop_checks()

    def stop_frames(self) -> None:
        """Send no further audio; the call stays up."""
        self._caller.stop_frames()

    def prepare(self, packets: int) -> None:
        """Protect the next packets now, so that to send them is cheap."""
        self._caller.prepare(packets)

    async def hang_up(self) -> int:
        """End the call over HTTP; gives the status."""
        return (await request("POST", f"{self.location}/hangup")).status

    def close(self) -> None:
        """Say goodbye with close_notify and let go of the sockets."""
        self.send(self._caller.close())
        for each in (self._socket, *self._old_sockets):
            self._load.close_socket(each)
        self._load.forget(self)

    # For Load

    @property
    def deadline(self) -> float:
        """When ``tick`` is due."""
        return self._caller.deadline

    def send(self, datagrams: Iterable[bytes]) -> None:
        """Send to the server, from the current port."""
        for datagram in datagrams:
            try:
                self._socket.sendto(datagram, self._caller.server or ("", 0))
            except OSError:  # full buffer or an unreachable server: as good as lost on the way
                self._load.send_errors += 1

    def receive(self, source: socket.socket, datagram: bytes, now: float) -> None:
        """Take a datagram that came to one of our sockets."""
        if source is not self._socket:
            self._caller.journal.stale += 1
        self.send(self._caller.receive(datagram, now=now))
        if self._caller.secured and not self._secured.is_set():
            self._secured.set()
            self.tick(now)
        if datagram[:1] < b"\x80":  # audio moves no deadline
            self._load.schedule(self)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.send(self._caller.tick(now=now))


class Load:
    """Calls that share their tasks and their certificate. Made by ``open_load``."""

    def __init__(self, *, frame_seconds: float = FRAME_SECONDS, channel: bool = False) -> None:
        self.calls: list[LoadClient] = []
        self.send_errors = 0
        self._frame_seconds = frame_seconds
        self._channel = channel
        self._certificate = DtlsCertificate.generate()
        self._poll = select.epoll()
        self._sockets: dict[int, tuple[socket.socket, LoadClient]] = {}
        self._wheel: dict[int, list[LoadClient]] = {}

    async def open_call(
        self,
        http_url: str,
        *,
        api_key: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        enter: Address | None = None,
        journal: Journal | None = None,
    ) -> LoadClient:
        """POST an offer and connect; gives the call once ICE and DTLS are done.

        ``headers`` go with the offer, such as those of a front that knows where the client is. The
        call enters at the best candidate of the answer, or at the relay ``enter``. A ``journal`` of
        the caller's own may take what comes for something else than echoes. Raises CallRefused, or
        trio.TooSlowError after ``CONNECT_SECONDS``.
        """
        caller = Caller(
            self._certificate,
            now=trio.current_time(),
            frame_seconds=self._frame_seconds,
            channel=CallerChannel(CHANNEL_LABEL, snap=True) if self._channel else None,
            journal=journal,
        )
        url = urljoin(http_url, "/v1/realtime/calls")
        headers = (("Content-Type", "application/sdp"), *headers)
        if api_key:
            headers = (*headers, ("Authorization", f"Bearer {api_key}"))
        response = await request("POST", url, caller.offer.encode(), headers=headers)
        if response.status != 201:
            raise CallRefused(response.status)
        checks = caller.take_answer(response.body, now=trio.current_time(), enter=enter)
        call = LoadClient(self, caller, urljoin(url, response.headers.get("location", "")))
        self.calls.append(call)
        call.send(checks)
        self.schedule(call)
        with trio.fail_after(CONNECT_SECONDS):
            await call.wait_secured()
        return call

    def open_socket(self, call: LoadClient, caller: Caller) -> socket.socket:
        """Make a socket with a source port of its own."""
        family = socket.AF_INET6 if caller.server and ":" in caller.server[0] else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind(("", 0))
        self._sockets[made.fileno()] = made, call
        self._poll.register(made, select.EPOLLIN)
        return made

    def close_socket(self, old: socket.socket) -> None:
        """Close one of ours; again is no error."""
        if self._sockets.pop(old.fileno(), None) is not None:
            self._poll.unregister(old)
            old.close()

    def forget(self, call: LoadClient) -> None:
        """Tick this call no more."""
        call.tick_at = None
        if call in self.calls:
            self.calls.remove(call)

    def schedule(self, call: LoadClient) -> None:
        """Put a call into the bucket of its deadline, unless it stands in an earlier one."""
        deadline = call.deadline
        if deadline == inf:
            return
        tick = ceil(deadline / TICK)
        if call.tick_at is None or tick < call.tick_at:
            call.tick_at = tick
            self._wheel.setdefault(tick, []).append(call)

    async def receive(self) -> None:
        """Receive for ever."""
        while True:
            await trio.lowlevel.wait_readable(self._poll.fileno())
            for fileno, _ in self._poll.poll(0, BATCH):
                source, call = self._sockets.get(fileno, (None, None))
                if source is None or call is None:
                    continue
                try:
                    datagram = source.recv(MAX_DATAGRAM)
                except OSError:
                    continue
                call.receive(source, datagram, trio.current_time())

    async def keep_time(self) -> None:
        """Tick for ever."""
        while True:
            self._turn(int(trio.current_time() / TICK))
            latest = trio.current_time() + MAX_SLEEP
            await trio.sleep_until(min(min(self._wheel, default=inf) * TICK, latest))

    def _turn(self, current: int) -> None:
        for tick in sorted(tick for tick in self._wheel if tick <= current):
            for call in self._wheel.pop(tick):
                if call.tick_at == tick:  # else it stands in an earlier one, or is closed
                    call.tick_at = None
                    call.tick(trio.current_time())
                    self.schedule(call)

    def close(self) -> None:
        """End what is left and let go of the sockets."""
        for call in tuple(self.calls):
            call.close()
        self._poll.close()


@asynccontextmanager
async def open_load(
    *, frame_seconds: float = FRAME_SECONDS, channel: bool = False
) -> AsyncGenerator[Load]:
    """Run the two tasks while the block runs; all calls are closed at its end.

    One packet holds ``frame_seconds`` of audio: 0.01, 0.02, 0.04 or 0.06. With ``channel`` every
    call opens a data channel as well.
    """
    load = Load(frame_seconds=frame_seconds, channel=channel)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.receive)
            nursery.start_soon(load.keep_time)
            yield load
            nursery.cancel_scope.cancel()
    finally:
        load.close()
