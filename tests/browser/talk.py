"""What a person does on the demo page, and what getStats() says of it, in every browser.

The page is not asked about its calls: a script that runs before its own keeps every connection that
it makes in ``window.connections``.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec
import trio

from tests.support.devtools import Page

T = TypeVar("T")

KEEP_CONNECTIONS: Final = """
window.connections = [];
window.RTCPeerConnection = new Proxy(window.RTCPeerConnection, {
    construct(target, args) {
        const connection = new target(...args);
        window.connections.push(connection);
        return connection;
    },
});
"""

STATE: Final = "window.connections.at(-1)?.connectionState"

INBOUND: Final = """
(async () => {
    const report = await window.connections.at(-1)?.getStats() ?? new Map();
    return [...report.values()].filter(item => item.type === "inbound-rtp");
})()
"""

SELECTED_PORTS: Final = """
(async () => {
    const report = await window.connections.at(-1).getStats();
    const pairs = [...report.values()].filter(
        item => item.type === "candidate-pair" && item.state === "succeeded" && item.nominated);
    return pairs.map(pair => report.get(pair.remoteCandidateId).port);
})()
"""


class Inbound(msgspec.Struct, rename="camel"):
    """The audio that arrives, as the browser counts it."""

    packets_received: int
    packets_lost: int = 0
    total_audio_energy: float = 0.0


async def open_page(page: Page, http: str) -> None:
    """Load the demo page."""
    await page.before_load(KEEP_CONNECTIONS)
    await page.goto(f"{http}/")


async def start_talking(page: Page) -> None:
    """Click the button."""
    await page.click("#talk")


async def hear(page: Page, *, seconds: float) -> Inbound:
    """Wait until decoded audio with energy has arrived; AssertionError after ``seconds``."""
    inbound: list[Inbound] = []
    with trio.move_on_after(seconds):
        while True:
            inbound = await page.evaluate(INBOUND, list[Inbound])
            for found in inbound:
                if found.packets_received and found.total_audio_energy:
                    return found
            await trio.sleep(0.05)
    state = await page.evaluate(STATE, object)
    raise AssertionError(
        f"nothing heard: state {state}, {inbound}, {[*page.console, *page.exceptions]}"
    )


async def selected_remote_ports(page: Page) -> set[int]:
    """Ports on the server's side of the nominated candidate pairs."""
    return set(await first_of(page, SELECTED_PORTS, list[int]))


async def first_of(page: Page, script: str, kind: type[list[T]]) -> list[T]:
    """Wait until a script gives something: audio may be heard before a pair is nominated."""
    await page.wait_until(f"(await ({script})).length", seconds=2.0)
    return await page.evaluate(script, kind)


async def hang_up(page: Page) -> None:
    """Click the button again and wait until the connection is closed."""
    await page.click("#talk")
    await page.wait_until(f"{STATE} === 'closed'", seconds=5.0)
