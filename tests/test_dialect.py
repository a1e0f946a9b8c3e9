"""The session events of OpenAI's dialect, and the channel that carries them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge.errors import Drop, RemoteProtocolError
from edge.session_config import MAX_SESSION_BYTES
from edge.transceiver.dialect import MAX_CLIENT_EVENT_BYTES, Dialect
from edge.transceiver.events import MAX_HOLDERS, EventChannel, TooManyHolders

CALL = "rtc_5f0c"


def event(kind: str, **fields: object) -> bytes:
    return msgspec.json.encode({"type": kind, **fields})


def read(encoded: bytes) -> dict[str, Any]:
    return msgspec.json.decode(encoded, type=dict[str, Any])


class Ear:
    def __init__(self, room: int = 100) -> None:
        self.heard: list[dict[str, Any]] = []
        self.closed = False
        self._room = room

    def take(self, encoded: bytes) -> bool:
        if len(self.heard) >= self._room:
            return False
        self.heard.append(read(encoded))
        return True

    def close(self) -> None:
        self.closed = True

    @property
    def kinds(self) -> list[str]:
        return [one["type"] for one in self.heard]


def test_the_edge_answers_for_a_backend_that_does_not() -> None:
    dialect = Dialect(CALL, {"instructions": "Be brief.", "audio": {"output": {"voice": "a"}}})
    (created,) = map(read, dialect.greet())
    assert created["type"] == "session.created"
    assert created["event_id"]
    session = {
        "type": "realtime",
        "object": "realtime.session",
        "id": "sess_5f0c",
        "instructions": "Be brief.",
        "audio": {"output": {"voice": "a"}},
    }
    assert created["session"] == session
    change = {"audio": {"output": {"speed": 1.2}}, "tools": []}
    (updated,) = map(read, dialect.receive(event("session.update", session=change)))
    assert updated["type"] == "session.updated"
    assert updated["session"] == {
        **session,
        "tools": [],
        "audio": {"output": {"voice": "a", "speed": 1.2}},
    }
    assert read(dialect.greet()[0])["session"] == updated["session"]
    assert dialect.receive(event("response.create")) == []


def test_a_backend_that_answers_is_left_alone_and_remembered() -> None:
    dialect = Dialect(CALL, {"instructions": "ours"}, backend_answers=True)
    assert dialect.greet() == [], "it will tell by itself"
    assert dialect.receive(event("session.update", session={"a": 1})) == []
    dialect.note(event("session.created", session={"id": "sess_theirs"}))
    assert read(dialect.greet()[0])["session"] == {"id": "sess_theirs"}
    dialect.note(event("session.updated", session={"id": "sess_theirs", "b": 2}))
    for nothing in (
        event("session.updated", session=[1]),
        event("session.updated"),
        event("conversation.item.created", item={"text": '"session.created"'}),
        b'{"type":"session.updated", nonsense',
    ):
        dialect.note(nothing)
    assert read(dialect.greet()[0])["session"] == {"id": "sess_theirs", "b": 2}
    assert dialect.receive(event("session.update", session={"a": 1})) == []


@pytest.mark.parametrize("backend_answers", [True, False])
def test_another_process_greets_with_what_the_session_is_by_then(backend_answers: bool) -> None:
    configured = {"instructions": "ours"}
    before = Dialect(CALL, configured, backend_answers=backend_answers)
    assert before.snapshot().session == b"", "it is in the call's configuration"
    if backend_answers:
        before.note(event("session.updated", session={"instructions": "theirs"}))
    else:
        before.receive(event("session.update", session={"instructions": "theirs"}))
    heir = Dialect(CALL, configured, backend_answers=backend_answers)
    heir.load(before.snapshot())
    one, other = read(before.greet()[0]), read(heir.greet()[0])
    assert one == other
    assert one["session"]["instructions"] == "theirs"
    assert read(heir.greet()[0])["event_id"] != other["event_id"]


def test_an_heir_gives_no_id_twice_and_keeps_no_session_that_is_too_long() -> None:
    before, heir = Dialect(CALL, {}), Dialect(CALL, {})
    ids = {read(before.greet()[0])["event_id"] for _ in range(3)}
    heir.load(before.snapshot())
    assert read(heir.greet()[0])["event_id"] not in ids
    answers = Dialect(CALL, {}, backend_answers=True)
    answers.note(event("session.created", session={"a": "x" * MAX_SESSION_BYTES}))
    assert answers.snapshot().session == b""


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"ping: 5",
        b"[]",
        b"{}",
        b'{"type":5}',
        b'{"type":"\xff"}',
        event("session.update"),
        event("session.update", session=[]),
        event("session.update", session={"a": "x" * MAX_SESSION_BYTES}),
        b'{"type":"session.update","session":' + b'{"a":' * 40 + b"1" + b"}" * 41,
        event("x", padding="x" * MAX_CLIENT_EVENT_BYTES),
        b'{"type":"x","a":' + b"[" * 5_000,
    ],
)
def test_what_is_no_event_is_refused_and_changes_nothing(bad: bytes) -> None:
    dialect = Dialect(CALL, {})
    before = read(dialect.greet()[0])["session"]
    with pytest.raises(RemoteProtocolError) as error:
        dialect.receive(bad)
    refusal = read(dialect.refuse(bad, str(error.value)))
    assert refusal["type"] == "error"
    assert refusal["error"]["type"] == "invalid_request_error"
    assert refusal["error"]["message"]
    assert read(dialect.greet()[0])["session"] == before


def test_a_refusal_names_the_event() -> None:
    bad = event("session.update", event_id="mine", session=[])
    assert read(Dialect(CALL, {}).refuse(bad, "no"))["error"]["event_id"] == "mine"


# The channel.


def test_all_who_hold_a_channel_hear_the_same() -> None:
    channel, one, other = EventChannel(Dialect(CALL, {})), Ear(), Ear()
    assert not channel.send_event(event("lost"))
    with channel.joined(one):
        assert channel.send_event(event("first"))
        with channel.joined(other):
            assert channel.receive(event("session.update", session={"a": 1}))
            assert not channel.receive(b"nonsense")
            channel.close()
        channel.send_event(event("last"))
    assert not channel.is_held
    assert one.kinds == ["session.created", "first", "session.updated", "error", "last"]
    assert other.kinds == ["session.created", "session.updated", "error"]
    assert one.closed
    assert other.closed
    assert +channel.drops == {Drop.NOT_READY: 1, Drop.MALFORMED: 1}


def test_one_that_is_full_stops_nobody() -> None:
    channel, full, other = EventChannel(Dialect(CALL, {})), Ear(room=1), Ear()
    with channel.joined(full), channel.joined(other):
        assert channel.send_event(event("x"))
    assert full.kinds == ["session.created"]
    assert other.kinds == ["session.created", "x"]
    assert +channel.drops == {Drop.QUEUE_FULL: 1}


def test_holders_are_few() -> None:
    channel, ears = EventChannel(), [Ear() for _ in range(MAX_HOLDERS + 1)]

    def hold(number: int) -> None:
        with channel.joined(ears[number]):
            if number < MAX_HOLDERS:
                hold(number + 1)

    with pytest.raises(TooManyHolders):
        hold(0)
    assert not channel.is_held
    with channel.held(lambda encoded: True):
        assert channel.send_event(event("x"))
