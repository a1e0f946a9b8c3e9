"""Signaling as its callers feel it: round trips to the nearest region that answers.

TCP, TLS 1.3 and the request take a round trip each; the offer is read at the end of the third one's
first half. HTTP itself is not simulated. A region that is dark answers nothing, and the caller
turns to the next one after ``POST_TIMEOUT``, as clients of a DNS name with several addresses do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from edge.geo import Place, distance
from edge.transceiver.service import Transceiver
from planet_sim.calls import PlannedCall
from planet_sim.geography import REGIONS, internet
from planet_sim.network import TICK, PlanetNetwork

POST_TIMEOUT: Final = 3.0  # seconds
ROUND_TRIPS_BEFORE: Final = 2.5
ROUND_TRIPS_AFTER: Final = 0.5


@dataclass(frozen=True, slots=True)
class Desk:
    """The transceivers of one region, which answer offers."""

    region: str
    cluster: int
    transceivers: Sequence[Transceiver]


@dataclass(frozen=True, slots=True)
class Posted:
    """The answer to an offer, and who gave it."""

    answer: str
    desk: Desk


async def post_offer(
    network: PlanetNetwork, desks: Sequence[Desk], call: PlannedCall, offer: bytes
) -> Posted | None:
    """Have the nearest region answer, of the call's home cluster where it has one."""
    for desk in _nearest(desks, call):
        link = internet(call.city.point, call.access, REGIONS[desk.region])
        with trio.move_on_after(POST_TIMEOUT):
            if await _reach(network, desk, ROUND_TRIPS_BEFORE * 2 * link.latency):
                transceiver = desk.transceivers[call.number % len(desk.transceivers)]
                opened = await transceiver.open_call(offer, place=Place(point=call.city.point))
                if await _reach(network, desk, ROUND_TRIPS_AFTER * 2 * link.latency):
                    return Posted(opened.answer, desk)
            await trio.sleep_forever()
    return None


async def _reach(network: PlanetNetwork, desk: Desk, seconds: float) -> bool:
    """Wait for the round trips; returns whether the region is there all the while."""
    await trio.sleep(round(seconds / TICK) * TICK)
    return not network.is_dark(desk.region)


def _nearest(desks: Sequence[Desk], call: PlannedCall) -> list[Desk]:
    if call.home is not None:
        clusters = sorted({desk.cluster for desk in desks})
        home = clusters[call.home % len(clusters)]
        desks = [desk for desk in desks if desk.cluster == home]
    return sorted(desks, key=lambda desk: distance(REGIONS[desk.region], call.city.point))
