"""The layer rule: a module imports only from its own line of this list or from a line above it.

Foreign libraries with sharp edges are known to one place each, and the sans-IO parts import no
clock, socket, randomness or event loop.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    (
        "errors",
        "address",
        "limits",
        "rendezvous",
        "session_config",
        "ready",
        "config",
        "config_texts",
        "config_rules",
        "config_load",
        "logs",
        "supervisor",
    ),
    ("wire",),
    ("webrtc",),
    (
        "token",
        "token_decode",
        "ticks",
        "mmsg",
        "datagram",
        "packets",
        "probe",
        "tcp_connections",
        "tcp_packets",
    ),
    ("offload",),
    ("forwarder",),
    ("routing", "transactions"),
    ("registry", "lookup"),
    ("geo", "geo_data"),
    ("backends", "demo_voice"),
    ("audio",),
    ("transceiver",),
    ("relay", "relay_hops", "relay_peers"),
    ("http", "signaling"),
    ("client",),
    ("metric_names", "metrics", "exposition"),
    ("app", "top", "cli", "cli_flags", "cli_tools", "__main__"),
)
LAYER = {name: number for number, line in enumerate(LAYERS) for name in line}

ONLY_IN = {
    "aioice": ("wire/stun.py",),
    "google_crc32c": ("wire/sctp.py",),
    "OpenSSL": ("webrtc/dtls_handshake.py", "webrtc/certificate.py"),
    "pylibsrtp": (),
    "redis": ("registry/redis.py", "registry/redis_worker.py"),
    "hypercorn": ("http/http1.py",),
    "prometheus_client": ("exposition.py", "top/page.py"),
    "click": ("cli.py", "cli_flags.py", "cli_tools.py"),
    "rich": ("client/load_progress.py", "top/screen.py", "top/run.py"),
    "av": (),
    "trio_websocket": (
        "backends/realtime/connection.py",
        "backends/realtime/conversation.py",
        "http/sideband.py",
    ),
    "maxminddb": ("geo_data.py",),
    "webrtcvad": ("demo_voice/vad.py",),
    "pocketsphinx": ("demo_voice/recogniser.py",),
    "hibari": ("demo_voice/mouth.py",),
    "ctypes": (
        "audio/opus.py",
        "audio/opus_library.py",
        "forwarder/bpf.py",
        "mmsg.py",
        "supervisor.py",
        "ticks.py",
    ),
    "asyncio": (),
}

SANS_IO = (
    *("wire/", "webrtc/", "routing.py", "transactions.py", "token.py"),
    *(f"audio/{name}.py" for name in ("arrivals", "jitter", "pulled", "blend", "concealer")),
)
NOT_SANS_IO = {
    "trio", "asyncio", "socket", "select", "ssl", "threading",
    "time", "random", "secrets", "os", "uuid",
}  # fmt: skip

MODULES = sorted(
    path.relative_to(ROOT / "edge").as_posix() for path in (ROOT / "edge").rglob("*.py")
)


@cache
def imports(module: str) -> frozenset[str]:
    """Every dotted name a module imports, at any depth of its code."""
    tree = ast.parse((ROOT / "edge" / module).read_text(encoding="utf-8"))
    return frozenset(name for node in ast.walk(tree) for name in _names(node))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        assert node.module is not None
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> int:
    name = module.split("/")[0].removesuffix(".py")
    assert name in LAYER, f"edge/{module} has no line in LAYERS"
    return LAYER[name]


def test_there_is_something_to_check() -> None:
    assert "cli.py" in MODULES
    assert "edge.config_load.load_config" in imports("cli.py")


def test_a_module_imports_only_from_its_layer_or_below() -> None:
    wrong = [
        f"edge/{module} must not import {name}"
        for module in MODULES
        if module != "__init__.py"
        for name in imports(module)
        if not fits(layer_of(module), name)
    ]
    assert wrong == []


def fits(own: int, name: str) -> bool:
    """Whether a module of this layer may import this."""
    package, _, rest = name.partition(".")
    target = rest.split(".")[0]
    if package != "edge" or target.startswith("__version__"):
        return True
    assert target in LAYER, f"{name} is in no layer"
    return LAYER[target] <= own


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_foreign_library_has_one_place(library: str) -> None:
    users = {m for m in MODULES if any(name.split(".")[0] == library for name in imports(m))}
    assert users <= set(ONLY_IN[library])


def test_protocol_machines_do_no_io() -> None:
    used = {
        module: NOT_SANS_IO & {name.split(".")[0] for name in imports(module)}
        for module in MODULES
        if module.startswith(SANS_IO)
    }
    assert {module: names for module, names in used.items() if names} == {}
