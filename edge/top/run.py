"""Runs ``edge top``: looks, shows, waits, until it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
import trio
from rich.console import Console
from rich.live import Live

from edge.config import RegistryConfig
from edge.ready import StartupError
from edge.top.observer import Observer, Snapshot
from edge.top.screen import render
from edge.top.sources import open_source

FIRST_SECONDS: Final = 1.0
"""Between the first two looks, so that rates are there soon."""
PLAIN_COLUMNS: Final = 160
"""Width where there is no terminal to ask."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; ``interval`` is in seconds."""

    urls: tuple[str, ...]
    registry: RegistryConfig
    interval: float
    once: bool
    as_json: bool


async def watch(options: Options) -> None:
    """Show the fleet once, or until SIGINT or SIGTERM. Raises StartupError, ConfigError."""
    complaint: str | None = None
    async with open_source(options.urls, options.registry) as source:
        observer = Observer(source, unix=time.time)
        if options.once:
            complaint = await _show_once(observer, options)
        else:
            async with _stopped_by_signal():
                await _keep_showing(observer, options)
    if complaint is not None:  # raised in there it would come out in a group
        raise StartupError(complaint)


async def _show_once(observer: Observer, options: Options) -> str | None:
    first = await observer.look()
    if first.registry == "no answer":
        return "registry.url: the registry does not answer"
    await trio.sleep(min(options.interval, FIRST_SECONDS))
    _write(await observer.look(), options)
    return None


async def _keep_showing(observer: Observer, options: Options) -> None:
    """Use the whole terminal; without one, or for JSON, write look after look."""
    console = _console()
    wait = min(options.interval, FIRST_SECONDS)
    if options.as_json or not console.is_terminal:
        while _write(await observer.look(), options):
            wait = await _sleep(wait, options)
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            snapshot = await observer.look()
            live.update(render(snapshot, width=console.width), refresh=True)
            wait = await _sleep(wait, options)


async def _sleep(seconds: float, options: Options) -> float:
    await trio.sleep(seconds)
    return options.interval


def _write(snapshot: Snapshot, options: Options) -> bool:
    """Write one look; False when nobody reads any more, as in ``| head``."""
    console = _console()
    if options.as_json:
        text = msgspec.json.encode(snapshot).decode() + "\n"
    else:
        with console.capture() as capture:
            console.print(render(snapshot, width=console.width))
        text = capture.get()
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for the interpreter's own last flush
        os.close(nowhere)
        return False
    return True


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS, highlight=False)


@asynccontextmanager
async def _stopped_by_signal() -> AsyncIterator[None]:
    """Cancel the block on SIGINT or SIGTERM, so that the terminal is left as it was."""

    async def watch_signals(
        scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            await anext(signals)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, nursery.cancel_scope)
        yield
        nursery.cancel_scope.cancel()
