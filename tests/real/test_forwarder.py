"""Both forwarders on loopback: the contract, and their stores against a model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from edge.datagram import bind_udp
from edge.forwarder.native import NativeForwarder
from edge.forwarder.protocol import FlowStore
from tests.support.flow_store import CAPACITY, store_walk
from tests.support.forwarder_contract import BODIES, Body
from tests.support.forwarder_rig import MAKERS, rig_opener
from tests.support.net import open_loopback


@pytest.mark.parametrize("kind", ["pure", "native"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_the_contract(body: Body, host: str, kind: str) -> None:
    async with open_loopback() as net:
        await body(rig_opener(net, MAKERS[kind], host))


def test_the_native_store_is_as_the_model_says() -> None:
    with bind_udp(("127.0.0.1", 0)) as public, bind_udp(("127.0.0.1", 0)) as internal:

        def make() -> FlowStore:
            return NativeForwarder(
                [public],
                [internal],
                advertised=public.getsockname()[:2],
                stale=lambda: None,
                strangers_per_second=1.0,
                max_flows=CAPACITY,
            ).flows

        walk = store_walk(make)
        run_state_machine_as_test(walk, settings=settings(max_examples=30, stateful_step_count=40))
