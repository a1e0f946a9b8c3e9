"""The README's JavaScript, as it stands, in an unmodified headless Chromium."""

from __future__ import annotations

from tests.browser.talk import hear, open_page
from tests.support.chromium import chromium
from tests.support.edges import SERVE, wait_sessions
from tests.support.processes import edge
from tests.support.readme import blocks

MAKE_AUDIO = """(() => {
    window.audio = document.createElement("audio");
    audio.id = "audio";
    audio.autoplay = true;
    document.body.append(audio);
    return true;
})()"""


async def test_the_snippet_hears_its_echo() -> None:
    (snippet,) = blocks("js")
    async with edge(*SERVE) as server, chromium() as browser:
        page = await browser.new_page()
        await open_page(page, server.http)
        assert await page.evaluate(MAKE_AUDIO, bool)
        await page.evaluate(f"(async () => {{\n{snippet}\n}})()", object)
        heard = await hear(page, seconds=3.0)
        assert heard.packets_received > 0
        assert heard.total_audio_energy > 0
        await page.wait_until("audio.srcObject?.active && audio.currentTime > 0", seconds=2.0)
        await wait_sessions(server.http, 1)
        assert not page.exceptions
