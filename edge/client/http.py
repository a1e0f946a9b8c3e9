"""One HTTP request, as in ``edge.http.request``."""

from __future__ import annotations

from edge.http.request import Response, request

__all__ = ["Response", "request"]
