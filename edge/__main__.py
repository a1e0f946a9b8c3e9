"""The process ``edge``: ``python -m edge`` and the console script."""

from __future__ import annotations

import gc
import signal
import sys
from typing import Final, NoReturn

LOADING_THRESHOLD: Final = 100_000
"""Of the cyclic garbage collector while modules load: they stay, so there is nothing to find."""


def run() -> NoReturn:
    """Run the command line; a signal before or after the work is an early end, not a crash.

    Once the work is done signals are ignored: the interpreter's own end would put their default
    action back, and a second Ctrl-C would look like a failure.
    """
    gc.set_threshold(LOADING_THRESHOLD)
    _load_structlog()
    from edge.cli import SIGNALS, exit_now, main

    for number in SIGNALS:
        signal.signal(number, exit_now)
    try:
        main()
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _load_structlog() -> None:
    """Load it without rich, where it looks for coloured tracebacks: a fifth of a relay's start."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


if __name__ == "__main__":
    run()
