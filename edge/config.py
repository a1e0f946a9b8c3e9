"""The whole configuration as one frozen value; units are in the names.

Every key can be said in three places that mean the same: a TOML file (section and key), the
environment (``EDGE_SECTION_KEY``) and, for the common ones, a command line flag.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import msgspec

SECRET_KEYS: Final = frozenset({"api_keys", "ice_servers", "secret", "previous_secret"})
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
    return repr(masked(key, value))


def masked(key: str, value: object) -> object:
    """Give what may be shown of a value that is no secret itself: its URLs are masked."""
    match key, value:
        case "url", str():
            return mask_url(value)
        case "peer_urls", tuple():
            return tuple(mask_url(url) for url in value)
        case _:
            return value


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
    offers_per_second_per_key: float = 150.0
    """The same for each API key, with its client secrets."""
    offers_per_second_per_address: float = 100.0
    """The same for each client address (IPv6: its /64); see ``geo.fronts`` for a proxy's."""
    single_use_secrets: bool = False
    """A client secret opens one call only; the registry remembers."""
    ice_servers: tuple[str, ...] = ()
    """STUN and TURN servers that WHIP clients are told: ``URL`` or ``URL USERNAME CREDENTIAL``."""


class RelayConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The public UDP forwarder."""

    bind: str = "127.0.0.1:3478"
    """Public HOST:PORT; or two, of IPv4 and IPv6, with a comma."""
    advertise: str = ""
    """HOST[:PORT] named to clients, one for each of ``bind``; empty: the bound addresses."""
    tcp_bind: str = ""
    """The same for TCP, for clients whose network has no UDP; empty: no TCP."""
    tcp_advertise: str = ""
    """What clients are told of ``tcp_bind``; empty: the hosts of ``advertise``, the bound ports."""
    tcp_max_connections: int = 1_000
    """TCP connections of each address of ``tcp_bind``; over it new ones are closed."""
    tcp_max_connections_per_address: int = 100
    """Of them from one client address (IPv6: its /64)."""
    internal_bind: str = "127.0.0.1:0"
    """HOST:PORT that transceivers speak to; further public addresses take the ports after it."""
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
    strangers_per_second: float = 20_000.0
    """Checks and first packets of unknown sources; over it they are dropped."""
    supervise: bool = True
    """Serve in a process of its own, replaced at once if it dies; ``edge relay`` on Linux only."""
    gate: bool = True
    """Keep strangers out in the kernel while they send more than the relay can take."""
    engine: str = "auto"
    """``native`` (C), ``pure`` (Python), or ``auto``: native where it is installed."""
    workers: int = 1
    """Threads of the native engine, each with its pair of sockets."""
    cpus: tuple[int, ...] = ()
    """The processors to pin workers to, one a worker; empty: the kernel chooses."""
    http_url: str = ""
    """Where others of the fleet reach this one's metrics; empty: the bound address."""
    region: str = ""
    """Name of the region where it stands."""
    latitude: float | None = None
    """Degrees north, for distances to clients; unset: that of its region in ``geo.regions``."""
    longitude: float | None = None
    """Degrees east."""


class TransceiverConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The WebRTC endpoint."""

    bind: str = "127.0.0.1:0"
    """HOST:PORT of the shared UDP socket that relays speak to."""
    http_url: str = ""
    """Where other parts of the fleet reach this one's signaling; empty: the bound address."""
    engine: str = "auto"
    """What opens and seals usual media: ``native`` (C, with OpenSSL's libcrypto), ``pure``
    (Python), or ``auto``: native where it is installed."""
    max_sessions: int = 2_000
    """Sessions of one transceiver; over it 503."""
    max_sessions_per_key: int = 2_000
    """Those of one API key among them, opened with its client secrets too; over it 429."""
    max_load: float = 0.7
    """Part of its time, 0 to 1, that the loop may be busy; from there on new calls get 503."""
    max_lag_seconds: float = 0.05
    """How late the loop may run, as a mean over some 2 s; from there on new calls get 503."""
    setup_timeout_seconds: float = 15.0
    """From the offer to ICE and DTLS done."""
    consent_timeout_seconds: float = 30.0
    """Without a valid STUN check (RFC 7675) a session ends."""
    max_session_seconds: float = 6 * 3600.0
    """Longest session."""
    max_idle_seconds: float = 600.0
    """Without audio from the client and from the backend a session ends."""
    snap: bool = True
    """Open data channels without a handshake of SCTP's for clients that offer it (SNAP)."""
    sped: bool = True
    """Carry DTLS inside of STUN checks and answers for clients that offer it (SPED)."""
    drain_seconds: float = 5.0
    """For the sessions to say goodbye when the process stops."""
    playout_queue_seconds: float = 30.0
    """Audio a backend may queue ahead of real time; the oldest is dropped beyond it."""


class AudioConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to audio between client and backend."""

    min_delay_seconds: float = 0.0
    """The jitter buffer holds back at least this much of what a decoding backend hears."""
    max_delay_seconds: float = 0.4
    """And at most this much: lower for the lowest latency, higher to lose no word."""
    passthrough_delay_seconds: float = 0.0
    """The most that is held back for a backend that takes the client's codec; 0: nothing."""
    fade_seconds: float = 0.02
    """How long speech fades out when it is interrupted."""
    red: bool = False
    """Ask clients for redundant audio (RFC 2198)."""
    nack: bool = True
    """Ask clients that offer it to send lost audio again, where it can come in time."""


class RegistryConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is alive and where."""

    url: str = "memory:"
    """``memory:`` (one process) or ``redis://HOST:PORT/DB``."""
    peer_urls: tuple[str, ...] = ()
    """Redis of other clusters, whose relays are read there; the secret is the same."""
    cluster: int = 0
    """This cluster's number, 0 to 65535, in every token."""
    secret: str = ""
    """Fleet secret, at least 32 characters; seals tokens and registry records."""
    previous_secret: str = ""
    """During a rotation the other secret: accepted, never used to seal."""
    lease_seconds: float = 0.5
    """A transceiver that is not heard for so long is taken for dead; a relay after 3 s at least."""
    heartbeat_seconds: float = 0.125
    """How often a transceiver renews its lease; a relay every 0.5 s at most."""


class GeoConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where clients and regions are, so that a client is told of the relays near it."""

    headers: str = "off"
    """A front's headers to believe: ``off``, ``cloudflare``, or ``custom`` (those named below)."""
    fronts: tuple[str, ...] = ()
    """Networks (as in 10.0.0.0/8) whose requests' headers are believed; empty: everybody's."""
    region_header: str = ""
    """Header with the name of a region; for ``custom``."""
    country_header: str = ""
    """Header with a country's two letters (ISO 3166); for ``custom``."""
    latitude_header: str = ""
    """Header with degrees north; for ``custom``."""
    longitude_header: str = ""
    """Header with degrees east; for ``custom``."""
    address_header: str = ""
    """Header with the client's address, for the database; of a list the last; for ``custom``."""
    database: str = ""
    """MaxMind DB file that gives addresses their places."""
    default_region: str = ""
    """Region of clients whose place is not known."""
    regions: tuple[str, ...] = ()
    """Places of regions, each as NAME=LATITUDE/LONGITUDE, in degrees."""


class BackendConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model side."""

    kind: str = "echo"
    """``echo``, ``frames``, ``realtime`` or ``demo-voice``."""
    echo_delay_seconds: float = 0.0
    """How much later the echo comes back."""
    address: str = ""
    """Where a ``frames`` backend listens: ``unix:/PATH`` or HOST:PORT."""
    audio: str = "pcm16/24000"
    """What a ``frames`` backend hears, speaks: ``opus``, ``pcmu``, ``pcma`` or ``pcm16/RATE``."""
    connect_seconds: float = 5.0
    """For a connection to the backend, and for its first sign of life."""
    reopen_seconds: float = 0.0
    """For another connection when a ``frames`` one is lost; 0: its sessions end."""
    stall_seconds: float = 5.0
    """A ``frames`` backend that takes nothing for so long is taken for dead."""
    profile: str = "openai"
    """The dialect of a ``realtime`` backend, or a TOML file that describes one."""
    url: str = ""
    """Its ws: or wss: URL; empty: the profile's."""
    model: str = ""
    """Its model; empty: the profile's."""
    voice: str = ""
    """Its voice; empty: the profile's."""
    instructions: str = ""
    """What it is told about its part; empty: nothing."""
    api_key_file: str = ""
    """File with the key for it; empty: the environment variable that the profile names."""
    ca_file: str = ""
    """Certificates to trust for it, PEM; empty: the system's."""


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
    audio: AudioConfig = AudioConfig()
    registry: RegistryConfig = RegistryConfig()
    geo: GeoConfig = GeoConfig()
    backend: BackendConfig = BackendConfig()
    log: LogConfig = LogConfig()
