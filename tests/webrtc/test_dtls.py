"""The handshake between two machines: keys, roles, fingerprints, data, goodbye."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import permutations

import pytest
from OpenSSL import SSL, crypto

from edge.errors import Drop, EndReason, LocalProtocolError
from edge.webrtc.dtls import (
    Dtls,
    DtlsCertificate,
    DtlsClosed,
    DtlsData,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
)
from edge.webrtc.dtls_records import decode_records
from edge.webrtc.keys import SrtpProfile
from edge.wire.fingerprint import Fingerprint
from tests.webrtc.dtls_pair import (
    CERTIFICATE_A,
    CERTIFICATE_B,
    Pair,
    datagrams,
    keys,
    make,
)

WRONG = Fingerprint("sha-256", ":".join(["AB"] * 32))


def server(
    fingerprints: frozenset[Fingerprint] | None = None,
    profiles: Sequence[SrtpProfile] = tuple(SrtpProfile),
) -> Dtls:
    return make(
        "passive",
        own=CERTIFICATE_B,
        peer=CERTIFICATE_A,
        fingerprints=fingerprints,
        profiles=profiles,
    )


def named(certificate: DtlsCertificate, algorithm: str) -> Fingerprint:
    x509 = crypto.X509.from_cryptography(certificate._certificate)
    der = crypto.dump_certificate(crypto.FILETYPE_ASN1, x509)
    digest = hashlib.new(algorithm.replace("-", ""), der)
    return Fingerprint(algorithm, digest.digest().hex(":").upper())


def failure(events: Sequence[DtlsOutput]) -> DtlsFailed:
    (event,) = events
    assert isinstance(event, DtlsFailed)
    return event


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise AssertionError("keys were exported")

    monkeypatch.setattr(SSL.Connection, "export_keying_material", refuse)


def test_both_sides_export_the_same_keys_crosswise() -> None:
    client, server_ = Pair().connect()
    assert (client.local_key, client.local_salt) == (server_.remote_key, server_.remote_salt)
    assert (client.remote_key, client.remote_salt) == (server_.local_key, server_.local_salt)
    assert client.local_key != client.remote_key
    assert "key=" not in repr(client)


@pytest.mark.parametrize("profile", SrtpProfile)
def test_every_profile_has_keys_of_its_lengths(profile: SrtpProfile) -> None:
    pair = Pair(make("active"), server(profiles=[profile]))
    for keys_ in pair.connect():
        assert keys_.profile is profile
        assert {len(keys_.local_key), len(keys_.remote_key)} == {profile.key_bytes}
        assert {len(keys_.local_salt), len(keys_.remote_salt)} == {profile.salt_bytes}


@pytest.mark.parametrize("order", list(permutations(SrtpProfile)))
def test_the_servers_order_of_profiles_wins(order: tuple[SrtpProfile, ...]) -> None:
    client, _ = Pair(make("active"), server(profiles=order)).connect()
    assert client.profile is order[0]


def test_default_profiles_prefer_aead() -> None:
    fingerprints = frozenset({CERTIFICATE_A.fingerprint})
    pair = Pair(make("active"), Dtls(CERTIFICATE_B, role="passive", fingerprints=fingerprints))
    assert pair.connect()[0].profile is SrtpProfile.AEAD_AES_128_GCM


def test_a_handshake_is_four_flights_of_one_datagram_each() -> None:
    pair = Pair()
    flight = pair.start(now=5.0)
    sizes = [len(flight)]
    for receiver in (1, 0, 1, 0):
        outputs = pair.machines[receiver].receive(flight[0], now=5.0)
        flight = pair.note(receiver, outputs)
        sizes.append(len(flight))
    assert sizes == [1, 1, 1, 1, 0]
    assert pair.established
    assert pair.client.deadline == math.inf
    assert pair.server.deadline == 5.1  # the blind copies of the last flight


@pytest.mark.parametrize("mtu", [256, 400, 1200])
def test_datagrams_fit_the_mtu(mtu: int) -> None:
    pair = Pair(make("active", mtu=mtu), make("passive", own=CERTIFICATE_B, peer=CERTIFICATE_A))
    flight = pair.start()
    while flight:
        assert all(len(datagram) <= mtu for datagram in flight)
        answers = [o for d in flight for o in pair.server.receive(d, now=0.0)]
        replies = [o for d in datagrams(answers) for o in pair.client.receive(d, now=0.0)]
        flight = datagrams(replies)
    assert pair.established


def test_start_twice_is_our_callers_mistake() -> None:
    client = make("active")
    client.start(now=0.0)
    with pytest.raises(LocalProtocolError):
        client.start(now=0.0)


def test_a_passive_machine_listens_without_start() -> None:
    hello = datagrams(make("active").start(now=0.0))
    assert datagrams(server().receive(hello[0], now=0.0))


def test_an_active_machine_takes_nothing_before_start() -> None:
    client = make("active")
    hello = datagrams(make("active").start(now=0.0))
    assert client.receive(hello[0], now=0.0) == []
    assert client.drops == {Drop.NOT_READY: 1}
    assert client.deadline == math.inf


def test_one_context_serves_all_handshakes() -> None:
    certificate = DtlsCertificate.generate()
    profiles = tuple(SrtpProfile)
    assert certificate.context(profiles) is certificate.context(list(profiles))
    assert certificate.context(profiles) is not certificate.context(profiles[:1])


# Fingerprints


def test_wrong_fingerprint_is_refused_by_the_client(no_export: None) -> None:
    pair = Pair(make("active", fingerprints=frozenset({WRONG})))
    pair.transfer(0, pair.start())
    assert failure(pair.client_events).reason is EndReason.FINGERPRINT_MISMATCH
    assert pair.client.state is DtlsState.FAILED
    pair.server_events += pair.server.tick(now=1.0)  # it was told by an alert
    assert failure(pair.server_events).reason is EndReason.DTLS_FAILED


def test_wrong_fingerprint_is_refused_by_the_server(no_export: None) -> None:
    pair = Pair(make("active"), server(frozenset({WRONG})))
    pair.transfer(0, pair.start())
    assert failure(pair.server_events).reason is EndReason.FINGERPRINT_MISMATCH
    pair.client_events += pair.client.tick(now=1.0)
    assert failure(pair.client_events).reason is EndReason.DTLS_FAILED


@pytest.mark.parametrize("judge", [0, 1])
def test_keys_are_guarded_even_if_the_callback_were_blind(
    judge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.webrtc.certificate._verify", lambda *_: True)
    blind = DtlsCertificate.generate()
    trusting, wrong = frozenset({blind.fingerprint}), frozenset({WRONG})
    pair = Pair(
        make("active", own=blind, fingerprints=trusting if judge else wrong),
        make("passive", own=blind, fingerprints=wrong if judge else trusting),
    )
    exported: list[object] = []
    monkeypatch.setattr(pair.machines[judge]._machine, "_export_keys", exported.append)
    pair.transfer(0, pair.start())
    events = (pair.client_events, pair.server_events)[judge]
    assert failure(events).reason is EndReason.FINGERPRINT_MISMATCH
    assert exported == []


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-384", "sha-512"])
def test_each_strong_digest_is_accepted(algorithm: str) -> None:
    expected = frozenset({named(CERTIFICATE_A, algorithm)})
    Pair(make("active"), server(expected)).connect()


@pytest.mark.parametrize(
    "fingerprints",
    [
        frozenset(),
        frozenset({named(CERTIFICATE_A, "sha-1")}),
        frozenset({named(CERTIFICATE_A, "sha-256"), Fingerprint("sha-512", "00:11")}),
    ],
    ids=["none", "only sha-1", "the best one is wrong"],
)
def test_weak_or_contradicted_fingerprints_are_refused(
    fingerprints: frozenset[Fingerprint], no_export: None
) -> None:
    pair = Pair(make("active"), server(fingerprints))
    pair.transfer(0, pair.start())
    assert failure(pair.server_events).reason is EndReason.FINGERPRINT_MISMATCH


def test_one_of_several_fingerprints_is_enough() -> None:
    expected = frozenset({WRONG, CERTIFICATE_A.fingerprint})
    Pair(make("active"), server(expected)).connect()


# Data and goodbye


def test_data_goes_both_ways() -> None:
    pair = Pair()
    pair.connect()
    for sender, events in ((0, pair.server_events), (1, pair.client_events)):
        pair.transfer(sender, datagrams(pair.machines[sender].send(b"hello")))
        assert events[-1] == DtlsData(b"hello")
    assert "hello" not in repr(pair.client_events)


def test_data_must_fit_one_datagram() -> None:
    pair = Pair()
    with pytest.raises(LocalProtocolError):
        pair.client.send(b"too early")
    pair.connect()
    (datagram,) = datagrams(pair.client.send(bytes(1163)))
    assert len(datagram) == 1200
    for data in (b"", bytes(1164)):
        with pytest.raises(LocalProtocolError):
            pair.client.send(data)


def test_data_that_overtakes_the_last_flight_is_kept() -> None:
    pair = Pair()
    flight = pair.start()
    for receiver in (1, 0):
        flight = pair.note(receiver, pair.machines[receiver].receive(flight[0], now=0.0))
    final = pair.note(1, pair.server.receive(flight[0], now=0.0))
    (early,) = datagrams(pair.server.send(b"early"))
    pair.transfer(1, [early, *final])
    assert keys(pair.client_events[:1])
    assert pair.client_events[1:] == [DtlsData(b"early")]


@pytest.mark.parametrize("closer", [0, 1])
def test_close_notify_closes_both_sides(closer: int) -> None:
    pair = Pair()
    pair.connect()
    goodbye = datagrams(pair.machines[closer].close())
    assert len(goodbye) == 1
    pair.transfer(closer, goodbye)
    events = (pair.server_events, pair.client_events)[closer]
    assert events[-1] == DtlsClosed()
    for machine in pair.machines:
        assert machine.state is DtlsState.CLOSED
        assert machine.deadline == math.inf
        assert machine.close() == []


def test_close_in_a_handshake_is_silent() -> None:
    client = make("active")
    client.start(now=0.0)
    assert client.close() == []
    assert client.state is DtlsState.CLOSED
    assert client.tick(now=9.0) == []


def test_no_record_number_is_used_twice() -> None:
    pair = Pair()
    (hello,) = pair.start()
    answer = datagrams(pair.server.receive(hello, now=0.0))
    sent = [hello]
    for _ in range(2):
        sent += datagrams(pair.client.tick(now=pair.client.deadline))
    sent += datagrams(pair.client.receive(answer[0], now=0.3))
    for _ in range(3):
        sent += datagrams(pair.client.tick(now=pair.client.deadline))
    records = [record for datagram in sent for record in decode_records(datagram)]
    assert len(records) == 3 + 4 * 5
    assert len({(record.epoch, record.sequence) for record in records}) == len(records)
    nonces = [record.fragment[:8] for record in records if record.epoch]
    assert len(set(nonces)) == 4
