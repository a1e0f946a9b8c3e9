"""Looks at every process of a fleet at once, within bounds that no process can stretch.

A page may take ``fetch_seconds`` and a whole look twice as long, however many do not answer; a
page has a size (``client.http``). Who answered the last time is asked first, then whoever has
waited longest, so that the dead keep nobody from being asked. Who leaves the registry stays in
sight for a while, as gone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from math import inf
from typing import Final, Literal

import h11
import msgspec
import trio

from edge.client.http import request
from edge.top.figures import (
    Part,
    RelayRow,
    State,
    TransceiverRow,
    relay_row,
    state_of,
    transceiver_row,
)
from edge.top.page import START, BadPage, Change, Page, parse_page
from edge.top.sources import Source

AT_ONCE: Final = 128
"""Processes asked at the same time."""
GONE_SECONDS: Final = 30.0
MINUTE: Final = 60.0
MAX_PAGES: Final = 64
"""Kept of one process."""

Fetch = Callable[[str], Awaitable[bytes]]
"""Gets the body behind a URL; raises OSError or BadPage."""


class Silent(msgspec.Struct, frozen=True, kw_only=True):
    """A process that does not answer, and why."""

    url: str
    reason: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a fleet; rates are per second, since the look before."""

    at: str
    """ISO 8601, UTC."""
    registry: Literal["up", "no answer", "not asked"]
    relays: list[RelayRow]
    transceivers: list[TransceiverRow]
    silent: list[Silent]


async def fetch(url: str) -> bytes:
    """Get a page over HTTP; nobody's certificate is verified. Raises OSError or BadPage."""
    try:
        response = await request("GET", url)
    except h11.RemoteProtocolError:
        raise BadPage("does not speak HTTP as it should") from None
    except trio.TooSlowError:
        raise BadPage("too slow") from None
    except trio.BrokenResourceError:
        raise BadPage("the connection broke") from None
    except (ValueError, h11.LocalProtocolError):
        raise BadPage("not a URL") from None
    if response.status != 200:
        raise BadPage(f"HTTP status {response.status}")
    return response.body


class Observer:
    """Looks at a fleet again and again, and remembers the pages of the last minute."""

    def __init__(
        self,
        source: Source,
        *,
        fetch: Fetch = fetch,
        fetch_seconds: float = 1.5,
        unix: Callable[[], float],
    ) -> None:
        self._source = source
        self._fetch = fetch
        self._seconds = fetch_seconds
        self._unix = unix
        self._pages: dict[str, deque[Page]] = {}
        self._silent: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        """When each was asked last."""
        self._seen: dict[tuple[str, int | None, str], tuple[Part, float]] = {}
        self._registry: Literal["up", "no answer", "not asked"] = "not asked"

    async def look(self) -> Snapshot:
        """Ask everybody once."""
        living = await self._find()
        await self._read({part.url: None for part in living if part.url})
        rows = [row for part, _ in self._seen.values() for row in self._rows(part, part in living)]
        return Snapshot(
            at=datetime.fromtimestamp(self._unix(), UTC).isoformat(timespec="seconds"),
            registry=self._registry,
            relays=[row for row in rows if isinstance(row, RelayRow)],
            transceivers=[row for row in rows if isinstance(row, TransceiverRow)],
            silent=[Silent(url=url, reason=reason) for url, reason in self._silent.items()],
        )

    async def _find(self) -> list[Part]:
        """Ask the source; where it does not answer, those stay whom it named last."""
        now = trio.current_time()
        parts = await self._source.parts()
        self._registry = "no answer" if parts is None else "up"
        if parts is None:
            return [part for part, _ in self._seen.values()]
        if any(part.kind == "process" for part in parts):
            self._registry = "not asked"
        named = {(part.kind, part.cluster, part.name): (part, now) for part in parts}
        self._seen = {
            key: seen for key, seen in (self._seen | named).items() if now - seen[1] < GONE_SECONDS
        }
        return list(parts)

    async def _read(self, urls: Iterable[str]) -> None:
        self._pages = {url: self._pages.get(url, deque(maxlen=MAX_PAGES)) for url in urls}
        self._asked = {url: self._asked.get(url, -inf) for url in self._pages}
        order = sorted(self._asked, key=self._urgency)
        self._silent = dict.fromkeys(self._pages, "no answer in time")
        slots = trio.Semaphore(AT_ONCE)
        with trio.move_on_after(2 * self._seconds):
            async with trio.open_nursery() as nursery:
                for url in order:
                    await slots.acquire()
                    nursery.start_soon(self._read_one, url, slots)

    def _urgency(self, url: str) -> tuple[bool, float]:
        return url in self._silent, self._asked[url]

    async def _read_one(self, url: str, slots: trio.Semaphore) -> None:
        self._asked[url] = trio.current_time()
        with trio.move_on_after(self._seconds):
            try:
                page = parse_page(await self._fetch(f"{url}/metrics"), at=trio.current_time())
            except OSError as error:
                self._silent[url] = _sentence(error)
            except BadPage as error:
                self._silent[url] = str(error)
            else:
                del self._silent[url]
                self._keep(self._pages[url], page)
        slots.release()

    def _keep(self, pages: deque[Page], page: Page) -> None:
        if pages and pages[-1].value(START) != page.value(START):
            pages.clear()  # another process, at the same address
        pages.append(page)
        while page.at - pages[0].at > MINUTE:
            pages.popleft()

    def _rows(self, part: Part, living: bool) -> Iterator[RelayRow | TransceiverRow]:
        pages = self._pages.get(part.url)
        change = minute = None
        state: State = "gone" if not living else "no answer" if part.url else "no URL"
        if living and pages and part.url not in self._silent:
            change = Change(pages[-2] if len(pages) > 1 else pages[-1], pages[-1])
            minute = Change(pages[0], pages[-1])
            state = state_of(part, change)
        if part.kind == "relay" or (part.kind == "process" and _has(change, "edge_relay_flows")):
            yield relay_row(part, state, change)
        if part.kind == "transceiver" or (part.kind == "process" and _has(change, "edge_sessions")):
            yield transceiver_row(part, state, change, minute)


def _sentence(error: BaseException | None) -> str:
    """Find what the system said; Trio names all attempts, and each is a cause."""
    match error:
        case OSError(strerror=str(said)):
            return said
        case ExceptionGroup():
            return _sentence(error.exceptions[0])
        case OSError():
            return _sentence(error.__cause__)
        case _:
            return "no connection"


def _has(change: Change | None, name: str) -> bool:
    return change is not None and change.new.has(name)
