"""The whole configuration as one frozen value; units are in the names.

Every key can be said in three places that mean the same: a TOML file (section and key), the
environment (``EDGE_SECTION_KEY``) and, for the common ones, a command line flag.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import msgspec

SECRET_KEYS: Final = frozenset({"api_keys", "secret", "previous_secret"})
"""Keys whose values are never shown."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section of the configuration whose repr shows no secret."""

    def __repr__(self) -> str:
        """Like a Struct's, with secrets masked."""
        shown = ", ".join(
            f"{key}={_shown(key, getattr(self, key))}" for key in self.__struct_fields__
        )
        return f"{type(self).__name__}({shown})"


def _shown(key: str, value: object) -> str:
    if key in SECRET_KEYS:
        return "'***'" if value else repr(value)
    if key == "url" and isinstance(value, str):
        return repr(mask_url(value))
    return repr(value)


def mask_url(url: str) -> str:
    """Write a URL without its user, password and query: what a log may hold of it."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")
    except ValueError:
        return "***"
    return parts._replace(netloc=("***@" if host[1] else "") + host[2], query="").geturl()


class HttpConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signaling, metrics and the demo page."""

    bind: str = "127.0.0.1:8080"
    """HOST:PORT to listen on; port 0 takes a free one."""
    tls: str = "off"
    """``off``, ``self-signed``, or ``files`` (with ``certificate_file`` and ``key_file``)."""
    certificate_file: str = ""
    """Certificate chain, PEM; for ``files``."""
    key_file: str = ""
    """The certificate's private key, PEM; for ``files``."""
    api_keys: tuple[str, ...] = ()
    """Bearer tokens that may open sessions. Empty: open, and then only on a loopback bind."""
    allow_anonymous: bool = False
    """Serve without API keys on a non-loopback bind as well."""
    cors_origins: tuple[str, ...] = ()
    """Exact origins whose pages may call; empty: same origin only."""
    max_body_bytes: int = 65_536
    """Longest body of a request; over it 413."""
    max_connections: int = 1_000
    """HTTP connections of one process; more are closed at once."""
    request_timeout_seconds: float = 10.0
    """For a whole request with its response, and for the next one to begin."""
    offers_per_second: float = 200.0
    """Rate limit for offers of one process; over it 429."""


class RelayConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The public UDP forwarder."""

    bind: str = "127.0.0.1:3478"
    """Public HOST:PORT."""
    advertise: str = ""
    """HOST[:PORT] named to clients; empty: the bound address."""
    internal_bind: str = "127.0.0.1:0"
    """HOST:PORT that transceivers speak to."""
    max_flows: int = 100_000
    """Confirmed flows of one relay; over it further clients do not get through."""
    max_provisional_flows: int = 4_096
    """Sources that no transceiver has confirmed yet; over it the oldest gives way."""
    provisional_seconds: float = 5.0
    """How long a source stays without being confirmed."""
    flow_idle_seconds: float = 60.0
    """How long a confirmed flow stays without a packet of its client."""
    lookups_per_second: float = 2_000.0
    """Registry look-ups for unknown sources."""


class TransceiverConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The WebRTC endpoint."""

    bind: str = "127.0.0.1:0"
    """HOST:PORT of the shared UDP socket that relays speak to."""
    http_url: str = ""
    """Where other parts of the fleet reach this one's signaling; empty: the bound address."""
    max_sessions: int = 2_000
    """Sessions of one transceiver; over it 503."""
    setup_timeout_seconds: float = 15.0
    """From the offer to ICE and DTLS done."""
    consent_timeout_seconds: float = 30.0
    """Without a valid STUN check (RFC 7675) a session ends."""
    max_session_seconds: float = 6 * 3600.0
    """Longest session."""
    drain_seconds: float = 5.0
    """For the sessions to say goodbye when the process stops."""
    playout_queue_seconds: float = 30.0
    """Audio a backend may queue ahead of real time; the oldest is dropped beyond it."""


class RegistryConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is alive and where."""

    url: str = "memory:"
    """``memory:`` (one process) or ``redis://HOST:PORT/DB``."""
    cluster: int = 0
    """This cluster's number, 0 to 65535, in every token."""
    secret: str = ""
    """Fleet secret, at least 32 characters; seals tokens and registry records."""
    previous_secret: str = ""
    """During a rotation the other secret: accepted, never used to seal."""
    lease_seconds: float = 3.0
    """A process that is not heard for so long is taken for dead."""
    heartbeat_seconds: float = 0.5
    """How often a process renews its lease."""


class BackendConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model side."""

    kind: str = "echo"
    """The model side: ``echo``."""
    echo_delay_seconds: float = 0.0
    """How much later the echo comes back."""


class LogConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logging, always to stderr."""

    level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""
    format: str = "json"
    """``json`` or ``console``."""
    lines_per_second: float = 200.0
    """Lines over it are dropped, and counted on the next one."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything, with defaults that make a working edge on one machine."""

    http: HttpConfig = HttpConfig()
    relay: RelayConfig = RelayConfig()
    transceiver: TransceiverConfig = TransceiverConfig()
    registry: RegistryConfig = RegistryConfig()
    backend: BackendConfig = BackendConfig()
    log: LogConfig = LogConfig()
