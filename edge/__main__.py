"""The process ``edge``: ``python -m edge`` and the console script."""

from __future__ import annotations

import signal
from typing import NoReturn

from edge.cli import SIGNALS, exit_now, main


def run() -> NoReturn:
    """Run the command line; a signal before or after the work is an early end, not a crash.

    Once the work is done signals are ignored: the interpreter's own end would put their default
    action back, and a second Ctrl-C would look like a failure.
    """
    for number in SIGNALS:
        signal.signal(number, exit_now)
    try:
        main()
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    run()
