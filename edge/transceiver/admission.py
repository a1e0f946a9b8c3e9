"""Saying no before quality falls."""

from __future__ import annotations


class Overloaded(Exception):
    """There is no room for another session; trying again makes sense after some seconds."""

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"no room for another session, try again in {retry_after_seconds:g} s")
        self.retry_after_seconds = retry_after_seconds
