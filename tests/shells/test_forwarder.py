"""The pure forwarder on the virtual network: the contract, and what only it promises."""

from __future__ import annotations

import pytest
import trio
from trio.abc import Clock

from edge.errors import Drop
from tests.support.forwarder_contract import BODIES, Body
from tests.support.forwarder_rig import RTP, make_pure, rig_opener
from tests.support.net import open_network, receive


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_the_contract(autojump_clock: Clock, body: Body, host: str) -> None:
    async with open_network() as net:
        await body(rig_opener(net, make_pure, host))


async def test_a_bug_ends_nothing(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_network() as net, rig_opener(net, make_pure, "127.0.0.1")() as rig:
        owner = rig.transceiver(3)
        rig.flow(4)
        monkeypatch.setattr(rig, "hint_stale", lambda: 1 // 0)
        rig.client.send(RTP, rig.public)
        await rig.counts(drops={Drop.UNKNOWN_SLOT: 1, Drop.BUG: 1})
        rig.flow(3)
        rig.client.send(RTP, rig.public)
        assert await receive(owner) == [rig.path + RTP]


async def test_an_idle_loop_adds_no_wait_and_a_busy_one_a_tick(autojump_clock: Clock) -> None:
    async with open_network() as net, rig_opener(net, make_pure, "127.0.0.1")() as rig:
        owner = rig.transceiver(3)
        rig.flow(3)
        rig.client.send(RTP, rig.public)
        start = trio.current_time()
        await receive(owner)
        assert trio.current_time() - start == pytest.approx(0.010)  # two links of 5 ms
        for _ in range(400):  # 10,000 packets/s
            rig.client.send(RTP, rig.public)
            await trio.sleep(0.0001)
        await receive(owner, 400)
        assert 100 < rig.forwarder.statistics().wakes < 200
