"""Bad nets: one lost datagram, duplicates, reordering, thirty per cent lost."""

from __future__ import annotations

import math
import time
from random import Random

import pytest

from edge.errors import Drop
from edge.webrtc.dtls import DtlsData
from edge.webrtc.dtls_records import decode_records
from tests.webrtc.dtls_pair import (
    CERTIFICATE_A,
    CERTIFICATE_B,
    Pair,
    datagrams,
    losing,
    make,
    run,
    steady,
    terrible,
)
from tests.webrtc.openssl_peer import PlainPeer


def pair_of(mtu: int) -> Pair:
    return Pair(
        make("active", mtu=mtu), make("passive", own=CERTIFICATE_B, peer=CERTIFICATE_A, mtu=mtu)
    )


@pytest.mark.parametrize("mtu", [256, 400, 1200])
@pytest.mark.parametrize("sender", [0, 1])
def test_any_one_lost_datagram_costs_at_most_150_ms(mtu: int, sender: int) -> None:
    undisturbed = run(pair_of(mtu), steady())
    assert undisturbed == pytest.approx(0.04)
    costs = [run(pair_of(mtu), losing((sender, k))) - undisturbed for k in range(8)]
    assert max(costs) <= 0.15
    assert sum(cost > 0 for cost in costs) >= 2  # the losses were real


def test_a_lost_flight_of_every_kind_recovers_on_a_slow_path() -> None:
    undisturbed = run(Pair(), steady(0.15))
    for lost in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        assert run(Pair(), losing(lost, 0.15)) <= undisturbed + 0.15


def test_everything_doubled_and_reversed() -> None:
    def fate(sender: int, index: int) -> list[float]:
        delay = 0.03 - 0.004 * (index % 5)
        return [delay, delay + 0.001]

    assert run(pair_of(256), fate) < 0.2


def test_a_hundred_handshakes_over_a_terrible_net() -> None:
    times = []
    for seed in range(100):
        pair = Pair()
        times.append(run(pair, terrible(seed), limit=10.0))
        assert len(pair.client_events) == len(pair.server_events) == 1
    assert sorted(times)[50] < 0.5
    assert max(times) < 3.0


def test_silence_is_met_with_a_bounded_number_of_copies() -> None:
    client = make("active")
    client.start(now=0.0)
    times = []
    while client.deadline < 5.0:
        times.append(client.deadline)
        assert len(datagrams(client.tick(now=client.deadline))) == 1
    assert times[:6] == pytest.approx([0.1, 0.3, 0.7, 1.5, 2.3, 3.1])


def test_tick_before_the_deadline_does_nothing() -> None:
    client = make("active")
    client.start(now=0.0)
    assert client.tick(now=0.099) == []


def test_a_repeating_peer_is_answered_but_not_at_any_rate() -> None:
    pair = Pair()
    (hello,) = pair.start()
    assert datagrams(pair.server.receive(hello, now=0.0))
    assert pair.server.receive(hello, now=0.04) == []
    assert len(datagrams(pair.server.receive(hello, now=0.06))) == 1
    answers = [pair.server.receive(hello, now=0.06 + i / 1000) for i in range(100)]
    assert sum(map(len, answers)) == 1


def test_the_last_flight_is_repeated_on_demand_and_twice_unasked() -> None:
    pair = Pair()
    flight = pair.start()
    for receiver in (1, 0):
        flight = pair.note(receiver, pair.machines[receiver].receive(flight[0], now=0.0))
    pair.note(1, pair.server.receive(flight[0], now=0.0))  # its answer is lost
    copies = []
    while pair.server.deadline < math.inf:
        copies.append(pair.server.deadline)
        assert len(datagrams(pair.server.tick(now=pair.server.deadline))) == 1
    assert copies == pytest.approx([0.1, 0.3])
    for now in (5.0, 5.01, 6.0):
        pair.transfer(1, datagrams(pair.server.receive(flight[0], now=now)), now=now)
    assert pair.established
    assert pair.server.drops[Drop.REPLAY] == 3 * len(decode_records(flight[0]))


def test_a_client_that_is_done_has_nothing_to_repeat() -> None:
    pair = Pair()
    flight = pair.start()
    answer = pair.note(1, pair.server.receive(flight[0], now=0.0))
    pair.transfer(1, answer)
    assert pair.client.receive(answer[0], now=9.0) == []


@pytest.mark.parametrize(
    "suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]
)
def test_a_real_server_whose_last_flight_was_lost_answers_our_copy(suite: str) -> None:
    # OpenSSL, like BoringSSL, answers only a Finished under a record number it has not seen.
    peer = PlainPeer(server=True, suites=suite)
    client = make("active", fingerprints=peer.fingerprints)
    answer = peer.receive(datagrams(client.start(now=0.0)))
    flight = [d for part in answer for d in datagrams(client.receive(part, now=0.0))]
    assert peer.receive(flight)  # lost
    assert peer.established
    for copies in range(3):
        repeated = datagrams(client.tick(now=client.deadline))
        final = peer.receive(repeated)
        assert final, copies
    outputs = [o for part in final for o in client.receive(part, now=1.0)]
    assert len(outputs) == 1
    # The copies used record numbers that OpenSSL would give to our first data.
    assert peer.receive(datagrams(client.send(b"first"))) == []
    assert peer.data == [b"first"]


def test_openssls_own_timer_is_never_heard() -> None:
    pair = Pair()
    (hello,) = pair.start()
    answer = pair.note(1, pair.server.receive(hello, now=0.0))
    time.sleep(1.02)  # real seconds: OpenSSL's clock is not ours
    assert pair.server.receive(hello, now=0.01) == []
    assert pair.server.deadline == pytest.approx(0.1)
    pair.transfer(1, answer)
    assert pair.established


def test_fragmented_messages_in_any_order() -> None:
    random = Random(1)
    pair = pair_of(256)
    flight, receiver = pair.start(), 1
    while flight:
        random.shuffle(flight)
        outputs = [o for d in flight for o in pair.machines[receiver].receive(d, now=0.0)]
        flight = pair.note(receiver, outputs)
        receiver = 1 - receiver
    if not pair.established:  # a reordered ChangeCipherSpec waits for a copy
        run_on(pair)
    assert pair.established


def run_on(pair: Pair) -> None:
    for now in (0.1, 0.3):
        for sender, machine in enumerate(pair.machines):
            pair.transfer(sender, datagrams(machine.tick(now=now)), now=now)


def test_data_after_loss_arrives_once() -> None:
    pair = Pair()
    run(pair, losing((0, 1)))
    (datagram,) = datagrams(pair.client.send(b"once"))
    pair.transfer(0, [datagram, datagram])
    assert pair.server_events[1:] == [DtlsData(b"once")]
    assert pair.server.drops[Drop.REPLAY] == 1
