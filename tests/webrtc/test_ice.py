from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest

from edge.errors import Drop, EndReason, LocalProtocolError
from edge.webrtc.ice import MAX_EARLY_CHECKS, IceCredentials, IceLite, IceOutput
from edge.webrtc.ice_paths import LONG_SILENCE
from edge.webrtc.ice_probes import PROBE_LIFETIME
from edge.webrtc.ice_snapshot import IceSnapshot
from edge.webrtc.outputs import Ended, PathSelected, Transmit
from edge.wire import stun
from edge.wire.spp import Path, decode_path, encode_path
from edge.wire.stun_peek import MessageClass, peek

SERVER = IceCredentials("A" * 23, "server-password-0123456789")
CLIENT = IceCredentials("h6vY", "client-password-0123456789")
RELAY = ("203.0.113.1", 3478)
HIGH, LOW = 2_000, 1_000


def path_of(port: int, host: str = "192.0.2.1") -> Path:
    return encode_path((host, port), RELAY)


S, P, V = path_of(1000), path_of(2000), path_of(53, "198.51.100.9")


def counting_entropy() -> Callable[[int], bytes]:
    counter = iter(range(1, 1_000_000))
    return lambda n: next(counter).to_bytes(n)


@dataclass
class Client:
    """A full, controlling agent's messages."""

    count: int = field(default=0)

    def check(
        self,
        *,
        nominate: bool = True,
        priority: int = HIGH,
        username: str = f"{SERVER.ufrag}:{CLIENT.ufrag}",
        password: str = SERVER.password,
        controlled: int | None = None,
    ) -> bytes:
        self.count += 1
        return stun.encode_request(
            b"check" + self.count.to_bytes(7),
            username=username,
            password=password,
            priority=priority,
            use_candidate=nominate,
            controlling=None if controlled is not None else 7,
            controlled=controlled,
        )

    def answer(self, probe: Transmit) -> bytes:
        request = stun.decode_request(probe.data, password=CLIENT.password)
        return stun.encode_success(request.transaction_id, RELAY, password=CLIENT.password)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def ice() -> IceLite:
    return make_ice()


def make_ice(max_paths: int = 8) -> IceLite:
    return IceLite(
        SERVER,
        CLIENT,
        tie_breaker=99,
        entropy=counting_entropy(),
        now=0.0,
        max_paths=max_paths,
    )


def established(ice: IceLite, client: Client) -> None:
    """DTLS has completed on S, which the client has nominated."""
    assert PathSelected(S) in ice.receive(client.check(), S, now=0.0)
    ice.prove(S)
    assert ice.establish(now=0.0) == []


def selections(outputs: list[IceOutput]) -> list[Path]:
    return [output.path for output in outputs if isinstance(output, PathSelected)]


def probes(outputs: Sequence[IceOutput]) -> list[Transmit]:
    return [
        output
        for output in outputs
        if isinstance(output, Transmit) and peek(output.data)[0] is MessageClass.REQUEST
    ]


def answer_to(outputs: list[IceOutput]) -> stun.BindingSuccess | stun.BindingError:
    first = outputs[0]
    assert isinstance(first, Transmit)
    return stun.decode_response(first.data, password=SERVER.password)


# Checks and their answers.


@pytest.mark.parametrize("nominate", [True, False])
@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_every_valid_check_is_answered(
    ice: IceLite, client: Client, nominate: bool, host: str
) -> None:
    path = path_of(4321, host)
    for now in (0.0, 5.0, 10.0):
        datagram = client.check(nominate=nominate)
        outputs = ice.receive(datagram, path, now=now)
        _, transaction_id = peek(datagram)
        assert answer_to(outputs) == stun.BindingSuccess(transaction_id, (host, 4321))
        assert isinstance(outputs[0], Transmit)
        assert outputs[0].path == path
    assert ice.paths.knows(path)
    assert not ice.drops


def test_integrity_and_username_must_be_ours(ice: IceLite, client: Client) -> None:
    for datagram in (
        client.check(password=CLIENT.password),
        client.check(username=f"{CLIENT.ufrag}:{SERVER.ufrag}"),
        client.check(username=f"{SERVER.ufrag}:other"),
        client.check(username=SERVER.ufrag),
    ):
        assert ice.receive(datagram, S, now=0.0) == []
    assert ice.drops == {Drop.BAD_INTEGRITY: 4}
    assert not ice.paths.knows(S)
    assert ice.paths.selected is None
    assert ice.deadline == math.inf


def test_a_controlled_peer_is_told_487(ice: IceLite, client: Client) -> None:
    outputs = ice.receive(client.check(controlled=5), S, now=0.0)
    assert answer_to(outputs) == stun.BindingError(b"check" + bytes(6) + b"\1", 487)
    assert len(outputs) == 1
    assert not ice.paths.knows(S)
    assert ice.deadline == math.inf


def test_an_unknown_required_attribute_is_told_420(
    ice: IceLite, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stun, "_PRIORITY", 0x7777)  # the client's PRIORITY is no longer one
    datagram = client.check()
    monkeypatch.undo()
    outputs = ice.receive(datagram, S, now=0.0)
    answer = answer_to(outputs)
    assert isinstance(answer, stun.BindingError)
    assert answer.code == 420
    assert isinstance(outputs[0], Transmit)
    assert b"\x00\x0a\x00\x02\x77\x77" in outputs[0].data
    assert not ice.paths.knows(S)


def test_garbage_is_counted_and_nothing_else(ice: IceLite, client: Client) -> None:
    established(ice, client)
    before = ice.snapshot(now=1.0)
    good = client.check()
    for datagram in (b"", good[:-1], good[:4] + bytes(4) + good[8:], b"\0\1" + bytes(65_000)):
        assert ice.receive(datagram, S, now=1.0) == []
    assert ice.drops == {Drop.MALFORMED: 4}
    assert ice.receive(client.check(), Path(b"no path"), now=1.0) == []
    assert ice.drops[Drop.MALFORMED] == 5
    assert ice.snapshot(now=1.0) == before


def test_an_indication_moves_nothing(ice: IceLite, client: Client) -> None:
    established(ice, client)
    before = ice.snapshot(now=1.0)
    indication = bytes.fromhex("00110000 2112a442") + bytes(12)
    assert ice.receive(indication, S, now=1.0) == []
    assert not ice.drops
    assert ice.snapshot(now=1.0) == before


# Selection.


@pytest.mark.parametrize("nominate", [True, False])
def test_the_first_valid_check_selects_its_path(
    ice: IceLite, client: Client, nominate: bool
) -> None:
    outputs = ice.receive(client.check(nominate=nominate), S, now=0.0)
    assert [type(output) for output in outputs] == [Transmit, PathSelected]
    assert ice.paths.selected == S
    assert selections(ice.receive(client.check(nominate=nominate), S, now=0.1)) == []


def test_the_first_nomination_replaces_a_provisional_path(ice: IceLite, client: Client) -> None:
    ice.receive(client.check(nominate=False, priority=HIGH), S, now=0.0)
    assert selections(ice.receive(client.check(nominate=False), P, now=0.1)) == []
    assert selections(ice.receive(client.check(priority=LOW), P, now=0.2)) == [P]
    assert ice.paths.selected == P


def test_a_nomination_moves_when_the_old_one_was_withdrawn(ice: IceLite, client: Client) -> None:
    ice.receive(client.check(priority=HIGH), S, now=0.0)
    assert selections(ice.receive(client.check(priority=LOW), P, now=0.1)) == []
    ice.receive(client.check(nominate=False, priority=HIGH), S, now=0.2)
    assert selections(ice.receive(client.check(priority=LOW), P, now=0.3)) == [P]


def test_an_equal_priority_moves_as_after_a_rebinding(ice: IceLite, client: Client) -> None:
    ice.receive(client.check(), S, now=0.0)
    assert selections(ice.receive(client.check(), P, now=0.1)) == [P]


def test_a_silent_path_yields_to_a_lower_priority(ice: IceLite, client: Client) -> None:
    ice.receive(client.check(priority=HIGH), S, now=0.0)
    assert selections(ice.receive(client.check(priority=LOW), P, now=1.0)) == []
    assert selections(ice.receive(client.check(priority=LOW), P, now=1.01)) == [P]


def test_a_path_with_authenticated_media_is_not_silent(ice: IceLite, client: Client) -> None:
    ice.receive(client.check(priority=HIGH), S, now=0.0)
    ice.paths.heard(S, 100, now=0.9)
    assert selections(ice.receive(client.check(priority=LOW), P, now=1.5)) == []
    ice.paths.heard(S, 100, now=1.6, authenticated=False)
    assert selections(ice.receive(client.check(priority=LOW), P, now=2.0)) == [P]


def test_an_unnominated_check_never_moves(ice: IceLite, client: Client) -> None:
    ice.receive(client.check(priority=LOW), S, now=0.0)
    assert selections(ice.receive(client.check(nominate=False), P, now=20.0)) == []


def test_aggressive_nomination_settles_on_the_highest_priority(
    ice: IceLite, client: Client
) -> None:
    paths = {path_of(port): port for port in (10, 40, 20, 30)}
    moves = []
    for step in range(40):
        for offset, (path, priority) in enumerate(paths.items()):
            now = step * 0.5 + offset * 0.05
            moves += selections(ice.receive(client.check(priority=priority), path, now=now))
    assert moves == [path_of(10), path_of(40)]


def test_a_check_without_priority_keeps_the_known_one(ice: IceLite, client: Client) -> None:
    ice.receive(client.check(priority=HIGH), S, now=0.0)
    ice.receive(client.check(priority=0), S, now=0.1)
    assert selections(ice.receive(client.check(priority=LOW), P, now=0.2)) == []


# The 3x rule.


def test_an_unproven_path_gets_three_times_what_it_sent(ice: IceLite, client: Client) -> None:
    datagram = client.check()
    [response, _] = ice.receive(datagram, S, now=0.0)
    assert isinstance(response, Transmit)
    budget = 3 * len(datagram) - len(response.data)
    assert ice.paths.allow(S, budget - 1)
    assert not ice.paths.allow(S, 2)
    assert ice.paths.allow(S, 1)
    assert not ice.paths.allow(S, 1)
    ice.paths.heard(S, 10, now=0.0)
    assert ice.paths.allow(S, 30)
    assert not ice.paths.allow(S, 1)
    assert ice.drops == {Drop.AMPLIFICATION: 3}


def test_a_proven_path_is_unlimited(ice: IceLite, client: Client) -> None:
    established(ice, client)
    assert all(ice.paths.allow(S, 60_000) for _ in range(100))
    assert not ice.drops


def test_an_unknown_path_gets_nothing(ice: IceLite, client: Client) -> None:
    ice.paths.heard(P, 1_000, now=0.0)
    ice.prove(P)
    assert not ice.paths.knows(P)
    assert not ice.paths.allow(P, 1)


def test_a_check_is_answered_with_an_empty_budget(ice: IceLite, client: Client) -> None:
    for now in range(5):
        assert isinstance(answer_to(ice.receive(client.check(), S, now=now)), stun.BindingSuccess)
        while ice.paths.allow(S, 1):
            pass


def test_junk_earns_no_budget(ice: IceLite, client: Client) -> None:
    ice.receive(client.check(), S, now=0.0)
    while ice.paths.allow(S, 1):
        pass
    ice.receive(client.check(password="x" * 22), S, now=0.0)
    assert not ice.paths.allow(S, 1)


# Return-routability.


def test_before_dtls_is_done_nothing_is_probed(ice: IceLite, client: Client) -> None:
    assert probes(ice.receive(client.check(), S, now=0.0)) == []
    assert probes(ice.receive(client.check(), P, now=0.1)) == []


def test_a_path_that_dtls_has_not_proven_is_probed_at_once(ice: IceLite, client: Client) -> None:
    assert PathSelected(S) in ice.receive(client.check(), S, now=0.0)
    [probe] = probes(ice.establish(now=0.1))
    assert probe.path == S
    assert ice.deadline == pytest.approx(0.2)
    ice.receive(client.answer(probe), S, now=0.2)
    assert ice.paths.allow(S, 60_000)


def test_a_check_seen_on_another_path_is_a_replay_until_dtls_is_done(
    ice: IceLite, client: Client
) -> None:
    check = client.check()
    ice.receive(check, S, now=0.0)
    assert ice.receive(check, P, now=0.1) == []
    assert not ice.paths.knows(P)
    assert ice.drops == {Drop.REPLAY: 1}
    assert isinstance(answer_to(ice.receive(check, S, now=0.2)), stun.BindingSuccess)
    for _ in range(2 * MAX_EARLY_CHECKS):
        ice.receive(client.check(), S, now=0.3)
    assert len(ice.snapshot(now=0.3).early_checks) == MAX_EARLY_CHECKS
    ice.prove(S)
    ice.establish(now=0.4)
    assert ice.snapshot(now=0.4).early_checks == ()
    # From now on such a path is probed, and followed if the client answers there.
    assert probes(ice.receive(check, P, now=0.5))


def test_a_new_path_is_probed_and_its_answer_proves_it(ice: IceLite, client: Client) -> None:
    established(ice, client)
    outputs = ice.receive(client.check(), P, now=0.5)
    [probe] = probes(outputs)
    assert probe.path == P
    request = stun.decode_request(probe.data, password=CLIENT.password)
    assert request.username == f"{CLIENT.ufrag}:{SERVER.ufrag}"
    assert request.controlled == 99
    assert not request.use_candidate
    assert selections(outputs) == []  # not before it is proven: S is alive
    assert ice.receive(client.answer(probe), P, now=0.6) == [PathSelected(P)]
    assert all(ice.paths.allow(P, 60_000) for _ in range(10))
    assert ice.tick(now=0.7) == []  # proven: no repetition
    assert probes(ice.receive(client.check(), P, now=5.0)) == []


def test_a_probe_is_repeated_three_times_within_the_budget(ice: IceLite, client: Client) -> None:
    established(ice, client)
    received, sent, times = 0, 0, []
    datagram = client.check()
    outputs = ice.receive(datagram, P, now=1.0)
    ice.paths.heard(P, 1_000, now=1.0)
    transactions = {peek(probe.data)[1] for probe in probes(outputs)}
    while ice.deadline < 5.0:
        now = ice.deadline
        times.append(round(now - 1.0, 6))
        outputs = ice.tick(now=now)
        transactions |= {peek(probe.data)[1] for probe in probes(outputs)}
        assert len(probes(outputs)) == 1
    assert times == [0.1, 0.2, 0.4]
    assert len(transactions) == 1

    # Without any other bytes the budget ends first.
    received = len(datagram)
    outputs = ice.receive(datagram, V, now=10.0)
    while ice.deadline < 12.0:
        outputs += ice.tick(now=ice.deadline)
    sent = sum(len(output.data) for output in outputs if isinstance(output, Transmit))
    assert sent <= 3 * received
    assert ice.drops[Drop.AMPLIFICATION] >= 1


def test_an_unanswered_probe_starts_again_with_a_later_check(ice: IceLite, client: Client) -> None:
    established(ice, client)
    ice.paths.heard(S, 100, now=1.0)
    [first] = probes(ice.receive(client.check(), P, now=1.0))
    assert probes(ice.receive(client.check(), P, now=1.05)) == []
    assert ice.deadline == pytest.approx(1.1)
    ice.paths.heard(S, 100, now=2.9)
    [second] = probes(ice.receive(client.check(), P, now=1.0 + PROBE_LIFETIME))
    assert ice.receive(client.answer(first), P, now=3.1) == []
    assert ice.drops[Drop.BAD_INTEGRITY] == 1
    assert ice.receive(client.answer(second), P, now=3.2) == [PathSelected(P)]


def test_only_the_right_answer_from_the_right_path_proves(ice: IceLite, client: Client) -> None:
    established(ice, client)
    [probe] = probes(ice.receive(client.check(), P, now=1.0))
    _, transaction_id = peek(probe.data)
    refused = [
        (client.answer(probe), V),  # a path we do not know
        (client.answer(probe), S),  # a path that was not asked
        (stun.encode_success(transaction_id, RELAY, password=SERVER.password), P),
        (stun.encode_success(bytes(12), RELAY, password=CLIENT.password), P),
        (stun.encode_error(bytes(12), 401, "", password=None), P),
    ]
    for datagram, path in refused:
        assert ice.receive(datagram, path, now=1.1) == []
    assert ice.drops == {Drop.BAD_INTEGRITY: len(refused)}
    error = stun.encode_error(transaction_id, 401, "", password=None)
    assert ice.receive(error, P, now=1.1) == []
    assert not ice.paths.allow(P, 60_000)
    assert ice.paths.selected == S
    assert ice.receive(client.answer(probe), P, now=1.2) == [PathSelected(P)]
    assert ice.receive(client.answer(probe), P, now=1.2) == []  # a duplicate


def test_a_late_answer_proves_nothing(ice: IceLite, client: Client) -> None:
    established(ice, client)
    [probe] = probes(ice.receive(client.check(), P, now=1.0))
    assert ice.receive(client.answer(probe), P, now=1.0 + PROBE_LIFETIME) == []
    assert ice.drops == {Drop.BAD_INTEGRITY: 1}


def test_an_answer_shows_that_its_path_is_alive(ice: IceLite, client: Client) -> None:
    established(ice, client)
    [probe] = probes(ice.receive(client.check(), P, now=0.5))
    assert ice.receive(client.answer(probe), P, now=1.4) == [PathSelected(P)]
    assert selections(ice.receive(client.check(priority=LOW), S, now=2.0)) == []


def test_a_spoofed_source_takes_nothing_over(ice: IceLite, client: Client) -> None:
    """A captured check is replayed from a victim's address while the call goes on."""
    established(ice, client)
    captured = client.check()
    received = sent = 0
    for step in range(200):
        now = 1.0 + step * 0.02
        ice.paths.heard(S, 100, now=now)
        outputs = ice.receive(captured, V, now=now) if step % 50 == 0 else ice.tick(now=now)
        received += len(captured) if step % 50 == 0 else 0
        assert selections(outputs) == []
        sent += sum(
            len(output.data)
            for output in outputs
            if isinstance(output, Transmit) and output.path == V
        )
        sent += 1_000 if ice.paths.allow(V, 1_000) else 0
    assert 0 < sent <= 3 * received
    assert ice.paths.selected == S


def test_a_moved_client_that_answers_nothing_still_gets_its_share(
    ice: IceLite, client: Client
) -> None:
    """The old path is dead for sure: the new one is used, but within three times its bytes."""
    established(ice, client)
    assert selections(ice.receive(client.check(), P, now=LONG_SILENCE)) == []
    assert selections(ice.receive(client.check(), P, now=LONG_SILENCE + 0.1)) == [P]
    assert not ice.paths.allow(P, 60_000)
    ice.paths.heard(P, 200, now=LONG_SILENCE + 0.2)
    assert ice.paths.allow(P, 600)


def test_a_rebound_nat_moves_back_and_forth(ice: IceLite, client: Client) -> None:
    established(ice, client)
    [probe] = probes(ice.receive(client.check(), P, now=0.1))
    assert selections(ice.receive(client.answer(probe), P, now=0.2)) == [P]
    assert selections(ice.receive(client.check(), S, now=0.3)) == [S]


# The table of paths.


def test_a_flood_of_paths_evicts_the_oldest_heard_but_never_the_selected(client: Client) -> None:
    ice = make_ice(max_paths=4)
    ice.receive(client.check(priority=HIGH), S, now=0.0)
    ice.prove(S)
    flood = [path_of(port) for port in range(5_000, 5_100)]
    for step, path in enumerate(flood):
        ice.receive(client.check(nominate=False), path, now=0.01 + step * 0.001)
        assert sum(map(ice.paths.knows, [S, *flood])) <= 4
    assert ice.paths.selected == S
    assert [path for path in flood if ice.paths.knows(path)] == flood[-3:]
    assert ice.drops[Drop.TABLE_FULL] == 97

    ice.paths.heard(flood[-3], 10, now=1.0)  # now flood[-2] is the oldest
    ice.receive(client.check(nominate=False), P, now=1.1)
    assert ice.paths.knows(flood[-3])
    assert not ice.paths.knows(flood[-2])


def test_a_table_of_one_path_cannot_move() -> None:
    with pytest.raises(LocalProtocolError):
        make_ice(max_paths=1)


# Consent.


def test_consent_expires_without_checks(ice: IceLite, client: Client) -> None:
    assert ice.deadline == math.inf
    assert ice.tick(now=100.0) == []
    established(ice, client)
    assert ice.deadline == 30.0
    assert ice.tick(now=29.9) == []
    assert ice.tick(now=30.0) == [Ended(EndReason.CONSENT_EXPIRED)]
    assert ice.deadline == math.inf
    assert ice.tick(now=31.0) == []
    assert ice.receive(client.check(), S, now=31.0) == []


def test_one_lost_check_ends_nothing(ice: IceLite, client: Client) -> None:
    established(ice, client)
    for now in (5.0, 10.0, 20.0, 45.0):
        assert ice.tick(now=now) == []
        ice.receive(client.check(), S, now=now)
    assert ice.deadline == 75.0


def test_consent_is_kept_by_checks_on_any_path(ice: IceLite, client: Client) -> None:
    established(ice, client)
    ice.receive(client.check(nominate=False, priority=LOW), P, now=20.0)
    assert ice.tick(now=49.9) == [] or probes(ice.tick(now=49.9)) == []
    assert ice.tick(now=50.0) == [Ended(EndReason.CONSENT_EXPIRED)]


def test_media_and_invalid_checks_do_not_keep_consent(ice: IceLite, client: Client) -> None:
    established(ice, client)
    for now in range(30):
        ice.paths.heard(S, 1_000, now=now)
        ice.paths.allow(S, 1_000)
        ice.receive(client.check(password="wrong-password-000000"), S, now=now)
        ice.receive(client.check(controlled=3), S, now=now)
        ice.prove(S)
    assert ice.tick(now=30.0) == [Ended(EndReason.CONSENT_EXPIRED)]


def test_a_valid_answer_to_our_check_counts_as_consent(ice: IceLite, client: Client) -> None:
    established(ice, client)
    [probe] = probes(ice.receive(client.check(), P, now=1.0))
    ice.receive(client.answer(probe), P, now=2.0)
    assert ice.deadline == 32.0


# Snapshots.


def test_a_snapshot_hides_its_secrets(ice: IceLite, client: Client) -> None:
    established(ice, client)
    shown = repr(ice.snapshot(now=0.0)) + repr(SERVER)
    assert SERVER.password not in shown
    assert CLIENT.password not in shown
    assert repr(bytes(S)) not in shown


def test_a_snapshot_is_a_copy(ice: IceLite, client: Client) -> None:
    established(ice, client)
    snapshot = ice.snapshot(now=0.0)
    saved = msgspec.msgpack.encode(snapshot)
    other = IceLite.restore(snapshot, entropy=counting_entropy(), now=0.0)
    for agent in (ice, other):
        agent.receive(client.check(), P, now=1.0)
        agent.paths.heard(S, 100, now=1.0)
    assert msgspec.msgpack.encode(snapshot) == saved


def test_an_ended_agent_stays_ended(ice: IceLite, client: Client) -> None:
    established(ice, client)
    ice.tick(now=30.0)
    snapshot = ice.snapshot(now=30.0)
    restored = IceLite.restore(snapshot, entropy=counting_entropy(), now=500.0)
    assert restored.receive(client.check(), S, now=500.0) == []
    assert restored.deadline == math.inf


ACTIONS = ("check", "check", "answer", "tick", "allow", "heard", "prove", "establish")


@dataclass
class Step:
    """One thing that happens to an agent."""

    action: str
    path: Path
    datagram: bytes
    nbytes: int

    def apply(self, agent: IceLite, now: float) -> Sequence[IceOutput] | bool:
        match self.action:
            case "check" | "answer":
                return agent.receive(self.datagram, self.path, now=now)
            case "tick":
                return agent.tick(now=now)
            case "allow":
                return agent.paths.allow(self.path, self.nbytes)
            case "heard":
                agent.paths.heard(self.path, self.nbytes, now=now)
            case "establish":
                return agent.establish(now=now)
            case _:
                agent.prove(self.path)
        return []


@pytest.mark.parametrize("seed", range(4))
def test_a_restored_agent_goes_on_exactly_as_the_original(seed: int) -> None:
    """At every step of a random call the state passes through bytes onto another clock."""
    rng = random.Random(seed)
    client = Client()
    original, restored = make_ice(max_paths=3), make_ice(max_paths=3)
    entropy = counting_entropy()  # both draw the same numbers
    paths = [path_of(port) for port in range(4)]
    asked: list[Transmit] = []
    seen: set[type[IceOutput]] = set()
    now, ahead = 0.0, 0.0
    for _ in range(400):
        now += rng.choice([0.0, 1 / 64, 1 / 8, 1 / 2, 5 / 2])
        saved = restored.snapshot(now=now + ahead)
        assert saved == original.snapshot(now=now)
        saved = msgspec.msgpack.decode(msgspec.msgpack.encode(saved), type=IceSnapshot)
        ahead = 2.0**20 - ahead
        restored = IceLite.restore(saved, entropy=entropy, now=now + ahead)

        step = Step(
            action=rng.choice(ACTIONS),
            path=rng.choice(paths),
            datagram=client.check(nominate=rng.random() < 0.6, priority=rng.choice([LOW, HIGH])),
            nbytes=rng.randrange(400),
        )
        if step.action == "answer" and asked:
            probe = rng.choice(asked[-3:])
            step.datagram, step.path = client.answer(probe), probe.path
        if step.action in ("prove", "establish") and rng.random() < 0.9:
            continue
        result = step.apply(original, now)
        assert step.apply(restored, now + ahead) == result
        assert restored.paths.selected == original.paths.selected
        assert restored.deadline - ahead == pytest.approx(original.deadline)
        if isinstance(result, list):
            asked += probes(result)
            seen |= {type(output) for output in result}
    assert asked
    assert original.tick(now=now + 31) == restored.tick(now=now + ahead + 31)
    assert seen == {Transmit, PathSelected}


def test_xor_mapped_is_the_client_not_the_relay(ice: IceLite, client: Client) -> None:
    answer = answer_to(ice.receive(client.check(), V, now=0.0))
    assert isinstance(answer, stun.BindingSuccess)
    assert answer.mapped == decode_path(V)[0] != RELAY
