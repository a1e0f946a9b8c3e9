"""What the demo answers: a table of rules, first match wins.

The phrases of the rules are the recogniser's grammar as well (``ears``), so that the few sentences
that the demo is about are understood reliably. Whatever else was said is looked at for its words.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

NUMBERS: Final = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
                  "eleven", "twelve")  # fmt: skip

STORY: Final = (
    "Once upon a time, a small packet of sound lived at the edge of a wide network. "
    "Every twenty milliseconds it set out with its brothers and sisters to cross the open sea. "
    "Some days the sea was calm, and they all arrived in order. "
    "Some days there was a storm, and one of them was lost on the way. "
    "But each carried in its pocket a little note about the one before it. "
    "So nobody at the other shore ever noticed that anyone was missing. "
    "And when the listener had heard enough and said stop, the packets who were still waiting at "
    "the harbour turned around and went home. "
    "They were not sad, for there is always another conversation in the morning. The end."
)  # fmt: skip
HELP: Final = (
    "I can tell you the time, a story or a joke. I can count, and I can repeat what you say. "
    "Just talk over me when you have heard enough."
)
UNKNOWN: Final = "Sorry, I did not understand that. Ask me what I can do."


@dataclass(frozen=True, slots=True)
class Words:
    """What was understood: ``text`` in lower case, without punctuation, and when."""

    text: str
    now: datetime


Answer = Callable[[Words], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to say: the sentences that ask for it, the words that hint at it, the answer."""

    phrases: tuple[str, ...]
    hint: re.Pattern[str]
    answer: Answer


def reply(text: str, *, now: datetime) -> str:
    """Answer what was understood; an empty text is not answered."""
    words = Words(" ".join(text.lower().split()), now)
    if not words.text:
        return ""
    for rule in RULES:
        if words.text in rule.phrases:
            return rule.answer(words)
    for rule in RULES:
        if rule.hint.search(words.text):
            return rule.answer(words)
    return UNKNOWN


def sentences(text: str) -> list[str]:
    """The sentences of a text, each to be spoken by itself."""
    return [part for part in _SENTENCE_END.split(text.strip()) if part]


def _always(answer: str) -> Answer:
    return lambda words: answer


def _tell_time(words: Words) -> str:
    hour = words.now.hour % 12 or 12
    half = "AM" if words.now.hour < 12 else "PM"
    return f"It is {hour}:{words.now.minute:02} {half}."


def _count(words: Words) -> str:
    last = next((number for number in reversed(NUMBERS) if number in words.text.split()), "ten")
    *before, end = NUMBERS[: NUMBERS.index(last) + 1]
    return " ".join(f"{number.capitalize()}." for number in (*before, end))


def _repeat(words: Words) -> str:
    return f"{_REPEAT.sub('', words.text, count=1).strip().capitalize()}."


_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=\S)")
_REPEAT: Final = re.compile(r"^(please )?(repeat|say)( after me)?\b")

_COUNTS: Final = tuple(f"count to {number}" for number in NUMBERS)

RULES: Final = (
    Rule(
        ("stop", "stop it", "stop talking", "be quiet"),
        re.compile(r"\b(stop|quiet)\b"),
        _always("Okay."),
    ),
    Rule((), re.compile(_REPEAT.pattern + r" \w"), _repeat),
    Rule(
        ("what time is it", "what is the time"),
        re.compile(r"\btime\b"),
        _tell_time,
    ),
    Rule(
        ("tell me a story", "please tell me a story"),
        re.compile(r"\bstory\b"),
        _always(STORY),
    ),
    Rule(
        ("tell me a joke",),
        re.compile(r"\bjoke\b"),
        _always("I would tell you a joke about U D P, but you might not get it."),
    ),
    Rule(
        (*_COUNTS, *(f"can you {phrase}" for phrase in _COUNTS)),
        re.compile(r"\bcount\b"),
        _count,
    ),
    Rule(
        ("how are you", "how do you do"),
        re.compile(r"\bhow('re| are| do) you\b"),
        _always("Very well, thank you. No packet lost so far."),
    ),
    Rule(
        ("what can you do", "help", "help me"),
        re.compile(r"\b(can you do|help)\b"),
        _always(HELP),
    ),
    Rule(
        ("what is your name", "who are you"),
        re.compile(r"\b(your name|who are you)\b"),
        _always("I am the demo voice of this edge."),
    ),
    Rule(
        ("yes", "no", "yes please", "no thank you", "okay"),
        re.compile(r"^(yes|no|okay)\b"),
        _always("All right."),
    ),
    Rule(
        ("thank you", "thank you very much", "thanks"),
        re.compile(r"\bthank"),
        _always("You are welcome."),
    ),
    Rule(
        ("goodbye", "bye bye", "good night"),
        re.compile(r"\b(good)?bye\b"),
        _always("Goodbye! It was nice talking to you."),
    ),
    Rule(
        ("hello", "hello there", "hi", "hi there", "good morning", "good evening"),
        re.compile(r"\b(hello|hi)\b"),
        _always("Hello! What can I do for you?"),
    ),
)  # fmt: skip

PHRASES: Final = tuple(phrase for rule in RULES for phrase in rule.phrases)
"""All sentences that the demo is sure to know."""
