"""Published clients for browsers and Node.js: where they are, and pages that run them.

``scripts/test`` installs what ``tests/clients/package.json`` names into ``.venv/clients``. A page
is served from an origin of its own, as a customer's is: every request to an edge crosses origins.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from tests.support.processes import ROOT

SOURCES: Final = ROOT / "tests" / "clients"
MODULES: Final = Path(sys.prefix) / "clients" / "node_modules"
WATCH: Final = (SOURCES / "watch.js").read_text()
ENVIRONMENT: Final = {**os.environ, "NODE_PATH": str(MODULES)}

_PAGE: Final = (
    '<!doctype html><meta charset="utf-8"><title>{0}</title><script src="{0}.js"></script>'
)
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
)


class _Package(msgspec.Struct):
    version: str


def version_of(package: str) -> str:
    """The version of a package that is installed."""
    path = MODULES / package / "package.json"
    assert path.exists(), "the client packages are missing: scripts/test installs them"
    return msgspec.json.decode(path.read_bytes(), type=_Package).version


async def bundle(name: str) -> bytes:
    """Make one script of a page of ``tests/clients`` and all that it imports."""
    version_of("esbuild")
    command = [str(MODULES / ".bin" / "esbuild"), str(SOURCES / f"{name}.js")]
    options = ("--bundle", "--format=iife", "--platform=browser", "--log-level=warning")
    done = await trio.run_process([*command, *options], capture_stdout=True, env=ENVIRONMENT)
    return bytes(done.stdout)


@asynccontextmanager
async def serve_page(name: str, *, host: str = "127.0.0.1") -> AsyncGenerator[str]:
    """Serve a page with a client; gives its origin."""
    page, script = _PAGE.format(name).encode(), await bundle(name)

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            is_script = b".js " in bytes(await stream.receive_some())
            kind, body = (b"text/javascript", script) if is_script else (b"text/html", page)
            with suppress(trio.BrokenResourceError):  # browsers open connections ahead of need
                await stream.send_all(_HEAD % (kind, len(body)) + body)

    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        yield f"http://{host}:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
