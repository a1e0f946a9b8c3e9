"""Logs: one line an event whatever the text, bounded in length and rate, never blocking."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from edge import logs
from edge.config import LogConfig


@dataclass
class Pipe:
    """A pipe as stderr, and a clock that the test moves."""

    reader: int
    writer: int
    now: float = 0.0
    log: structlog.stdlib.BoundLogger = field(default_factory=structlog.get_logger)

    def configure(self, **keys: object) -> logs.LineWriter:
        config = LogConfig(**{"lines_per_second": 1e6, **keys})  # type: ignore[arg-type]
        return logs.configure(config, descriptor=self.writer, clock=lambda: self.now)

    def lines(self) -> list[str]:
        try:
            return os.read(self.reader, 1 << 20).decode().splitlines(keepends=True)
        except BlockingIOError:
            return []

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield Pipe(reader, writer)
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
        os.close(reader)
        os.close(writer)


def test_json_lines(pipe: Pipe) -> None:
    pipe.configure()
    pipe.log.info("call ended", session="rtc_1", packets=7, jitter=0.5, reason=None)
    (event,) = pipe.events()
    assert list(event)[:3] == ["time", "level", "event"]
    assert event.pop("time")
    assert event == {
        "level": "info", "event": "call ended",
        "session": "rtc_1", "packets": 7, "jitter": 0.5, "reason": None,
    }  # fmt: skip


def test_console_lines(pipe: Pipe) -> None:
    pipe.configure(format="console")
    pipe.log.warning("call ended", session="rtc_1", detail="two words")
    (line,) = pipe.lines()
    assert line[13:] == "warning call ended session=rtc_1 detail='two words'\n"


def test_levels(pipe: Pipe) -> None:
    pipe.configure(level="warning")
    pipe.log.info("unheard")
    pipe.log.error("heard")
    assert [event["event"] for event in pipe.events()] == ["heard"]


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "bad", ["\n", "\r", "\x1b[31m", "\0", "\x85", "\u2028", "\u202e", "\ud800"]
)
def test_text_can_not_break_a_line(pipe: Pipe, style: str, bad: str) -> None:
    pipe.configure(format=style)
    pipe.log.info("offer" + bad, agent=f"a{bad}level=error", peer=ValueError(bad))
    (line,) = pipe.lines()
    assert line[:-1].isprintable()
    assert "offer\\" in line


@given(st.text(), st.text())
def test_escaped_text_is_printable(text: str, other: str) -> None:
    assert logs.escape(text).isprintable()
    assert logs.escape(other if other.isprintable() else "plain") in (other, "plain")


def test_long_values_are_cut(pipe: Pipe) -> None:
    pipe.configure()
    pipe.log.info("offer", agent="x" * 100_000, number=2**70)
    (event,) = pipe.events()
    assert event["agent"] == "x" * 512 + "... (100000 characters)"
    assert event["number"] == str(2**70)


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_line_fits_a_pipe_write(pipe: Pipe, style: str) -> None:
    pipe.configure(format=style)
    pipe.log.info("offer", **{f"key{i}": "\x00é" * 10_000 for i in range(50)})
    (line,) = pipe.lines()
    assert len(line.encode()) <= logs.MAX_LINE_BYTES
    if style == "json":
        assert json.loads(line)["cut_bytes"] > logs.MAX_LINE_BYTES


def test_a_value_that_can_not_be_shown(pipe: Pipe) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    pipe.configure()
    pipe.log.info("odd", value=Broken(), big=10**5000)
    (event,) = pipe.events()
    assert (event["value"], event["big"]) == ("<Broken>", "<int>")


@pytest.mark.parametrize("style", ["json", "console"])
def test_tracebacks_keep_their_lines_marked(pipe: Pipe, style: str) -> None:
    pipe.configure(format=style)
    try:
        raise ValueError("first\n12:00:00.000 error   forged")
    except ValueError:
        pipe.log.exception("bug")
    lines = pipe.lines()
    if style == "json":
        trace = json.loads(lines[0])["exception"]
        assert trace[-2:] == ["ValueError: first", "12:00:00.000 error   forged"]
        assert len(lines) == 1
    else:
        assert all(line.startswith("    | ") for line in lines[1:])
        assert lines[-1] == "    | 12:00:00.000 error   forged\n"


def test_the_rate_limit_counts_what_it_drops(pipe: Pipe) -> None:
    writer = pipe.configure(lines_per_second=10.0)
    for number in range(25):
        pipe.log.info("flood", number=number)
    assert [event["number"] for event in pipe.events()] == list(range(10))
    assert writer.dropped == 15
    pipe.now = 0.25
    for number in range(3):
        pipe.log.info("later", number=number)
    first, second = pipe.events()
    assert first["suppressed"] == 15
    assert "suppressed" not in second
    assert writer.dropped == 16


def test_a_stopped_reader_costs_lines_not_time(pipe: Pipe) -> None:
    writer = pipe.configure()
    size = fcntl.fcntl(pipe.writer, fcntl.F_GETPIPE_SZ)
    for _ in range(size // 400):
        pipe.log.info("stuck", text="x" * 500)
    assert writer.dropped > 0
    before = writer.dropped
    assert len(b"".join(line.encode() for line in pipe.lines())) <= size
    pipe.log.info("again")
    assert pipe.events()[0]["suppressed"] == before


def test_a_full_disk_costs_lines(pipe: Pipe) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = logs.configure(LogConfig(), descriptor=full)
        pipe.log.info("lost")
        assert writer.dropped == 1
    finally:
        os.close(full)


def test_other_libraries_log_the_same_way(pipe: Pipe) -> None:
    pipe.configure()
    logging.getLogger("hypercorn.error").warning("bad\nrequest %s", "\x1b")
    logging.getLogger("hypercorn.error").info("unheard")
    (event,) = pipe.events()
    assert event["event"] == "bad\\nrequest \\x1b"
    assert event["source"] == "hypercorn.error"
    assert event["level"] == "warning"
