"""Attacks on a whole edge by a client with a call of its own, and what its values show."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Iterator

import msgspec
import pytest
import trio
import trio.testing

import edge
from edge.errors import Drop, EndReason, RemoteProtocolError
from edge.transceiver.paths import MAX_PATHS
from edge.transceiver.session import Session
from edge.webrtc.outputs import AudioReceived
from edge.wire.rtp import build_header
from edge.wire.sdp import decode_offer
from edge.wire.sdp_offer import MAX_BYTES, MAX_LINES
from edge.wire.stun import encode_request
from tests.support.edge_net import HOST, Phone, VirtualEdge, open_edge
from tests.support.net import VirtualNetwork, open_network

Clock = trio.abc.Clock


def _session(edge: VirtualEdge, phone: Phone) -> Session:
    assert phone.call is not None
    return edge.transceivers[0].roster.by_call[phone.call.call_id]


# Tables that one client could fill for all.


async def test_one_call_from_many_addresses_holds_few_flows(autojump_clock: Clock) -> None:
    """Each address passes a valid check, so each flow is confirmed, and each record written."""
    async with (
        open_network() as network,
        open_edge(network) as edge,
        edge.call() as bystander,
        edge.call() as phone,
    ):
        await bystander.heard(20)
        await phone.heard(20)
        for port in range(1_000, 1_500):
            check = phone.caller._make_check(trio.current_time())
            network.transmit(check, (HOST, port), edge.public)
            await trio.sleep(0.002)
        await trio.sleep(0.1)
        assert edge.relay.statistics().flows <= MAX_PATHS + 2
        assert len(edge.registry._flows) <= MAX_PATHS + 2
        assert len(edge.transceivers[0].roster.paths) <= MAX_PATHS + 2
        await bystander.heard(20)
        await phone.heard(20)
    assert bystander.caller.journal.rejected == 0


async def test_guessing_a_password_confirms_and_costs_nothing(autojump_clock: Clock) -> None:
    """The attacker knows a live token, by reading along, but not the password beside it."""
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(20)
        answer, offer = phone.caller._answer, phone.caller.offer
        assert answer is not None
        stranger = network.socket((HOST, 0))
        for number in range(300):
            forged = encode_request(
                number.to_bytes(12),
                username=f"{answer.ufrag}:{offer.ufrag}",
                password=f"guess number {number}",
                priority=1,
                use_candidate=True,
            )
            stranger.send(forged, edge.public)
            network.transmit(forged, phone.socket.address, edge.public)
        await phone.heard(100)
        assert edge.relay.statistics().flows == 1
        assert _session(edge, phone).drops()[Drop.BAD_INTEGRITY] == 600
        assert stranger.statistics().received == 0


# A client that floods its own call.


def _flood(phone: Phone, payload: bytes, count: int, network: VirtualNetwork, to: object) -> None:
    sender = phone.caller._sender
    assert sender is not None
    assert isinstance(to, tuple)
    ssrc = phone.caller.offer.ssrc ^ 1
    base = sender._highest.get(ssrc, -1) + 1
    for index in range(base, base + count):
        header = build_header(111, False, index & 0xFFFF, 0, ssrc)
        packet = sender.protect_rtp(header, payload, index=index)
        network.transmit(packet, phone.socket.address, to)


@pytest.mark.parametrize("payload", [b"\x1b\x02" + bytes(1_000), b"\xe0"], ids=["120 ms", "2.5 ms"])
async def test_ten_thousand_valid_packets_a_second_pile_nothing_up(
    autojump_clock: Clock, payload: bytes
) -> None:
    async with (
        open_network() as network,
        open_edge(network) as edge,
        edge.call() as bystander,
        edge.call(audio=False) as phone,
    ):
        await bystander.heard(20)
        with trio.fail_after(5.0):
            while not phone.caller.secured:
                await trio.sleep(0.01)
        session = _session(edge, phone)
        sent_before = session.peer.media.stream.packets
        lost = bystander.caller.journal.sent - bystander.caller.journal.received
        for _ in range(30):
            _flood(phone, payload, 100, network, edge.public)
            await trio.sleep(0.01)
            assert session._sender.playout.queued <= 0.1 + 0.12
            assert len(session._sender.playout._frames) <= 50
        # What comes back is audio in real time, whatever went in: at most a frame each 2.5 ms.
        assert session.peer.media.stream.packets - sent_before <= 0.5 / 0.0025
        assert session.drops()[Drop.LATE] > 2_000
        await bystander.heard(20)
        assert bystander.caller.journal.sent - bystander.caller.journal.received <= lost + 1


async def test_g711_packets_without_or_with_too_much_audio_are_malformed(
    autojump_clock: Clock,
) -> None:
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.connected()
        offer = phone.caller.offer.encode().replace(b"SAVPF 111 0 8", b"SAVPF 0")
        opened = await edge.transceivers[0].open_call(offer)
        session = edge.transceivers[0].roster.by_call[opened.call_id]
        for payload in (b"", bytes(1_601)):
            session.receiver.carry_out([AudioReceived(payload, 1, 0, False)])
        assert session.drops()[Drop.MALFORMED] == 2
        assert session._sender.playout.queued == 0.0
        session.receiver.carry_out([AudioReceived(bytes(1_600), 1, 0, False)])
        assert session.drops()[Drop.MALFORMED] == 2
        session.end(EndReason.HANGUP)


# Offers.


def test_an_offer_of_too_many_lines_is_refused_unread() -> None:
    head = b"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
    with pytest.raises(RemoteProtocolError, match="lines"):
        decode_offer(head + b"a=x\n" * MAX_LINES)
    with pytest.raises(RemoteProtocolError, match="longer than"):
        decode_offer(head + b"a=x\n" * MAX_BYTES)


# What a repr shows.

PRIVATE_WORDS = ("key", "secret", "password", "salt", "ufrag", "fragment", "payload", "data")
PRIVATE_NAMES = frozenset({"client", "mapped", "body", "datagram", "cnames", "source"})
PUBLIC = frozenset(
    {"key_id", "secret_id", "key_file", "api_key_file", "key_variable", "key_required", "key_bytes"}
    | {"payload_type", "red_payload_type"}
)
NAMES_OF_OPTIONS = frozenset({"Flag.key", "_Setting.key"})
VALUES_WITH_A_REPR = frozenset({"DtlsEstablished.keys"})


def _values() -> Iterator[type]:
    """Every dataclass and Struct of the package."""
    for module in pkgutil.walk_packages(edge.__path__, "edge."):
        if module.name == "edge.__main__":
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if not isinstance(value, type) or value.__module__ != module.name:
                continue
            if dataclasses.is_dataclass(value) or issubclass(value, msgspec.Struct):
                yield value


def _is_private(name: str) -> bool:
    if name in PUBLIC:
        return False
    return name in PRIVATE_NAMES or any(word in name for word in PRIVATE_WORDS)


def test_no_value_shows_keys_or_payloads_or_clients_in_its_repr() -> None:
    shown = []
    seen = 0
    for value in _values():
        seen += 1
        if dataclasses.is_dataclass(value):
            shown += [
                f"{value.__name__}.{f.name}"
                for f in dataclasses.fields(value)
                if f.repr and _is_private(f.name)
            ]
        elif issubclass(value, msgspec.Struct) and value.__repr__ is msgspec.Struct.__repr__:
            shown += [f"{value.__name__}.{n}" for n in value.__struct_fields__ if _is_private(n)]
    assert seen > 50
    assert set(shown) <= NAMES_OF_OPTIONS | VALUES_WITH_A_REPR
