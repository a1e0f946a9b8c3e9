"""Where regions stand (where large clouds have theirs), and what the way between two places costs.

The public internet is slower, shakier and lossier than the lines between regions. Every number
here is a round assumption: docs/planet.md lists what delays they make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edge.geo import Point, distance
from tests.support.net import Link

FIBRE: Final = 200_000.0  # km/s: the speed of light over a refractive index of 1.5
INTERNET_ROUTE: Final = 1.5
"""How much longer than the great circle a fibre route of the public internet is."""
BACKBONE_ROUTE: Final = 1.3
"""The same between regions, over leased lines."""
INTERNET_LOSS_PER_KM: Final = 1e-6
"""One percent over 10,000 km of public internet."""
BACKBONE_LOSS_PER_KM: Final = 2e-8
LOCAL_DELAY: Final = 0.00025
"""Seconds between two machines of one region."""
JITTER_SHARE: Final = 0.03
"""Queues on the way: up to this share of the delay more."""


@dataclass(frozen=True, slots=True)
class Access:
    """A client's last mile: one-way seconds, and probability of loss."""

    delay: float
    jitter: float
    loss: float


WIRED: Final = Access(0.004, 0.001, 0.0005)
WIFI: Final = Access(0.008, 0.004, 0.003)
MOBILE: Final = Access(0.022, 0.010, 0.008)


def internet(client: Point, access: Access, server: Point) -> Link:
    """Return the conditions of the public way between a client and a server, either direction."""
    kilometres = distance(client, server)
    long_haul = kilometres * INTERNET_ROUTE / FIBRE
    return Link(
        latency=access.delay + long_haul,
        jitter=access.jitter + long_haul * JITTER_SHARE,
        loss=access.loss + kilometres * INTERNET_LOSS_PER_KM,
    )


def backbone(a: Point, b: Point) -> Link:
    """Return the conditions between two machines of ours."""
    kilometres = distance(a, b)
    long_haul = kilometres * BACKBONE_ROUTE / FIBRE
    return Link(
        latency=LOCAL_DELAY + long_haul,
        jitter=long_haul * JITTER_SHARE / 3,
        loss=kilometres * BACKBONE_LOSS_PER_KM,
    )


REGIONS: Final = {
    "us-east": Point(39.0, -77.5),  # Northern Virginia
    "us-west": Point(45.8, -119.7),  # Oregon
    "sa-east": Point(-23.5, -46.6),  # São Paulo
    "eu-west": Point(53.3, -6.3),  # Dublin
    "eu-central": Point(50.1, 8.7),  # Frankfurt
    "ap-south": Point(19.1, 72.9),  # Mumbai
    "ap-southeast": Point(1.3, 103.8),  # Singapore
    "ap-northeast": Point(35.7, 139.7),  # Tokyo
    "ap-sydney": Point(-33.9, 151.2),
}
"""By their names."""
