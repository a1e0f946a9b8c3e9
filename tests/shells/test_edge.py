"""Relay, transceivers and callers together, on a network that loses, delays and reorders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec
import pytest
import trio
import trio.testing

from edge.address import Address
from edge.backends.protocol import (
    AudioFormat,
    AudioFrame,
    Call,
    Conversation,
    EventSink,
    Speaker,
)
from edge.client.channel import CallerChannel
from edge.client.turns import SetupTrips
from edge.config import TransceiverConfig
from edge.errors import Drop, EndReason, RemoteProtocolError
from edge.transceiver.admission import Overloaded
from edge.wire.spp import encode_path
from tests.support.edge_net import HOST, VirtualEdge, open_edge
from tests.support.net import Link, VirtualNetwork, VirtualSocket, open_loopback, open_network

Clock = trio.abc.Clock


async def _ended(edge: VirtualEdge, reason: EndReason, *, within: float = 5.0) -> None:
    with trio.fail_after(within):
        while not edge.transceivers[0].totals.ended[reason]:
            await trio.sleep(0.01)


async def _empty(edge: VirtualEdge) -> None:
    """Wait until nothing is held for anybody."""
    with trio.fail_after(10.0):
        while any(service.sessions for service in edge.transceivers):
            await trio.sleep(0.01)
        while edge.relay.statistics().flows or edge.relay.statistics().provisional_flows:
            await trio.sleep(0.1)
    for service in edge.transceivers:
        assert not service.roster.paths
        assert not service.roster.by_token
    assert len(edge.registry._flows) == 0


async def test_a_call_from_the_first_check_to_the_goodbye(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge:
        async with edge.call() as phone:
            await phone.heard(100)
            assert phone.caller.journal.rejected == 0
            assert edge.relay.statistics().flows == 1
            assert len(edge.registry._flows) == 1
            phone.hang_up()
            await _ended(edge, EndReason.PEER_CLOSED)
        await _empty(edge)


async def test_the_same_call_on_loopback() -> None:
    with trio.fail_after(20.0):
        async with open_loopback() as network, open_edge(network) as edge:
            async with edge.call() as phone:
                await phone.heard(20)
                assert phone.caller.journal.rejected == 0
                phone.hang_up()
                await _ended(edge, EndReason.PEER_CLOSED)
            await _empty(edge)


@pytest.mark.parametrize(
    ("channel", "to_channel"),
    [
        (lambda: None, None),
        (lambda: CallerChannel("oai-events"), 5),
        (lambda: CallerChannel("oai-events", snap=True), 3),
    ],
    ids=["audio", "channel", "channel with SNAP"],
)
async def test_a_caller_may_speak_after_two_round_trips(
    autojump_clock: Clock, channel: Callable[[], CallerChannel | None], to_channel: int | None
) -> None:
    """One for the check, whose answer brings our ClientHello, and one for DTLS.

    A channel takes one more for its own handshake, and two for SCTP's. What the caller counts is
    what a clock measures on a way that is long beside all computing.
    """
    trip = 0.2
    async with open_network(link=Link(latency=trip / 4)) as network, open_edge(network) as edge:
        # Two virtual hops a direction: caller - relay - transceiver.
        async with edge.call(channel=channel()) as phone:
            await phone.connected()
            await trio.sleep(4 * trip)
        setup, trips = phone.caller.journal.setup, phone.caller.journal.trips
        assert trips == SetupTrips(checked=1, secured=2, first_echo=3, opened=to_channel)
        measured = [setup.checked, setup.first_sent, setup.first_echo]
        assert measured == pytest.approx([1 * trip, 2 * trip, 3 * trip], abs=0.01)
        if to_channel is not None:
            assert setup.opened == pytest.approx(to_channel * trip, abs=0.01)


async def test_many_calls_on_a_bad_network(autojump_clock: Clock) -> None:
    bad = Link(latency=0.02, jitter=0.02, loss=0.05, duplicate=0.02, reorder=0.02)
    async with (
        open_network(seed=7, link=bad) as network,
        open_edge(network, transceivers=2) as edge,
        AsyncExitStack() as calls,
    ):
        phones = [await calls.enter_async_context(edge.call(n % 2)) for n in range(8)]
        for phone in phones:
            await phone.connected()
        await trio.sleep(4.0)
        assert [service.sessions for service in edge.transceivers] == [4, 4]
        for phone in phones:
            journal = phone.caller.journal
            # What the network doubled is a replay at its receiver; four lossy hops make a way.
            assert journal.rejected <= 0.1 * journal.received
            assert journal.received >= 0.65 * journal.sent


async def test_a_client_that_moves_goes_on_after_its_next_check(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(50)
        assert isinstance(phone.socket, VirtualSocket)
        old = phone.socket.address
        phone.socket.rebind((HOST, 0))
        former = network.socket(old)
        await phone.heard(50, within=2.5 + 1.5)
        await trio.sleep(0.1)  # what was under way has arrived
        stray = former.unread
        await phone.heard(200)
        assert former.unread == stray


async def test_a_client_that_only_speaks_is_sent_nothing(autojump_clock: Clock) -> None:
    async with (
        open_network() as network,
        open_edge(network) as edge,
        edge.call(direction="sendonly") as phone,
    ):
        await trio.sleep(2.0)
        assert phone.caller.secured
        assert phone.caller.journal.sent >= 80  # of 100
        assert phone.caller.journal.received == 0


async def test_hang_up_and_drain(autojump_clock: Clock) -> None:
    async with (
        open_network() as network,
        open_edge(network) as edge,
        edge.call() as first,
        edge.call() as second,
    ):
        await first.connected()
        await second.connected()
        service = edge.transceivers[0]
        assert first.call is not None
        assert not service.hang_up("rtc_unknown")
        assert service.hang_up(first.call.call_id)
        await _ended(edge, EndReason.HANGUP)
        await trio.sleep(0.1)
        assert first.caller.closed
        assert not second.caller.closed
        await service.drain()
        assert service.totals.ended == {EndReason.HANGUP: 1, EndReason.SHUTDOWN: 1}
        await trio.sleep(0.1)
        assert second.caller.closed
        with pytest.raises(Overloaded):
            await service.open_call(second.caller.offer.encode())
        await _empty(edge)


async def test_a_port_used_again_reaches_the_new_session(autojump_clock: Clock) -> None:
    config = TransceiverConfig(consent_timeout_seconds=6.0)
    async with open_network() as network, open_edge(network, config=config) as edge:
        async with edge.call(port=50_000) as first:
            await first.heard(20)
        # The first session has not noticed: its client has gone without a word.
        async with edge.call(port=50_000) as second:
            await second.heard(50)
            assert second.caller.journal.rejected <= 5
            assert edge.transceivers[0].sessions == 2
            await _ended(edge, EndReason.CONSENT_EXPIRED, within=8.0)
            await second.heard(50)
        await edge.transceivers[0].drain()
        await _empty(edge)


async def test_a_forged_address_takes_no_path_from_a_live_call(autojump_clock: Clock) -> None:
    async with (
        open_network() as network,
        open_edge(network) as edge,
        edge.call() as victim,
        edge.call() as attacker,
    ):
        await victim.heard(20)
        await attacker.heard(20)
        lost = victim.caller.journal.sent - victim.caller.journal.received
        for _ in range(20):
            check = attacker.caller._make_check(trio.current_time())
            network.transmit(check, victim.socket.address, edge.public)
            await victim.heard(20)
        assert victim.caller.journal.sent - victim.caller.journal.received <= lost + 1
        assert attacker.caller.journal.received >= 0.9 * attacker.caller.journal.sent


async def test_sessions_that_never_connect_end_by_themselves(autojump_clock: Clock) -> None:
    config = TransceiverConfig(setup_timeout_seconds=2.0, max_sessions=3)
    async with open_network() as network, open_edge(network, config=config) as edge:
        service = edge.transceivers[0]
        async with edge.call() as phone:
            await phone.connected()
            for _ in range(2):
                await service.open_call(phone.caller.offer.encode())
            with pytest.raises(Overloaded):
                await service.open_call(phone.caller.offer.encode())
            await trio.sleep(2.1)
            assert service.totals.ended == {EndReason.NEVER_CONNECTED: 2}
            assert service.sessions == 1


async def test_the_longest_session_has_an_end(autojump_clock: Clock) -> None:
    config = TransceiverConfig(max_session_seconds=5.0)
    async with (
        open_network() as network,
        open_edge(network, config=config) as edge,
        edge.call() as phone,
    ):
        await phone.connected()
        await _ended(edge, EndReason.MAX_DURATION, within=6.0)


async def test_a_bad_offer_opens_nothing(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge:
        with pytest.raises(RemoteProtocolError):
            await edge.transceivers[0].open_call(b"v=0\r\n")
        assert edge.transceivers[0].sessions == 0


class Scripted:
    """A backend whose conversations do what the test says."""

    def __init__(self, *, fail: bool = False, bug: bool = False) -> None:
        self._fail = fail
        self._bug = bug

    def wants(self, codec: AudioFormat) -> AudioFormat:
        return codec

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> Conversation:
        return _Script(fail=self._fail, bug=self._bug)


class _Script:
    def __init__(self, *, fail: bool, bug: bool) -> None:
        self.drops: Counter[Drop] = Counter()
        self._fail = fail
        self._bug = bug

    def hear(self, frame: AudioFrame) -> None:
        if self._bug:
            raise RuntimeError("a bug on the packet's way")

    def receive_event(self, event: bytes) -> None:
        pass

    async def run(self) -> None:
        await trio.sleep(1.0)
        if self._fail:
            raise ConnectionResetError
        if self._bug:
            await trio.sleep_forever()


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (Scripted(), EndReason.BACKEND_CLOSED),
        (Scripted(fail=True), EndReason.BACKEND_FAILED),
        (Scripted(bug=True), EndReason.INTERNAL_ERROR),
    ],
)
async def test_a_backend_ends_its_own_session_only(
    autojump_clock: Clock, backend: Scripted, reason: EndReason
) -> None:
    async with open_network() as network, open_edge(network, backend=backend) as edge:
        async with edge.call():
            await _ended(edge, reason)
        async with edge.call() as phone:
            with trio.fail_after(2.0):
                while not phone.caller.secured:
                    await trio.sleep(0.01)


async def test_only_what_is_authentic_moves_a_path_to_another_relay(
    autojump_clock: Clock,
) -> None:
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(20)
        other = network.socket((HOST, 0))
        known = (await edge.registry.relays())[0]
        await edge.registry.put_relay(
            msgspec.structs.replace(known, name="other", internal=other.address)
        )
        transceiver = (await edge.registry.transceivers())[0].address
        path = encode_path(phone.socket.address, edge.public)
        for _ in range(100):
            other.send(path + b"\x80\x6f" + bytes(40), transceiver)
            await trio.sleep(0.003)
        await phone.heard(20)
        assert edge.transceivers[0].totals.drops()[Drop.BAD_AUTH] == 100
        assert other.unread == 0


async def test_what_is_authentic_lends_its_time_to_nothing_beside_it(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has one time: a forgery right behind a packet is not as authentic as that."""
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(20)
        other = network.socket((HOST, 0))
        known = (await edge.registry.relays())[0]
        await edge.registry.put_relay(
            msgspec.structs.replace(known, name="other", internal=other.address)
        )
        transceiver = (await edge.registry.transceivers())[0].address
        forged = encode_path(phone.socket.address, edge.public) + b"\x80\x6f" + bytes(40)
        transmit = network.transmit

        def follow(data: bytes, source: Address, destination: Address) -> None:
            transmit(data, source, destination)
            if (source, destination) == (known.internal, transceiver):
                transmit(forged, other.address, transceiver)

        monkeypatch.setattr(network, "transmit", follow)
        await phone.heard(50)
        assert edge.transceivers[0].totals.drops()[Drop.BAD_AUTH] >= 50
        assert other.unread == 0


async def test_noise_is_neither_answered_nor_felt(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(20)
        noise = network.socket((HOST, 0))
        service_address = next(record.address for record in await edge.registry.transceivers())
        path = encode_path(phone.socket.address, edge.public)
        for number in range(500):
            junk = bytes([number & 0xFF]) * (number % 300)
            noise.send(junk, edge.public)
            noise.send(path + junk, service_address)
            _spoof(network, junk, phone.socket.address, edge.public)
        await phone.heard(100)
        assert phone.caller.journal.rejected == 0
        assert noise.statistics().received == 0
        with trio.move_on_after(0.1):
            pytest.fail(f"answered {len(await noise.receive_batch())} datagrams")
        drops = edge.transceivers[0].totals.dropped
        assert drops[Drop.UNKNOWN_RELAY] == 500
        assert not drops[Drop.BUG]
        assert not edge.relay.statistics().drops.get(Drop.BUG)


def _spoof(network: VirtualNetwork, data: bytes, source: object, destination: object) -> None:
    assert isinstance(source, tuple)
    assert isinstance(destination, tuple)
    network.transmit(data, source, destination)
