"""What every test shares: nothing may outlive it, and how hypothesis runs.

Tasks need no check of their own: a test's Trio run does not end while one of them is alive.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import settings

from tests.support.clock import VirtualClock
from tests.support.examples import USUAL, examples

settings.register_profile(
    "edge", examples(USUAL), deadline=None, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("edge")

# Rich's tracebacks, which structlog takes where it finds them, cost 0.2 s each.
structlog.configure(
    processors=[
        structlog.stdlib.add_log_level,
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)

SETTLE_SECONDS = 2.0
"""How long a thread or descriptor may take to go away after its test."""


def open_descriptors() -> set[object]:
    """Every open descriptor with what it refers to."""
    found: set[object] = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            file = os.fstat(int(number))
        except OSError:  # the one that listed the directory
            continue
        found.add((int(number), file.st_dev, file.st_ino))
    return found


def living_threads() -> set[object]:
    """Every thread but the idle ones that Trio keeps for its next run."""
    return {t for t in threading.enumerate() if not t.name.startswith("Trio thread")}


def leaked(current: Callable[[], set[object]], before: set[object]) -> set[object]:
    """What is there now and was not before, once it has had time to go."""
    until = time.monotonic() + SETTLE_SECONDS
    gather: Callable[[], object] = gc.collect
    while (left := current() - before) and time.monotonic() < until:
        gather()
        gather = collect_frozen
    return left


def collect_frozen() -> None:
    """Collect what an edge that ran in here has frozen, too, and leave others time to go."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    time.sleep(0.01)


def pytest_collection_finish() -> None:
    """Let no collection look again at what is there before the first test, and stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # as an edge does; the default ones cost 2% of a run


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Threads and descriptors are back to where they were when the test is over."""
    threads, descriptors = living_threads(), open_descriptors()
    yield
    assert not leaked(living_threads, threads), "threads left"
    assert not leaked(open_descriptors, descriptors), "descriptors left open"


@pytest.fixture
def autojump_clock() -> VirtualClock:
    """Trio's clock in a test on a virtual network; in place of pytest-trio's."""
    return VirtualClock()
