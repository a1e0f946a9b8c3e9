"""CPU time of the codecs and resamplers that were candidates, and what threads would cost.

scripts/bench_audio [--seconds N] [--json FILE]

Everything is for a frame of 20 ms, mono; the best of some rounds. Candidates that are not installed
are left out: `pip install av samplerate soxr` brings them all.
"""

from __future__ import annotations

import argparse
import ctypes
import queue
import sys
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from math import pi, sin
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Final
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reporting import write_json

from edge.audio import opus, opus_library
from edge.audio.codec import Decoder, make_decoder, make_encoder
from edge.audio.opus import OpusDecoder, OpusEncoder
from edge.audio.resample import Resampler
from edge.backends.protocol import PCM_RATES, AudioFormat

ROUNDS: Final = 5
G711: Final = AudioFormat("PCMU", 8_000)
COMPLEXITIES: Final = (0, 1, 2, 5, 8, 10)

Figures = dict[str, dict[str, float]]


def speech(seconds: float, rate: int) -> bytes:
    """Something like a voice: a moving pitch with its harmonics, syllables, breath."""
    random, phase, pcm = Random(1), 0.0, array("h")
    for place in range(round(seconds * rate)):
        at = 2 * pi * place / rate
        phase += (120 + 20 * sin(3 * at)) / rate
        tone = sum(sin(2 * pi * k * phase) / k for k in range(1, min(30, rate // 300)))
        pcm.append(round(3_000 * (0.5 + 0.5 * sin(4 * at)) * tone + random.gauss(0, 150)))
    return pcm.tobytes()


def frames(pcm: bytes, rate: int) -> list[bytes]:
    """Pieces of 20 ms."""
    size = rate // 25
    return [pcm[start : start + size] for start in range(0, len(pcm) - size + 1, size)]


def microseconds(operation: Callable[[bytes], object], pieces: Sequence[bytes]) -> float:
    """CPU time of one piece, the best of some rounds."""

    def once() -> float:
        start = time.process_time()
        for piece in pieces:
            operation(piece)
        return (time.process_time() - start) / len(pieces) * 1e6

    return round(min(once() for _ in range(ROUNDS)), 1)


def optional(name: str) -> ModuleType | None:
    """A module, or None where it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        return None


def bench_encoders(pcm: bytes) -> Figures:
    """Each libopus there is, at 24 kHz, 32 kbit/s: for speech with FEC, and for low delay."""
    rows: Figures = {}
    pieces = frames(pcm, 24_000)
    for path in opus_library.candidates():
        library = opus_library.load(path)
        name = bytes(library.opus_get_version_string()).decode()
        for kind, application in (("VOIP, FEC", 2048), ("LOWDELAY", 2051)):
            rows[f"{name} {kind}"] = {
                f"complexity {complexity}": microseconds(
                    encoder(library, application, complexity).encode, pieces
                )
                for complexity in COMPLEXITIES
            }
    return rows


def encoder(library: ctypes.PyDLL, application: int, complexity: int) -> OpusEncoder:
    """Our encoder, over a library and for an application that it does not choose itself."""
    with patch.object(opus, "libopus", lambda: library), patch.object(opus, "_VOIP", application):
        return OpusEncoder(24_000, complexity=complexity)


def bench_encoder_rates(seconds: float) -> Figures:
    """Our encoder as it is, by input rate."""
    return {
        "encode": {
            f"{rate // 1000} kHz": microseconds(
                OpusEncoder(rate).encode, frames(speech(seconds, rate), rate)
            )
            for rate in PCM_RATES
        }
    }


def bench_decoders(packets: list[bytes]) -> Figures:
    """Our decoder by output rate: what came, what was lost, what FEC brings back."""
    rows: Figures = {"decode": {}, "conceal": {}, "recover": {}}
    fec = [packet for packet in packets if opus.has_fec(packet)]
    for rate in PCM_RATES:
        column = f"{rate // 1000} kHz"
        rows["decode"][column] = microseconds(OpusDecoder(rate).decode, packets)
        lossy, step = OpusDecoder(rate), rate // 50
        for packet in packets:
            lossy.decode(packet)
        rows["conceal"][column] = microseconds(concealed(lossy, step), packets)
        rows["recover"][column] = microseconds(partial(recovered, lossy, step), fec)
    return rows


def concealed(decoder: Decoder, samples: int) -> Callable[[bytes], object]:
    """Make up a packet in the place of any."""
    return lambda _: decoder.conceal(samples)


def recovered(decoder: Decoder, samples: int, packet: bytes) -> object:
    """What FEC brings back of the packet before."""
    return decoder.recover(packet, samples)


def bench_pyav(pcm: bytes, packets: list[bytes]) -> Figures:
    """PyAV's own codec contexts: FFmpeg's wrapping of the same libopus, without PLC and FEC."""
    av = optional("av")
    if av is None:
        return {}
    coder = av.CodecContext.create("libopus", "w")
    coder.format, coder.layout, coder.sample_rate, coder.bit_rate = "s16", "mono", 24_000, 32_000
    coder.options = {"application": "voip", "compression_level": str(opus.COMPLEXITY)}
    decoder = av.CodecContext.create("libopus", "r")
    decoder.format, decoder.layout, decoder.sample_rate = "s16", "mono", 48_000

    def encode(piece: bytes) -> object:
        frame = av.AudioFrame(format="s16", layout="mono", samples=480)
        frame.planes[0].update(piece)
        frame.sample_rate = 24_000
        return [bytes(packet) for packet in coder.encode(frame)]

    def decode(payload: bytes) -> object:
        return [bytes(frame.planes[0]) for frame in decoder.decode(av.Packet(payload))]

    return {
        f"PyAV {av.__version__}": {
            "encode at 24 kHz": microseconds(encode, frames(pcm, 24_000)),
            "decode at 48 kHz": microseconds(decode, packets),
        }
    }


def bench_g711(seconds: float) -> Figures:
    """Tables alone at 8 kHz; with the resampler at the other rates."""
    rows: Figures = {"encode": {}, "decode": {}, "conceal": {}}
    codes = frames(bytes(range(256)) * round(seconds * 31), 4_000)
    for rate in PCM_RATES:
        column, step = f"{rate // 1000} kHz", rate // 50
        decoder = make_decoder(G711, rate)
        pieces = frames(speech(seconds, rate), rate)
        rows["encode"][column] = microseconds(make_encoder(G711, rate).encode, pieces)
        rows["decode"][column] = microseconds(decoder.decode, codes)
        rows["conceal"][column] = microseconds(concealed(decoder, step), codes)
    return rows


def bench_resamplers(pcm: bytes) -> Figures:
    """From 8 to 24 kHz: CPU time, and how much the answers to 1 s of packets lag behind it."""
    rows: Figures = {}
    pieces = frames(pcm, 8_000)
    own = Resampler(8_000, 24_000)
    rows["ours (samplerate sinc_fastest)"] = {"us": microseconds(own.convert, pieces), "ms": 6.5}
    soxr, samplerate = optional("soxr"), optional("samplerate")
    for quality in ("QQ", "LQ", "MQ", "HQ") if soxr else ():
        rows[f"soxr {quality}"] = lag(soxr_answer(quality), pieces)
    for converter in ("linear", "sinc_fastest", "sinc_medium") if samplerate else ():
        rows[f"samplerate {converter}"] = lag(samplerate_answer(converter), pieces)
    return rows


def soxr_answer(quality: str) -> Callable[[bytes], int]:
    """How many samples soxr has, packet after packet."""
    numpy, soxr = import_module("numpy"), import_module("soxr")
    stream = soxr.ResampleStream(8_000, 24_000, 1, dtype="int16", quality=quality)
    return lambda piece: len(stream.resample_chunk(numpy.frombuffer(piece, "<i2")))


def samplerate_answer(converter: str) -> Callable[[bytes], int]:
    """How many samples libsamplerate has, packet after packet."""
    numpy, state = import_module("numpy"), import_module("samplerate").Resampler(converter, 1)
    return lambda piece: len(
        state.process(numpy.frombuffer(piece, "<i2").astype(numpy.float32), 3.0)
    )


def lag(answer: Callable[[bytes], int], pieces: Sequence[bytes]) -> dict[str, float]:
    """How long a streaming resampler is behind at worst; ``answer`` gives its samples."""
    given, behind = 0, 0
    for place, piece in enumerate(pieces[:50]):
        given += answer(piece)
        behind = max(behind, (place + 1) * 480 - given)
    return {"us": microseconds(answer, pieces), "ms": round(behind / 24, 1)}


def bench_threads(pcm: bytes) -> Figures:
    """An encode here, handed to a thread, and beside a thread that is busy with Python."""
    pieces = frames(pcm, 24_000)[:200]
    rows: Figures = {"here": wall(OpusEncoder(24_000).encode, pieces)}
    asked: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    elsewhere = releasing_encoder()

    def work() -> None:
        while (piece := asked.get()) is not None:
            done.put(elsewhere.encode(piece))

    def hand_over(piece: bytes) -> bytes:
        asked.put(piece)
        return done.get()

    worker = threading.Thread(target=work)
    worker.start()
    rows["in a thread, one by one"] = wall(hand_over, pieces)
    asked.put(None)
    worker.join()
    rows["here, lock kept, busy thread beside"] = beside_busy(OpusEncoder(24_000), pieces)
    rows["here, lock released, busy thread beside"] = beside_busy(releasing_encoder(), pieces)
    return rows


def releasing_encoder() -> OpusEncoder:
    """Our encoder, but its calls release the interpreter's lock."""
    made = OpusEncoder(24_000)
    function = ctypes.CDLL(opus_library.candidates()[0])["opus_encode"]
    function.argtypes, function.restype = made._encode.argtypes, ctypes.c_int
    made._encode = function
    return made


def beside_busy(coder: OpusEncoder, pieces: Sequence[bytes]) -> dict[str, float]:
    """The time of encodes while another thread computes in Python."""
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1_000))

    busy = threading.Thread(target=compute)
    busy.start()
    try:
        return wall(coder.encode, pieces)
    finally:
        stop.set()
        busy.join()


def wall(operation: Callable[[bytes], object], pieces: Sequence[bytes]) -> dict[str, float]:
    """Wall-clock microseconds of single calls: median and 99th percentile."""
    times = []
    for piece in pieces:
        start = time.perf_counter()
        operation(piece)
        times.append((time.perf_counter() - start) * 1e6)
        time.sleep(0.0005)  # as a loop that waits for its next event
    times.sort()
    return {
        "p50": round(times[len(times) // 2], 1),
        "p99": round(times[len(times) * 99 // 100], 1),
    }


def show(title: str, rows: Figures) -> None:
    """One table."""
    if not rows:
        return
    columns = list(next(iter(rows.values())))
    print(f"\n{title}")
    print(" " * 42 + "".join(f"{column:>18}" for column in columns))
    for name, figures in rows.items():
        print(f"{name:42}" + "".join(f"{figures[column]:18.1f}" for column in columns))


def main() -> None:
    """Measure everything, print the tables and, if asked, write the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of audio in a round")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    pcm = speech(options.seconds, 24_000)
    packets = list(map(OpusEncoder(24_000).encode, frames(pcm, 24_000)))
    results = {
        "Opus encode, 24 kHz, 32 kbit/s, us": bench_encoders(pcm),
        f"Opus encode as we do (complexity {opus.COMPLEXITY}), us": bench_encoder_rates(
            options.seconds
        ),
        "Opus decode, us": bench_decoders(packets),
        "Opus by FFmpeg, us": bench_pyav(pcm, packets),
        "G.711, us": bench_g711(options.seconds),
        "Resampling 8 to 24 kHz: CPU us, behind ms": bench_resamplers(speech(2.0, 8_000)),
        "One encode and threads, wall clock, us": bench_threads(pcm),
    }
    print(f"{opus_library.version()}, Python {sys.version.split()[0]}; per frame of 20 ms")
    for title, rows in results.items():
        show(title, rows)
    write_json(options.json, results)


if __name__ == "__main__":
    main()
