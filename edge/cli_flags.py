"""Command line flags: each is the text of one configuration key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from edge.config import Config
from edge.config_load import CONFIG_VARIABLE
from edge.ready import Role


@dataclass(frozen=True, slots=True)
class Flag:
    """A command line flag: the text of one configuration key."""

    name: str
    key: str
    metavar: str
    help: str

    def __call__(self, command: Callable[..., None]) -> Callable[..., None]:
        """Add the flag to a command."""
        option = click.option(self.name, self.key.replace(".", "__"), metavar=self.metavar or None,
                              is_flag=not self.metavar, flag_value="true", default=None,
                              help=f"{self.help}{self._default()}")  # fmt: skip
        return option(command)

    def _default(self) -> str:
        section, _, key = self.key.partition(".")
        value = getattr(getattr(Config(), section), key, "")
        shown = bool(self.metavar) and value not in ("", ())
        return f"  [default: {value}]" if shown else ""


_SIGNALING: Final = (
    Flag("--http", "http.bind", "HOST:PORT", "Listen for signaling, metrics and the demo page."),
)
_OPERATIONS: Final = (
    Flag("--http", "http.bind", "HOST:PORT", "Listen for health checks and metrics."),
)
_TLS: Final = (
    Flag("--tls", "http.tls", "off|self-signed|files",
         "Serve HTTPS, with a certificate made up at each start or one from files."),
    Flag("--certificate-file", "http.certificate_file", "FILE",
         "Certificate chain, PEM; with --tls files."),
    Flag("--key-file", "http.key_file", "FILE", "Its private key, PEM; with --tls files."),
)  # fmt: skip
_CALLS: Final = (
    Flag("--api-keys-file", "http.api_keys_file", "FILE", "Keys that may open calls, one a line."),
    Flag("--allow-anonymous", "http.allow_anonymous", "", "Serve anyone, beyond loopback as well."),
    Flag("--cors-origin", "http.cors_origins", "ORIGIN[,...]", "Origins whose pages may call."),
    Flag("--backend", "backend.kind", "NAME",
         "The model side: echo, frames, realtime or demo-voice."),
    Flag("--backend-address", "backend.address", "ADDRESS",
         "Where a frames backend listens: unix:/PATH or HOST:PORT."),
    Flag("--echo-delay", "backend.echo_delay_seconds", "SECONDS", "Delay of the echo."),
)  # fmt: skip
_RELAY: Final = (
    Flag("--udp", "relay.bind", "HOST:PORT", "Public UDP address; all media of all clients."),
    Flag("--advertise", "relay.advertise", "HOST[:PORT]",
         "Address that clients are told, where it is not that of --udp."),
    Flag("--ice-tcp", "relay.tcp_bind", "HOST:PORT",
         "Public TCP address, for clients whose network has no UDP."),
    Flag("--internal", "relay.internal_bind", "HOST:PORT", "UDP address for transceivers."),
)  # fmt: skip
_TRANSCEIVER: Final = (
    Flag("--internal", "transceiver.bind", "HOST:PORT", "UDP address for relays."),
    Flag("--http-url", "transceiver.http_url", "URL", "Where the fleet reaches this signaling."),
)
REGISTRY: Final = Flag(
    "--registry", "registry.url", "URL", "memory: (one process) or redis://HOST:PORT/DB (a fleet)."
)
SECRET_FILE: Final = Flag(
    "--secret-file", "registry.secret_file", "FILE",
    "The fleet's secret, 32 characters or more; the same for all.",
)  # fmt: skip
LOG_LEVEL: Final = Flag("--log-level", "log.level", "LEVEL", "debug, info, warning or error.")
LOG_FORMAT: Final = Flag("--log-format", "log.format", "json|console", "How log lines look.")
_COMMON: Final = (REGISTRY, SECRET_FILE, LOG_LEVEL, LOG_FORMAT)
FLAGS: Final[dict[Role, tuple[Flag, ...]]] = {
    "serve": _SIGNALING + _TLS + _CALLS + _RELAY + _COMMON,
    "relay": _RELAY + _OPERATIONS + _TLS + _COMMON,
    "transceiver": _SIGNALING + _TLS + _CALLS + _TRANSCEIVER + _COMMON,
}


config_file: Final = click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE", envvar=CONFIG_VARIABLE,
    help="Configuration, TOML; flags and EDGE_... win.",
)  # fmt: skip
"""The option that names the file."""


def with_flags(role: Role) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of a role, and the name of the file."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for flag in reversed(FLAGS[role]):
            command = flag(command)
        return config_file(command)

    return decorate
