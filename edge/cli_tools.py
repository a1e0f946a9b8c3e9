"""The commands that look at a fleet and change nothing: ``edge token decode`` and ``edge top``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
import trio

from edge.cli_flags import REGISTRY, SECRET_FILE, config_file
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

_FLAGS: Final = {flag.key: flag.name for flag in (REGISTRY, SECRET_FILE)}

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
