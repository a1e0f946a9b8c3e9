"""The progress of a load test on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from edge.client.load_test import LoadPlan, LoadTest


@contextmanager
def show_progress(plan: LoadPlan) -> Iterator[Callable[[LoadTest], None]]:
    """Yield what to call now and then; it draws on stderr, and only where that is a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, auto_refresh=False
    ) as progress:
        task = progress.add_task("", total=plan.seconds)
        started = time.monotonic()

        def look(test: LoadTest) -> None:
            progress.update(
                task,
                completed=min(time.monotonic() - started, plan.seconds),
                description=_describe(test),
                refresh=True,
            )

        yield look


def _describe(test: LoadTest) -> str:
    failed = sum(test.failed.values())
    return (
        f"{len(test.calls)}/{test.plan.sessions} calls, {failed} failed, "
        f"{test.sent} packets, {test.received} back"
    )
