"""What a server that was not there before is told."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.backends.protocol import BACKEND_RESTARTED, MAX_TOKEN_BYTES, AudioFormat
from edge.backends.realtime.history import MAX_ITEMS, MAX_TEXT, Held, History, creations
from edge.backends.realtime.machine import RealtimeMachine
from edge.backends.realtime.memory import Memory
from edge.backends.realtime.profiles import PROFILES
from edge.errors import Drop, RemoteProtocolError
from edge.session_config import MAX_SESSION_BYTES
from tests.support.realtime_rig import (
    TONE,
    Ear,
    Event,
    HandSpeaker,
    check_client_event,
    decode,
    delta,
    encode,
)

PCM24 = AudioFormat("pcm16", 24_000)


class Rig:
    """A machine, here or where the call goes on."""

    def __init__(
        self, token: bytes | None = None, profile: str = "openai", *, played: float = 0.0
    ) -> None:
        self.speaker, self.ear = HandSpeaker(played=played), Ear()
        self.changes = 0
        self.machine = RealtimeMachine(
            PROFILES[profile],
            PCM24,
            self.speaker,
            self.ear,
            first_session={"type": "realtime"},
            memory=None if token is None else Memory.unpack(token),
        )
        self.machine.changed = self._change
        self.machine.connect()

    def _change(self) -> None:
        self.changes += 1

    def server(self, kind: str, **fields: object) -> None:
        self.machine.receive_server(encode(kind, event_id="e", **fields))

    def sent(self) -> list[Event]:
        sent = []
        while (message := self.machine.outbox.take()) is not None:
            sent.append(check_client_event(message))
        return sent

    def items(self) -> list[Event]:
        """What a server is told of."""
        created = [event for event in self.sent() if event["type"] == "conversation.item.create"]
        return [event["item"] for event in created if isinstance(event["item"], dict)]

    def heir(self) -> Rig:
        return Rig(self.machine.token())


def test_items_of_all_kinds_are_told_in_their_order() -> None:
    rig = Rig()
    rig.server("input_audio_buffer.committed", item_id="u1")
    rig.server(
        "response.output_item.added",
        item={"id": "a1", "type": "message", "role": "assistant", "content": []},
    )
    rig.server("response.output_audio_transcript.done", item_id="a1", transcript="Good morning.")
    rig.server(
        "conversation.item.input_audio_transcription.completed", item_id="u1", transcript="Hello!"
    )
    call = {"type": "function_call", "id": "f1", "name": "sun", "call_id": "c1", "arguments": "{}"}
    rig.server("response.output_item.done", item=call)
    out = {"type": "function_call_output", "id": "o1", "call_id": "c1", "output": "it shines"}
    rig.server("conversation.item.added", item=out)
    text = [{"type": "input_text", "text": "Be quick."}]
    rig.server(
        "conversation.item.done",
        item={"type": "message", "id": "s1", "role": "system", "content": text},
    )
    rig.server("response.output_text.done", item_id="a2", text="It shines.")
    assert rig.heir().items() == [
        message("u1", "user", "input_text", "Hello!"),
        message("a1", "assistant", "output_text", "Good morning."),
        call,
        out,
        message("s1", "system", "input_text", "Be quick."),
        message("a2", "assistant", "output_text", "It shines."),
    ]
    assert rig.changes == 6


def message(item: str, role: str, part: str, text: str) -> Event:
    return {"id": item, "type": "message", "role": role, "content": [{"type": part, "text": text}]}


def test_what_was_deleted_or_is_not_known_is_not_told() -> None:
    rig = Rig()
    rig.server("conversation.item.added", item={"type": "message", "id": "u1", "role": "user"})
    rig.server("response.output_text.done", item_id="a1", text="Never mind.")
    rig.server("conversation.item.deleted", item_id="a1")
    rig.server("conversation.item.added", item={"type": "mcp_call", "id": "m1"})
    assert rig.heir().items() == []
    assert rig.machine.drops == {}


def test_of_an_interrupted_answer_only_what_was_heard_is_told() -> None:
    rig = Rig()
    rig.server("response.created", response={"id": "resp_1"})
    rig.machine.receive_server(delta(TONE * 24_000))
    rig.server(
        "response.output_audio_transcript.done", item_id="item_1", transcript="one two three four"
    )
    rig.speaker.pass_time(0.5)
    rig.server("input_audio_buffer.speech_started", item_id="u1")
    (item,) = rig.heir().items()
    assert item["content"] == [{"type": "output_text", "text": "one two"}]


def test_of_an_answer_under_way_what_is_heard_by_now_is_told() -> None:
    rig = Rig()
    rig.server("response.created", response={"id": "resp_1"})
    rig.machine.receive_server(delta(TONE * 24_000))
    rig.server(
        "response.output_audio_transcript.done", item_id="item_1", transcript="one two three four"
    )
    assert rig.heir().items() == []  # at the last change nothing was heard
    rig.speaker.pass_time(0.5)
    rig.machine.move()
    heir = rig.heir()
    (item,) = heir.items()
    assert item["content"] == [{"type": "output_text", "text": "one two"}]
    heir.server("session.created", session={"type": "realtime"})
    assert heir.ear.kinds == [BACKEND_RESTARTED, "output_audio_buffer.cleared", "session.created"]
    assert heir.ear.find("output_audio_buffer.cleared")["response_id"] == "resp_1"


def test_an_heir_counts_from_where_the_speaker_is() -> None:
    heir = Rig(b"", played=10.0)
    heir.server("response.created", response={"id": "resp_1"})
    heir.machine.receive_server(delta(TONE * 24_000))
    heir.speaker.pass_time(0.25)
    heir.server("input_audio_buffer.speech_started", item_id="u1")
    assert heir.sent()[-1]["audio_end_ms"] == 250


def test_the_clients_updates_are_made_again_without_the_audios_format() -> None:
    rig = Rig()
    audio = {"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}}
    rig.machine.receive_client(
        encode("session.update", session={"type": "realtime", "instructions": "Sing."})
    )
    rig.machine.receive_client(
        encode("session.update", session={"type": "realtime", "audio": audio})
    )
    (update,) = rig.heir().sent()
    assert update["session"] == {
        "type": "realtime",
        "instructions": "Sing.",
        "audio": {"input": {"turn_detection": None}},
    }


def test_too_great_a_session_is_sent_but_not_held() -> None:
    rig = Rig()
    huge = {"type": "realtime", "instructions": "a" * MAX_SESSION_BYTES}
    rig.machine.receive_client(encode("session.update", session=huge))
    assert rig.machine.drops == {Drop.TABLE_FULL: 1}
    assert len(rig.sent()) == 2
    assert rig.heir().sent()[0]["session"] == {"type": "realtime"}


def test_the_client_sees_nothing_of_the_telling() -> None:
    rig = Rig()
    rig.server("response.output_text.done", item_id="a1", text="Hello.")
    heir = rig.heir()
    (item,) = heir.items()
    for kind in ("created", "added", "done"):
        heir.server(f"conversation.item.{kind}", item=item)
    other = {"type": "message", "id": "u2", "role": "user", "content": []}
    heir.server("conversation.item.added", item=other)
    heir.server("conversation.item.added", item=7)  # whatever it means
    assert heir.ear.kinds == [BACKEND_RESTARTED, *["conversation.item.added"] * 2]
    assert heir.ear.events[0]["items"] == 1


def test_a_first_server_is_no_other_one() -> None:
    rig = Rig()
    rig.server("session.created", session={})
    rig.machine.disconnect()
    rig.machine.connect()
    rig.machine.disconnect()  # it did not answer
    rig.machine.connect()
    assert len(rig.sent()) == 1  # of three openings the last
    rig.server("session.created", session={})
    assert rig.ear.kinds == ["session.created", BACKEND_RESTARTED, "session.created"]


def test_a_server_of_older_names_is_told_in_its_own() -> None:
    rig = Rig(profile="speaches")
    rig.server("response.text.done", item_id="a1", text="Hello.")
    heir = Rig(rig.machine.token(), "speaches")
    heir.machine.outbox.take()
    created = decode(heir.machine.outbox.take() or "")
    assert created["item"] == message("a1", "assistant", "text", "Hello.")


# Bounds


def test_items_and_their_texts_are_bounded() -> None:
    history = History()
    for number in range(MAX_ITEMS + 10):
        history.note(
            "response.output_text.done", encode("x", item_id=f"a{number}", text="b" * 9_999)
        )
    assert [item.id for item in history.items] == [f"a{n}" for n in range(10, MAX_ITEMS + 10)]
    assert {len(item.text) for item in history.items} == {MAX_TEXT}


TEXTS = st.lists(st.text(max_size=2_000), max_size=MAX_ITEMS)


@given(TEXTS, st.text(max_size=200))
def test_a_token_holds_the_newest_within_its_bound(texts: list[str], instructions: str) -> None:
    items = [Held(f"a{number}", text=text) for number, text in enumerate(texts)]
    memory = Memory(history=History(items))
    assert memory.update({"instructions": instructions})
    packed = memory.pack({}, ["resp_1"])
    assert len(packed) <= MAX_TOKEN_BYTES
    read = Memory.unpack(packed)
    assert (read.session, read.playing) == ({"instructions": instructions}, ["resp_1"])
    known = memory.history.items
    assert read.history.items == known[len(known) - len(read.history.items) :]


def test_what_can_not_be_packed_leaves_items_out_and_then_all() -> None:
    noise = ["".join(chr(256 + (n * m * 7919) % 20_000) for m in range(4_000)) for n in range(1, 9)]
    memory = Memory(history=History([Held(f"a{n}", text=text) for n, text in enumerate(noise)]))
    packed = memory.pack({}, [])
    kept = Memory.unpack(packed).history.items
    assert 0 < len(kept) < len(noise)
    assert kept[-1].text == noise[-1]
    memory.session = {"instructions": noise[0] + noise[1] + noise[2] + noise[3]}
    assert memory.pack({}, []) == b""


@given(st.binary(max_size=200))
def test_any_bytes_are_a_memory_or_none(packed: bytes) -> None:
    for each in (packed, zlib.compress(packed)):
        assert Memory.unpack(each).history.items == []


def test_a_bomb_is_no_memory() -> None:
    bomb = zlib.compress(b'{"session":{"a":"' + b"a" * 10_000_000 + b'"},"items":[],"playing":[]}')
    assert Memory.unpack(bomb).session == {}


@pytest.mark.parametrize("event", [b"{}", b"[]", b'{"item_id":1}', b'{"item":{"content":1}}'])
def test_an_event_of_a_wrong_shape_is_refused(event: bytes) -> None:
    history = History()
    for kind in ("input_audio_buffer.committed", "conversation.item.added"):
        with pytest.raises(RemoteProtocolError):
            history.note(kind, event)


@given(st.text(), st.floats(0, 1))
def test_a_cut_text_is_a_beginning_in_whole_words(text: str, heard: float) -> None:
    held = Held("a", text=text, heard=heard)
    known = held.known()
    assert text.startswith(known)
    assert known == text or text[len(known)] == " " or not known
    assert "a" not in repr(Held("b", text="aaa")).replace("message", "").replace("characters", "")


def test_creations_are_what_the_official_types_know() -> None:
    kinds = [Held("a", role="assistant", text="x"), Held("u", text="x")]
    for item in creations(kinds, "output_text"):
        check_client_event(msgspec.json.encode({"type": "conversation.item.create", "item": item}))
