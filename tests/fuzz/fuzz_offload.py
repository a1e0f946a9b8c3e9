"""Mutated datagrams at streams that are lent: nothing is heard, answered or changed.

    python -m tests.fuzz.fuzz_offload --runs 1000000 --seed 7 [--sanitize]

The seeds are the very packets that each stream waits for, in three SRTP profiles, and what else may
come on a path. A mutant is no such packet any more, so Python must get it as it came, and the
stream must be where it was. Now and then the true packet is sent, and must be heard. With
``--sanitize`` the extension is built with AddressSanitizer and UBSan, in a directory of its own,
and run in another process; an error ends that.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path as File
from time import perf_counter
from typing import TYPE_CHECKING, Final

from edge.webrtc.keys import SrtpProfile
from edge.wire.rtp import encode_mid_extension
from tests.fuzz.fuzz_wire import RTCP, STUN, mutate_bytes
from tests.support.lending import PATH, Client, make_snapshot

if TYPE_CHECKING:
    from tests.support.lent_pair import LentPeer

ROOT: Final = File(__file__).resolve().parents[2]
SOURCES: Final = ROOT / "edge" / "offload" / "native_src"
EXTENSION: Final = "edge.offload._native"
BURST: Final = 100
"""Less than a batch."""
LONGEST: Final = 4_095
SIZES: Final = (0, 1, 15, 16, 17, 80, 1_100, 1_900, 1_960, 1_975, 1_985, 2_048, 3_000)


@dataclass
class Result:
    """What a run has shown."""

    runs: int = 0
    seconds: float = 0.0
    heard: int = 0
    answers: int = 0
    lost: int = 0
    """Bursts that Python did not get as they came."""
    changed: int = 0
    """Streams that were not where they had been."""
    silent: int = 0
    """True packets that were not heard."""
    unsent: int = 0
    """Times when not all left that was said to."""
    profiles: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        harm = self.heard + self.answers + self.lost + self.changed + self.silent + self.unsent
        return harm == 0


def run(runs: int, seed: int) -> Result:
    """Send ``runs`` mutants, in whole bursts, at streams of each profile in turn."""
    from tests.support.lent_pair import open_pair  # by now the extension may be another

    result, began = Result(), perf_counter()
    share = -(-runs // (BURST * len(SrtpProfile)))
    for profile in SrtpProfile:
        result.profiles.append(profile.name)
        with open_pair(make_snapshot(profile)) as (_, lent):
            client = Client(profile)
            lent.receive([client.packet(b"from now on its roll-over is sure")], 1.0)
            for number in range(share):
                rng = random.Random(f"{seed}:{profile.name}:{number}")
                _attack(lent, _next_packet(rng, client), rng, result)
    result.seconds = round(perf_counter() - began, 1)
    return result


def _next_packet(rng: random.Random, client: Client) -> bytes:
    extension = rng.choice((b"", encode_mid_extension(4, "a" * rng.randrange(1, 30))))
    return client.packet(rng.randbytes(rng.choice((1, 15, 16, 80, 1_100))), extension=extension)


def _attack(lent: LentPeer, true: bytes, rng: random.Random, result: Result) -> None:
    """Send a burst of mutants of what a stream waits for, then that itself, and some answers."""
    from tests.support.lent_pair import drain

    lent.lend()
    before = lent.stream.recall()
    lent.lend()
    mutants = [_mutate(rng, true) for _ in range(BURST)]
    for each in mutants:
        lent.relay.send(each)
    datagrams, heard, taken, too_long = lent.plane.receive(2.0)
    result.runs += BURST
    result.heard += len(heard)
    result.lost += taken != BURST or too_long > 0 or [data for data, _ in datagrams] != mutants
    result.changed += lent.stream.recall() != before
    result.answers += len(drain(lent.relay))
    lent.lend()
    lent.relay.send(PATH + true)
    result.silent += len(lent.plane.receive(2.0)[1]) != 1
    sent = [lent.stream.send(rng.randbytes(rng.choice(SIZES)), 0, False, 2.0) for _ in range(5)]
    result.unsent += len(drain(lent.relay)) != sum(sent)
    lent.peer.recall()


def _mutate(rng: random.Random, true: bytes) -> bytes:
    dice = rng.randrange(20)
    if dice == 0:
        return mutate_bytes(rng, PATH + true)[: LONGEST - 1] + b"!"
    data = mutate_bytes(rng, rng.choice((*STUN, *RTCP)) if dice == 1 else true)
    if data == true:
        data = true[:-1] + bytes((true[-1] ^ 1,))
    return (PATH + data)[:LONGEST]


# The sanitizers.


def sanitized(runs: int, seed: int) -> int:
    """Do the same with an instrumented extension; returns the exit status, 0 when all held."""
    with tempfile.TemporaryDirectory() as directory:
        extension = str(File(directory) / "_native.so")
        _build(extension)
        environment = {
            "LD_PRELOAD": f"{_library('libasan.so')} {_library('libubsan.so')}",
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps much until it ends
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
            "PYTHONMALLOC": "malloc",  # each object is watched by itself
        }
        command = [sys.executable, "-m", __spec__.name, "--extension", extension]
        command += ["--runs", str(runs), "--seed", str(seed)]
        done = subprocess.run(command, check=False, env={**os.environ, **environment}, cwd=ROOT)
        return done.returncode


def _build(extension: str) -> None:
    flags = "-shared -fPIC -std=gnu11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover"
    macros = ("-DPy_LIMITED_API=0x030B0000", "-D_GNU_SOURCE")
    include = f"-I{sysconfig.get_path('include')}"
    sources = map(str, sorted(SOURCES.glob("*.c")))
    command = ["cc", *flags.split(), *macros, include, *sources, "-o", extension, "-ldl"]
    subprocess.run(command, check=True)


def _library(name: str) -> str:
    done = subprocess.run(
        ["cc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _use_extension(path: str) -> None:
    """Have the extension at ``path`` in the place of the installed one."""
    spec = spec_from_file_location(EXTENSION, path, loader=ExtensionFileLoader(EXTENSION, path))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[EXTENSION] = module_from_spec(spec)
    spec.loader.exec_module(module)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--extension", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.sanitize:
        return sanitized(options.runs, options.seed)
    if options.extension:
        _use_extension(options.extension)
    result = run(options.runs, options.seed)
    print(result, "passed" if result.passed else "FAILED")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
