"""What stands where: one region, or nine of them in three clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Cluster:
    """Relays and transceivers that share a registry, by the names of their regions."""

    number: int
    relays: tuple[str, ...]
    transceivers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deployment:
    """All clusters of a fleet, with one relay in each of their regions.

    A second relay in a region would change nothing here: what fails is always a whole region.
    """

    name: str
    clusters: tuple[Cluster, ...]
    transceivers: int = 2
    """In each region that has any."""

    @property
    def regions(self) -> tuple[str, ...]:
        """Where relays stand."""
        return tuple(region for cluster in self.clusters for region in cluster.relays)


ONE_REGION: Final = Deployment("one region", (Cluster(1, ("us-east",), ("us-east",)),))

MANY_REGIONS: Final = Deployment(
    "many regions",
    (
        Cluster(1, ("us-east", "us-west", "sa-east"), ("us-east", "us-west")),
        Cluster(2, ("eu-west", "eu-central"), ("eu-west", "eu-central")),
        Cluster(
            3,
            ("ap-south", "ap-southeast", "ap-northeast", "ap-sydney"),
            ("ap-southeast", "ap-northeast"),
        ),
    ),
)
