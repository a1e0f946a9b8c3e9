"""When a transceiver lends a session's media, by a fake that never hears anything itself."""

from __future__ import annotations

import trio
from trio.abc import Clock

from edge.wire.spp import encode_path
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.lending import FakePlane
from tests.support.net import VirtualNetwork, open_network


def path_of(phone: Phone, edge: VirtualEdge) -> bytes:
    return encode_path(phone.socket.address, edge.public)


async def test_media_as_usual_is_lent_until_the_session_ends(autojump_clock: Clock) -> None:
    plane = FakePlane()
    async with open_network() as network, open_edge(network, offload=plane) as edge:
        async with edge.call() as phone:
            await phone.heard(20)
            (stream,) = plane.streams
            relay = (await edge.registry.relays())[0].internal
            assert stream.paths == {path_of(phone, edge)}
            assert stream.lends > 15
            assert stream.place == (path_of(phone, edge), plane.endpoint(relay))
            phone.hang_up()
            await trio.sleep(0.1)
        place = stream.place
        assert place is None
        assert stream.closed == 1


async def test_a_path_that_two_claim_is_lent_to_neither(autojump_clock: Clock) -> None:
    plane = FakePlane()
    async with (
        open_network() as network,
        open_edge(network, offload=plane) as edge,
        edge.call() as victim,
    ):
        await victim.heard(20)
        async with edge.call() as attacker:
            await attacker.heard(20)
            his, other = plane.streams
            assert his.place is not None
            forge_check(network, attacker, victim, edge)
            await trio.sleep(0.0105)  # two links
            assert his.place is None, "at once, whatever comes next"
            await trio.sleep(0.05)
            lends, others = his.lends, other.lends
            await victim.heard(20)
            assert (his.lends, his.place) == (lends, None)
            assert other.lends > others, "on a path of his own he is served as before"
            attacker.hang_up()
            await trio.sleep(0.1)
        await victim.heard(20)
        assert his.lends > lends
        assert path_of(victim, edge) not in other.paths


def forge_check(network: VirtualNetwork, sender: Phone, owner: Phone, edge: VirtualEdge) -> None:
    """Send a valid check of one call from the address of another's client."""
    check = sender.caller._make_check(trio.current_time())
    network.transmit(check, owner.socket.address, edge.public)
