"""The realtime protocol, exactly: which sample was played, which event follows which."""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.backends.protocol import AudioFormat, AudioFrame
from edge.backends.realtime.answer import Layout
from edge.backends.realtime.backend import find_profile, make_realtime
from edge.backends.realtime.machine import MAX_CLIENT_EVENT, RealtimeMachine
from edge.backends.realtime.outbox import MAX_EVENTS, Outbox
from edge.backends.realtime.profiles import PROFILES
from edge.config import BackendConfig
from edge.errors import ConfigError, Drop
from tests.support.realtime_rig import (
    SECOND,
    TONE,
    Ear,
    Event,
    HandSpeaker,
    check_client_event,
    check_server_event,
    decode,
    delta,
    encode,
)

PCM24 = AudioFormat("pcm16", 24_000)
PCMU = AudioFormat("PCMU", 8_000)
OPUS = AudioFormat("opus", 48_000)


class Rig:
    """A machine between a speaker turned by hand and a client's ear."""

    def __init__(
        self, profile: str = "openai", audio: AudioFormat = PCM24, *, fade: float = 0.0
    ) -> None:
        self.speaker = HandSpeaker(
            rate=audio.clock_rate, sample_bytes=Layout.of(audio).sample_bytes, fade=fade
        )
        self.ear = Ear()
        first = PROFILES[profile].first_session(audio, voice="marin", instructions="Be brief.")
        self.machine = RealtimeMachine(
            PROFILES[profile], audio, self.speaker, self.ear, first_session=first
        )

    def server(self, *events: bytes) -> None:
        for event in events:
            self.machine.receive_server(event)

    def pass_time(self, seconds: float) -> None:
        """Play, and feed in small steps as the shell does."""
        for _ in range(round(seconds / 0.02)):
            self.speaker.pass_time(0.02)
            level = self.machine.feed_below
            if level is not None and self.speaker.queued <= level:
                self.machine.feed()

    def sent(self) -> list[Event]:
        """All that was sent since the last call."""
        sent = []
        while (message := self.machine.outbox.take()) is not None:
            sent.append(check_client_event(message))
        return sent

    def sent_kinds(self) -> list[str]:
        return [str(event["type"]) for event in self.sent()]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def created(response: str = "resp_1") -> bytes:
    return encode(
        "response.created", event_id="e", response={"id": response, "status": "in_progress"}
    )


def done(response: str = "resp_1", status: str = "completed") -> bytes:
    return encode("response.done", event_id="e", response={"id": response, "status": status})


def audio_done(response: str = "resp_1", item: str = "item_1") -> bytes:
    return encode(
        "response.output_audio.done",
        event_id="e",
        response_id=response,
        item_id=item,
        output_index=0,
        content_index=0,
    )


SPEECH = encode(
    "input_audio_buffer.speech_started", event_id="e", audio_start_ms=1_000, item_id="item_user"
)


# Audio in


def test_a_connection_begins_with_the_session(rig: Rig) -> None:
    rig.machine.hear(AudioFrame(bytes(1_920), 0.04))
    rig.machine.connect()
    first, append = rig.sent()
    assert first["type"] == "session.update"
    assert first["session"] == {
        "type": "realtime",
        "instructions": "Be brief.",
        "audio": {
            "input": {"format": {"type": "audio/pcm", "rate": 24_000}},
            "output": {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "marin"},
        },
    }
    assert append["type"] == "input_audio_buffer.append"


def test_audio_goes_in_chunks_of_40_ms_and_all_of_it(rig: Rig) -> None:
    frames = [bytes([number, 1]) * 480 for number in range(5)]
    appended = b""
    for number, frame in enumerate(frames):
        rig.machine.hear(AudioFrame(frame, 0.02))
        assert rig.machine.outbox.is_ready == (number % 2 == 1)
        for event in rig.sent():
            appended += b64decode(str(event["audio"]))
    assert appended == b"".join(frames[:4])


def test_an_event_goes_after_the_audio_before_it(rig: Rig) -> None:
    rig.machine.hear(AudioFrame(bytes(960), 0.02))
    rig.machine.receive_client(encode("input_audio_buffer.commit"))
    rig.machine.hear(AudioFrame(bytes(1_920), 0.04))
    kinds = ["input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.append"]
    assert rig.sent_kinds() == kinds


def test_audio_that_waits_loses_its_oldest_after_5_s_and_leaves_in_large_pieces(rig: Rig) -> None:
    for number in range(300):
        rig.machine.hear(AudioFrame(number.to_bytes(2, "little") * 480, 0.02))
    sent = [b64decode(str(event["audio"])) for event in rig.sent()]
    audio = b"".join(sent)
    assert len(audio) == 5 * SECOND
    assert int.from_bytes(audio[:2], "little") == 50
    assert int.from_bytes(audio[-2:], "little") == 299
    assert max(map(len, sent)) <= SECOND + 960
    assert rig.machine.drops == {Drop.QUEUE_FULL: 50}


def test_audio_that_is_sent_in_time_is_never_dropped(rig: Rig) -> None:
    for _ in range(600):
        rig.machine.hear(AudioFrame(bytes(960), 0.02))
        rig.sent()
    assert not rig.machine.drops


# Audio out


def test_an_answer_is_played_whole_and_framed_by_two_events(rig: Rig) -> None:
    audio = TONE * 36_100  # 1.5 s and 100 samples
    rig.server(created(), delta(audio[:70_001]), delta(audio[70_001:]), audio_done(), done())
    rig.pass_time(2.0)
    assert rig.speaker.audio == audio + bytes((960 - len(audio) % 960) % 960)
    assert "response.output_audio.delta" not in rig.ear.kinds
    assert rig.ear.kinds == [
        "response.created",
        "output_audio_buffer.started",
        "response.output_audio.done",
        "response.done",
        "output_audio_buffer.stopped",
    ]
    for kind in ("output_audio_buffer.started", "output_audio_buffer.stopped"):
        event = rig.ear.find(kind)
        check_server_event(msgspec.json.encode(event))
        assert event["response_id"] == "resp_1"
    assert rig.sent() == []


def rest(event: Event) -> Event:
    return {key: value for key, value in event.items() if key != "type"}


def test_stopped_comes_when_the_last_frame_was_played_and_not_before(rig: Rig) -> None:
    rig.server(created(), delta(TONE * 24_000), done())
    rig.pass_time(0.98)
    assert "output_audio_buffer.stopped" not in rig.ear.kinds
    rig.pass_time(0.04)
    assert rig.ear.kinds[-1] == "output_audio_buffer.stopped"
    assert rig.machine.feed_below is None


def test_the_speaker_is_given_no_more_than_half_a_second_ahead(rig: Rig) -> None:
    rig.server(created(), delta(TONE * 24_000 * 10))
    most = 0.0
    for _ in range(500):
        most = max(most, rig.speaker.queued)
        assert rig.speaker.queued > 0.0
        rig.pass_time(0.02)
    assert most <= 0.5
    assert len(rig.speaker.audio) == 10 * SECOND


def test_two_answers_do_not_overlap(rig: Rig) -> None:
    rig.server(created("a"), delta(TONE * 4_800, response="a"), done("a"))
    rig.server(created("b"), delta(TONE * 4_800, response="b", item="item_2"), done("b"))
    rig.pass_time(1.0)
    marks = [
        (event["type"], event["response_id"])
        for event in rig.ear.events
        if str(event["type"]).startswith("output_audio_buffer")
    ]
    names = ("output_audio_buffer.started", "output_audio_buffer.stopped")
    assert marks == [(name, response) for response in "ab" for name in names]


def test_an_answer_that_never_ends_does_not_hold_up_the_next(rig: Rig) -> None:
    rig.server(created("a"), delta(TONE * 480, response="a"))
    rig.server(created("b"), delta(TONE * 480, response="b"), done("b"))
    rig.pass_time(0.2)
    assert len(rig.speaker.frames) == 2
    assert rig.ear.kinds.count("output_audio_buffer.stopped") == 2


def test_audio_ahead_is_bounded(rig: Rig) -> None:
    rig.server(created())
    for _ in range(250):
        rig.server(delta(TONE * 24_000))
    assert rig.machine.drops == {Drop.QUEUE_FULL: 10}
    rig.pass_time(241.0)
    assert len(rig.speaker.audio) == 240 * SECOND


# Barge-in


@pytest.mark.parametrize("milliseconds", [20, 500, 1_240, 2_980])
def test_barge_in_truncates_at_what_was_played(rig: Rig, milliseconds: int) -> None:
    rig.server(created(), delta(TONE * 24_000 * 3), audio_done(), done())
    rig.pass_time(milliseconds / 1_000)
    rig.server(SPEECH)
    (truncate,) = rig.sent()
    assert rest(truncate) | {"event_id": ""} == {
        "event_id": "",
        "item_id": "item_1",
        "content_index": 0,
        "audio_end_ms": milliseconds,
    }
    assert rig.speaker.queued == 0.0
    assert rig.ear.kinds[-2:] == [
        "input_audio_buffer.speech_started",
        "output_audio_buffer.cleared",
    ]
    rig.pass_time(1.0)
    assert rig.speaker.played == pytest.approx(milliseconds / 1_000)
    assert "output_audio_buffer.stopped" not in rig.ear.kinds


def test_the_fade_counts_as_played() -> None:
    rig = Rig(fade=0.02)
    rig.server(created(), delta(TONE * 24_000), done())
    rig.pass_time(0.4)
    rig.server(SPEECH)
    assert rig.sent()[0]["audio_end_ms"] == 420


def test_the_second_answer_is_counted_from_its_own_beginning() -> None:
    rig = Rig(fade=0.02)
    for number in range(3):
        name = f"resp_{number}"
        rig.server(created(name), delta(TONE * 12_345, response=name, item=name), done(name))
        rig.pass_time(0.3)
        rig.server(SPEECH)
        (truncate,) = rig.sent()
        assert (truncate["item_id"], truncate["audio_end_ms"]) == (name, 320)
        rig.pass_time(0.5)


def test_an_answer_heard_out_is_not_truncated(rig: Rig) -> None:
    rig.server(created(), delta(TONE * 4_800), done())
    rig.pass_time(0.5)
    rig.server(SPEECH)
    assert rig.sent() == []
    assert rig.speaker.flushes == 0
    assert "output_audio_buffer.cleared" not in rig.ear.kinds


def test_items_are_told_apart_across_the_queue(rig: Rig) -> None:
    """The first is heard, the second partly, the third not at all."""
    rig.server(created())
    for number in range(3):
        rig.server(delta(TONE * 7_300, item=f"item_{number}"))  # 304.2 ms: 16 frames
    rig.server(done())
    rig.pass_time(0.4)
    rig.server(SPEECH)
    cut = [(event["item_id"], event["audio_end_ms"]) for event in rig.sent()]
    assert cut == [("item_1", 80), ("item_2", 0)]


def test_the_silence_that_fills_a_frame_is_not_the_items(rig: Rig) -> None:
    rig.server(created(), delta(TONE * 490, item="short"), delta(TONE * 24_000, item="long"))
    rig.server(done())
    rig.pass_time(0.02)
    rig.server(SPEECH)
    short, long = rig.sent()
    assert (short["item_id"], short["audio_end_ms"]) == ("short", 20)
    assert (long["item_id"], long["audio_end_ms"]) == ("long", 0)
    again = Rig()
    again.server(created(), delta(TONE * 490, item="short"), delta(TONE * 24_000, item="long"))
    again.pass_time(0.06)
    again.server(SPEECH)
    cut = [(event["item_id"], event.get("audio_end_ms")) for event in again.sent()[1:]]
    assert cut == [("long", 20)]


def test_a_fade_that_ends_in_an_items_filling_ends_the_item() -> None:
    rig = Rig(fade=0.01)
    rig.server(created(), delta(TONE * 490, item="short"), delta(TONE * 24_000, item="long"))
    rig.server(done())
    rig.pass_time(0.02)
    rig.server(SPEECH)
    assert [(event["item_id"], event["audio_end_ms"]) for event in rig.sent()] == [("long", 0)]


def test_a_response_under_way_is_cancelled_and_what_still_comes_is_dropped(rig: Rig) -> None:
    rig.server(created(), delta(TONE * 4_800))
    rig.pass_time(0.1)
    rig.server(SPEECH)
    cancel, truncate = rig.sent()
    assert cancel["type"] == "response.cancel"
    assert cancel["response_id"] == "resp_1"
    assert truncate["audio_end_ms"] == 100
    frames = len(rig.speaker.frames)
    rig.server(delta(TONE * 4_800), delta(TONE * 4_800), SPEECH, done(status="cancelled"))
    assert len(rig.speaker.frames) == frames
    assert rig.machine.drops == {Drop.LATE: 2}
    assert rig.sent() == []
    rig.server(created("resp_2"), delta(TONE * 480, response="resp_2", item="item_2"))
    assert len(rig.speaker.frames) == frames + 1


def test_all_played_but_more_is_coming(rig: Rig) -> None:
    """The server has sent more than came here: the item must be cut where it was heard."""
    rig.server(created(), delta(TONE * 4_800))
    rig.pass_time(1.0)
    rig.server(SPEECH)
    _, truncate = rig.sent()
    assert truncate["audio_end_ms"] == 200


def test_the_clients_clear_is_a_barge_in_that_the_server_does_not_see(rig: Rig) -> None:
    rig.server(created(), delta(TONE * 24_000))
    rig.pass_time(0.2)
    rig.machine.receive_client(encode("output_audio_buffer.clear"))
    assert rig.sent_kinds() == ["response.cancel", "conversation.item.truncate"]
    assert rig.ear.kinds[-1] == "output_audio_buffer.cleared"


@pytest.mark.parametrize(("interrupts", "flushes"), [(False, 0), (True, 1)])
def test_a_session_that_shall_not_be_interrupted_is_not(
    rig: Rig, interrupts: bool, flushes: int
) -> None:
    detection = {"type": "server_vad", "interrupt_response": interrupts}
    session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
    rig.server(encode("session.updated", event_id="e", session=session))
    rig.server(created(), delta(TONE * 24_000), SPEECH)
    assert rig.speaker.flushes == flushes


def test_a_server_that_knows_no_truncation_is_not_asked() -> None:
    rig = Rig("localai")
    rig.server(created(), delta(TONE * 24_000), SPEECH)
    assert rig.sent_kinds() == ["response.cancel"]


def test_errors_about_our_own_events_are_nobodys(rig: Rig) -> None:
    rig.server(created(), delta(TONE * 24_000), SPEECH)
    own = str(rig.sent()[0]["event_id"])
    rig.server(server_error("response_cancel_not_active", own), server_error("rate_limit\n!", None))
    assert [event["error"] for event in rig.ear.events if event["type"] == "error"] == [
        {"type": "invalid_request_error", "code": "rate_limit\n!", "message": "", "event_id": None}
    ]
    assert rig.machine.errors == 1
    assert rig.machine.last_error == "rate_limit??"


def server_error(code: str, event_id: str | None) -> bytes:
    error = {"type": "invalid_request_error", "code": code, "message": "", "event_id": event_id}
    return encode("error", event_id="e", error=error)


@given(
    st.lists(
        st.tuples(st.integers(1, 9_000), st.sampled_from("ab"), st.integers(0, 20)), max_size=12
    ),
    st.integers(0, 30),
)
def test_the_truncations_add_up_to_what_was_played(
    pieces: list[tuple[int, str, int]], last: int
) -> None:
    """Whatever comes in whatever pieces: items' milliseconds are those that the speaker played."""
    rig = Rig()
    rig.server(created())
    given: dict[str, int] = {}
    order = sorted(pieces, key=lambda piece: piece[1])
    for samples, item, frames in order:
        rig.server(delta(TONE * samples, item=item))
        given[item] = given.get(item, 0) + samples
        rig.pass_time(frames * 0.02)
    rig.pass_time(last * 0.02)
    played = round(rig.speaker.played * 24_000)
    rig.server(SPEECH)
    cut = {e["item_id"]: e["audio_end_ms"] for e in rig.sent() if "item_id" in e}
    place = 0
    for item, total in given.items():
        heard = min(max(played - place, 0), total)
        assert cut.get(item, total * 1_000 // 24_000) == heard * 1_000 // 24_000
        place += -(-total // 480) * 480


# Events


def test_other_events_pass_in_both_directions_untouched(rig: Rig) -> None:
    event = b'{"type": "rate_limits.updated", "x": 1,  "rate_limits": []}'
    rig.machine.receive_server(event)
    assert rig.ear.events == [decode(event)]
    text = b'{"type":"conversation.item.create","item":{"type":"message","role":"user",'
    text += b'"content":[{"type":"input_text","text":"hi"}]}}'
    rig.machine.receive_client(text)
    assert rig.machine.outbox.take() == text.decode()


def test_the_client_can_not_change_the_audios_formats(rig: Rig) -> None:
    audio = {"input": {"format": {"type": "audio/pcmu"}}, "output": {"voice": "cedar"}}
    rig.machine.receive_client(
        encode("session.update", session={"type": "realtime", "audio": audio})
    )
    rig.machine.receive_client(
        encode(
            "response.create", response={"audio": {"output": {"format": {"type": "audio/pcmu"}}}}
        )
    )
    update, create = rig.sent()
    assert update["session"] == {
        "type": "realtime",
        "audio": {"input": {}, "output": {"voice": "cedar"}},
    }
    assert create["response"] == {"audio": {"output": {}}}


def test_the_edges_own_goodbye_is_not_the_servers_business(rig: Rig) -> None:
    rig.machine.receive_client(encode("session.ended", reason="hangup"))
    assert rig.sent() == []
    assert not rig.machine.drops


@pytest.mark.parametrize(
    "event",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"{}",
        b'{"type":1}',
        b"\xff\xfe",
        b"[" * 100_000,
        encode("x", text="a" * MAX_CLIENT_EVENT),
    ],
)
def test_what_is_no_event_is_dropped_and_counted(rig: Rig, event: bytes) -> None:
    rig.machine.receive_client(event)
    assert rig.sent() == []
    assert rig.machine.drops == {Drop.MALFORMED: 1}


@pytest.mark.parametrize(
    "event",
    [
        b"{",
        b"\xff",
        b'{"type":["x"]}',
        encode("response.output_audio.delta", delta=7),
        encode("response.output_audio.delta", delta="????"),
        encode("response.output_audio.delta", delta="AAA"),
        encode("response.created"),
        encode("response.done", response=[]),
        encode("error"),
    ],
)
def test_a_servers_garbage_is_dropped_and_the_session_goes_on(rig: Rig, event: bytes) -> None:
    rig.server(event)
    assert rig.machine.drops == {Drop.MALFORMED: 1}
    rig.server(created(), delta(TONE * 480))
    assert len(rig.speaker.frames) == 1


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: encode(text, delta=text)))
def test_no_message_breaks_the_machine(message: bytes) -> None:
    rig = Rig()
    rig.machine.receive_server(message)
    rig.machine.receive_client(message)


def test_events_that_wait_are_bounded(rig: Rig) -> None:
    for _ in range(MAX_EVENTS + 3):
        rig.machine.receive_client(encode("input_audio_buffer.commit"))
    assert rig.machine.drops == {Drop.QUEUE_FULL: 3}


def test_an_outboxs_events_are_bounded_in_bytes() -> None:
    rig = Rig()
    for _ in range(10):
        rig.machine.receive_client(encode("x", text="a" * 200_000))
    assert rig.machine.drops == {Drop.QUEUE_FULL: 5}


def test_a_lost_connection_ends_the_answer_and_plays_it_out(rig: Rig) -> None:
    rig.server(created(), delta(TONE * 4_801))
    rig.machine.disconnect()
    rig.pass_time(0.3)
    assert len(rig.speaker.audio) == 11 * 960
    assert rig.ear.kinds[-1] == "output_audio_buffer.stopped"
    rig.server(SPEECH)
    assert rig.sent() == []


# Profiles


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_says_what_the_edge_needs(name: str) -> None:
    profile = PROFILES[name]
    assert profile.wants(OPUS) == AudioFormat("pcm16", profile.rate)
    assert make_realtime(
        BackendConfig(profile=name, url="" if profile.url else "wss://one.example/v1"),
        {profile.key_variable: "sk-test"},
    )


@pytest.mark.parametrize("name", ["openai", "azure", "localai"])
@pytest.mark.parametrize("codec", [OPUS, PCMU, AudioFormat("PCMA", 8_000)])
def test_the_first_event_is_one_of_the_official_types(name: str, codec: AudioFormat) -> None:
    rig = Rig(name, PROFILES[name].wants(codec))
    rig.machine.connect()
    assert rig.sent_kinds() == ["session.update"]


def test_a_field_that_the_official_types_do_not_have_is_noticed() -> None:
    session = {"type": "realtime", "audio": {"input": {"formatt": 1}}}
    with pytest.raises(AssertionError):
        check_client_event(encode("session.update", session=session))


def test_g711_passes_through_where_the_server_speaks_it() -> None:
    assert PROFILES["openai"].wants(PCMU) == PCMU
    assert PROFILES["localai"].wants(PCMU) == PCM24
    rig = Rig("openai", PCMU)
    rig.machine.connect()
    session = cast("dict[str, dict[str, Event]]", rig.sent()[0]["session"])
    assert session["audio"]["input"]["format"] == {"type": "audio/pcmu"}
    rig.server(created(), delta(b"\x01" * 200), done())
    assert rig.speaker.audio == b"\x01" * 200 + b"\xff" * 120


def test_azure_has_its_own_header_and_needs_a_url() -> None:
    azure = PROFILES["azure"]
    assert azure.handshake("k") == [(b"api-key", b"k")]
    url = "wss://r.openai.azure.com/openai/v1/realtime"
    assert azure.target(url, "my deployment") == f"{url}?model=my+deployment"
    with pytest.raises(ConfigError, match=r"backend\.url"):
        make_realtime(BackendConfig(profile="azure"), {"AZURE_OPENAI_API_KEY": "k"})


def test_older_names_reach_the_client_as_the_ga_ones() -> None:
    rig = Rig("speaches")
    rig.machine.connect()
    session = decode(rig.machine.outbox.take() or "")["session"]
    assert session == {"instructions": "Be brief.", "voice": "marin"}
    rig.server(created(), encode("response.audio_transcript.delta", delta="hi", item_id="item_1"))
    old = delta(TONE * 480).replace(b"response.output_audio.delta", b"response.audio.delta")
    rig.server(old)
    assert len(rig.speaker.frames) == 1
    event = rig.ear.find("response.output_audio_transcript.delta")
    assert event["delta"] == "hi"


def test_a_profile_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        """
        base = "localai"
        rate = 16000
        key_variable = "MINE_KEY"
        [formats]
        pcm16 = {type = "audio/pcm", rate = 16000}
        [session.audio.input]
        turn_detection = {type = "semantic_vad"}
        """,
        encoding="utf-8",
    )
    profile = find_profile(str(file))
    assert (profile.name, profile.rate, profile.truncates) == ("mine", 16_000, False)
    session = profile.first_session(AudioFormat("pcm16", 16_000), voice="", instructions="")
    assert session == {
        "type": "realtime",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 16_000},
                "turn_detection": {"type": "semantic_vad"},
            },
            "output": {"format": {"type": "audio/pcm", "rate": 16_000}},
        },
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rate = 11025", "rate is none of"),
        ("ratte = 1", "unknown field"),
        ("base = 'x'", "base is none of"),
        ("[", "not valid TOML"),
        ("formats = {mp3 = 1}", "formats are"),
    ],
)
def test_a_wrong_profile_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=problem) as caught:
        find_profile(str(file))
    assert "\n" not in str(caught.value)


# Keys


def test_a_key_comes_from_a_file_before_the_environment_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-file\n", encoding="utf-8")
    settings = BackendConfig(api_key_file=str(file))
    backend = make_realtime(settings, {"OPENAI_API_KEY": "sk-from-environment"})
    assert backend.line.target.headers == [(b"Authorization", b"Bearer sk-from-file")]
    for shown in (repr(backend.line), repr(settings), repr(backend)):
        assert "sk-" not in shown


@pytest.mark.parametrize("key", ["", "two\nlines", "näh"])
def test_a_missing_or_odd_key_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"backend\.api_key_file") as caught:
        make_realtime(BackendConfig(), {"OPENAI_API_KEY": key})
    assert not key or key not in str(caught.value)


def test_without_a_key_no_header_is_sent() -> None:
    assert make_realtime(BackendConfig(profile="localai"), {}).line.target.headers == []


def test_the_outbox_gives_audio_only_by_the_chunk() -> None:
    outbox = Outbox(Counter(), chunk_bytes=4, max_append_bytes=8, max_audio_bytes=100)
    outbox.put_audio(b"abc")
    assert outbox.take() is None
    outbox.put_audio(b"d")
    assert outbox.take() == '{"type":"input_audio_buffer.append","audio":"YWJjZA=="}'
    assert outbox.take() is None
