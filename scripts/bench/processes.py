"""What takes part in a measurement, as processes: the traffic, and the forwarders in turn.

The traffic runs on one core and what it drives on the other, before all other work of the machine
where that is allowed, so that delays are those of the forwarder and not of its neighbours.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, TypeVar

import msgspec

SOURCES: Final = Path(__file__).resolve().parent
CFLAGS: Final = ("-O2", "-Wall", "-Wextra")
BATCH: Final = ("64", "500")
"""Datagrams, and microseconds between rounds under load."""
ONE_BY_ONE: Final = ("1", "0")
FIRST_CLIENT: Final = IPv4Address("127.1.0.1")
STOP_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 60.0
"""For a process to say what it was asked; runs are shorter."""

Answer = TypeVar("Answer")


class Unavailable(Exception):
    """A competitor can not take part; the message says why."""


class Ready(msgspec.Struct, frozen=True):
    """What a forwarder says when it forwards."""

    public: int
    internal: int
    bytes_per_flow: float


class Counters(msgspec.Struct, frozen=True):
    """A forwarder's own counts."""

    packets: int
    wakes: int
    """0 where a forwarder does not know."""
    dropped: int


class Sample(msgspec.Struct, frozen=True):
    """What the traffic program saw in one run; ``in`` is towards the transceiver."""

    seconds: float
    sent_in: int
    sent_out: int
    received_in: int
    received_out: int
    wrong: int
    """Arrived at another place than the flow's."""
    cpu_ns: int
    own_cpu_ns: int
    p50_ns: int
    p99_ns: int
    max_ns: int


class _Ports(msgspec.Struct, frozen=True):
    hop: int
    clients: list[int]


def _build(command: Sequence[str | Path], output: Path, cache: Path) -> Path:
    environment = os.environ | {"GOCACHE": str(cache), "GO111MODULE": "off", "CGO_ENABLED": "0"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return output


def compile_c(name: str, directory: Path) -> Path:
    """Build one of the C sources. Raises Unavailable."""
    output = directory / name
    compiler = os.environ.get("CC", "cc")
    return _build((compiler, *CFLAGS, "-o", output, SOURCES / f"{name}.c"), output, directory)


def compile_go(go: str, directory: Path) -> Path:
    """Build the relay in Go. Raises Unavailable."""
    if shutil.which(go) is None:
        raise Unavailable("no Go toolchain (--go names one)")
    output = directory / "go_relay"
    return _build((go, "build", "-o", output, SOURCES / "go_relay.go"), output, directory / "go")


def command_of(engine: str, directory: Path, go: str) -> list[str]:
    """How to start a competitor, less the arguments that all share. Raises Unavailable."""
    match engine:
        case "reference" | "one-by-one":
            program = compile_c("reference_forwarder", directory)
            return [str(program), *(BATCH if engine == "reference" else ONE_BY_ONE)]
        case "go":
            return [str(compile_go(go, directory))]
        case _:
            return [sys.executable, str(SOURCES / "edge_forwarder.py"), engine]


def take_precedence() -> bool:
    """Run before other work on this machine, as do children; False where that is not allowed."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        return True
    return False


@contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """Start children on one core, from their first thread on."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {sorted(before)[core % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Process:
    """A child that answers in lines of JSON on stdout."""

    def __init__(self, command: Sequence[str], *, core: int | None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        with _on_core(core):
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        self.pid = self._process.pid

    def read(self, kind: type[Answer]) -> Answer:
        """Wait for a line. Raises Unavailable when the process has ended or says nothing."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise Unavailable(f"no answer for {ANSWER_SECONDS:.0f} seconds")
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(last[0] if last else "ended without a word")
        return msgspec.json.decode(line, type=kind)

    def write(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate(timeout=STOP_SECONDS)
        self._errors.close()


class ForwarderProcess:
    """A competitor with some flows. Raises Unavailable when it does not start."""

    def __init__(
        self, command: Sequence[str], traffic: Traffic, flows: int, *, core: int | None
    ) -> None:
        arguments = [*command, str(traffic.hop), str(traffic.flows_file), str(flows)]
        self.flows = flows
        self._process = _Process(arguments, core=core)
        try:
            self.ready = self._process.read(Ready)
        except Unavailable:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def counters(self) -> Counters:
        """Ask for the counts up to now."""
        self._process.signal(signal.SIGUSR1)
        return self._process.read(Counters)

    def close(self) -> None:
        """End the process."""
        self._process.close()


class Traffic:
    """The traffic program, with ``flows`` clients at most."""

    def __init__(self, directory: Path, flows: int, *, core: int | None) -> None:
        self.flows_file = directory / "flows"
        program = compile_c("traffic", directory)
        self._process = _Process([str(program), str(self.flows_file)], core=core)
        ports = self._process.read(_Ports)
        self.hop = ports.hop
        with self.flows_file.open("wb") as file:
            for i in range(flows):
                address = int(FIRST_CLIENT) + i // len(ports.clients)
                file.write(struct.pack("!IH", address, ports.clients[i % len(ports.clients)]))
        self._process.write("go")

    def run(self, to: ForwarderProcess, rate: int, *, warm: float, seconds: float) -> Sample:
        """Drive a forwarder with all of its flows at ``rate`` packets/s, half of them each way."""
        return self._run(to.ready.public, to.ready.internal, to.pid, rate, to.flows, warm, seconds)

    def run_direct(self, rate: int, *, flows: int, warm: float, seconds: float) -> Sample:
        """Send the same packets with nothing between."""
        return self._run(0, 0, 0, rate, flows, warm, seconds)

    def _run(self, *arguments: float) -> Sample:
        *head, warm, seconds = arguments
        line = [*map(int, head), round(warm * 1000), round(seconds * 1000)]
        self._process.write(" ".join(map(str, line)))
        return self._process.read(Sample)

    def close(self) -> None:
        """End the process."""
        self._process.close()
