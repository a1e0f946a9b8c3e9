"""An ICE restart of a running call: the service's side, and media through it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from edge.errors import Drop, EndReason
from edge.transceiver.answers import IceRestart
from edge.webrtc.ice_credentials import FORMER_LIFETIME, IceCredentials
from edge.wire.sdp_fragment import decode_fragment
from tests.support.edge_net import Phone, VirtualEdge, open_edge
from tests.support.net import open_network

Clock = trio.abc.Clock
NEW = IceCredentials("newufrag", "new-password-of-the-client-1")


def restart(edge: VirtualEdge, phone: Phone) -> IceRestart:
    assert phone.call is not None
    return edge.transceivers[0].restart_ice(phone.call.call_id, NEW, None)


def use(phone: Phone, fragment: str) -> None:
    """Have the caller go on with the credentials of both sides."""
    told = decode_fragment(fragment.encode())
    caller = phone.caller
    caller.offer = replace(caller.offer, ufrag=NEW.ufrag, password=NEW.password)
    assert caller._answer is not None
    caller._answer = replace(caller._answer, ufrag=told.ufrag, password=told.password)


async def test_media_goes_on_through_a_restart(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge:
        service = edge.transceivers[0]
        async with edge.call() as phone:
            await phone.heard(50)
            assert phone.call is not None
            assert service.ice_generation(phone.call.call_id) == (0, phone.caller.offer.ufrag)
            told = restart(edge, phone)
            assert told.generation == 1
            assert f"{edge.public[0]} {edge.public[1]} typ host" in told.fragment
            await phone.heard(250, within=10.0)  # two checks of the former are answered
            use(phone, told.fragment)
            await phone.heard(150)
            assert service.ice_generation(phone.call.call_id) == (1, NEW.ufrag)
            assert phone.caller.journal.rejected == 0
            assert phone.caller.journal.received >= phone.caller.journal.sent - 5
            assert service.totals.dropped[Drop.UNKNOWN_SESSION] == 0
            assert len(service.roster.by_token) == 2
            again = restart(edge, phone)
            assert again.generation == 2
            assert len(service.roster.by_token) == 2, "two generations at most"
            phone.hang_up()
            with trio.fail_after(5.0):
                while service.sessions:
                    await trio.sleep(0.01)
        assert not service.roster.by_token
        assert service.totals.ended == {EndReason.PEER_CLOSED: 1}


async def test_the_former_credentials_die(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        await phone.heard(50)
        caller, service = phone.caller, edge.transceivers[0]
        offer, answer = caller.offer, caller._answer
        use(phone, restart(edge, phone).fragment)
        await phone.heard(150)
        caller.offer, caller._answer = offer, answer  # as somebody who has only seen the former
        await trio.sleep(FORMER_LIFETIME + 1.0)
        (session,) = service.roster.by_call.values()
        assert session.drops()[Drop.BAD_INTEGRITY] >= 1


async def test_what_is_not_there_can_not_restart(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge:
        with pytest.raises(LookupError):
            edge.transceivers[0].restart_ice("rtc_1", NEW, None)
        with pytest.raises(LookupError):
            edge.transceivers[0].ice_generation("rtc_1")
