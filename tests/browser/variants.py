"""Calls that differ in their offers, made by any browser through the page's ``variants.js``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec
import trio

from edge.errors import EndReason
from tests.support.devtools import DevtoolsError, Page
from tests.support.edges import ended, sessions
from tests.support.interop import Row, opposite, record

SCRIPT: Final = Path(__file__).with_name("variants.js").read_text()
CONNECT_SECONDS: Final = 8.0
HEAR_SECONDS: Final = 3.0
NOTICE_SECONDS: Final = 3.0
QUIET_SECONDS: Final = 0.3
"""How long a call that must not hear anything is listened to."""

Part = Literal["audio", "video", "channel", "described"]


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One offer: its sections in order and what else is unusual about it."""

    name: str
    parts: tuple[Part, ...] = ("audio",)
    direction: Literal["sendrecv", "recvonly", "sendonly"] = "sendrecv"
    codec: Literal["", "opus", "pcmu", "pcma"] = ""
    setup: Literal["actpass", "active", "passive"] = "actpass"
    bundle: Literal["balanced", "max-bundle", "max-compat"] = "balanced"


class Statistics(msgspec.Struct, frozen=True):
    """What ``getStats()`` says of a call; what a browser does not tell is empty."""

    state: str
    milliseconds: float
    sent: int
    received: int
    codec: str
    srtp: str
    role: str
    channel: str
    """Of the data channel, where there is one."""


SENDRECV: Final = Variant(name="sendrecv")
RECVONLY: Final = Variant(name="recvonly, no microphone", direction="recvonly")

CHANNEL: Final = Variant(name="audio, data channel", parts=("channel", "audio"))
PASSIVE: Final = Variant(name="a=setup:passive", setup="passive")
ACTIVE: Final = Variant(name="a=setup:active", setup="active")

VARIANTS: Final = (
    SENDRECV,
    RECVONLY,
    Variant(name="sendonly", direction="sendonly"),
    CHANNEL,
    Variant(name="data channel, audio", parts=("channel", "described", "audio")),
    Variant(
        name="data channel, audio, max-bundle",
        parts=("channel", "described", "audio"),
        bundle="max-bundle",
    ),
    Variant(name="video, audio", parts=("video", "audio")),
    Variant(name="video, audio, max-bundle", parts=("video", "audio"), bundle="max-bundle"),
    Variant(name="video, audio, max-compat", parts=("video", "audio"), bundle="max-compat"),
    Variant(
        name="video, audio, video, data channel, max-bundle",
        parts=("video", "audio", "video", "channel"),
        bundle="max-bundle",
    ),
    Variant(name="PCMU only", codec="pcmu"),
    Variant(name="PCMA only", codec="pcma"),
    PASSIVE,
    ACTIVE,
)


async def open_variants(page: Page, http: str) -> None:
    """Load a page of the edge's origin with the script."""
    await page.before_load(SCRIPT)
    await page.goto(f"{http}/")


async def place(page: Page, variant: Variant) -> int:
    """Make a call and wait until it is connected; gives its number on the page."""
    with trio.fail_after(CONNECT_SECONDS):
        return await page.evaluate(f"window.variants.place({_json(variant)})", int)


async def abandon(page: Page, variant: Variant) -> None:
    """Have a call answered, and close it before the answer is applied."""
    await page.evaluate(f"window.variants.abandon({_json(variant)})", object)


async def statistics(page: Page, call: int) -> Statistics:
    """Ask the browser."""
    return await page.evaluate(f"window.variants.statistics({call})", Statistics)


async def act(page: Page, action: str, call: int, *arguments: object) -> None:
    """Do something with a call: mute, detach, attach, hangUp."""
    given = ", ".join(_json(each) for each in (call, *arguments))
    await page.evaluate(f"window.variants.{action}({given})", object)


async def hear_more(page: Page, call: int, packets: int = 5) -> Statistics:
    """Wait until so many more packets were received and sent; AssertionError if they are not."""
    first = now = await statistics(page, call)
    with trio.move_on_after(HEAR_SECONDS):
        while min(now.received - first.received, now.sent - first.sent) < packets:
            await trio.sleep(0.05)
            now = await statistics(page, call)
        return now
    raise AssertionError(f"not heard: {first}, then {now}")


async def try_all(page: Page, http: str, client: str, variants: Iterable[Variant]) -> list[str]:
    """Make a call of every variant, one after the other; gives what went wrong."""
    version = await browser_version(page)
    failures = []
    for variant in variants:
        row = Row(client=client, version=version, what=variant.name, result="ok")
        try:
            seen = await _try(page, http, variant)
            row = msgspec.structs.replace(
                row,
                result=", ".join(filter(None, ("ok", seen.codec, _channel(seen)))),
                srtp=seen.srtp,
                role=opposite(seen.role),
                setup_ms=round(seen.milliseconds, 1),
            )
        except (AssertionError, DevtoolsError, trio.TooSlowError) as error:
            row = msgspec.structs.replace(row, result="failed")
            failures.append(f"{variant.name}: {error!r}")
        record(row)
    return failures


async def browser_version(page: Page) -> str:
    """The major version that the browser gives itself."""
    expression = r"navigator.userAgent.match(/(?:Chrome|Firefox)\/(\d+)/)[1]"
    return await page.evaluate(expression, str)


async def _try(page: Page, http: str, variant: Variant) -> Statistics:
    call = await place(page, variant)
    if variant.direction == "sendrecv":
        seen = await hear_more(page, call)
    else:
        await trio.sleep(QUIET_SECONDS)
        seen = await statistics(page, call)
        assert seen.received == 0, f"we answered that we do not send: {seen}"
        assert bool(seen.sent) is (variant.direction == "sendonly"), seen
    assert seen.state == "connected", seen
    assert ("channel" in variant.parts) is (seen.channel == "open"), seen
    if variant.codec:
        assert seen.codec.lower() == variant.codec, seen
    assert await sessions(http) == 1
    closed = await ended(http, EndReason.PEER_CLOSED)
    await act(page, "hangUp", call)
    await wait_ended(http, EndReason.PEER_CLOSED, closed + 1)
    return seen


def _channel(seen: Statistics) -> str:
    return f"channel {seen.channel}" if seen.channel else ""


async def wait_ended(
    http: str, reason: EndReason, count: int, *, seconds: float = NOTICE_SECONDS
) -> None:
    """Wait until so many sessions have ended for this reason."""
    found = -1
    with trio.move_on_after(seconds):
        while (found := await ended(http, reason)) < count:
            await trio.sleep(0.02)
    assert found == count, f"{found} sessions instead of {count} ended by {reason}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
