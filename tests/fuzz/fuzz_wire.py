"""Mutated packets into every decoder: out comes a value or RemoteProtocolError, nothing else.

    python -m tests.fuzz.fuzz_wire --runs 1000000 --seed 7 [--only stun_request] [--json FILE]

A mutant depends on (seed, decoder, index) alone, so a failure's line is enough to make it again.
What crashed a decoder is kept in ``tests/fuzz/crashers`` and tried first in every later run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

from edge.backends.frames import wire as frames
from edge.errors import RemoteProtocolError
from edge.session_config import decode_session
from edge.wire import demux, framing, opus, red, rtcp, rtp, sctp, sdp, spp, stun, stun_peek
from edge.wire.sdp_fragment import decode_fragment, encode_fragment
from tests.wire import sctp_vectors
from tests.wire import test_stun as stun_vectors
from tests.wire.test_spp import GOLDEN as SPP_HEADER

CRASHERS: Final = Path(__file__).parent / "crashers"
MAX_SAVED: Final = 5  # crashers of one decoder in one run

Mutator = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Decoder:
    """A function that reads network bytes, packets it accepts, and how to make a mutant deeper."""

    decode: Callable[[bytes], object]
    seeds: Sequence[bytes]
    repair: Mutator = lambda _rng, data: data


@dataclass
class Result:
    """What became of one decoder's mutants."""

    runs: int = 0
    accepted: int = 0
    rejected: int = 0
    slowest_us: float = 0.0
    crashes: list[str] = field(default_factory=list)


# Mutation.

INTERESTING: Final = (0, 1, 3, 4, 0x7F, 0x80, 0xFE, 0xFF)


def _set_byte(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((*INTERESTING, rng.randrange(256)))


def _flip_bit(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_length(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at : at + 2] = struct.pack("!H", rng.choice((0, 1, 4, len(data), 0x7FFF, 0xFFFF)))


def _cut(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 2, 4, 8, len(data)))]


def _repeat(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.randrange(1, 64)] * rng.choice((1, 1, 2, 40))


def _insert(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))


MUTATIONS: Final = (_set_byte, _set_byte, _flip_bit, _set_length, _cut, _repeat, _insert)


def mutate(rng: random.Random, decoder: Decoder) -> bytes:
    """Make one mutant; now and then it is noise, empty, or as long as UDP allows."""
    match rng.randrange(200):
        case 0:
            return rng.randbytes(rng.randrange(100))
        case 1:
            return b""
        case 2:
            return rng.choice(decoder.seeds).ljust(65_507, bytes([rng.choice(INTERESTING)]))
    return decoder.repair(rng, mutate_bytes(rng, rng.choice(decoder.seeds)))


def mutate_bytes(rng: random.Random, seed: bytes) -> bytes:
    """Change a packet in a few places."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        rng.choice(MUTATIONS)(rng, data)
    return bytes(data[:65_507])


def repair_stun(rng: random.Random, data: bytes) -> bytes:
    """Often set the header right again, and sometimes sign, so that mutants get past both."""
    if len(data) < 20 or rng.random() < 0.2:
        return data
    data = data[:4] + stun_vectors.RFC_REQUEST[4:8] + data[8:]
    data = stun_vectors.resized(data[: 20 + (len(data) - 20 & ~3)])
    if len(data) < 60_000 and rng.random() < 0.5:
        data = stun_vectors.fingerprinted(stun_vectors.signed(data))
    return data


# The decoders and packets they accept.


def _read_framed(stream: bytes) -> object:
    """Datagrams of a TCP connection; wherever the stream is cut."""
    read = framing.FrameReader().receive(stream)
    halves, middle = framing.FrameReader(), len(stream) // 2
    assert halves.receive(stream[:middle]) + halves.receive(stream[middle:]) == read
    assert len(halves) <= framing.MAX_FRAME + 1
    return read


def _read_frames(stream: bytes) -> object:
    """A stream of the frames protocol, and what is in each frame; wherever it is cut."""
    read = frames.FrameDecoder().decode(stream)
    halves, middle = frames.FrameDecoder(), len(stream) // 2
    assert halves.decode(stream[:middle]) + halves.decode(stream[middle:]) == read
    return [_read_frame(frame) for frame in read]


def _read_frame(frame: frames.Frame) -> object:
    match frame.kind:
        case frames.Kind.OPEN:
            return frames.decode_open(frame.payload)
        case frames.Kind.EVENT:
            return frames.decode_event(frame.payload)
        case frames.Kind.CLOSE:
            return frames.decode_close(frame.payload)
        case frames.Kind.WINDOW | frames.Kind.PLAYED:
            return frames.decode_milliseconds(frame.payload)
        case frames.Kind.AUDIO:
            audio = list(frames.FORMATS.values())[frame.session % len(frames.FORMATS)]
            return frames.audio_samples(audio, frame.payload)
        case _:
            return frame


def _read_opus(payload: bytes) -> int:
    return opus.opus_samples(payload)


def _split_spp(datagram: bytes) -> object:
    path, payload = spp.split(datagram)
    assert path + payload == datagram
    return spp.decode_path(path)


def _negotiate(body: bytes) -> object:
    return sdp.negotiate(sdp.decode_offer(body), red=True)


RTP: Final = tuple(
    bytes.fromhex(packet)
    for packet in (
        "806f000100000000000000017801020304",
        "90ef0001000000000000000 1bede000110610000 78010203".replace(" ", ""),
        "90800001000000000000000110000002 0101610002000000 ffff".replace(" ", ""),
        "a26f0001000000000000000100000002000000037801020304000003",
    )
)
RTCP: Final = tuple(
    bytes.fromhex(packet.replace(" ", ""))
    for packet in (
        "80c80006 00000001 e000000080000000 00000010 00000002 00000300"
        "81ca0004 00000001 0106 636e616d6531 00000000",
        "81c90007 00000001 00000002 00ffffff 00010005 00000010 12345678 00001000",
        "81cb0004 00000001 0a 676f6f642062796521 0000".removesuffix("0000") + "0000",
        "81cd0003 00000001 00000002 00050003",
        "81ce0002 00000001 00000002",
        "8fce0005 00000001 00000000 52454d42 01000000 00000002",
    )
)
OPUS: Final = tuple(map(bytes.fromhex, ("780102", "79010203", "7a010102", "7b0301", "fb42010203")))
RED: Final = tuple(map(bytes.fromhex, ("6f01", "ef0f00036faabbcc11", "ef1e0001ef0f00026faabbcc11")))
FRAMES: Final = (
    b"".join(
        frames.encode_frame(kind, session, payload)
        for kind, session, payload in (
            (
                frames.Kind.OPEN,
                1,
                b'{"version":1,"call":"rtc_1","audio":"pcm16/24000","window_ms":1}',
            ),
            (frames.Kind.WINDOW, 1, frames.encode_milliseconds(1_000)),
            (frames.Kind.AUDIO, 3, bytes(8)),
            (frames.Kind.EVENT, 1, b'{"type":"x","nested":[{"a":1}]}'),
            (frames.Kind.CLOSE, 1, frames.encode_close(frames.CloseReason.DONE)),
        )
    ),
    frames.encode_frame(frames.Kind.PING, 0, b"?") + frames.encode_frame(frames.Kind.FLUSH, 1),
    frames.encode_frame(frames.Kind.AUDIO, 0, OPUS[0])
    + frames.encode_frame(frames.Kind.PLAYED, 1, frames.encode_milliseconds(20)),
)
SDP: Final = tuple(
    path.read_bytes() for path in sorted(Path(__file__).parent.parent.glob("wire/golden/*.sdp"))
)
STUN: Final = (
    *stun_vectors.GOLDEN.values(),
    # Without MESSAGE-INTEGRITY and FINGERPRINT: to be mutated first and signed then.
    *(stun_vectors.resized(golden[:-32]) for golden in stun_vectors.SIGNED),
)


def _stun(decode: Callable[[bytes], object], first_byte: int | None = None) -> Decoder:
    seeds = [seed for seed in STUN if first_byte in (None, seed[0])]
    return Decoder(decode, seeds, repair_stun)


FRAGMENTS: Final = [
    encode_fragment("abcd", "p" * 22, mid="0", candidates=[("192.0.2.1", 3478)]).encode(),
    b"a=candidate:1 1 udp 1 192.0.2.1 5000 typ host\r\na=end-of-candidates\r\n",
]
SESSIONS: Final = [
    b"{}",
    b'{"type":"realtime","audio":{"output":{"voice":"marin"}},"tools":[{"name":"a"}],"n":null}',
]

DECODERS: Final[Mapping[str, Decoder]] = {
    "stun_peek": _stun(stun_peek.peek),
    "stun_username": _stun(stun_peek.peek_username),
    "stun_request": _stun(partial(stun.decode_request, password=stun_vectors.PASSWORD), 0),
    "stun_response": _stun(partial(stun.decode_response, password=stun_vectors.PASSWORD), 1),
    "spp": Decoder(_split_spp, (SPP_HEADER, SPP_HEADER + b"payload")),
    "demux": Decoder(demux.classify, (*RTP, *RTCP, *STUN)),
    "rtp": Decoder(rtp.decode_rtp, RTP),
    "rtcp": Decoder(rtcp.decode_rtcp, RTCP),
    "opus": Decoder(_read_opus, OPUS),
    "red": Decoder(red.decode_red, RED),
    "sctp": Decoder(partial(sctp.decode_packet, zero_checksum=True), sctp_vectors.GOLDEN),
    "sdp": Decoder(_negotiate, SDP),
    "sdp_fragment": Decoder(decode_fragment, FRAGMENTS),
    "session_config": Decoder(decode_session, SESSIONS),
    "framing": Decoder(_read_framed, (b"".join(map(framing.encode_frame, (*STUN, *RTP, *RTCP))),)),
    "frames": Decoder(_read_frames, FRAMES),
}


# Running.


def run(name: str, decoder: Decoder, *, runs: int, seed: int, crashers: Path = CRASHERS) -> Result:
    """Feed saved crashers, then ``runs`` mutants; save what crashes in ``crashers``."""
    result = Result()
    for path in sorted(crashers.glob(f"{name}-*.bin")):
        _feed(decoder, path.read_bytes(), f"{name} saved {path.name}", result)
    for index in range(runs):
        data = mutate(random.Random(f"{seed}:{name}:{index}"), decoder)
        fine = _feed(decoder, data, f"{name} seed {seed} index {index}", result)
        if not fine and len(result.crashes) <= MAX_SAVED:
            _save(crashers, name, data)
    return result


def _feed(decoder: Decoder, data: bytes, label: str, result: Result) -> bool:
    result.runs += 1
    started = perf_counter()
    try:
        decoder.decode(data)
    except RemoteProtocolError:
        result.rejected += 1
    except Exception as error:
        result.crashes.append(f"{label}: {error!r}: {data.hex()}")
        return False
    else:
        result.accepted += 1
    result.slowest_us = max(result.slowest_us, (perf_counter() - started) * 1e6)
    return True


def _save(crashers: Path, name: str, data: bytes) -> None:
    crashers.mkdir(exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:12]
    (crashers / f"{name}-{digest}.bin").write_bytes(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the table; the exit status is 1 when anything crashed."""
    parser = argparse.ArgumentParser(description="Fuzz the decoders of edge.wire.")
    parser.add_argument("--runs", type=int, default=10_000, help="mutants for each decoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(DECODERS), action="append")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args(arguments)

    results: dict[str, Result] = {}
    print(
        f"{'decoder':<14} {'runs':>9} {'accepted':>9} {'rejected':>9} {'crashed':>8} {'max us':>8}"
    )
    for name in options.only or DECODERS:
        result = run(name, DECODERS[name], runs=options.runs, seed=options.seed)
        results[name] = result
        print(
            f"{name:<14} {result.runs:>9} {result.accepted:>9} {result.rejected:>9}"
            f" {len(result.crashes):>8} {result.slowest_us:>8.0f}"
        )
    crashes = [crash for result in results.values() for crash in result.crashes]
    for crash in crashes[:20]:
        print(f"CRASH {crash[:2_000]}", file=sys.stderr)
    if options.json:
        table = {name: asdict(result) for name, result in results.items()}
        options.json.write_text(json.dumps({"seed": options.seed, "decoders": table}, indent=2))
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
