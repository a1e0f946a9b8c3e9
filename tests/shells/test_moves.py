"""Sessions that outlive their transceiver: the whole edge on a virtual network."""

from __future__ import annotations

import trio
import trio.testing

from edge.errors import EndReason
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import open_network

Clock = trio.abc.Clock


async def served_by(edge: VirtualEdge, transceiver: int, *, within: float = 5.0) -> None:
    """Wait until a transceiver has the one session, or fail."""
    with trio.fail_after(within):
        while not edge.transceivers[transceiver].sessions:
            await trio.sleep(0.01)


async def settled(phone: Phone) -> None:
    """Talk until a checkpoint of the call is surely stored."""
    await phone.heard(60)


async def test_a_call_outlives_a_transceiver_that_is_gone(autojump_clock: Clock) -> None:
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call() as phone,
    ):
        await settled(phone)
        edge.cut_off(0)
        await served_by(edge, 1)
        await phone.heard(100)
        journal = phone.caller.journal
        assert journal.longest_hole() <= 0.9
        mobility = edge.transceivers[1].mobility
        assert mobility is not None
        assert mobility.custody.taken_over == 1
        edge.join_again(0)
        await phone.heard(50)
        assert edge.transceivers[0].totals.ended == {EndReason.FENCED: 1}
        assert edge.transceivers[0].sessions == 0


async def test_a_drain_hands_the_call_over_without_a_gap(autojump_clock: Clock) -> None:
    async with (
        open_network() as network,
        open_edge(network, transceivers=2, mobile=True) as edge,
        edge.call() as phone,
    ):
        await settled(phone)
        await edge.transceivers[0].drain()
        assert edge.transceivers[0].totals.ended == {EndReason.MOVED: 1}
        await phone.heard(100)
        statistics = phone.caller.journal.statistics(now=trio.current_time())
        assert statistics.missing == 0
        assert edge.transceivers[1].sessions == 1
