"""The commands beside serving: ``edge token``, ``top``, ``load-test`` and ``demo-voice``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click
import msgspec
import trio

from edge.address import parse_stream_address
from edge.cli_flags import LOG_FORMAT, LOG_LEVEL, REGISTRY, SECRET_FILE, config_file
from edge.config import Config, LogConfig
from edge.config_load import load_config
from edge.errors import ConfigError
from edge.token_decode import (
    MAX_TEXT_CHARS,
    Decoded,
    TokenReader,
    Undecodable,
    describe,
    find_tokens,
)

_FLAGS: Final = {flag.key: flag.name for flag in (REGISTRY, SECRET_FILE, LOG_LEVEL, LOG_FORMAT)}

_as_json: Final = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


def _load(file: Path | None, flags: dict[str, str | None]) -> Config:
    """Read the configuration of any process of the fleet, for what a tool needs of it."""
    overrides = {name.replace("__", "."): text for name, text in flags.items()}
    return load_config(file, os.environ, overrides, role=None, flag_names=_FLAGS)


@click.group()
def token() -> None:
    """Look at routing tokens."""


@token.command()
@click.argument("tokens", nargs=-1, metavar="TOKEN...", required=True)
@config_file
@SECRET_FILE
@_as_json
def decode(tokens: Sequence[str], file: Path | None, as_json: bool, **flags: str | None) -> None:
    """Tell what routing tokens say: cluster, slot, expiry, and which secret opens them.

    TOKEN is a token, an ice-ufrag line of an SDP, or the USERNAME of a STUN request; - reads one of
    these, or a whole SDP, from stdin. The secrets are those of the configuration
    (EDGE_REGISTRY_SECRET, EDGE_REGISTRY_PREVIOUS_SECRET); without one only version and key id are
    known. Exit code 1 when something is no token or no secret opens it.
    """
    registry = _load(file, flags).registry
    reader = TokenReader(registry.secret, registry.previous_secret)
    decoded, failed = [], False
    for result in _decode_all(tokens, reader):
        if isinstance(result, Decoded):
            decoded.append(result)
        else:
            failed = True
            click.echo(f"edge: {result}", err=True)
    if as_json:
        click.echo(msgspec.json.encode(decoded))
    elif decoded:
        click.echo("\n".join(map(describe, decoded)))
    if failed:
        sys.exit(1)


def _decode_all(tokens: Sequence[str], reader: TokenReader) -> Iterator[Decoded | str]:
    """Read each; a text is what is wrong with one. No token is repeated: they are half a secret."""
    for number, text in enumerate(tokens, 1):
        place = "stdin" if text == "-" else f"token {number}"
        try:
            if text == "-":
                text = sys.stdin.read(MAX_TEXT_CHARS + 1)
            for each in find_tokens(text):
                yield reader.read(each, unix_now=time.time())
        except UnicodeDecodeError:
            yield f"{place}: not a text"
        except Undecodable as error:
            yield f"{place}: {error}"


@click.command()
@click.option("--http", "urls", metavar="URL", multiple=True,
              help="A process to watch, as http://10.0.0.5:8080; may be repeated. "
                   "Without it all that the registry knows.")  # fmt: skip
@config_file
@REGISTRY
@SECRET_FILE
@click.option("--interval", type=click.FloatRange(0.1, 60.0), default=2.0, show_default=True,
              metavar="SECONDS", help="Between two looks; rates are over this time.")  # fmt: skip
@click.option("--once", is_flag=True, help="Look twice, print one table, and end.")
@_as_json
def top(
    urls: Sequence[str],
    file: Path | None,
    interval: float,
    once: bool,
    as_json: bool,
    **flags: str | None,
) -> None:
    """Watch a fleet: where its parts are, what goes through them, and what they drop.

    Asks every relay and transceiver for its /metrics. Ends with Ctrl-C.
    """
    from edge import logs
    from edge.top.run import Options, watch

    registry = _load(file, flags).registry
    if not urls and registry.url == "memory:":
        raise ConfigError("--registry: name the fleet's, as in redis://HOST:6379/0, or give --http")
    if not urls and not registry.secret:
        raise ConfigError("--secret-file: the registry can not be read without the fleet's secret")
    logs.configure(LogConfig(level="error", format="console"))  # the screen is not for log lines
    trio.run(watch, Options(urls=tuple(urls), registry=registry, interval=interval, once=once,
                            as_json=as_json))  # fmt: skip


@click.command()
@click.option("--http", "urls", metavar="URL", multiple=True, default=("http://127.0.0.1:8080",),
              show_default=True, help="An edge's signaling; repeated, they get calls in turn."
              )  # fmt: skip
@click.option("--sessions", type=click.IntRange(1, 100_000), default=10, show_default=True,
              metavar="N", help="Calls at the same time.")  # fmt: skip
@click.option("--ramp", type=click.FloatRange(0.1, 10_000.0), default=20.0, show_default=True,
              metavar="CALLS/S", help="Calls opened a second.")  # fmt: skip
@click.option("--duration", type=click.FloatRange(0.1, 86_400.0), default=10.0, show_default=True,
              metavar="SECONDS", help="How long all of them speak.")  # fmt: skip
@click.option("--frame-ms", type=click.Choice(("10", "20", "40", "60")), default="20",
              show_default=True, help="Audio in one packet.")  # fmt: skip
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Holds the key to call with; or the environment does, as LOAD_TEST_API_KEY."
              )  # fmt: skip
@click.option("--max-loss", type=click.FloatRange(0.0, 100.0), default=1.0, show_default=True,
              metavar="PERCENT", help="Exit code 1 when more packets are lost.")  # fmt: skip
@click.option("--max-setup-ms", type=click.FloatRange(1.0), metavar="MS",
              help="Exit code 1 when the setup of more than 5 % of the calls takes longer."
              )  # fmt: skip
@click.option("--channel", is_flag=True, help="Open a data channel in every call as well.")
@_as_json
def load_test(
    urls: Sequence[str],
    sessions: int,
    ramp: float,
    duration: float,
    frame_ms: str,
    api_key_file: Path | None,
    max_loss: float,
    max_setup_ms: float | None,
    channel: bool,
    as_json: bool,
) -> None:
    """Make echo calls to an edge and tell how they fare.

    Needs a backend that echoes. Exit code 0 when all calls connected and the limits were kept, 1
    when not, 2 for bad input. Ctrl-C ends the test early and reports what was.
    """
    from edge.client.load_progress import show_progress
    from edge.client.load_report import Limits, table
    from edge.client.load_test import LoadPlan, run_load_test

    plan = LoadPlan(
        urls=tuple(map(_http_url, urls)),
        sessions=sessions,
        ramp=ramp,
        duration=duration,
        frame_seconds=int(frame_ms) / 1000,
        api_key=_api_key(api_key_file),
        channel=channel,
    )
    with show_progress(plan) as look:
        report = trio.run(run_load_test, plan, look)
    click.echo(msgspec.json.encode(report) if as_json else table(report))
    missed = Limits(max_loss_percent=max_loss, max_setup_ms=max_setup_ms).missed(report)
    for sentence in missed:
        click.echo(f"edge: {sentence}", err=True)
    if missed:
        sys.exit(1)


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    except ValueError:
        pass
    raise ConfigError("--http: not like http://HOST:PORT or https://HOST")


def _api_key(file: Path | None) -> str:
    """Read the key, as the first line of a file or from the environment."""
    if file is None:
        return os.environ.get("LOAD_TEST_API_KEY", "")
    try:
        lines = file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"--api-key-file: {file} can not be read as text") from None
    if not lines:
        raise ConfigError(f"--api-key-file: {file} is empty")
    return lines[0]


@click.command()
@click.option("--address", default="127.0.0.1:7000", show_default=True,
              metavar="unix:PATH|HOST:PORT", help="Listen here.")  # fmt: skip
@click.option("--with-parent", is_flag=True, help="End when stdin is closed.")
@config_file
@LOG_LEVEL
@LOG_FORMAT
def demo_voice(address: str, with_parent: bool, file: Path | None, **flags: str | None) -> None:
    """Answer calls offline: a backend for --backend frames, with audio as pcm16/16000.

    Writes one line to stdout when it serves, and ends on SIGTERM or SIGINT. `edge serve --backend
    demo-voice` runs one by itself.
    """
    from edge import logs
    from edge.demo_voice.parts import require_parts

    config = _load(file, flags)
    try:
        parse_stream_address(address)
    except ValueError:
        raise ConfigError("--address: not like unix:/PATH or HOST:PORT") from None
    require_parts("demo-voice")
    logs.configure(config.log)
    from edge.demo_voice.serve import serve  # late: it needs the parts

    serve(address, with_parent=with_parent)
