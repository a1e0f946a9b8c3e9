"""Headless Firefox ESR in a network namespace, over WebDriver BiDi, with a tone as microphone.

Chrome-privileged preferences stand in for what a person would allow by hand: the microphone, and
the page's plain-HTTP origin as a secure context (the namespace's other end is no loopback address).
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from tests.support.devtools import (
    Connection,
    DevtoolsError,
    Page,
    Point,
    connected,
)
from tests.support.netns import Namespace
from tests.support.processes import child

FIREFOX: Final = "/usr/bin/firefox-esr"
START_SECONDS: Final = 60.0

PREFERENCES: Final[dict[str, bool | int | str]] = {
    # Microphone without a prompt and without a device; audio without a gesture.
    "media.navigator.permission.disabled": True,
    "media.navigator.streams.fake": True,
    "media.devices.insecure.enabled": True,
    "media.getusermedia.insecure.enabled": True,
    "media.autoplay.default": 0,
    "media.autoplay.blocking_policy": 0,
    # No codec download, and no contact to anyone.
    "media.gmp-manager.url": "",
    "media.gmp-manager.updateEnabled": False,
    "media.gmp-provider.enabled": False,
    "app.update.enabled": False,
    "app.update.auto": False,
    "app.normandy.enabled": False,
    "app.normandy.api_url": "",
    "browser.aboutHomeSnippets.updateUrl": "",
    "browser.newtabpage.enabled": False,
    "browser.newtabpage.activity-stream.feeds.system.topstories": False,
    "browser.region.network.url": "",
    "browser.region.update.enabled": False,
    "browser.safebrowsing.downloads.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.safebrowsing.blockedURIs.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.search.update": False,
    "browser.search.geoSpecificDefaults": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "browser.startup.homepage": "about:blank",
    "browser.topsites.contile.enabled": False,
    "browser.uitour.enabled": False,
    "captivedetect.canonicalURL": "",
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.policy.dataSubmissionPolicyBypassNotification": True,
    "dom.push.connection.enabled": False,
    "dom.push.serverURL": "",
    "extensions.getAddons.cache.enabled": False,
    "extensions.systemAddon.update.enabled": False,
    "extensions.update.enabled": False,
    "extensions.blocklist.enabled": False,
    "geo.enabled": False,
    "messaging-system.rsexperimentloader.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.disablePrefetch": True,
    "network.http.speculative-parallel-limit": 0,
    "network.prefetch-next": False,
    "network.trr.mode": 5,
    "remote.active-protocols": 1,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
    "toolkit.telemetry.server": "",
    "toolkit.telemetry.unified": False,
}


class _Server(msgspec.Struct):
    ws_port: int


class _Context(msgspec.Struct):
    context: str


class _Value(msgspec.Struct):
    type: str = ""
    value: object = None


class _Exception(msgspec.Struct):
    text: str = ""


class _Evaluated(msgspec.Struct, rename="camel"):
    type: str
    result: _Value = msgspec.field(default_factory=_Value)
    exception_details: _Exception = msgspec.field(default_factory=_Exception)


class _Log(msgspec.Struct):
    type: str
    level: str
    text: str | None = None


class _Image(msgspec.Struct):
    data: str


class FirefoxPage(Page):
    """A tab."""

    def __init__(self, connection: Connection, context: str) -> None:
        super().__init__()
        self._connection = connection
        self._context = context
        connection.on("log.entryAdded", self._on_log)

    async def goto(self, url: str) -> None:
        await self._connection.command(
            "browsingContext.navigate", object, context=self._context, url=url, wait="complete"
        )

    async def before_load(self, statements: str) -> None:
        await self._connection.command(
            "script.addPreloadScript", object, functionDeclaration=f"() => {{ {statements} }}"
        )

    async def screenshot(self, path: trio.Path) -> None:
        image = await self._connection.command(
            "browsingContext.captureScreenshot", _Image, context=self._context
        )
        await path.write_bytes(base64.b64decode(image.data))

    async def _run(self, script: str) -> str:
        evaluated = await self._connection.command(
            "script.evaluate",
            _Evaluated,
            expression=script,
            target={"context": self._context},
            awaitPromise=True,
        )
        if evaluated.type != "success":
            raise DevtoolsError(evaluated.exception_details.text)
        assert isinstance(evaluated.result.value, str)
        return evaluated.result.value

    async def _click_at(self, point: Point) -> None:
        pointer = {
            "type": "pointer",
            "id": "mouse",
            "actions": [
                {"type": "pointerMove", "x": int(point.x), "y": int(point.y)},
                {"type": "pointerDown", "button": 0},
                {"type": "pointerUp", "button": 0},
            ],
        }
        await self._connection.command(
            "input.performActions", object, context=self._context, actions=[pointer]
        )

    def _on_log(self, params: bytes) -> None:
        entry = msgspec.json.decode(params, type=_Log)
        (self.exceptions if entry.type == "javascript" else self.console).append(
            f"{entry.level}: {entry.text}"
        )


class Firefox:
    """A running browser."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def open(self) -> None:
        """Begin the BiDi session."""
        await self._connection.command("session.new", object, capabilities={})
        await self._connection.command("session.subscribe", object, events=["log.entryAdded"])

    async def new_page(self) -> FirefoxPage:
        """Open a tab."""
        created = await self._connection.command("browsingContext.create", _Context, type="tab")
        return FirefoxPage(self._connection, created.context)


@asynccontextmanager
async def firefox(inside: Namespace) -> AsyncGenerator[Firefox]:
    """Run a browser with a new profile inside the namespace."""
    with tempfile.TemporaryDirectory(prefix="edge-firefox-", ignore_cleanup_errors=True) as home:
        profile = trio.Path(home) / "profile"
        await profile.mkdir()
        await (profile / "user.js").write_text(_preferences(inside))
        command = [
            *inside.prefix,
            FIREFOX,
            "--headless",
            "--no-remote",
            "--profile",
            str(profile),
            "--remote-debugging-port=0",
            "about:blank",
        ]
        env = {"HOME": home, "MOZ_CRASHREPORTER_DISABLE": "1", "MOZ_DISABLE_AUTO_SAFE_MODE": "1"}
        async with child(command, env=env, own_group=True):
            port = await _read_port(profile / "WebDriverBiDiServer.json")
            stream = await inside.connect(port)
            async with connected(stream, f"127.0.0.1:{port}", "/session") as connection:
                browser = Firefox(connection)
                await browser.open()
                yield browser


def _preferences(inside: Namespace) -> str:
    preferences = {**PREFERENCES, "dom.securecontext.allowlist": inside.here}
    return "".join(
        f"user_pref({msgspec.json.encode(key).decode()}, {msgspec.json.encode(value).decode()});\n"
        for key, value in preferences.items()
    )


async def _read_port(path: trio.Path) -> int:
    """WebDriverBiDiServer.json appears in the profile when the browser listens."""
    with trio.fail_after(START_SECONDS):
        while True:
            try:
                return msgspec.json.decode(await path.read_bytes(), type=_Server).ws_port
            except (FileNotFoundError, msgspec.DecodeError):
                await trio.sleep(0.05)
