"""DTLS after the handshake, against OpenSSL: data, ends, replays, and sessions that move."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from edge.errors import Drop, EndReason, LocalProtocolError
from edge.webrtc.dtls import (
    Dtls,
    DtlsClosed,
    DtlsData,
    DtlsFailed,
    DtlsOutput,
    DtlsSnapshot,
    DtlsState,
    Role,
)
from edge.webrtc.dtls_handshake import Handshake
from edge.webrtc.dtls_protection import RecordKey, RecordWriter, WriterSnapshot
from edge.webrtc.dtls_records import NUMBERS, ContentType, Record, decode_records
from edge.webrtc.dtls_session import DtlsSession
from edge.webrtc.srtp import REPLAY_WINDOW
from tests.support.examples import examples
from tests.webrtc.dtls_pair import Pair, datagrams, events, make
from tests.webrtc.openssl_peer import PlainPeer
from tests.webrtc.test_dtls_properties import Mutation, mutate, mutations

ROLES: tuple[Role, Role] = ("active", "passive")
SUITES = ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384")
FATAL_ALERT = bytes([2, 40])
RESERVE = 10


@dataclass
class Meeting:
    """One of ours that has finished its handshake with OpenSSL."""

    role: Role
    suite: str = SUITES[0]
    lose_last: bool = False
    last: list[bytes] = field(default_factory=list)
    """The flight that was delivered last."""
    sent: list[bytes] = field(default_factory=list)
    """What ours sent in the handshake."""

    def __post_init__(self) -> None:
        self.peer = PlainPeer(server=self.role == "active", suites=self.suite)
        self.ours = make(self.role, fingerprints=self.peer.fingerprints)
        self.sent = datagrams(self.ours.start(now=0.0))
        flight = self.sent or self.peer.start()
        to_peer = self.role == "active"
        while flight and not (self.lose_last and self.ours.state is DtlsState.ESTABLISHED):
            flight, self.last = self._deliver(flight, to_peer=to_peer), flight
            to_peer = not to_peer

    def _deliver(self, flight: list[bytes], *, to_peer: bool) -> list[bytes]:
        if to_peer:
            return self.peer.receive(flight)
        answers = [d for part in flight for d in datagrams(self.ours.receive(part, now=0.0))]
        self.sent = self.sent + answers
        return answers

    def say(self, data: bytes) -> list[bytes]:
        """Have OpenSSL send."""
        self.peer.connection.send(data)
        return self.peer.drain()

    def hear(self, sent: Sequence[bytes], *, now: float = 0.0) -> list[DtlsOutput]:
        """Give ours what OpenSSL sent."""
        return [o for datagram in sent for o in self.ours.receive(datagram, now=now)]

    def talk(self, text: bytes) -> None:
        """Data both ways, each way once."""
        assert self.peer.receive(datagrams(self.ours.send(text))) == []
        assert self.peer.data.pop() == text
        assert self.peer.data == []
        assert self.hear(self.say(text)) == [DtlsData(text)]

    def session(self) -> DtlsSession:
        machine = self.ours._machine
        assert isinstance(machine, DtlsSession)
        return machine

    def move(self, snapshot: DtlsSnapshot, *, skip: int = 0) -> None:
        """Another process takes over."""
        stored = msgspec.msgpack.encode(snapshot)
        self.ours = Dtls.restore(msgspec.msgpack.decode(stored, type=DtlsSnapshot), skip=skip)


def record_of(datagram: bytes) -> Record:
    (record,) = decode_records(datagram)
    return record


def plain(content_type: ContentType, fragment: bytes, epoch: int = 0, number: int = 77) -> bytes:
    return Record(content_type, 0xFEFD, epoch, number, fragment).encode()


def encrypted(sent: Sequence[bytes]) -> list[Record]:
    return [record for datagram in sent for record in decode_records(datagram) if record.epoch]


# Data


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("suite", SUITES)
def test_data_goes_both_ways_with_openssl(role: Role, suite: str) -> None:
    meeting = Meeting(role, suite)
    assert meeting.peer.connection.get_cipher_name() == suite
    for number in range(20):
        meeting.talk(b"%d" % number)
    assert not +meeting.ours.drops


@pytest.mark.parametrize("role", ROLES)
def test_openssls_connection_is_gone_with_the_handshake(role: Role) -> None:
    pair = Pair()
    machine = pair.client if role == "active" else pair.server
    assert isinstance(machine._machine, Handshake)
    connection = weakref.ref(machine._machine._connection)
    pair.connect()
    assert connection() is None


@pytest.mark.parametrize("size", [1, 1152, 16_384])
def test_records_of_any_size_are_read(size: int) -> None:
    meeting = Meeting("passive")
    (datagram,) = meeting.say(bytes(size))
    assert meeting.hear([datagram]) == [DtlsData(bytes(size))]


def test_an_empty_record_is_nothing_and_a_longer_one_than_allowed_is_dropped() -> None:
    pair = Pair()
    pair.connect()
    session = pair.client._machine
    assert isinstance(session, DtlsSession)
    for size in (0, 16_385):
        record = session._writer.write(ContentType.APPLICATION_DATA, bytes(size))
        assert pair.server.receive(record.encode(), now=0.0) == []
    assert +pair.server.drops == {Drop.MALFORMED: 1}


def test_several_records_of_a_datagram_are_judged_each_for_itself() -> None:
    meeting = Meeting("passive")
    first, second = meeting.say(b"first"), meeting.say(b"second")
    forged = plain(ContentType.APPLICATION_DATA, bytes(40), epoch=1)
    heard = meeting.hear([first[0] + forged + first[0] + second[0]])
    assert heard == [DtlsData(b"first"), DtlsData(b"second")]
    assert +meeting.ours.drops == {Drop.BAD_AUTH: 1, Drop.REPLAY: 1}


def test_data_right_behind_the_last_message_is_kept_and_drops_go_on_counting() -> None:
    pair = Pair()
    flight = pair.start()
    pair.client.receive(b"\x16", now=0.0)
    for receiver in (1, 0):
        flight = datagrams(pair.machines[receiver].receive(flight[0], now=0.0))
    (final,) = datagrams(pair.server.receive(flight[0], now=0.0))
    (data,) = datagrams(pair.server.send(b"data"))
    _, heard = pair.client.receive(final + data + data, now=0.0)
    assert heard == DtlsData(b"data")
    assert +pair.client.drops == {Drop.MALFORMED: 1, Drop.REPLAY: 1}


# The end


@pytest.mark.parametrize("role", ROLES)
def test_close_notify_goes_both_ways_with_openssl(role: Role) -> None:
    leaving, left = Meeting(role), Meeting(role)
    leaving.peer.receive(datagrams(leaving.ours.close()))
    assert isinstance(leaving.peer.error, SSL.ZeroReturnError)
    left.peer.connection.shutdown()
    outputs = left.hear(left.peer.drain())
    assert events(outputs) == [DtlsClosed()]
    left.peer.receive(datagrams(outputs))
    assert isinstance(left.peer.error, SSL.ZeroReturnError)
    assert leaving.ours.state is left.ours.state is DtlsState.CLOSED


def test_after_the_end_nothing_is_read_or_written() -> None:
    meeting = Meeting("active")
    meeting.ours.close()
    assert meeting.hear(meeting.say(b"too late")) == meeting.ours.close() == []
    assert meeting.ours.drops[Drop.NOT_READY] == 1
    for refused in (meeting.ours.snapshot, lambda: meeting.ours.send(b"x")):
        with pytest.raises(LocalProtocolError):
            refused()


def test_openssls_fatal_alert_ends_a_session() -> None:
    meeting = Meeting("passive")
    torso = meeting.session()._writer.write(ContentType.ALERT, b"\2")
    alert = meeting.peer.receive([torso.encode()])
    assert isinstance(meeting.peer.error, SSL.Error)
    (failed,) = meeting.hear(alert)
    assert isinstance(failed, DtlsFailed)
    assert failed.reason is EndReason.DTLS_FAILED
    assert meeting.ours.state is DtlsState.FAILED
    assert meeting.ours.deadline == math.inf


def test_our_alerts_are_read_by_level() -> None:
    pair = Pair()
    pair.connect()
    session = pair.client._machine
    assert isinstance(session, DtlsSession)

    def alert(content: bytes) -> list[DtlsOutput]:
        record = session._writer.write(ContentType.ALERT, content)
        return pair.server.receive(record.encode(), now=0.0)

    assert alert(bytes([1, 90])) == alert(b"\2") == alert(b"\2\50\2\50") == []
    assert pair.server.drops == {Drop.MALFORMED: 2}
    assert alert(FATAL_ALERT) == [DtlsFailed(EndReason.DTLS_FAILED, "peer sent alert 40")]


# What is not authentic


def rubbish(authentic: Record) -> list[bytes]:
    """All kinds of it, made from a record that would be accepted."""
    other = replace(authentic, content_type=ContentType.ALERT)
    return [
        plain(ContentType.ALERT, FATAL_ALERT),
        plain(ContentType.ALERT, bytes([1, 0])),
        plain(ContentType.APPLICATION_DATA, b"x"),
        plain(ContentType.CHANGE_CIPHER_SPEC, b"\1"),
        plain(ContentType.HANDSHAKE, b"\0" * 12),  # HelloRequest
        plain(ContentType.HANDSHAKE, b"\0" * 36, epoch=1),
        plain(ContentType.ALERT, FATAL_ALERT, epoch=1),
        plain(ContentType.ALERT, bytes(26), epoch=1),
        plain(ContentType.APPLICATION_DATA, bytes(20_000), epoch=1),
        plain(ContentType.APPLICATION_DATA, bytes(40), epoch=1, number=NUMBERS - 1),
        replace(authentic, epoch=0).encode(),
        replace(authentic, epoch=2).encode(),
        replace(authentic, version=0xFEFF).encode(),
        authentic.numbered(authentic.sequence + 1).encode(),
        other.encode(),
        replace(authentic, fragment=authentic.fragment[:-1]).encode(),
        replace(authentic, fragment=authentic.fragment + b"\0").encode(),
        authentic.encode()[:-1],
        authentic.encode() + b"\x17",
        b"",
        bytes(60),
        b"\x17" * 65_507,
    ]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("moved", [False, True])
def test_rubbish_is_counted_and_changes_nothing(role: Role, moved: bool) -> None:
    meeting = Meeting(role)
    if moved:
        meeting.move(meeting.ours.snapshot(), skip=RESERVE)
    (authentic,) = meeting.say(b"authentic")
    for number, datagram in enumerate(rubbish(record_of(authentic)), 1):
        assert events(meeting.ours.receive(datagram, now=0.01)) == [], number
        assert sum(meeting.ours.drops.values()) == number
    assert meeting.hear([authentic]) == [DtlsData(b"authentic")]
    meeting.talk(b"unharmed")


@examples(30)
@given(mutations, st.booleans())
def test_no_mutation_of_a_record_is_accepted(changes: list[Mutation], alert: bool) -> None:
    pair = ESTABLISHED
    session = pair.client._machine
    assert isinstance(session, DtlsSession)
    kind = ContentType.ALERT if alert else ContentType.APPLICATION_DATA
    whole = session._writer.write(kind, b"\1\0" if alert else b"authentic").encode()
    for change in changes:
        damaged = mutate(whole, change)
        if not damaged.startswith(whole):
            assert events(pair.server.receive(damaged, now=9.0)) == []
    assert pair.server.state is DtlsState.ESTABLISHED


ESTABLISHED = Pair()
ESTABLISHED.connect()


# Replays


def test_a_replayed_record_is_counted_and_given_out_once() -> None:
    meeting = Meeting("active")
    sent = [d for number in range(30) for d in meeting.say(b"%d" % number)]
    shuffled = [sent[(7 * i) % 30] for i in range(30)]
    assert len(meeting.hear(shuffled)) == 30
    assert meeting.hear(sent) == []
    assert +meeting.ours.drops == {Drop.REPLAY: 30}


def test_a_record_behind_the_window_is_too_old() -> None:
    meeting = Meeting("active")
    sent = [d for _ in range(REPLAY_WINDOW + 1) for d in meeting.say(b"x")]
    assert meeting.hear([sent[-1], sent[0]]) == [DtlsData(b"x")]
    assert +meeting.ours.drops == {Drop.REPLAY: 1}
    assert meeting.hear([sent[1]]) == [DtlsData(b"x")]


# The last flight


@pytest.mark.parametrize("moved", [False, True])
def test_a_lost_last_flight_is_answered_again_whoever_owns_the_session(moved: bool) -> None:
    meeting = Meeting("passive", lose_last=True)
    assert not meeting.peer.established
    assert encrypted(meeting.sent)
    early = datagrams(meeting.ours.send(b"early"))
    if moved:
        meeting.move(meeting.ours.snapshot(), skip=RESERVE)
        assert meeting.ours.deadline == math.inf
    again = datagrams(meeting.hear(meeting.last, now=1.0))
    assert encrypted(again) == encrypted(meeting.sent)
    assert datagrams(meeting.hear(meeting.last, now=1.04)) == []
    meeting.peer.receive(early + again)
    assert meeting.peer.established
    assert meeting.peer.data == [b"early"]
    meeting.peer.data.clear()
    meeting.talk(b"at last")


def test_copies_of_the_last_flight_are_the_same_finished_and_disturb_nobody() -> None:
    meeting = Meeting("passive")
    (finished,) = encrypted(meeting.sent)
    while meeting.ours.deadline < math.inf:
        copies = datagrams(meeting.ours.tick(now=meeting.ours.deadline))
        assert encrypted(copies) == [finished]
        assert meeting.peer.receive(copies) == []
    meeting.talk(b"undisturbed")


def test_plaintext_numbers_of_owner_and_heir_differ() -> None:
    meeting = Meeting("passive", lose_last=True)
    stored, sent = meeting.ours.snapshot(), meeting.sent
    sent += datagrams(meeting.hear(meeting.last, now=1.0))
    meeting.move(stored, skip=RESERVE)
    sent += datagrams(meeting.hear(meeting.last, now=1.0))
    assert len(encrypted(sent)) == 3
    numbers = [r.sequence for d in sent for r in decode_records(d) if not r.epoch]
    assert len(set(numbers)) == len(numbers)


def test_a_client_has_nothing_to_repeat() -> None:
    meeting = Meeting("active")
    assert meeting.hear(meeting.last, now=9.0) == []
    meeting.move(meeting.ours.snapshot())
    assert meeting.hear(meeting.last, now=9.0) == []
    assert meeting.ours.drops[Drop.REPLAY] == len(meeting.last)


# Sessions that move


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("suite", SUITES)
def test_a_planned_move_at_every_step(role: Role, suite: str) -> None:
    meeting = Meeting(role, suite)
    for step in range(6):
        meeting.move(meeting.ours.snapshot())
        meeting.talk(b"%d" % step)
    old = meeting.say(b"old")
    assert meeting.hear(old) == [DtlsData(b"old")]
    meeting.move(meeting.ours.snapshot())
    assert meeting.hear(old) == []
    assert +meeting.ours.drops == {Drop.REPLAY: 1}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("age", range(RESERVE + 1))
def test_a_crash_at_every_age_of_the_checkpoint(role: Role, age: int) -> None:
    meeting = Meeting(role)
    stored = meeting.ours.snapshot()
    meeting.ours.reserve(RESERVE)
    for number in range(age):
        meeting.talk(b"%d" % number)
    meeting.move(stored, skip=RESERVE)
    meeting.talk(b"heir")


def test_an_heir_of_a_stale_checkpoint_takes_a_record_once_more_and_only_once() -> None:
    meeting = Meeting("passive")
    stored = meeting.ours.snapshot()
    since = meeting.say(b"since")
    assert meeting.hear(since) == [DtlsData(b"since")]
    meeting.move(stored, skip=RESERVE)
    assert meeting.hear([*since, *since]) == [DtlsData(b"since")]


@pytest.mark.parametrize("skip", [10_000, 1 << 40])
def test_openssl_follows_a_jump_of_any_length(skip: int) -> None:
    meeting = Meeting("active")
    meeting.move(meeting.ours.snapshot(), skip=skip)
    meeting.talk(b"far on")


def test_the_reserve_ends_what_is_written_and_nothing_else() -> None:
    meeting = Meeting("passive")
    meeting.ours.reserve(2)
    assert len(datagrams(meeting.ours.send(b"1") + meeting.ours.send(b"2"))) == 2
    assert meeting.ours.next_sequence == 3
    assert meeting.ours.send(b"3") == []
    assert meeting.ours.drops == {Drop.RESERVE_USED: 1}
    assert meeting.hear(meeting.say(b"still read")) == [DtlsData(b"still read")]
    meeting.ours.reserve(2)
    meeting.talk(b"4")
    meeting.ours.reserve(0)
    assert meeting.ours.close() == []


@pytest.mark.parametrize("role", ROLES)
def test_no_number_follows_the_last(role: Role) -> None:
    meeting = Meeting(role)
    snapshot = meeting.ours.snapshot()
    meeting.move(snapshot, skip=NUMBERS - snapshot.writer.sequence - 1)
    meeting.talk(b"last")
    assert meeting.ours.send(b"one more") == []
    meeting.ours.reserve(RESERVE)
    assert meeting.ours.send(b"one more") == []
    meeting.move(meeting.ours.snapshot(), skip=RESERVE)
    assert meeting.ours.send(b"one more") == []
    assert events(meeting.hear(meeting.last, now=1.0)) == []
    with pytest.raises(LocalProtocolError):
        Dtls.restore(snapshot, skip=-1)


def test_a_snapshot_is_small_hides_its_keys_and_needs_an_established_session() -> None:
    pair = Pair()
    with pytest.raises(LocalProtocolError):
        pair.client.snapshot()
    pair.connect()
    for machine in pair.machines:
        snapshot = machine.snapshot()
        assert len(msgspec.msgpack.encode(snapshot)) < 400
        assert repr(snapshot) == "DtlsSnapshot(next_sequence=1, ...)"
        assert repr(snapshot.writer.key) == "RecordKey(...)"
    with pytest.raises(LocalProtocolError):
        Dtls.restore(pair.client.snapshot()).start(now=0.0)


# Nonces


def assert_unique(records: Sequence[Record]) -> None:
    assert len({record.fragment[:8] for record in records}) == len(records)
    numbers = [record.sequence for record in records]
    assert numbers == sorted(set(numbers))


Step = tuple[str, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 2 * RESERVE)),
        st.tuples(st.sampled_from(["store", "move", "crash"]), st.just(0)),
    ),
    max_size=30,
)


@given(st.sampled_from(ROLES), steps)
def test_no_nonce_serves_twice_over_any_chain_of_owners(role: Role, chain: list[Step]) -> None:
    """All that ever left, OpenSSL's Finished included; and OpenSSL reads every record of it."""
    meeting = Meeting(role)
    stored = meeting.ours.snapshot()
    meeting.ours.reserve(RESERVE)
    for action, count in [*chain, ("crash", 0), ("send", 1)]:
        match action:
            case "send":
                sent = [d for _ in range(count) for d in datagrams(meeting.ours.send(b"x"))]
                meeting.peer.receive(sent)
                meeting.sent += sent
                continue
            case "crash":
                meeting.move(stored, skip=RESERVE)
            case "move":
                meeting.move(meeting.ours.snapshot())
        stored = meeting.ours.snapshot()
        meeting.ours.reserve(RESERVE)
    records = encrypted(meeting.sent)
    assert_unique(records)
    assert meeting.peer.data == [b"x"] * (len(records) - 1)
    assert meeting.peer.data


def test_no_nonce_serves_twice_where_our_finished_was_repeated() -> None:
    peer = PlainPeer(server=True)
    client = make("active", fingerprints=peer.fingerprints)
    answer = peer.receive(datagrams(client.start(now=0.0)))
    sent = [d for part in answer for d in datagrams(client.receive(part, now=0.0))]
    for _ in range(3):
        sent += datagrams(client.tick(now=client.deadline))
    for datagram in peer.receive(sent):
        client.receive(datagram, now=3.0)
    client = Dtls.restore(client.snapshot(), skip=RESERVE)
    sent += datagrams(client.send(b"data") + client.close())
    assert len(encrypted(sent)) == 6
    assert_unique(encrypted(sent))


def test_the_explicit_nonce_goes_round_the_circle() -> None:
    key = RecordKey(bytes(16), bytes(4))
    writer = RecordWriter.restore(WriterSnapshot(key, nonce=(1 << 64) - 2, sequence=1))
    written = [writer.write(ContentType.APPLICATION_DATA, b"x") for _ in range(2)]
    assert [record.fragment[:8] for record in written] == [b"\xff" * 8, bytes(8)]
