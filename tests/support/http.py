"""A signaling application with a service of strings, and a server around it on loopback."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import trio
from starlette.applications import Starlette

from edge.config import HttpConfig
from edge.errors import RemoteProtocolError
from edge.geo import GeoSettings, Place
from edge.http.listen import HttpListener, bind_http, make_listeners
from edge.http.owners import Owners
from edge.http.problem import Cause
from edge.http.secrets import SecretSealer
from edge.http.server import HttpServer
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import Slot, TransceiverRecord
from edge.registry.sessions import Claim
from edge.signaling import Fleet, create_app
from edge.transceiver.admission import Opener
from edge.transceiver.answers import IceRestart
from edge.transceiver.dialect import Dialect
from edge.transceiver.events import EventChannel, Holder
from edge.webrtc.ice import IceCredentials

SECRET = "a fleet secret that is long enough"
UNIX = 1_800_000_000.0
OWN_SLOT = Slot(1)
NO_OTHERS: Mapping[Slot, str] = {}


@dataclass(frozen=True, slots=True)
class FakeCall:
    call_id: str
    answer: str


@dataclass
class FakeService:
    """Answers ``v=0`` with the body's length; ``failure`` is raised instead when it is set."""

    failure: Exception | None = None
    offers: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    places: list[Place | None] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    openers: dict[str, Opener] = field(default_factory=dict)
    channels: dict[str, EventChannel] = field(default_factory=dict)
    said: list[bytes] = field(default_factory=list)
    generation: int = 0

    async def open_call(
        self, offer: bytes, *, session: bytes | None, place: Place | None, opener: Opener
    ) -> FakeCall:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        if not offer.startswith(b"v=0"):
            raise RemoteProtocolError("the offer does not start with v=0")
        self.offers.append((offer, session))
        self.places.append(place)
        call_id = f"rtc_{len(self.offers)}"
        self.take_over(call_id, opener)
        return FakeCall(call_id, f"v=0\r\ns={len(offer)}\r\n")

    def take_over(self, call_id: str, opener: Opener) -> None:
        """Have a call, whoever it was that answered its offer."""
        self.open.add(call_id)
        self.openers[call_id] = opener
        self.channels[call_id] = EventChannel(Dialect(call_id, {}))

    def hang_up(self, call_id: str) -> bool:
        if call_id not in self.open:
            return False
        self.open.remove(call_id)
        self.channels[call_id].close()
        return True

    def opener_of(self, call_id: str) -> Opener | None:
        return self.openers[call_id] if call_id in self.open else None

    @contextmanager
    def join(self, call_id: str, holder: Holder) -> Iterator[Callable[[bytes], None]]:
        channel = self.channels[call_id]

        def say(event: bytes) -> None:
            if channel.receive(event):
                self.said.append(event)

        with channel.joined(holder):
            yield say

    def ice_generation(self, call_id: str) -> tuple[int, str]:
        return self.generation, f"client{self.generation}"

    def restart_ice(self, call_id: str, remote: IceCredentials, place: Place | None) -> IceRestart:
        self.generation += 1
        return IceRestart(f"a=ice-ufrag:server{self.generation}\r\n", self.generation)


def make_fleet(
    *,
    unix: Callable[[], float] = lambda: UNIX,
    owner_of: Callable[[str], Awaitable[Claim | None]] | None = None,
    others: Mapping[Slot, str] = NO_OTHERS,
    registry: MemoryRegistry | None = None,
) -> Fleet:
    """Make a fleet of ourselves, slot 1, and of others by their URLs."""
    registry = registry or MemoryRegistry(clock=unix)
    living = {
        slot: TransceiverRecord(slot=slot, cluster=0, address=("192.0.2.9", slot), http_url=url)
        for slot, url in others.items()
    }
    owners = Owners(
        slot=OWN_SLOT, owner_of=owner_of or registry.sessions.owner_of, transceiver=living.get
    )
    return Fleet(
        secrets=SecretSealer(SECRET),
        unix=unix,
        claim_once=registry.claim_once,
        release=registry.release_claim,
        owners=owners,
    )


def make_app(
    service: FakeService,
    http: HttpConfig,
    *,
    ready: bool = True,
    now: Callable[[], float] = trio.current_time,
    geography: GeoSettings | None = None,
    fleet: Fleet | None = None,
    refusals: Counter[Cause] | None = None,
) -> Starlette:
    return create_app(
        service,
        http=http,
        fleet=fleet or make_fleet(),
        refusals=refusals,
        render_metrics=lambda: b"edge_up 1\n",
        ready=lambda: ready,
        now=now,
        geography=geography,
    )


@dataclass
class Live:
    """A server that runs."""

    server: HttpServer
    listener: HttpListener
    service: FakeService
    stop: trio.Event

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.listener.address)

    async def exchange(self, *pieces: bytes) -> bytes:
        """Send the pieces, then read until the server closes."""
        async with await self.connect() as stream:
            for piece in pieces:
                await stream.send_all(piece)
            return b"".join([bytes(chunk) async for chunk in stream])

    async def is_healthy(self) -> bool:
        answer = await self.exchange(
            b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        )
        return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nok\n")


HOST = b"Host: localhost\r\n"


@asynccontextmanager
async def serve(
    http: HttpConfig, *, grace_seconds: float = 1.0, fleet: Fleet | None = None
) -> AsyncIterator[Live]:
    """Run a server on loopback; on leaving, it stops and must be gone within the grace time."""
    service = FakeService()
    server = HttpServer(make_app(service, http, fleet=fleet), http=http)
    (listener,) = make_listeners(http, bind_http(http))
    stop = trio.Event()
    before = trio.lowlevel.current_statistics().tasks_living
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await server.serve(
                [listener], stop=stop, grace_seconds=grace_seconds, task_status=task_status
            )

        await nursery.start(run)
        yield Live(server, listener, service, stop)
        stop.set()
        with trio.fail_after(grace_seconds + 2.0):
            while nursery.child_tasks:
                await trio.sleep(0.005)
    assert server.connections == 0
    assert trio.lowlevel.current_statistics().tasks_living == before
