"""Headless Chromium over its DevTools protocol, with a beep tone as microphone.

The browser is unmodified; the flags only give it a fake device and loopback candidates (it gathers
none on a machine without a network) and keep it from talking to anyone but the page under test.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from tests.support.devtools import Connection, DevtoolsError, Page, Point, T, connected
from tests.support.processes import child

CHROMIUM: Final = "/usr/bin/chromium"
START_SECONDS: Final = 30.0
FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--password-store=basic",
    "--log-level=3",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",
    # Names outside the machine are not to be looked up at all.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--window-size=1280,900",
    "--remote-debugging-port=0",
)


class _Target(msgspec.Struct, rename="camel"):
    target_id: str


class _Session(msgspec.Struct, rename="camel"):
    session_id: str


class _Remote(msgspec.Struct):
    value: object = None
    description: str = ""


class _Exception(msgspec.Struct):
    text: str = ""
    exception: _Remote = msgspec.field(default_factory=_Remote)


class _Evaluated(msgspec.Struct, rename="camel"):
    result: _Remote
    exception_details: _Exception | None = None


class _Thrown(msgspec.Struct, rename="camel"):
    exception_details: _Exception


class _Console(msgspec.Struct):
    type: str
    args: list[_Remote]


class _Image(msgspec.Struct):
    data: str


class _Navigated(msgspec.Struct, rename="camel"):
    error_text: str = ""


class ChromiumPage(Page):
    """A tab behind a DevTools session."""

    def __init__(self, connection: Connection, session: str, target: str) -> None:
        super().__init__()
        self._connection = connection
        self._session = session
        self._target = target
        self._loaded = trio.Event()

    async def open(self) -> None:
        """Subscribe to what the tab reports."""
        self._connection.on("Page.loadEventFired", lambda _: self._loaded.set())
        self._connection.on("Runtime.consoleAPICalled", self._on_console)
        self._connection.on("Runtime.exceptionThrown", self._on_exception)
        await self._command("Page.enable", object)
        await self._command("Runtime.enable", object)

    async def close(self) -> None:
        """Close the tab, as a person would."""
        await self._connection.command("Target.closeTarget", object, targetId=self._target)

    async def goto(self, url: str) -> None:
        self._loaded = trio.Event()
        navigated = await self._command("Page.navigate", _Navigated, url=url)
        if navigated.error_text:
            raise DevtoolsError(f"navigation: {navigated.error_text}")
        with trio.fail_after(START_SECONDS):
            await self._loaded.wait()

    async def before_load(self, statements: str) -> None:
        await self._command("Page.addScriptToEvaluateOnNewDocument", object, source=statements)

    async def screenshot(self, path: trio.Path) -> None:
        image = await self._command("Page.captureScreenshot", _Image, format="png")
        await path.write_bytes(base64.b64decode(image.data))

    async def _run(self, script: str) -> str:
        evaluated = await self._command(
            "Runtime.evaluate",
            _Evaluated,
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        if evaluated.exception_details is not None:
            raise DevtoolsError(_describe(evaluated.exception_details))
        assert isinstance(evaluated.result.value, str)
        return evaluated.result.value

    async def _click_at(self, point: Point) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            await self._command(
                "Input.dispatchMouseEvent",
                object,
                type=kind,
                x=point.x,
                y=point.y,
                button="left",
                clickCount=1,
            )

    async def _command(self, method: str, kind: type[T], **params: object) -> T:
        return await self._connection.command(method, kind, session=self._session, **params)

    def _on_console(self, params: bytes) -> None:
        event = msgspec.json.decode(params, type=_Console)
        words = [str(arg.value) if arg.value is not None else arg.description for arg in event.args]
        self.console.append(f"{event.type}: {' '.join(words)}")

    def _on_exception(self, params: bytes) -> None:
        self.exceptions.append(
            _describe(msgspec.json.decode(params, type=_Thrown).exception_details)
        )


class Chromium:
    """A running browser."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def new_page(self) -> ChromiumPage:
        """Open a tab."""
        target = await self._connection.command("Target.createTarget", _Target, url="about:blank")
        session = await self._connection.command(
            "Target.attachToTarget", _Session, targetId=target.target_id, flatten=True
        )
        page = ChromiumPage(self._connection, session.session_id, target.target_id)
        await page.open()
        return page

    async def close(self) -> None:
        """Ask it to quit."""
        await self._connection.command("Browser.close", object)


@asynccontextmanager
async def chromium(*flags: str) -> AsyncGenerator[Chromium]:
    """Run a browser with a new profile; the whole process group is gone afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="edge-chromium-", ignore_cleanup_errors=True
    ) as profile:
        command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
        async with child(command, own_group=True) as process:
            port, path = await _read_port(trio.Path(profile) / "DevToolsActivePort")
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with connected(stream, f"127.0.0.1:{port}", path) as connection:
                browser = Chromium(connection)
                yield browser
                with trio.move_on_after(5.0):
                    await browser.close()
                    await process.process.wait()


async def _read_port(path: trio.Path) -> tuple[int, str]:
    """DevToolsActivePort appears when the browser listens: the port, then the WebSocket path."""
    with trio.fail_after(START_SECONDS):
        while not (await path.exists() and "\n" in await path.read_text()):
            await trio.sleep(0.05)
        port, resource = (await path.read_text()).split("\n")[:2]
    return int(port), resource


def _describe(details: _Exception) -> str:
    return details.exception.description or str(details.exception.value or details.text)
