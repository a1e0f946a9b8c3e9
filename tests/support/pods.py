"""Network namespaces as pods: each with an address of its own on one bridge, and new ones later.

Our end of the bridge is the gateway, where clients, Redis and backends are. A pod that is cut off
is taken from the bridge: what it sends goes nowhere and nothing reaches it, without any error. All
is taken down at the end. Needs root.
"""

from __future__ import annotations

import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

CLOSE_SECONDS: Final = 30.0
BRIDGE_ADDRESS: Final = "02:00:5e:00:53:01"


@dataclass(frozen=True, slots=True)
class Pod:
    """One namespace with one address."""

    name: str
    address: str
    device: str
    """Our end of its cable."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """What goes before a command to run it inside."""
        return ("ip", "netns", "exec", self.name)


class PodNetwork:
    """Makes pods; made by ``pod_network``."""

    def __init__(self) -> None:
        self._unique = f"{os.getpid():x}{random.randrange(256):02x}"[-7:]
        self._block = f"10.{160 + random.randrange(60)}"
        self._made = 0
        self._pods: list[Pod] = []

    @property
    def bridge(self) -> str:
        """Name of the bridge."""
        return f"br{self._unique}"

    @property
    def gateway(self) -> str:
        """Our address."""
        return f"{self._block}.0.1"

    async def set_up(self) -> None:
        """Make the bridge."""
        # An address of its own: else it has the lowest of its ports', which come and go.
        await ip("link", "add", self.bridge, "address", BRIDGE_ADDRESS, "type", "bridge")
        await ip("address", "add", f"{self.gateway}/16", "dev", self.bridge)
        await ip("link", "set", self.bridge, "up")

    async def add(self) -> Pod:
        """Make a pod with an address that none has had before."""
        self._made += 1
        tail = self._made + 1
        pod = Pod(
            f"edge-{self._unique}-{self._made}",
            f"{self._block}.{tail >> 8}.{tail & 255}",
            f"v{self._unique}{self._made:x}",
        )
        self._pods.append(pod)
        within = ("-n", pod.name)
        await ip("netns", "add", pod.name)
        inner = ("peer", "name", "eth0", "netns", pod.name)
        await ip("link", "add", pod.device, "type", "veth", *inner)
        await ip("link", "set", pod.device, "master", self.bridge, "up")
        await ip(*within, "address", "add", f"{pod.address}/16", "dev", "eth0")
        await ip(*within, "link", "set", "lo", "up")
        await ip(*within, "link", "set", "eth0", "up")
        await ip(*within, "route", "add", "default", "via", self.gateway)
        return pod

    async def cut(self, pod: Pod) -> None:
        """Take it off the network."""
        await ip("link", "set", pod.device, "nomaster")

    async def mend(self, pod: Pod) -> None:
        """Put it back."""
        await ip("link", "set", pod.device, "master", self.bridge)

    async def remove(self, pod: Pod) -> None:
        """Take a pod down; nothing may run in it any more."""
        if pod in self._pods:
            self._pods.remove(pod)
            await ip("link", "delete", pod.device, check=False)
            await ip("netns", "delete", pod.name, check=False)

    async def take_down(self) -> None:
        """Leave nothing behind."""
        for pod in tuple(self._pods):
            await self.remove(pod)
        await ip("link", "delete", self.bridge, check=False)


@asynccontextmanager
async def pod_network() -> AsyncGenerator[PodNetwork]:
    """Make a network of pods; it is always taken down."""
    network = PodNetwork()
    try:
        await network.set_up()
        yield network
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            await network.take_down()


async def ip(*arguments: str, check: bool = True) -> None:
    """Run ``ip``; raises CalledProcessError."""
    await trio.run_process(["ip", *arguments], check=check, capture_stderr=True)
