"""Loading of the configuration: sources, places in errors, rules, and no secret in any output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.config import Config, HttpConfig, RegistryConfig, mask_url
from edge.config_load import load_config
from edge.errors import ConfigError
from edge.ready import Role

BAD_URL = "must be memory: or redis://HOST:PORT/DB (rediss:// for TLS)"
SECRET = "s3cr3t-" * 5


def load(
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    file: Path | None = None,
    role: Role = "serve",
) -> Config:
    return load_config(file, environ or {}, overrides or {}, role=role)


def error(
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    file: Path | None = None,
    role: Role = "serve",
) -> str:
    with pytest.raises(ConfigError) as info:
        load(environ, overrides, file=file, role=role)
    text = str(info.value)
    assert text.isprintable(), "one line"
    return text


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("config.toml")


def test_nothing_gives_the_defaults() -> None:
    assert load({"HOME": "/root", "EDGEWISE": "1"}) == Config()


def test_flags_override_environment_overrides_file(toml: Path) -> None:
    toml.write_text('[relay]\nbind = "127.0.0.1:1"\nmax_flows = 7\nflow_idle_seconds = 5\n')
    environ = {"EDGE_RELAY_BIND": "127.0.0.1:2", "EDGE_RELAY_MAX_FLOWS": "8"}
    config = load(environ, {"relay.bind": "127.0.0.1:3", "relay.advertise": None}, file=toml)
    assert config.relay.bind == "127.0.0.1:3"
    assert config.relay.max_flows == 8
    assert config.relay.flow_idle_seconds == 5.0
    assert config.relay.advertise == ""


def test_text_is_read_by_type() -> None:
    config = load(
        {
            "EDGE_HTTP_CORS_ORIGINS": "https://a.example, https://b.example:8443,",
            "EDGE_HTTP_ALLOW_ANONYMOUS": "true",
            "EDGE_BACKEND_ECHO_DELAY_SECONDS": "0.25",
            "EDGE_REGISTRY_CLUSTER": "17",
        }
    )
    assert config.http.cors_origins == ("https://a.example", "https://b.example:8443")
    assert config.http.allow_anonymous is True
    assert config.backend.echo_delay_seconds == 0.25
    assert config.registry.cluster == 17


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (
            "[relay]\nflow_idle_secs = 3",
            "config.toml: [relay] flow_idle_secs: unknown key, did you mean flow_idle_seconds?",
        ),
        ("[relays]\n", "config.toml: [relays]: unknown section, did you mean [relay]?"),
        ("[zzz]\n", "config.toml: [zzz]: unknown section"),
        ('"a\\nb" = 1\n', 'config.toml: ["a\\nb"]: unknown section'),
        ("relay = 3\n", "config.toml: relay: must be a section, as in [relay]"),
        ('[relay]\nmax_flows = "9"\n', "config.toml: [relay] max_flows: must be a whole number"),
        ("[relay]\nmax_flows = 1.5\n", "config.toml: [relay] max_flows: must be a whole number"),
        ("[relay]\nmax_flows = true\n", "config.toml: [relay] max_flows: must be a whole number"),
        ("[relay]\nbind = 2026-01-01\n", "config.toml: [relay] bind: must be a text"),
        (
            "[http]\ncors_origins = [1]\n",
            "config.toml: [http] cors_origins: must be a list of texts",
        ),
        (
            "[http]\ncors_origins = 'https://a.example'\n",
            "config.toml: [http] cors_origins: must be a list of texts",
        ),
        (
            "[relay]\nflow_idle_seconds = inf\n",
            "config.toml: [relay] flow_idle_seconds: "
            "must be above 0 and at most 2147483647, not inf",
        ),
        (
            "[http]\ntls = 'on'\n",
            "config.toml: [http] tls: must be off or self-signed or files, not 'on'",
        ),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_with_its_place(toml: Path, document: str, line: str) -> None:
    toml.write_text(document)
    assert error(file=toml) == line


def test_broken_files(toml: Path, tmp_path: Path) -> None:
    assert error(file=toml) == "config.toml: no such file or directory"
    toml.write_text("[relay\n")
    assert error(file=toml).startswith("config.toml: not valid TOML: ")
    toml.write_bytes(b"\xff\xfe")
    assert error(file=toml).startswith("config.toml: not valid TOML: ")
    assert error(file=tmp_path) == f"{tmp_path}: is a directory"


@pytest.mark.parametrize(
    ("variable", "text", "line"),
    [
        ("EDGE_HTTP_BINDS", "x", "unknown variable, did you mean EDGE_HTTP_BIND?"),
        ("EDGE_HTP_BIND", "x", "unknown variable, did you mean EDGE_HTTP_BIND?"),
        ("EDGE_HTTP_PORT", "8080", "unknown variable"),
        ("EDGE_RELAY_MAX_FLOWS", "many", "must be a whole number"),
        ("EDGE_RELAY_MAX_FLOWS", "0", "must be above 0 and at most 2147483647, not 0"),
        ("EDGE_HTTP_ALLOW_ANONYMOUS", "perhaps", "must be true or false"),
        ("EDGE_LOG_LINES_PER_SECOND", "nan", "must be above 0 and at most 2147483647, not nan"),
        ("EDGE_REGISTRY_CLUSTER", "65536", "must be from 0 to 65535, not 65536"),
        ("EDGE_BACKEND_ECHO_DELAY_SECONDS", "-1", "must be from 0 to 30, not -1"),
        ("EDGE_HTTP_BIND", "", "'': the host must be an IP address or localhost"),
        ("EDGE_RELAY_BIND", "127.0.0.1", "'127.0.0.1': a port is missing, as in 127.0.0.1:3478"),
        ("EDGE_RELAY_ADVERTISE", "0.0.0.0", "'0.0.0.0': a wildcard can not be told to clients"),
        ("EDGE_RELAY_ADVERTISE", "1.2.3.4:0", "'1.2.3.4:0': port 0 can not be told to clients"),
        ("EDGE_REGISTRY_SECRET", "short", "must have at least 32 characters, has 5"),
        ("EDGE_HTTP_API_KEYS", "short", "each key must have at least 8 visible ASCII characters"),
        ("EDGE_REGISTRY_URL", "http://x", BAD_URL),
        ("EDGE_REGISTRY_URL", "redis://h:99999", BAD_URL),
        ("EDGE_TRANSCEIVER_HTTP_URL", "10.0.0.1:80",
         "must be a plain URL, as in https://10.0.0.5:8080"),
        ("EDGE_REGISTRY_PEER_URLS", "redis://a,http://x", BAD_URL),
        ("EDGE_REGISTRY_PEER_URLS", "memory:", "a peer is another cluster's redis://HOST:PORT/DB"),
        ("EDGE_RELAY_LATITUDE", "north", "must be a number"),
        ("EDGE_RELAY_LATITUDE", "90.1", "must be from -90 to 90, not 90.1"),
        ("EDGE_RELAY_LONGITUDE", "nan", "must be from -180 to 180, not nan"),
        ("EDGE_RELAY_WORKERS", "65", "must be from 1 to 64, not 65"),
        ("EDGE_RELAY_CPUS", "0,x", "must be a list of whole numbers"),
        ("EDGE_RELAY_CPUS", "-1", "must be from 0 to 4095, not -1"),
        ("EDGE_RELAY_ENGINE", "go", "must be auto or native or pure, not 'go'"),
        ("EDGE_RELAY_REGION", "a b",
         "a name of letters, digits, dots, dashes and underlines, 32 at most"),
        ("EDGE_GEO_HEADERS", "on", "must be off or cloudflare or custom, not 'on'"),
        ("EDGE_GEO_FRONTS", "10.0.0.1/8",
         "'10.0.0.1/8': a network looks like 10.0.0.0/8 or fd00::/8"),
        ("EDGE_GEO_REGION_HEADER", "x region", "'x region' is no name of a header"),
        ("EDGE_GEO_REGIONS", "fra", "'fra': a region looks like fra=50.11/8.68"),
        ("EDGE_GEO_REGIONS", "fra=91/0", "must be from -90 to 90, not 91"),
        ("EDGE_GEO_REGIONS", "fra=0/-181", "must be from -180 to 180, not -181"),
        (
            "EDGE_BACKEND_KIND",
            "ecko",
            "must be echo or frames or realtime or demo-voice, not 'ecko'",
        ),
        ("EDGE_LOG_LEVEL", "loud", "must be debug or info or warning or error, not 'loud'"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_one_line_with_its_name(variable: str, text: str, line: str) -> None:
    assert error({variable: text}) == f"{variable}: {line}"


def test_regions_and_places_in_every_source(toml: Path) -> None:
    toml.write_text(
        '[geo]\nregions = ["fra=50.11/8.68", "syd=-33.87/+151.21"]\n'
        "[relay]\nlatitude = 50\nlongitude = -8.5\ncpus = [0, 2]\nworkers = 2\n"
    )
    said = {"EDGE_GEO_REGIONS": "fra=50.11/8.68, syd=-33.87/+151.21"}
    said |= {"EDGE_RELAY_LATITUDE": "50", "EDGE_RELAY_LONGITUDE": "-8.5"}
    said |= {"EDGE_RELAY_CPUS": "0,2", "EDGE_RELAY_WORKERS": "2"}
    config = load(file=toml)
    assert load(said) == config
    assert load({}, {"geo.regions": said["EDGE_GEO_REGIONS"]}).geo == config.geo
    assert config.geo.regions == ("fra=50.11/8.68", "syd=-33.87/+151.21")
    assert (config.relay.latitude, config.relay.longitude) == (50.0, -8.5)
    assert config.relay.cpus == (0, 2)


@pytest.mark.parametrize("origin", ["*", "https://a.example/", "a.example", "https://", "null"])
def test_origins_are_exact(origin: str) -> None:
    assert "an origin looks like" in error({"EDGE_HTTP_CORS_ORIGINS": origin})


def test_advertise_needs_no_port() -> None:
    assert load({"EDGE_RELAY_ADVERTISE": "192.0.2.1"}).relay.advertise == "192.0.2.1"
    assert load({"EDGE_RELAY_ADVERTISE": "[2001:db8::1]:9"}).relay.advertise == "[2001:db8::1]:9"


def test_kubernetes_service_links_are_not_ours() -> None:
    config = load(
        {
            "EDGE_SERVICE_HOST": "10.0.0.1",
            "EDGE_RELAY_SERVICE_PORT_UDP": "3478",
            "EDGE_PORT": "tcp://10.0.0.1:8080",
            "EDGE_HTTP_PORT_8080_TCP_ADDR": "10.0.0.1",
        }
    )
    assert config == Config()


@pytest.mark.parametrize(
    ("environ", "role", "line"),
    [
        ({"EDGE_HTTP_TLS": "files"}, "serve",
         'http.certificate_file: tls = "files" needs certificate_file and key_file'),
        ({"EDGE_HTTP_BIND": "0.0.0.0:80"}, "serve",
         "http.api_keys: 0.0.0.0:80 can be reached from outside: "
         "set api_keys, or allow_anonymous to serve anyone"),
        ({"EDGE_RELAY_BIND": "0.0.0.0:3478"}, "serve",
         "relay.advertise: 0.0.0.0:3478 is a wildcard: "
         "name the address that clients shall send to"),
        ({"EDGE_RELAY_BIND": "127.0.0.1:3478,[::]:3478"}, "serve",
         "relay.advertise: 127.0.0.1:3478,[::]:3478 is a wildcard: "
         "name the address that clients shall send to"),
        ({"EDGE_RELAY_BIND": "127.0.0.1:1,[::1]:1", "EDGE_RELAY_ADVERTISE": "192.0.2.1"}, "serve",
         "EDGE_RELAY_ADVERTISE: names one address for each of bind, in the same order"),
        ({"EDGE_RELAY_TCP_ADVERTISE": "192.0.2.1"}, "serve",
         "EDGE_RELAY_TCP_ADVERTISE: names one address for each of tcp_bind, in the same order"),
        ({"EDGE_RELAY_TCP_BIND": "0.0.0.0:443"}, "serve",
         "relay.tcp_advertise: 0.0.0.0:443 is a wildcard: "
         "name the address that clients shall connect to"),
        ({"EDGE_RELAY_INTERNAL_BIND": "[::]:0"}, "serve",
         "EDGE_RELAY_INTERNAL_BIND: a wildcard can not be told to transceivers: name one address"),
        ({"EDGE_TRANSCEIVER_BIND": "[::]:0"}, "serve",
         "EDGE_TRANSCEIVER_BIND: a wildcard can not be told to relays: name one address"),
        ({}, "relay",
         "registry.url: a relay or transceiver of its own needs a shared registry, "
         "as in redis://HOST:6379/0"),
        ({"EDGE_REGISTRY_URL": "redis://127.0.0.1"}, "relay",
         "registry.secret: a shared registry needs a secret of at least 32 characters"),
        ({"EDGE_REGISTRY_PREVIOUS_SECRET": SECRET}, "serve",
         "EDGE_REGISTRY_PREVIOUS_SECRET: needs secret as well"),
        ({"EDGE_REGISTRY_PEER_URLS": "redis://h"}, "serve",
         "EDGE_REGISTRY_PEER_URLS: peers need a shared registry of our own in registry.url"),
        ({"EDGE_RELAY_LATITUDE": "1"}, "serve",
         "relay.longitude: latitude and longitude belong together"),
        ({"EDGE_RELAY_CPUS": "0,1", "EDGE_RELAY_WORKERS": "3"}, "serve",
         "EDGE_RELAY_CPUS: name one processor for each of the 3 workers"),
        ({"EDGE_GEO_HEADERS": "custom"}, "serve",
         'EDGE_GEO_HEADERS: headers = "custom" needs the name of at least one header'),
        ({"EDGE_GEO_COUNTRY_HEADER": "x-country"}, "serve",
         'geo.headers: names of headers are for headers = "custom"'),
        ({"EDGE_GEO_HEADERS": "custom", "EDGE_GEO_LATITUDE_HEADER": "x-lat"}, "serve",
         "geo.longitude_header: latitude_header and longitude_header belong together"),
        ({"EDGE_GEO_REGIONS": "a=0/0,b=1/1,a=2/2"}, "serve",
         "EDGE_GEO_REGIONS: a region is named twice"),
        ({"EDGE_REGISTRY_LEASE_SECONDS": "0.1"}, "serve",
         "registry.heartbeat_seconds: must be shorter than lease_seconds"),
    ],
)  # fmt: skip
def test_rules_between_keys(environ: dict[str, str], role: Role, line: str) -> None:
    assert error(environ, role=role) == line


def test_a_relay_may_listen_anywhere_without_keys() -> None:
    environ = {
        "EDGE_REGISTRY_URL": "redis://127.0.0.1:6379/3",
        "EDGE_REGISTRY_SECRET": SECRET,
        "EDGE_HTTP_BIND": "0.0.0.0:8080",
    }
    assert load(environ, role="relay").registry.url == "redis://127.0.0.1:6379/3"


def test_secrets_come_from_files(tmp_path: Path) -> None:
    secret, keys = tmp_path / "secret", tmp_path / "keys"
    secret.write_text(SECRET + "\n")
    keys.write_text("first-key-1\n\n  second-key-2 \n")
    environ = {
        "EDGE_REGISTRY_SECRET_FILE": str(secret),
        "EDGE_HTTP_API_KEYS_FILE": str(keys),
    }
    config = load(environ)
    assert config.registry.secret == SECRET
    assert config.http.api_keys == ("first-key-1", "second-key-2")
    line = error({**environ, "EDGE_REGISTRY_SECRET": SECRET})
    assert line == (
        "EDGE_REGISTRY_SECRET_FILE: says the same as EDGE_REGISTRY_SECRET; give only one"
    )
    missing = str(tmp_path / "none")
    assert error({"EDGE_REGISTRY_SECRET_FILE": missing}) == (
        f"EDGE_REGISTRY_SECRET_FILE: {missing}: no such file or directory"
    )


def test_a_secret_file_of_a_later_source_wins(tmp_path: Path) -> None:
    secret, file = tmp_path / "secret", tmp_path / "config.toml"
    secret.write_text(SECRET)
    file.write_text(f'[registry]\nsecret = "{"x" * 40}"\n')
    assert load({}, {"registry.secret_file": str(secret)}, file=file).registry.secret == SECRET


def test_no_secret_in_any_output() -> None:
    config = Config(
        http=HttpConfig(api_keys=("hush-hush-1",)),
        registry=RegistryConfig(
            url="redis://user:hush@127.0.0.1:6379/0?password=hush",
            peer_urls=("redis://user:hush@127.0.0.2:6379/0", "redis://:hush@127.0.0.3"),
            secret="hush" * 8,
            previous_secret="hush" * 9,
        ),
    )
    for text in (repr(config), str(config), f"{config.http}", f"{config.registry!r}"):
        assert "hush" not in text
    assert "***@127.0.0.1:6379/0" in repr(config)
    assert "***@127.0.0.2:6379/0" in repr(config)
    assert "hush" not in error({"EDGE_REGISTRY_PEER_URLS": "redis://h,radis://:hush@h"})
    assert "hush" not in error({"EDGE_REGISTRY_SECRET": "hush"})
    assert "hush" not in error({"EDGE_REGISTRY_URL": "radis://:hush@h"})
    assert "hush" not in error({"EDGE_HTTP_API_KEYS": "hush hush hush"})


@given(st.text())
def test_masking_takes_any_text(text: str) -> None:
    assert isinstance(mask_url(text), str)
    assert "hush" not in mask_url(f"redis://u:hush@{text.replace('@', '')}")


@given(st.sampled_from(["HTTP_BIND", "RELAY_MAX_FLOWS", "HTTP_TLS", "REGISTRY_URL"]), st.text())
def test_any_text_gives_a_config_or_one_line(key: str, text: str) -> None:
    line = ""
    try:
        load({f"EDGE_{key}": text})
    except ConfigError as problem:
        line = str(problem)
    assert line.isprintable()
    assert line == "" or line.startswith(("EDGE_", "http.", "relay.", "registry."))
