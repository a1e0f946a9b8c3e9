"""The demo voice on numbers: voice activity, answers, and who speaks when."""

from __future__ import annotations

from datetime import datetime
from math import inf

import pytest

from edge.demo_voice.reply import PHRASES, STORY, UNKNOWN, reply, sentences
from edge.demo_voice.talk import (
    AHEAD_SECONDS,
    Action,
    Answer,
    Flush,
    Pause,
    Play,
    Recognise,
    Resume,
    State,
    Synthesise,
    Talk,
    Tell,
)
from edge.demo_voice.vad import (
    END_SECONDS,
    LEAD_SECONDS,
    MAX_SECONDS,
    SpeechConfirmed,
    SpeechDetector,
    SpeechEnded,
    SpeechStarted,
)
from tests.support.sounds import noise, silence, vowel

AFTERNOON = datetime(2026, 11, 22, 15, 5)
SECOND = 32_000  # bytes


def detect(*sounds: bytes, step: int = 640) -> list[tuple[float, object]]:
    """Every event with the seconds of sound after which it came."""
    detector, pcm = SpeechDetector(), b"".join(sounds)
    found: list[tuple[float, object]] = []
    for start in range(0, len(pcm), step):
        piece = pcm[start : start + step]
        found += [((start + len(piece)) / SECOND, event) for event in detector.hear(piece)]
    return found


# Voice activity


def test_speech_starts_is_sure_and_ends_after_the_silence() -> None:
    found = detect(silence(1.0), vowel(0.6), silence(1.0))
    assert [type(event) for _, event in found] == [SpeechStarted, SpeechConfirmed, SpeechEnded]
    started, confirmed, ended = (at for at, _ in found)
    assert 1.1 <= started <= 1.2
    assert started < confirmed <= 1.32
    assert 1.6 + END_SECONDS - 0.05 <= ended <= 1.6 + END_SECONDS + 0.15


def test_what_was_said_is_kept_with_a_little_silence_around_it() -> None:
    (*_, (_, ended)) = detect(silence(1.0), vowel(0.6), silence(1.0))
    assert isinstance(ended, SpeechEnded)
    assert vowel(0.6) in ended.pcm
    assert len(ended.pcm) / SECOND <= 0.6 + 2 * LEAD_SECONDS + 0.15


def test_the_length_of_pieces_does_not_matter() -> None:
    sounds = silence(0.5), vowel(0.5), silence(0.6)
    events = [event for _, event in detect(*sounds)]
    assert [event for _, event in detect(*sounds, step=334)] == events
    assert [event for _, event in detect(*sounds, step=SECOND)] == events


def test_a_short_pause_does_not_end_what_is_said() -> None:
    found = detect(silence(0.5), vowel(0.4), silence(0.25), vowel(0.4), silence(0.8))
    assert [type(event) for _, event in found] == [SpeechStarted, SpeechConfirmed, SpeechEnded]


def test_a_cough_starts_but_is_never_sure() -> None:
    (_, started), (_, ended) = detect(silence(0.5), vowel(0.11), silence(0.8))
    assert started == SpeechStarted()
    assert ended == SpeechEnded(b"")


@pytest.mark.parametrize("sound", [silence(2.0), noise(2.0), noise(2.0, peak=0.05)])
def test_silence_and_noise_are_no_speech(sound: bytes) -> None:
    assert detect(sound) == []


def test_speech_that_never_ends_is_cut() -> None:
    found = detect(*[vowel(0.5)] * 30)
    (ended,) = (event for _, event in found if isinstance(event, SpeechEnded))
    assert len(ended.pcm) == MAX_SECONDS * SECOND


# Answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("hello", "Hello! What can I do for you?"),
        ("what time is it", "It is 3:05 PM."),
        ("could you tell me the time please", "It is 3:05 PM."),
        ("stop", "Okay."),
        ("please stop that story", "Okay."),
        ("count to three", "One. Two. Three."),
        ("can you count to two", "One. Two."),
        ("tell me a story", STORY),
        ("i want another story", STORY),
        ("repeat after me the quick brown fox", "The quick brown fox."),
        ("say good morning", "Good morning."),
        ("the stock market fell", UNKNOWN),
        ("", ""),
        ("  ", ""),
    ],
)
def test_replies(text: str, answer: str) -> None:
    assert reply(text, now=AFTERNOON) == answer


def test_midnight_is_twelve() -> None:
    assert reply("what time is it", now=datetime(2026, 1, 1, 0, 0)) == "It is 12:00 AM."


def test_every_phrase_of_the_grammar_has_an_answer_of_its_own() -> None:
    assert len(set(PHRASES)) == len(PHRASES)
    assert all(reply(phrase, now=AFTERNOON) not in ("", UNKNOWN) for phrase in PHRASES)


def test_the_story_is_long_and_comes_in_sentences() -> None:
    parts = sentences(STORY)
    assert len(parts) >= 8
    assert all(len(part) <= 150 for part in parts)


# Who speaks when


def hear(talk: Talk, *sounds: bytes, now: float = 0.0) -> list[Action]:
    return [action for sound in sounds for action in talk.hear(sound, now=now)]


def kinds(actions: list[Action]) -> list[str]:
    return [each.kind for each in actions if isinstance(each, Tell)]


def played(actions: list[Action]) -> float:
    return sum(len(each.pcm) for each in actions if isinstance(each, Play)) / SECOND


def jobs(actions: list[Action]) -> list[Action]:
    return [each for each in actions if isinstance(each, Recognise | Answer | Synthesise)]


def asked() -> Talk:
    """A talk that was asked something, and thinks."""
    talk = Talk()
    hear(talk, silence(0.5), vowel(0.6), silence(0.7))
    assert talk.state is State.THINKING
    return talk


def speaking(*, seconds: float = 3.0) -> tuple[Talk, list[Action]]:
    """A talk that speaks its first sentence since 0, and has one more to say."""
    talk = asked()
    talk.answer(talk.turn, "One. Two.")
    return talk, talk.speak(talk.turn, vowel(seconds), now=0.0)


def test_a_question_is_recognised_answered_and_spoken() -> None:
    talk = Talk()
    heard = hear(talk, silence(0.5), vowel(0.6), silence(0.7))
    (recognise,) = jobs(heard)
    assert isinstance(recognise, Recognise)
    assert vowel(0.6) in recognise.pcm
    assert kinds(heard) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
    ]
    assert jobs(talk.understand(talk.turn, "hello")) == [Answer(talk.turn, "hello")]
    assert jobs(talk.answer(talk.turn, "Hi. You.")) == [Synthesise(talk.turn, "Hi.")]
    spoken = talk.speak(talk.turn, vowel(0.5), now=10.0)
    assert kinds(spoken) == ["output_audio_buffer.started"]
    assert played(spoken) == 0.5
    assert jobs(spoken) == [Synthesise(talk.turn, "You.")]
    assert talk.state is State.SPEAKING


def test_what_was_not_understood_is_not_answered() -> None:
    talk = asked()
    assert talk.understand(talk.turn, "") == []
    assert talk.state is State.LISTENING


def test_sound_leaves_a_second_ahead_and_no_more() -> None:
    talk, actions = speaking(seconds=3.0)
    assert AHEAD_SECONDS <= played(actions) <= AHEAD_SECONDS + 0.1 + 1e-9
    assert jobs(actions) == []  # there is enough to be heard: the second sentence can wait
    total, deadlines = played(actions), [talk.deadline]
    while talk.state is State.SPEAKING and talk.deadline < inf:
        deadlines.append(talk.deadline)
        actions = talk.tick(now=talk.deadline)
        total += played(actions)
        assert total <= deadlines[-1] + AHEAD_SECONDS + 0.1 + 1e-9
    assert total == pytest.approx(3.0)
    assert deadlines == sorted(deadlines)


def test_the_next_sentence_is_made_in_time_and_the_end_is_told() -> None:
    talk, actions = speaking(seconds=1.5)
    assert jobs(actions) == [Synthesise(talk.turn, "Two.")]
    assert played(talk.speak(talk.turn, vowel(0.5), now=0.2)) >= 0.1
    told: list[str] = []
    while talk.deadline < inf:
        now = talk.deadline
        told += kinds(talk.tick(now=now))
    assert told == ["output_audio_buffer.stopped"]
    assert now == pytest.approx(2.0)
    assert talk.state is State.LISTENING


def test_a_late_sentence_does_not_spin_the_clock() -> None:
    talk, _ = speaking(seconds=0.5)
    assert talk.deadline == inf  # all is out, and the next is being made
    assert talk.tick(now=5.0) == []
    talk.speak(talk.turn, vowel(0.5), now=7.0)
    assert talk.deadline == pytest.approx(7.5)


def test_barge_in_pauses_at_once_and_flushes_when_it_is_speech() -> None:
    talk, _ = speaking()
    actions = hear(talk, vowel(0.14), now=0.5)
    assert actions == [Pause()]
    assert talk.deadline == inf
    actions = hear(talk, vowel(0.3), now=0.7)
    assert actions[0] == Flush()
    assert kinds(actions) == ["input_audio_buffer.speech_started", "output_audio_buffer.cleared"]
    assert talk.state is State.LISTENING
    assert talk.tick(now=9.0) == []
    assert len(jobs(hear(talk, silence(0.6)))) == 1


def test_after_a_cough_the_voice_goes_on_where_it_was() -> None:
    talk, _ = speaking()
    until = talk.deadline
    assert hear(talk, vowel(0.11), now=0.05) == [Pause()]
    assert talk.tick(now=0.6) == []
    actions = hear(talk, silence(0.6), now=0.8)
    assert actions == [Resume()]
    assert talk.deadline == pytest.approx(until + 0.75)
    assert talk.state is State.SPEAKING


def test_what_comes_late_for_an_older_turn_is_dropped() -> None:
    talk, _ = speaking()
    old = talk.turn
    hear(talk, vowel(0.5), now=0.5)
    assert talk.understand(old, "hello") == []
    assert talk.answer(old, "Hello.") == []
    assert talk.speak(old, vowel(0.5), now=0.6) == []
    assert talk.state is State.LISTENING


def test_who_speaks_while_it_thinks_asks_anew() -> None:
    talk = asked()
    old = talk.turn
    actions = hear(talk, vowel(0.6), silence(0.7))
    assert Flush() not in actions
    (recognise,) = jobs(actions)
    assert isinstance(recognise, Recognise)
    assert recognise.turn != old


def test_nothing_that_was_said_shows_in_a_repr() -> None:
    talk, actions = speaking()
    assert all(len(repr(action)) < 200 for action in [*actions, *hear(talk, vowel(0.5))])
