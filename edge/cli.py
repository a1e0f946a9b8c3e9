"""The command line: flags become configuration, signals become a drain.

Every flag is the text of one configuration key, so that flags, environment and file are checked in
one place (``config_load``). A wrong key or value is one line on stderr and exit 2; an address in
use, a missing certificate and such one line and exit 1. The first SIGTERM or SIGINT asks for a
drain, a second one, or a drain that takes too long, cancels; each way the exit code is 0.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn, Protocol, get_args

import click
import msgspec
import structlog
import trio

from edge import __version__, logs, supervisor
from edge.cli_flags import FLAGS, with_flags
from edge.cli_tools import demo_voice, load_test, token, top
from edge.config import SECRET_KEYS, Config, Section, mask_url, masked
from edge.config_load import load_config
from edge.errors import ConfigError
from edge.ready import Ready, Role, StartupError
from edge.supervisor import BEAT_SECONDS, Worker

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
DRAIN_GRACE_SECONDS: Final = 3.0
"""Beyond the configured drain, before a drain that hangs is cancelled."""
CANCEL_SECONDS: Final = 0.8
"""For cleaning up after a cancellation, before the process leaves in any case."""


class Run(Protocol):
    """``edge.app.run``: serves until ``stop`` is set, then drains and returns."""

    def __call__(
        self,
        role: Role,
        config: Config,
        *,
        announce: Callable[[Ready], None],
        stop: trio.Event,
    ) -> Awaitable[None]:
        """Run one role; raises StartupError or OSError if it can not start."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edge", message="%(prog)s %(version)s")
def cli() -> None:
    """A self-hosted media edge for voice AI: WebRTC in, simple audio streams out."""


@cli.command()
@with_flags("serve")
def serve(file: Path | None, **flags: str | None) -> None:
    """Run relay, transceiver and signaling in one process."""
    run_role("serve", _load("serve", file, flags))


@cli.command()
@with_flags("relay")
def relay(file: Path | None, **flags: str | None) -> None:
    """Run a public UDP relay of a fleet."""
    run_role("relay", _load("relay", file, flags))


@cli.command()
@with_flags("transceiver")
def transceiver(file: Path | None, **flags: str | None) -> None:
    """Run a WebRTC endpoint of a fleet, with signaling."""
    run_role("transceiver", _load("transceiver", file, flags))


@cli.command()
@click.option("--role", type=click.Choice(get_args(Role)), default="serve", show_default=True,
              help="The command whose rules apply.")  # fmt: skip
@with_flags("serve")
def check_config(role: Role, file: Path | None, **flags: str | None) -> None:
    """Check the configuration and print it as TOML, without its secrets."""
    config = _load(role, file, flags)
    sections = (f"[{name}]\n{_toml(getattr(config, name))}" for name in config.__struct_fields__)
    click.echo("\n".join(sections), nl=False)


cli.add_command(token)
cli.add_command(top)
cli.add_command(load_test)
cli.add_command(demo_voice)


def _toml(section: Section) -> str:
    return "".join(_toml_line(key, getattr(section, key)) for key in section.__struct_fields__)


def _toml_line(key: str, value: object) -> str:
    if key in SECRET_KEYS and value:
        return f"# {key} is set\n"
    if value is None:
        return f"# {key} is not set\n"
    value = masked(key, value)
    return f"{key} = {msgspec.json.encode(value).decode()}\n"  # for these types TOML looks alike


def _load(role: Role, file: Path | None, flags: dict[str, str | None]) -> Config:
    names = {flag.key: flag.name for flag in FLAGS[role]}
    overrides = {name.replace("__", "."): text for name, text in flags.items()}
    return load_config(file, os.environ, overrides, role=role, flag_names=names)


def run_role(role: Role, config: Config) -> None:
    """Serve until a signal, then drain; returns when that is done."""
    with _exit_on_signals():
        logs.configure(config.log)
        from edge.app import run  # late: `edge --version` need not wait for OpenSSL and HTTP

        if role == "relay" and config.relay.supervise and supervisor.is_usable():
            _run_supervised(role, config)
        else:
            _run(_Runner(run, role, config))


def _run_supervised(role: Role, config: Config) -> None:
    """Bind, then serve in a worker and all that come after it; the supervisor exits in here."""
    from edge.app import prepare, relay, run, sockets  # noqa: F401  # the relay: for the workers

    with sockets.open_sockets(role, config) as bound:
        worker = supervisor.supervise(prepare)
        run_worker = partial(run, sockets=bound, restarts=worker.restarts)
        _run(_Runner(run_worker, role, config, worker))


def _run(runner: _Runner) -> None:
    try:
        trio.run(runner.main)
    finally:
        runner.close()


class _Runner:
    """One run of a role under signals, and maybe under a supervisor."""

    def __init__(self, run: Run, role: Role, config: Config, worker: Worker | None = None) -> None:
        self._run = run
        self._worker = worker
        self._role: Role = role
        self._config = config
        self._ready = False
        self._last_resort = threading.Timer(CANCEL_SECONDS, os._exit, (0,))
        self._last_resort.daemon = True

    def close(self) -> None:
        self._last_resort.cancel()
        if self._last_resort.is_alive():
            self._last_resort.join()

    async def main(self) -> None:
        stop = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._watch_signals, stop, nursery.cancel_scope)
                if self._worker is not None:
                    nursery.start_soon(_beat, self._worker)
                await self._run(self._role, self._config, announce=self._announce, stop=stop)
                nursery.cancel_scope.cancel()
        except Exception as error:
            causes = list(_causes(error))
            if self._ready or not all(isinstance(cause, _EXPECTED) for cause in causes):
                raise
            raise StartupError(_sentence(causes[0])) from None

    async def _watch_signals(
        self,
        stop: trio.Event,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with trio.open_signal_receiver(*SIGNALS) as signals:
            task_status.started()
            log = structlog.get_logger()
            log.info("stopping", signal=signal.Signals(await anext(signals)).name)
            stop.set()
            with trio.move_on_after(self._config.transceiver.drain_seconds + DRAIN_GRACE_SECONDS):
                await anext(signals)
            log.warning("stopping at once")
            scope.cancel()
            self._last_resort.start()

    def _announce(self, ready: Ready) -> None:
        self._ready = True
        structlog.get_logger().info(
            "started",
            role=ready.role,
            version=__version__,
            http=ready.http,
            udp=ready.udp,
            registry=mask_url(self._config.registry.url),
        )
        if self._worker is not None:
            self._worker.serve()
            if not self._worker.is_first:
                return
            ready = msgspec.structs.replace(ready, pid=self._worker.supervisor)
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()


async def _beat(worker: Worker) -> None:
    """Let the supervisor know that we live."""
    while True:
        worker.pulse.beat()
        await trio.sleep(BEAT_SECONDS)


_EXPECTED: Final = (OSError, StartupError, ConfigError)
"""What may go wrong at the start through no bug of ours."""


def _causes(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield error


def _sentence(error: Exception) -> str:
    """One line for a person; an OSError names its file, or whatever it was raised with."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return logs.escape(f"{where}{error.strerror}")
    return logs.escape(str(error) or type(error).__name__)


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Leave at once on a signal while nothing is open yet, or any more."""
    before = [signal.signal(number, exit_now) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def exit_now(number: int, frame: FrameType | None) -> None:
    """Handle a signal while there is nothing to drain."""
    os._exit(0)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    try:
        sys.exit(cli.main(args, prog_name="edge", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(" ".join(error.format_message().split()), error.exit_code)
    except ConfigError as error:
        _fail(str(error), 2)
    except StartupError as error:
        _fail(str(error), 1)
    except click.Abort:
        _fail("interrupted", 130)
    except Exception:
        structlog.get_logger().exception("the process ends by an error")
        sys.exit(1)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"edge: {message}", err=True)
    sys.exit(code)
