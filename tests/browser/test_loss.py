"""Chromium through a proxy that loses.

A lost DTLS datagram costs a tenth of a second, not one, whichever it is. And lost audio is repaired
in both directions: what Chromium says by the redundant copies that it was asked for (RFC 2198),
what it hears by the FEC inside of our Opus.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from edge.address import format_address
from edge.wire.demux import Kind, classify
from tests.browser.talk import KEEP_CONNECTIONS, hear, start_talking
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
from tests.support.devtools import Page
from tests.support.edges import free_udp_port
from tests.support.loss_runs import Trouble, open_loss_scene
from tests.support.lossy import HOST, Direction, LossyProxy, open_lossy_proxy
from tests.support.processes import edge
from tests.support.sounds import syllables, write_wav

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


AUDIO = """
(async () => {
    const report = await window.connections.at(-1).getStats();
    const find = (type) => [...report.values()].find(item => item.type === type);
    const hears = find("inbound-rtp");
    return {
        hears: report.get(hears.codecId).mimeType,
        received: hears.packetsReceived,
        lost: hears.packetsLost,
        fec: hears.fecPacketsReceived ?? 0,
        discarded: hears.fecPacketsDiscarded ?? 0,
        energy: hears.totalAudioEnergy,
    };
})()
"""


class Audio(msgspec.Struct, frozen=True):
    """What ``getStats()`` says of the audio that arrives, in packets."""

    hears: str
    received: int
    lost: int
    fec: int
    discarded: int
    energy: float


RED_TYPE = """
Number(window.connections.at(-1).remoteDescription.sdp.match(/^a=rtpmap:(\\d+) red.48000/m)[1])
"""


async def audio(page: Page) -> Audio:
    return await page.evaluate(AUDIO, Audio)


async def payload_types(proxy: LossyProxy, seconds: float) -> set[int]:
    """Of what Chromium sends; the RTP header is in the clear."""
    seen: set[int] = set()

    def look(direction: Direction, datagram: bytes) -> bool:
        if direction == "up" and classify(datagram) is Kind.RTP:
            seen.add(datagram[1] & 0x7F)
        return False

    proxy.loses = look
    await trio.sleep(seconds)
    return seen


@pytest.mark.alone
async def test_red_from_chromium_and_fec_to_it_repair_losses(tmp_path: Path) -> None:
    microphone = tmp_path / "microphone.wav"
    write_wav(microphone, syllables(4.0))
    flag = f"--use-file-for-fake-audio-capture={microphone}"
    async with open_loss_scene() as scene, chromium(flag) as browser:
        page = await browser.new_page()
        await page.before_load(KEEP_CONNECTIONS)
        await page.goto(f"{scene.server.http}/")
        await start_talking(page)
        await hear(page, seconds=3.0)
        assert await payload_types(scene.proxy, 1.0) == {await page.evaluate(RED_TYPE, int)}
        before, figures = await audio(page), await scene.look()
        lost = await scene.disturb(Trouble(name="10 % loss", seconds=5.0, loss=0.1))
        after, repaired = await audio(page), await scene.look()
        print(before, after, lost, figures, repaired, sep="\n")
    assert repaired.red - figures.red > 0.7 * lost > 5
    assert repaired.concealed - figures.concealed < 0.02 * lost
    assert after.hears == "audio/opus"  # we answer RED and send none
    assert after.energy > before.energy
    missing = after.lost - before.lost
    used = after.fec - after.discarded - (before.fec - before.discarded)
    assert missing > 5
    assert used > 0.2 * missing  # its echo canceller takes most of what comes back away
