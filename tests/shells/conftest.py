"""A virtual network, and a relay on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.net import VirtualNetwork, open_network
from tests.support.relay_rig import Rig, open_rig


@pytest.fixture
async def net() -> AsyncIterator[VirtualNetwork]:
    async with open_network() as network:
        yield network


@pytest.fixture
async def rig(net: VirtualNetwork) -> AsyncIterator[Rig]:
    async with open_rig(net) as opened:
        yield opened
