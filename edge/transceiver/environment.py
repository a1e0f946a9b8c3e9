"""Time and randomness, which nobody here takes from anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Environment:
    """Injected: a monotonic and a Unix clock in seconds, random bytes."""

    clock: Callable[[], float]
    unix: Callable[[], float]
    entropy: Callable[[int], bytes]
