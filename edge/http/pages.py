"""The demo page, served from memory: no path of a request ever reaches the file system."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

WEB: Final = Path(__file__).parent.parent / "web"

_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}

_PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
}


def page_routes(web: Path = WEB) -> list[BaseRoute]:
    """One route a file under ``/web/``, and ``/`` for ``index.html``; read once, at start."""
    routes: list[BaseRoute] = []
    for path in sorted(web.iterdir() if web.is_dir() else ()):
        if path.suffix in _MEDIA_TYPES and path.is_file():
            serve = _serve(path.read_bytes(), path.suffix)
            routes.append(Route(f"/web/{path.name}", serve))
            if path.name == "index.html":
                routes.append(Route("/", serve))
    return routes


def _serve(content: bytes, suffix: str) -> Callable[[Request], Awaitable[Response]]:
    headers = {
        **_PAGE_HEADERS,
        "Content-Type": _MEDIA_TYPES[suffix],
        "Cache-Control": "no-store" if suffix == ".html" else "no-cache",
    }

    async def serve(request: Request) -> Response:
        return Response(content, headers=headers)

    return serve
