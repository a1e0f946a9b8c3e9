"""Saying no before quality falls."""

from __future__ import annotations


class Overloaded(Exception):
    """No call can be taken now, for a reason that the caller may read; try again later."""

    def __init__(
        self, retry_after_seconds: float, reason: str = "no room for another call"
    ) -> None:
        super().__init__(f"{reason}, try again in {retry_after_seconds:g} s")
        self.retry_after_seconds = retry_after_seconds
        self.reason = reason
