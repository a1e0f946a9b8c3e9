"""DTLS inside of STUN: what travels there, what must not, and that nothing depends on it."""

from __future__ import annotations

import os
from binascii import crc32
from random import Random

import pytest

from edge.client.caller import Caller
from edge.errors import Drop
from edge.webrtc.dtls import DtlsOutput, DtlsState, DtlsTransmit
from edge.webrtc.ice_paths import AMPLIFICATION_LIMIT
from edge.webrtc.outputs import Transmit
from edge.webrtc.peer import Peer
from edge.wire import stun
from edge.wire.demux import Kind, classify
from edge.wire.spp import encode_path
from edge.wire.stun import CarriedDtls
from edge.wire.stun_peek import MessageClass, peek
from tests.webrtc.peer_call import RELAY, Call
from tests.webrtc.sped_caller import SpedCaller, make_sped_call

ELSEWHERE = encode_path(("198.51.100.9", 53), RELAY)
SETUPS = pytest.mark.parametrize("setup", ["actpass", "active"])


def no_dtls(datagram: bytes) -> bool:
    return classify(datagram) is not Kind.DTLS


def plain(call: Call) -> list[bytes]:
    """The DTLS datagrams that the peer has sent as they are."""
    return [each.data for each in call.sent if classify(each.data) is Kind.DTLS]


def answers(call: Call) -> list[bytes]:
    """The answers that the peer has sent."""
    return [
        each.data
        for each in call.sent
        if classify(each.data) is Kind.STUN and peek(each.data)[0] is MessageClass.SUCCESS
    ]


def carried(call: Call) -> list[CarriedDtls | None]:
    found = [stun.decode_response(each, password="password" * 4) for each in answers(call)]
    return [each.carried for each in found if isinstance(each, stun.BindingSuccess)]


@SETUPS
def test_the_handshake_needs_no_datagram_of_its_own(setup: str) -> None:
    """Nothing but STUN arrives on either side until both are done."""
    call, caller = make_sped_call(setup=setup)
    call.to_peer = call.to_caller = no_dtls
    call.start()
    call.run(0.3)
    assert call.peer.connected
    assert caller.secured


def test_the_first_answer_carries_our_hello_and_no_datagram_repeats_it() -> None:
    call, caller = make_sped_call()
    call.to_caller = lambda datagram: False
    call.start()
    call.run(0.5)
    first, *others = carried(call)
    assert first is not None
    assert first.data
    assert first.data[13] == 1, "a ClientHello"
    assert others == [first] * len(others), "every answer brings the same one again"
    assert len(others) >= 9
    assert plain(call) == []
    caller.stop_checks()
    call.run(0.2)
    assert plain(call), "without checks it goes as it is"


@SETUPS
def test_a_flight_leaves_the_way_that_its_reason_came(setup: str) -> None:
    call, _ = make_sped_call(setup=setup)
    call.to_peer = no_dtls
    call.start()
    call.run(0.3)
    assert call.peer.connected
    repeats = 0 if setup == "actpass" else 2
    assert len(plain(call)) <= repeats, "all else was in answers"


@SETUPS
def test_when_the_handshake_is_done_the_attributes_stop(setup: str) -> None:
    call, _ = make_sped_call(setup=setup)
    call.start()
    call.run(0.5)
    assert call.peer.connected
    seen = carried(call)
    last = max(index for index, each in enumerate(seen) if each is not None)
    assert None not in seen[:last]
    assert seen[last + 1 :], "and answers go on without"


def test_what_came_is_acknowledged_however_it_came() -> None:
    call, caller = make_sped_call()
    call.start()
    call.run(0.1)
    assert call.peer.connected
    assert caller.secured
    assert any(each is not None and len(each.acknowledged) == 2 for each in carried(call))


def test_what_is_acknowledged_is_not_carried_again() -> None:
    call, caller = make_sped_call()
    call.to_caller = lambda datagram: False
    call.start()
    (first,) = carried(call)
    assert first is not None
    assert first.data
    call.carry([check(caller, None, acknowledged=(crc32(first.data), 7))])
    call.carry([check(caller, None, acknowledged=(7,))])
    assert [each and each.data for each in carried(call)] == [first.data, b"", first.data]


def test_a_client_that_only_acknowledges_after_the_handshake_is_done() -> None:
    call, caller = make_sped_call()
    call.start()
    assert call.peer.connected
    for _ in range(2):
        call.carry([check(caller, None)])
        assert carried(call)[-1] is None


def test_data_takes_no_place_among_the_acknowledged() -> None:
    call, caller = make_sped_call()
    call.start()

    def acknowledged() -> tuple[int, ...]:
        call.carry([check(caller, b"")])
        newest = carried(call)[-1]
        assert newest is not None
        return newest.acknowledged

    before = acknowledged()
    assert len(before) == 2
    assert caller._dtls is not None
    sent = [each for number in range(6) for each in caller._dtls.send(bytes([number]))]
    call.carry([each.data for each in sent if isinstance(each, DtlsTransmit)])
    assert acknowledged() == before


@SETUPS
@pytest.mark.parametrize("checks", range(6))
def test_a_client_may_stop_at_any_check(setup: str, checks: int) -> None:
    call, caller = make_sped_call(setup=setup)
    call.to_peer = lambda datagram: caller.carries is False or no_dtls(datagram)
    call.start()
    for _ in range(checks):
        call.run(0.05)
        caller.carries = caller.carries and len(caller.answers) < checks
    caller.carries = False
    call.carry(caller._hello)
    call.run(1.0)
    assert call.peer.connected
    assert caller.secured


def test_a_client_that_offers_it_and_never_does_it_gets_plain_dtls() -> None:
    call, caller = make_sped_call()
    caller.carries = False
    call.start()
    assert plain(call), "our hello, right behind the first answer"
    call.run(0.1)
    assert call.peer.connected
    assert not any(carried(call))


@pytest.mark.parametrize(("option", "served"), [("sped", False), ("ice2", True)])
def test_where_it_is_not_agreed_on_nothing_is_carried_or_taken(option: str, served: bool) -> None:
    call, caller = make_sped_call(setup="active", option=option, served=served)
    call.to_peer = no_dtls
    assert b"sped" not in call.answer
    call.start()
    call.run(0.3)
    assert len(caller.answers) > 4
    assert not any(carried(call))
    assert not call.peer.connected
    assert plain(call) == []


@pytest.mark.parametrize("seed", range(6))
@SETUPS
def test_it_gets_through_bad_networks(seed: int, setup: str) -> None:
    call, caller = make_sped_call(setup=setup)
    random = Random(seed)
    call.to_peer = call.to_caller = lambda datagram: random.random() >= 0.3
    call.start()
    call.run(4.0, step=0.01)
    assert call.peer.connected
    assert caller.secured


# Trust.


class Spy:
    """Notes what a peer's DTLS machine is given."""

    def __init__(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[bytes] = []
        assert peer.transport.dtls is not None
        receive = peer.transport.dtls.receive

        def note(datagram: bytes, *, now: float) -> list[DtlsOutput]:
            self.given.append(datagram)
            return receive(datagram, now=now)

        monkeypatch.setattr(peer.transport.dtls, "receive", note)


def check(
    caller: Caller,
    data: bytes | None,
    *,
    acknowledged: tuple[int, ...] = (),
    password: str = "password" * 4,
) -> bytes:
    return stun.encode_request(
        os.urandom(12),
        username=f"{'token' * 4}:{caller.offer.ufrag}",
        password=password,
        priority=1,
        controlling=1,
        carried=CarriedDtls(data, acknowledged),
    )


@pytest.fixture
def victim() -> tuple[Call, SpedCaller, bytes]:
    """A call whose client is the DTLS client, and that client's first check."""
    call, caller = make_sped_call(setup="active")
    (first,) = caller.take_answer(call.answer, now=0.0)
    return call, caller, first


def test_dtls_sees_nothing_of_a_check_that_is_not_valid(
    victim: tuple[Call, SpedCaller, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, caller, first = victim
    spy = Spy(call.peer, monkeypatch)
    request = stun.decode_request(first, password="password" * 4)
    assert request.carried is not None
    hello = request.carried.data
    assert hello
    assert call.peer.receive(check(caller, hello, password="x" * 32), call.path, now=0.0) == []
    assert call.peer.receive(hello, call.path, now=0.0) == []
    behind = stun.decode_request(first, password="password" * 4).transaction_id
    naked = stun.encode_request(
        behind, username=request.username, password="password" * 4, priority=1, controlling=1
    )
    extra = b"\xc0\x70" + len(hello).to_bytes(2) + hello + bytes(-len(hello) & 3)
    body = naked[20:-8] + extra  # behind MESSAGE-INTEGRITY, in FINGERPRINT's place
    call.peer.receive(naked[:2] + len(body).to_bytes(2) + naked[4:20] + body, call.path, now=0.0)
    assert spy.given == []
    assert call.peer.statistics().drops[Drop.BAD_INTEGRITY] == 1


def test_a_check_replayed_from_elsewhere_brings_and_gets_nothing(
    victim: tuple[Call, SpedCaller, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _, first = victim
    spy = Spy(call.peer, monkeypatch)
    call.peer.receive(first, call.path, now=0.0)
    assert len(spy.given) == 1
    assert call.peer.receive(first, ELSEWHERE, now=0.0) == []
    call.peer.receive(first, call.path, now=0.0)
    assert len(spy.given) == 1, "what comes again is no news"


def test_what_is_no_dtls_is_passed_over(
    victim: tuple[Call, SpedCaller, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, caller, _ = victim
    spy = Spy(call.peer, monkeypatch)
    for data in (b"", b"GET /", b"\x80" + bytes(40)):
        call.peer.receive(check(caller, data), call.path, now=0.0)
    assert spy.given == []


def test_an_unproven_path_gets_no_more_than_three_times_its_bytes() -> None:
    """Our longest flight, at a client whose checks are as short as can be."""
    call, caller = make_sped_call()
    call.to_caller = lambda datagram: False
    call.start()
    came, went = 0, sum(len(each.data) for each in call.sent)
    for step in range(40):
        short = check(caller, b"")
        came += len(short)
        for path in (call.path, ELSEWHERE):
            outputs = call.peer.receive(short, path, now=step / 100)
            went += sum(len(each.data) for each in outputs if isinstance(each, Transmit))
    assert 0 < went <= AMPLIFICATION_LIMIT * (came + 200)


def test_a_flight_without_room_waits_for_more_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    call, caller = make_sped_call(setup="active")
    call.to_caller = lambda datagram: False
    (first,) = caller.take_answer(call.answer, now=0.0)
    monkeypatch.setattr(call.peer.ice.paths, "room", lambda path: 600)
    call.carry([first])
    assert [each and each.data for each in carried(call)] == [b""]
    monkeypatch.undo()
    for _ in range(4):
        call.carry([check(caller, b"")])
    assert any(each is not None and each.data in plain(call) for each in carried(call))


# Afterwards.


def test_a_handshake_on_one_path_proves_it() -> None:
    call, _ = make_sped_call()
    call.start()
    call.run(0.3)
    state = call.peer.ice.paths.state(call.path)
    assert state is not None
    assert state.proven
    assert state.probe is None


def test_a_path_that_got_part_of_a_flight_only_is_asked() -> None:
    """Both paths got our hello, so that the handshake says nothing of either."""
    call, caller = make_sped_call()
    call.to_caller = lambda datagram: False
    call.start()
    other = call.peer.receive(check(caller, b""), ELSEWHERE, now=0.0)
    assert isinstance(other[0], Transmit)
    call.to_caller = lambda datagram: True
    call.run(0.5)
    assert call.peer.connected
    requests = [
        each
        for each in call.sent
        if classify(each.data) is Kind.STUN and peek(each.data)[0] is MessageClass.REQUEST
    ]
    assert [each.path for each in requests] == [call.path]
    state = call.peer.ice.paths.state(call.path)
    assert state is not None
    assert state.proven, "by its answer"


def test_a_restored_peer_answers_without() -> None:
    call, caller = make_sped_call()
    call.start()
    call.run(0.01)
    assert call.peer.connected
    snapshot = call.peer.snapshot(now=call.now)
    call.peer = Peer.restore(snapshot, entropy=os.urandom, now=call.now)
    before = len(carried(call))
    call.run(0.2)
    assert len(carried(call)) > before
    assert not any(carried(call)[before:])
    assert caller.secured


def test_dtls_gives_no_flight_once_it_is_established() -> None:
    call, _ = make_sped_call()
    call.start()
    call.run(0.1)
    assert call.peer.transport.dtls is not None
    assert call.peer.transport.dtls.state is DtlsState.ESTABLISHED
    assert call.peer.transport.dtls.flight == ()
