"""Speech recognition: PCM16 of one utterance in, its words out. The one module for PocketSphinx.

A process of its own (see ``ears``): the decoder keeps Python's lock while it works. On stdin it
takes a length (u32, big-endian) and as many bytes of PCM16 at 16 kHz, on stdout it answers with a
length and the words; the end of stdin is its end.

Two searches over the same acoustic model. The first knows only the sentences of the demo: it takes
20 to 50 ms and finds them in other voices and in noise too. But it would hear one of them in
anything, so its answer counts only where it fits well and explains most of what was said; else the
second, with a language model of English, takes 150 to 600 ms.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from pocketsphinx import Decoder, get_model_path  # type: ignore[import-untyped]

from edge.demo_voice.ears import LENGTH
from edge.demo_voice.reply import PHRASES

LEAST_FIT: Final = 0.65
"""Of 0 to 1. The demo's sentences reach 0.68 to 0.84, all else 0.3 to 0.64."""
LEAST_COVERED: Final = 0.3
"""Share of the frames that belong to words and not to silence around them."""
FRAMES_PER_SECOND: Final = 100


class _Hypothesis(Protocol):
    hypstr: str
    score: float


class _Segment(Protocol):
    word: str
    start_frame: int
    end_frame: int


class _Decoder(Protocol):
    def start_utt(self) -> None: ...

    def process_raw(self, data: bytes, *, full_utt: bool) -> int: ...

    def end_utt(self) -> None: ...

    def hyp(self) -> _Hypothesis | None: ...

    def seg(self) -> Iterable[_Segment]: ...

    def add_jsgf_string(self, name: str, grammar: str) -> None: ...

    def activate_search(self, name: str) -> None: ...


class Recogniser:
    """Not for several threads at once. Utterances do not influence each other."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self._phrases = frozenset(phrases)
        self._grammar = _decoder(lm=None)
        self._grammar.add_jsgf_string("phrases", _jsgf(phrases))
        self._grammar.activate_search("phrases")
        # Narrower beams than usual: three times as fast, and as good on clear speech.
        self._english = _decoder(
            lm=get_model_path("en-us/en-us.lm.bin"), maxhmmpf=4000, maxwpf=8, ds=2
        )

    def recognise(self, pcm: bytes) -> str:
        """The words of one utterance, in lower case; empty when there are none."""
        return self._known_phrase(pcm) or self._free_speech(pcm)

    def _known_phrase(self, pcm: bytes) -> str:
        _decode(self._grammar, pcm)
        best = self._grammar.hyp()
        if best is None or best.score < LEAST_FIT or best.hypstr not in self._phrases:
            return ""
        words = [each for each in self._grammar.seg() if not each.word.startswith("<")]
        covered = sum(each.end_frame - each.start_frame + 1 for each in words)
        frames = len(pcm) // 2 * FRAMES_PER_SECOND // 16_000
        return best.hypstr if covered >= LEAST_COVERED * frames else ""

    def _free_speech(self, pcm: bytes) -> str:
        _decode(self._english, pcm)
        best = self._english.hyp()
        return best.hypstr if best is not None else ""


def _decoder(**settings: str | int | None) -> _Decoder:
    decoder: _Decoder = Decoder(
        hmm=get_model_path("en-us/en-us"),
        dict=get_model_path("en-us/cmudict-en-us.dict"),
        cmn="batch",  # by this utterance alone: the one before was another's
        loglevel="FATAL",
        **settings,
    )
    return decoder


def _decode(decoder: _Decoder, pcm: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()


def _jsgf(phrases: Sequence[str]) -> str:
    return f"#JSGF V1.0;\ngrammar phrases;\npublic <phrase> = {' | '.join(phrases)};\n"


def main() -> None:
    """Answer on stdout what comes on stdin; begins with an empty answer when it is ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for our parent, who ends us
    recogniser = Recogniser(PHRASES)
    text = ""
    while True:
        answer = text.encode()
        sys.stdout.buffer.write(LENGTH.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()
        header = sys.stdin.buffer.read(LENGTH.size)
        if len(header) < LENGTH.size:
            return
        text = recogniser.recognise(sys.stdin.buffer.read(*LENGTH.unpack(header)))


if __name__ == "__main__":
    main()
