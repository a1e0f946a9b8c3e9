"""ICE restart: new credentials on both sides, the former for a moment, everything else stays."""

from __future__ import annotations

import msgspec
import pytest

from edge.errors import Drop
from edge.webrtc.ice import IceCredentials, IceLite, IceOutput
from edge.webrtc.ice_credentials import FORMER_LIFETIME
from edge.webrtc.ice_snapshot import IceSnapshot
from edge.webrtc.outputs import PathSelected, Transmit
from edge.wire import stun
from tests.webrtc.test_ice import (
    CLIENT,
    LOW,
    SERVER,
    Client,
    P,
    S,
    counting_entropy,
    established,
    make_ice,
    probes,
)

SERVER_2 = IceCredentials("B" * 23, "server-password-2222222222")
CLIENT_2 = IceCredentials("k2Zz", "client-password-2222222222")
SERVER_3 = IceCredentials("C" * 23, "server-password-3333333333")


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def ice(client: Client) -> IceLite:
    ice = make_ice()
    established(ice, client)
    return ice


def new_check(client: Client, *, nominate: bool = True, priority: int = LOW) -> bytes:
    return client.check(
        nominate=nominate,
        priority=priority,
        username=f"{SERVER_2.ufrag}:{CLIENT_2.ufrag}",
        password=SERVER_2.password,
    )


def is_answered(outputs: list[IceOutput], password: str) -> bool:
    if not outputs:
        return False
    first = outputs[0]
    assert isinstance(first, Transmit)
    return isinstance(stun.decode_response(first.data, password=password), stun.BindingSuccess)


def test_both_generations_count_until_five_seconds_after_the_new_one_is_used(
    ice: IceLite, client: Client
) -> None:
    ice.restart(SERVER_2, CLIENT_2)
    assert ice.ufrags == (SERVER_2.ufrag, SERVER.ufrag)
    assert (ice.restarts, ice.remote_ufrag) == (1, CLIENT_2.ufrag)
    # However long the client takes to hear of it, the former go on.
    for now in (1.0, 11.0, 21.0):
        ice.tick(now=now)
        assert is_answered(ice.receive(client.check(), S, now=now), SERVER.password)
    assert is_answered(ice.receive(new_check(client), S, now=22.0), SERVER_2.password)
    assert ice.deadline == 22.0 + FORMER_LIFETIME
    last = 22.0 + FORMER_LIFETIME - 0.01
    assert is_answered(ice.receive(client.check(), S, now=last), SERVER.password)
    assert is_answered(ice.receive(new_check(client), S, now=last), SERVER_2.password)
    assert not ice.receive(client.check(), S, now=22.0 + FORMER_LIFETIME)  # a late timer, too
    ice.tick(now=22.0 + FORMER_LIFETIME)
    assert set(ice.ufrags) == {SERVER_2.ufrag}
    assert not ice.receive(client.check(), S, now=28.0)
    assert ice.drops == {Drop.BAD_INTEGRITY: 2}
    assert ice.deadline > 50.0, "consent alone is waited for"


def test_the_new_name_needs_the_new_password(ice: IceLite, client: Client) -> None:
    ice.restart(SERVER_2, CLIENT_2)
    for username, password in [
        (f"{SERVER_2.ufrag}:{CLIENT_2.ufrag}", SERVER.password),
        (f"{SERVER.ufrag}:{CLIENT.ufrag}", SERVER_2.password),
        (f"{SERVER_2.ufrag}:{CLIENT.ufrag}", SERVER_2.password),
        (f"{SERVER.ufrag}:{CLIENT_2.ufrag}", SERVER.password),
    ]:
        assert not ice.receive(client.check(username=username, password=password), S, now=1.0)
    assert ice.drops == {Drop.BAD_INTEGRITY: 4}
    assert len(ice.ufrags) == 2, "nothing of that was a use"


def test_the_path_stays_and_the_client_may_choose_another(ice: IceLite, client: Client) -> None:
    ice.restart(SERVER_2, CLIENT_2)
    assert ice.paths.selected == S
    outputs = ice.receive(new_check(client), P, now=1.0)
    (probe,) = probes(outputs)
    assert ice.paths.selected == S, "not before it has answered us"
    request = stun.decode_request(probe.data, password=CLIENT_2.password)
    assert request.username == f"{CLIENT_2.ufrag}:{SERVER_2.ufrag}"
    answer = stun.encode_success(request.transaction_id, ("203.0.113.1", 1), password="x" * 22)
    assert not ice.receive(answer, P, now=1.1)
    answer = stun.encode_success(
        request.transaction_id, ("203.0.113.1", 1), password=CLIENT_2.password
    )
    # Its priority is lower, but what the former generation had nominated binds this one no more.
    assert PathSelected(P) in ice.receive(answer, P, now=1.1)


def test_a_restart_that_nobody_uses_leaves_the_one_in_use(ice: IceLite, client: Client) -> None:
    ice.restart(SERVER_2, CLIENT_2)
    ice.restart(SERVER_3, CLIENT_2)
    assert ice.ufrags == (SERVER_3.ufrag, SERVER.ufrag)
    assert is_answered(ice.receive(client.check(), S, now=1.0), SERVER.password)
    assert not ice.receive(new_check(client), S, now=1.0)


def test_a_restart_after_a_restart(ice: IceLite, client: Client) -> None:
    ice.restart(SERVER_2, CLIENT_2)
    assert is_answered(ice.receive(new_check(client), S, now=1.0), SERVER_2.password)
    ice.restart(SERVER_3, CLIENT_2)
    assert ice.ufrags == (SERVER_3.ufrag, SERVER_2.ufrag)
    ice.tick(now=20.0)
    assert is_answered(ice.receive(new_check(client), S, now=20.0), SERVER_2.password)
    assert not ice.receive(client.check(), S, now=20.0), "the first are gone at once"


def test_consent_is_kept_through_a_restart_by_checks_alone(ice: IceLite, client: Client) -> None:
    ice.restart(SERVER_2, CLIENT_2)
    ice.receive(new_check(client), S, now=20.0)
    assert ice.tick(now=25.0) == []
    assert ice.tick(now=49.0) == []
    assert ice.tick(now=50.0) != []


@pytest.mark.parametrize("used", [False, True])
def test_a_snapshot_keeps_both_generations(ice: IceLite, client: Client, used: bool) -> None:
    ice.restart(SERVER_2, CLIENT_2)
    if used:
        ice.receive(new_check(client), S, now=2.0)
    written = msgspec.msgpack.encode(ice.snapshot(now=3.0))
    snapshot = msgspec.msgpack.decode(written, type=IceSnapshot)
    assert SERVER.password not in repr(snapshot)
    other = IceLite.restore(snapshot, entropy=counting_entropy(), now=103.0)
    assert other.ufrags == ice.ufrags
    assert other.restarts == 1
    assert other.deadline == ice.deadline + 100.0
    other.tick(now=106.9)
    assert is_answered(other.receive(client.check(), S, now=106.9), SERVER.password)
    other.tick(now=107.0)
    assert len(other.ufrags) == 2 - used
