"""Which relays an answer names: the best for the client's place, and only while ours is there."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace
from trio.abc import Clock

from edge.address import Address
from edge.backends.echo import Echo
from edge.client.caller import Caller
from edge.config import TransceiverConfig
from edge.geo import Place, Point
from edge.registry.protocol import RelayListener, RelayRecord, Slot, TransceiverRecord
from edge.token import TokenKey, TokenSealer
from edge.transceiver.admission import Overloaded
from edge.transceiver.environment import Environment
from edge.transceiver.service import Transceiver
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.ice import IceCredentials
from tests.support.net import VirtualNetwork

CERTIFICATE = DtlsCertificate.generate()
PARIS, SYDNEY = Point(48.86, 2.35), Point(-33.87, 151.21)


class Fleet:
    """Relays that a test names."""

    def __init__(self, *relays: RelayRecord) -> None:
        self.relays = relays
        self.transceivers: tuple[TransceiverRecord, ...] = ()
        self.hints = 0

    def is_relay(self, address: Address) -> bool:
        return False

    def is_transceiver(self, address: Address) -> bool:
        return False

    def relay_serving(self, proxy: Address) -> Address | None:
        return None

    def transceiver(self, slot: Slot) -> TransceiverRecord | None:
        return None

    async def lives(self, slot: Slot) -> bool:
        return False

    def hint_stale(self) -> None:
        self.hints += 1


def relay(port: int, point: Point, *, cluster: int = 0, region: str = "") -> RelayRecord:
    return RelayRecord(
        name=str(port),
        cluster=cluster,
        public=("192.0.2.1", port),
        internal=("10.0.0.1", port),
        region=region,
        latitude=point.latitude,
        longitude=point.longitude,
    )


@asynccontextmanager
async def running(fleet: Fleet) -> AsyncIterator[Transceiver]:
    socket = VirtualNetwork().socket(("127.0.0.1", 0))
    service = Transceiver(
        socket,
        slot=Slot(1),
        cluster=0,
        sealer=TokenSealer(TokenKey.derive("a fleet secret that is long enough")),
        directory=fleet,
        backend=Echo(),
        certificate=CERTIFICATE,
        config=TransceiverConfig(),
        environment=Environment(
            clock=trio.current_time, unix=lambda: 1_800_000_000.0, entropy=os.urandom
        ),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()
    socket.close()


async def named(service: Transceiver, place: Place | None) -> list[int]:
    """The ports of the relays in an answer, in the order of their priorities."""
    offer = Caller(CERTIFICATE, now=0.0).offer.encode()
    answer = (await service.open_call(offer, place=place)).answer
    found = re.findall(r"a=candidate:\S+ 1 udp (\d+) 192.0.2.1 (\d+)", answer)
    return [int(port) for _, port in sorted(found, key=lambda one: -int(one[0]))]


async def test_an_answer_names_the_best_relays_first(autojump_clock: Clock) -> None:
    fleet = Fleet(
        relay(1, PARIS, region="par"),
        relay(2, PARIS, region="par"),
        relay(3, SYDNEY, cluster=1, region="syd"),
        relay(4, SYDNEY, cluster=1, region="syd"),
        relay(5, SYDNEY, cluster=1, region="syd"),
    )
    async with running(fleet) as service:
        far = await named(service, Place(point=SYDNEY))
        assert set(far[:2]) < {3, 4, 5}
        assert far[2] in (1, 2), "one of another region"
        near = await named(service, Place(region="par"))
        assert set(near[:2]) == {1, 2}
        assert near[2] in (3, 4, 5)
        unknown = await named(service, None)
        assert set(unknown[:2]) == {1, 2}, "our own cluster's first"


async def test_an_answer_names_both_ip_versions_and_tcp_last(autojump_clock: Clock) -> None:
    """Of each relay IPv6 first (RFC 8421, 4), all UDP before all TCP (RFC 6544, 4.2)."""

    def listener(transport: str, host: str) -> RelayListener:
        return RelayListener(transport=transport, public=(host, 9), internal=("10.0.0.1", 99))

    six, tcp, tcp_six = listener("udp", "2001:db8::1"), listener("tcp", "192.0.2.1"), "2001:db8::2"
    later = listener("quic", "192.0.2.7")
    many = replace(relay(1, PARIS), more=(six, tcp, listener("tcp", tcp_six), later))
    async with running(Fleet(many, relay(2, SYDNEY))) as service:
        offer = Caller(CERTIFICATE, now=0.0).offer.encode()
        call = await service.open_call(offer, place=Place(point=PARIS))
        found = re.findall(r"a=candidate:\S+ 1 (\S+) \d+ (\S+ \d+) typ host(.*)\r\n", call.answer)
        assert found == [
            ("udp", "2001:db8::1 9", ""),
            ("udp", "192.0.2.1 1", ""),
            ("udp", "192.0.2.1 2", ""),
            ("tcp", "2001:db8::2 9", " tcptype passive"),
            ("tcp", "192.0.2.1 9", " tcptype passive"),
        ]
        assert "m=audio 1 " in call.answer, "the default is of IPv4"
        remote = IceCredentials("abcd", "a" * 22)
        told = service.restart_ice(call.call_id, remote, Place(point=PARIS)).fragment
        assert told.count(" tcptype passive") == 2


async def test_calls_take_turns(autojump_clock: Clock) -> None:
    async with running(Fleet(relay(1, PARIS), relay(2, PARIS))) as service:
        first = [(await named(service, None))[0] for _ in range(30)]
    assert set(first) == {1, 2}


async def test_relays_of_others_do_not_serve_alone(autojump_clock: Clock) -> None:
    fleet = Fleet(relay(3, SYDNEY, cluster=1))
    async with running(fleet) as service:
        with pytest.raises(Overloaded, match="no relay is up"):
            await named(service, Place(point=SYDNEY))
    assert fleet.hints == 1
