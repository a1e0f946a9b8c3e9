"""Who calls when and from where; drawn from a seed, the same for every deployment."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from planet_sim.cities import CITIES, City
from planet_sim.geography import MOBILE, WIFI, WIRED, Access

ACCESS: Final = ((WIFI, 50), (MOBILE, 35), (WIRED, 15))
"""Kinds of last mile, with their share in percent."""
AWAY_SHARE: Final = 0.1
"""Calls whose session must live in a certain cluster, wherever the caller is."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the start of the simulation."""

    last_arrival: float = 15.5
    outage: float = 12.0
    end: float = 20.5


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call; its client's host is made of ``number``."""

    number: int
    city: City
    access: Access
    start: float
    home: int | None
    """For a session that may not live just anywhere: draws its cluster."""

    @property
    def host(self) -> str:
        """The client's address, which nobody else has."""
        return f"10.{self.number >> 16}.{self.number >> 8 & 255}.{self.number & 255}"


def plan_calls(count: int, *, seed: int, times: Times) -> list[PlannedCall]:
    """Draw the calls, in order of their start."""
    draw = Random(seed)
    starts = sorted(round(draw.uniform(0, times.last_arrival), 3) for _ in range(count))
    cities = draw.choices(CITIES, [city.millions for city in CITIES], k=count)
    accesses = draw.choices(
        [access for access, _ in ACCESS], [share for _, share in ACCESS], k=count
    )
    homes = [draw.randrange(64) if draw.random() < AWAY_SHARE else None for _ in range(count)]
    drawn = zip(range(1, count + 1), cities, accesses, starts, homes, strict=True)
    return [PlannedCall(*each) for each in drawn]
