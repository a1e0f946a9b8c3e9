"""Structured logs on stderr that a stranger's text can neither forge, flood nor block.

Text from the network ends up in log lines. So every control character is escaped (a newline can
not begin a line of its own), long values are cut, and a rate limit drops lines over the bound and
says how many on the next line that passes. A line is written only when the descriptor takes it at
once: a stopped reader or a full disk costs log lines, never the event loop.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Final

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from edge.config import LogConfig

MAX_VALUE_CHARS: Final = 512
MAX_TRACEBACK_CHARS: Final = 2_048
MAX_LINE_BYTES: Final = 4_096
"""A write of at most PIPE_BUF never blocks on a pipe that polls as writable; pipe(7)."""


def configure(
    config: LogConfig, *, descriptor: int = 2, clock: Callable[[], float] = time.monotonic
) -> LineWriter:
    """Set structlog up, and the standard library's logging for warnings of the parts we use."""
    writer = LineWriter(descriptor)
    level = logging.getLevelNamesMapping()[config.level.upper()]
    structlog.configure(
        processors=[
            RateLimit(config.lines_per_second, writer, clock=clock),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            sanitize,
            render_json if config.format == "json" else render_console,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: writer,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_Forward()], force=True)
    return writer


class LineWriter:
    """Writes whole lines to a descriptor that is ready for them; counts the lines it drops."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lock = threading.Lock()
        self.dropped = 0
        """Lines lost since the start: to the rate limit, a stopped reader or a full disk."""
        self.unreported = 0
        """Lines lost since the last line that was written."""

    def drop(self) -> None:
        """Count a line that is not written."""
        self.dropped += 1
        self.unreported += 1

    def msg(self, line: str) -> None:
        """Write one line, or drop it; from any thread."""
        with self._lock:
            if self._write(line.encode() + b"\n"):
                self.unreported = 0
            else:
                self.drop()

    def _write(self, line: bytes) -> bool:
        try:
            if not any(events & select.POLLOUT for _, events in self._poll.poll(0)):
                return False
            return os.write(self._descriptor, line) == len(line)
        except OSError:
            return False

    debug = info = warning = warn = error = critical = exception = fatal = msg


class RateLimit:
    """Lets ``lines_per_second`` pass, with a burst of one second's worth."""

    def __init__(
        self, lines_per_second: float, writer: LineWriter, *, clock: Callable[[], float]
    ) -> None:
        self._rate = lines_per_second
        self._burst = max(lines_per_second, 1.0)
        self._clock = clock
        self._tokens = self._burst
        self._filled_at = clock()
        self._writer = writer

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Pass the event, with ``suppressed`` lines before it, or drop it."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1.0:
            self._writer.drop()
            raise structlog.DropEvent
        self._tokens -= 1.0
        if self._writer.unreported:
            event["suppressed"] = self._writer.unreported
        return event


def escape(text: str, limit: int = MAX_VALUE_CHARS) -> str:
    r"""Cut a text and write what is not printable as ``\x``, ``\u`` or ``\U`` escapes."""
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def sanitize(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Make every value a number or a short printable text; a traceback a list of such."""
    clean: EventDict = {}
    for key, value in event.items():
        if key == "exception":
            tail = str(value)[-MAX_TRACEBACK_CHARS:]
            clean[key] = [escape(line) for line in tail.split("\n")]
        else:
            clean[escape(key, 64)] = _plain(value)
    return clean


def _plain(value: object) -> object:
    match value:
        case None | bool() | float():
            return value
        case int() if -(2**63) <= value < 2**63:
            return value
        case str():
            return escape(value)
        case _:
            return escape(_text(value))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # a log call must not fail for a value's sake
        return f"<{type(value).__name__}>"


def render_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """One JSON object a line, the time, level and event first."""
    line = msgspec.json.encode(_ordered(event))
    if len(line) >= MAX_LINE_BYTES:
        line = msgspec.json.encode({**_head(event), "cut_bytes": len(line)})
    return line.decode()


def render_console(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """``time level event key=value ...``; a traceback's lines follow, marked with a bar."""
    head = _head(event)
    traceback = event.get("exception", [])
    values = (
        f"{key}={value if not isinstance(value, str) or _is_word(value) else repr(value)}"
        for key, value in event.items()
        if key not in head and key != "exception"
    )
    first = f"{str(head['time'])[11:23]} {head['level']:7} {head['event']}"
    line = "\n    | ".join([" ".join([first, *values]), *traceback])
    return line.encode()[: MAX_LINE_BYTES - 1].decode(errors="ignore")


def _is_word(text: str) -> bool:
    return bool(text) and not set(text) & set(" ='\"")


def _head(event: Mapping[str, object]) -> dict[str, object]:
    return {key: event.get(key, "") for key in ("time", "level", "event")}


def _ordered(event: MutableMapping[str, object]) -> dict[str, object]:
    return {**_head(event), **event}


class _Forward(logging.Handler):
    """Takes the standard library's records into the same pipeline."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on by its level."""
        log = structlog.get_logger(record.name)
        log.log(record.levelno, record.getMessage(), source=record.name, exc_info=record.exc_info)
