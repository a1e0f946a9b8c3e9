"""A lost DTLS datagram costs a tenth of a second, not one: in Chromium, whichever it is."""

from __future__ import annotations

import pytest
import trio

from edge.address import format_address
from edge.wire.demux import Kind, classify
from tests.browser.variants import (
    ACTIVE,
    PASSIVE,
    Variant,
    act,
    hear_more,
    open_variants,
    place,
    statistics,
)
from tests.support.chromium import chromium
from tests.support.edges import free_udp_port
from tests.support.lossy import HOST, Direction, open_lossy_proxy
from tests.support.processes import edge

MAX_SETUP_MS = 500
"""Far above what a call takes here with one repetition, and below a timer of one second."""
HEARING_MS = 300
"""For five packets each way, and for asking the browser."""
LOSSES: tuple[tuple[Direction, int], ...] = (
    ("up", 1), ("up", 2), ("up", 3), ("down", 1), ("down", 2), ("down", 3)
)  # fmt: skip


class LoseOne:
    """Loses the n-th DTLS datagram of one direction."""

    def __init__(self, direction: Direction, number: int) -> None:
        self.lost = False
        self._direction = direction
        self._left = number

    def __call__(self, direction: Direction, datagram: bytes) -> bool:
        if direction != self._direction or classify(datagram) is not Kind.DTLS:
            return False
        self._left -= 1
        self.lost |= self._left == 0
        return self._left == 0


@pytest.mark.parametrize("variant", [PASSIVE, ACTIVE], ids=["we are client", "we are server"])
async def test_every_lost_datagram_of_the_handshake_is_repeated(variant: Variant) -> None:
    async with open_lossy_proxy() as proxy:
        proxy.upstream = HOST, free_udp_port()
        bind, advertise = format_address(proxy.upstream), format_address(proxy.address)
        flags = ("serve", "--http", f"{HOST}:0", "--udp", bind, "--advertise", advertise)
        async with edge(*flags) as server, chromium() as browser:
            page = await browser.new_page()
            await open_variants(page, server.http)
            await place(page, variant)  # the first call of a process is slow
            slow: list[str] = []
            for direction, number in LOSSES:
                proxy.loses = loss = LoseOne(direction, number)
                started = trio.current_time()
                call = await place(page, variant)
                connected = (await statistics(page, call)).milliseconds
                await hear_more(page, call)
                heard = (trio.current_time() - started) * 1000
                line = f"{direction} {number}: connected {connected:.0f} ms, heard {heard:.0f} ms"
                print(line if loss.lost else f"{line}, nothing was lost")
                if max(connected, heard - HEARING_MS) > MAX_SETUP_MS:
                    slow.append(line)
                await act(page, "hangUp", call)
            assert not slow
