"""Peers that must be refused, and bytes that must change nothing."""

from __future__ import annotations

import math
import resource
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL

from edge.errors import Drop, EndReason
from edge.webrtc.dtls import (
    Dtls,
    DtlsData,
    DtlsEstablished,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
    Role,
)
from edge.webrtc.dtls_records import (
    ContentType,
    Record,
    decode_records,
)
from tests.webrtc.dtls_pair import Pair, datagrams, events, make
from tests.webrtc.openssl_peer import ALL_SUITES, DTLS_1_0, PlainPeer

RSA_KEY = rsa.generate_private_key(65537, 2048)
FATAL_ALERT = bytes([2, 40])
ROLES: tuple[Role, Role] = ("active", "passive")


def meet(machine: Dtls, peer: PlainPeer, *, active: bool) -> list[DtlsOutput]:
    """Let the two talk until both are silent, then let our timers end it."""
    outputs = machine.start(now=0.0)
    flight = datagrams(outputs) if active else peer.start()
    to_peer = active
    while flight:
        if to_peer:
            flight = peer.receive(flight)
        else:
            answers = [o for d in flight for o in machine.receive(d, now=0.0)]
            outputs += answers
            flight = datagrams(answers)
        to_peer = not to_peer
    while machine.state is DtlsState.HANDSHAKING and machine.deadline < 2.0:
        outputs += machine.tick(now=machine.deadline)
    return events(outputs)


def plain(content_type: ContentType, fragment: bytes, epoch: int = 0) -> bytes:
    return Record(content_type, 0xFEFD, epoch, 77, fragment).encode()


# Peers


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("srtp", ["SRTP_AES128_CM_SHA1_80", "SRTP_AEAD_AES_256_GCM"])
def test_a_plain_openssl_peer_is_welcome(role: Role, srtp: str) -> None:
    peer = PlainPeer(server=role == "active", srtp=srtp)
    (event,) = meet(make(role, fingerprints=peer.fingerprints), peer, active=role == "active")
    assert isinstance(event, DtlsEstablished)
    assert event.keys.profile.openssl_name == srtp
    keys, profile = event.keys, event.keys.profile
    block = peer.connection.export_keying_material(
        b"EXTRACTOR-dtls_srtp", 2 * (profile.key_bytes + profile.salt_bytes)
    )
    ours, theirs = keys.local_key + keys.remote_key, keys.local_salt + keys.remote_salt
    if role == "passive":
        ours, theirs = keys.remote_key + keys.local_key, keys.remote_salt + keys.local_salt
    assert block == ours + theirs


@pytest.mark.parametrize("role", ROLES)
def test_a_peer_with_an_rsa_certificate_is_welcome(role: Role) -> None:
    peer = PlainPeer(server=role == "active", key=RSA_KEY)
    (event,) = meet(make(role, fingerprints=peer.fingerprints), peer, active=role == "active")
    assert isinstance(event, DtlsEstablished)


REFUSED = {
    "NULL": "eNULL:@SECLEVEL=0",
    "CHACHA20": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "CBC": "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0",
    "RSA key exchange": "AES128-GCM-SHA256",
    "finite field": "DHE-RSA-AES128-GCM-SHA256",
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("suites", REFUSED.values(), ids=REFUSED.keys())
def test_other_suites_are_refused(role: Role, suites: str) -> None:
    key = RSA_KEY if "ECDSA" not in suites else None
    peer = PlainPeer(server=role == "active", suites=suites, key=key)
    (event,) = meet(make(role, fingerprints=peer.fingerprints), peer, active=role == "active")
    assert isinstance(event, DtlsFailed)
    assert event.reason is EndReason.DTLS_FAILED
    assert not peer.established


@pytest.mark.parametrize("role", ROLES)
def test_dtls_1_0_is_refused(role: Role) -> None:
    peer = PlainPeer(server=role == "active", suites=ALL_SUITES, version=DTLS_1_0)
    (event,) = meet(make(role, fingerprints=peer.fingerprints), peer, active=role == "active")
    assert isinstance(event, DtlsFailed)
    assert not peer.established


@pytest.mark.parametrize("role", ROLES)
def test_a_peer_without_use_srtp_is_refused(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = PlainPeer(server=role == "active", srtp="")
    machine = make(role, fingerprints=peer.fingerprints)
    exported: list[object] = []
    monkeypatch.setattr(machine._machine, "_export_keys", exported.append)
    (event,) = meet(machine, peer, active=role == "active")
    assert exported == []
    assert event == DtlsFailed(EndReason.DTLS_FAILED, "no common SRTP profile")
    assert isinstance(peer.error, SSL.ZeroReturnError)  # and was told by close_notify


def test_a_client_without_certificate_is_refused() -> None:
    peer = PlainPeer(server=False, with_certificate=False)
    (event,) = meet(make("passive", fingerprints=peer.fingerprints), peer, active=False)
    assert isinstance(event, DtlsFailed)
    assert event.reason is EndReason.FINGERPRINT_MISMATCH
    assert not peer.established


# A large ClientHello


def fragmented(hello: bytes, cut: int) -> list[bytes]:
    """A ClientHello datagram as two, each with one fragment, as Chromium sends it."""
    (record,) = decode_records(hello)
    header, body = record.fragment[:12], record.fragment[12:]

    def part(sequence: int, start: int, end: int) -> bytes:
        bounds = start.to_bytes(3, "big") + (end - start).to_bytes(3, "big")
        fragment = header[:6] + bounds + body[start:end]
        return Record(record.content_type, 0xFEFF, 0, sequence, fragment).encode()

    # Numbers that the client itself does not use, and within the server's replay window.
    return [part(40, 0, cut), part(41, cut, len(body))]


@pytest.mark.parametrize("order", [1, -1])
def test_a_client_hello_in_two_datagrams(order: int) -> None:
    pair = Pair()
    (hello,) = pair.start()
    first, second = fragmented(hello, 60)[::order]
    assert pair.server.receive(first, now=0.0) == []
    assert pair.server.receive(first, now=0.2) == []  # repeated, but not answered yet
    pair.transfer(0, [second], now=0.2)
    assert pair.established


# Forged bytes


@pytest.mark.parametrize("role", ROLES)
def test_plaintext_after_the_handshake_changes_nothing(role: Role) -> None:
    pair = Pair()
    (hello,) = pair.start()
    pair.transfer(0, [hello])
    machine = pair.client if role == "active" else pair.server
    for forged in (
        plain(ContentType.ALERT, FATAL_ALERT),
        plain(ContentType.ALERT, bytes([1, 0])),
        plain(ContentType.APPLICATION_DATA, b"x"),
        plain(ContentType.CHANGE_CIPHER_SPEC, b"\1"),
        plain(ContentType.ALERT, FATAL_ALERT, epoch=1),
        plain(ContentType.APPLICATION_DATA, bytes(40), epoch=1),
        plain(ContentType.APPLICATION_DATA, bytes(40), epoch=2),
        plain(ContentType.HANDSHAKE, bytes(40), epoch=1),
        hello,
        bytes(60),
    ):
        assert events(machine.receive(forged, now=0.01)) == []
        assert machine.state is DtlsState.ESTABLISHED
    assert sum(machine.drops.values()) == 10
    for sender, seen in ((0, pair.server_events), (1, pair.client_events)):
        pair.transfer(sender, datagrams(pair.machines[sender].send(b"still here")))
        assert seen[-1] == DtlsData(b"still here")


@pytest.mark.parametrize("server", [True, False])
def test_renegotiation_finds_no_way_in(server: bool) -> None:
    peer = PlainPeer(server=server)
    role: Role = "active" if server else "passive"
    machine = make(role, fingerprints=peer.fingerprints)
    meet(machine, peer, active=server)
    assert peer.established
    peer.connection.renegotiate()
    with suppress(SSL.WantReadError):
        peer.connection.do_handshake()
    asked = peer.drain()
    assert [decode_records(d)[0].content_type for d in asked] == [ContentType.HANDSHAKE]
    assert events([o for d in asked for o in machine.receive(d, now=0.0)]) == []
    assert machine.drops[Drop.REPLAY] == 1
    assert machine.state is DtlsState.ESTABLISHED


def test_a_forged_alert_does_not_end_a_handshake_that_goes_on() -> None:
    pair = Pair()
    flight = pair.start()
    forged = plain(ContentType.ALERT, FATAL_ALERT)
    assert pair.client.receive(forged, now=0.0) == []
    assert pair.server.receive(forged, now=0.0) == []
    pair.transfer(0, flight, now=0.3)
    assert pair.established
    assert pair.client.deadline == math.inf
    assert events(pair.server.tick(now=0.5)) == []


def test_progress_refutes_an_alert() -> None:
    pair = Pair()
    flight = pair.start()
    pair.client.receive(plain(ContentType.ALERT, FATAL_ALERT), now=0.05)
    answer = pair.note(1, pair.server.receive(flight[0], now=0.1))
    assert datagrams(pair.client.receive(answer[0], now=0.2))
    while pair.client.deadline < 3.0:  # the server is silent from here on
        assert events(pair.client.tick(now=pair.client.deadline)) == []
    assert pair.client.state is DtlsState.HANDSHAKING


def test_an_alert_is_believed_when_nothing_follows() -> None:
    client = make("active")
    client.start(now=0.0)
    assert client.receive(plain(ContentType.ALERT, FATAL_ALERT), now=0.05) == []
    assert client.receive(plain(ContentType.ALERT, b"\2\50"), now=0.3) == []  # no later deadline
    outputs: list[DtlsOutput] = []
    while client.state is DtlsState.HANDSHAKING:
        now = client.deadline
        outputs = client.tick(now=now)
    assert outputs == [DtlsFailed(EndReason.DTLS_FAILED, "peer sent alert 40")]
    assert now == pytest.approx(0.55)
    assert client.deadline == math.inf
    assert client.receive(b"\x16", now=1.0) == []


def test_a_warning_or_a_torso_is_no_alert() -> None:
    client = make("active")
    client.start(now=0.0)
    client.receive(plain(ContentType.ALERT, bytes([1, 90])), now=0.0)
    client.receive(plain(ContentType.ALERT, b"\2"), now=0.0)
    assert client.drops == {Drop.MALFORMED: 1}
    assert client.deadline == pytest.approx(0.1)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x16",
        bytes(13),
        plain(ContentType.HANDSHAKE, b"x")[:-1],
        plain(ContentType.HANDSHAKE, b""),
        plain(ContentType.HANDSHAKE, b"short"),
        plain(ContentType.APPLICATION_DATA, b"x"),
        plain(ContentType.HANDSHAKE, bytes(40), epoch=2),
        plain(ContentType.ALERT, FATAL_ALERT) * 33,
        plain(ContentType.HANDSHAKE, b"\1\0\xff\xff\0\0\0\0\0\0\0\0"),
        plain(ContentType.HANDSHAKE, b"\1\0\0\x20\0\0\0\0\x1f\0\0\2xx"),
        plain(ContentType.HANDSHAKE, b"\1\0\0\x20\0\0\0\0\0\0\0\x20xx"),
        b"\x18" + plain(ContentType.HANDSHAKE, bytes(40))[1:],
        b"\x16\x03\x03" + plain(ContentType.HANDSHAKE, bytes(40))[3:],
        bytes(65507),
    ],
)
def test_malformed_datagrams_are_counted_once(datagram: bytes) -> None:
    server = make("passive")
    assert server.receive(datagram, now=0.0) == []
    assert server.drops == {Drop.MALFORMED: 1}
    assert server.state is DtlsState.HANDSHAKING
    assert server.deadline == math.inf


def early_data() -> bytes:
    return plain(ContentType.APPLICATION_DATA, bytes(1000), epoch=1)


def first_fragment(sequence: int, message_bytes: int) -> bytes:
    header = b"\x0b" + message_bytes.to_bytes(3, "big") + sequence.to_bytes(2, "big")
    return plain(ContentType.HANDSHAKE, header + b"\0\0\0\0\0\4" + b"data")


def test_early_records_are_few() -> None:
    server = make("passive")
    for _ in range(100):
        server.receive(early_data(), now=0.0)
    assert server.drops == {Drop.TABLE_FULL: 84}


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_flooded_handshake_holds_little_memory() -> None:
    flood = [early_data()] * 100
    flood += [first_fragment(sequence, size) for sequence in range(30) for size in (16_384, 99_999)]
    servers = [make("passive") for _ in range(20)]
    for server in servers:
        server.receive(datagrams(make("active").start(now=0.0))[0], now=0.0)
    before = resident_bytes()
    for server in servers:
        for number, datagram in enumerate(flood, 100):
            server.receive(datagram[:5] + number.to_bytes(6, "big") + datagram[11:], now=0.0)
        assert server.state is DtlsState.HANDSHAKING
        assert server.drops == {Drop.TABLE_FULL: 84, Drop.MALFORMED: 30}
    assert (resident_bytes() - before) / len(servers) < 300_000
