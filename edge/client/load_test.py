"""A load test: calls open at a steady rate, all of them speak, and every echo is checked.

The server does all that it does for a browser: signaling, ICE, DTLS, SRTP. Frames are numbered, so
the report tells what was lost, doubled and late, and the longest hole that a listener would have
heard. What happens within the last half second is waited for before anything counts as lost.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from typing import Final

import h11
import msgspec
import trio

from edge.client.journal import GRACE_SECONDS
from edge.client.load import CallRefused, Load, LoadClient, open_load
from edge.client.load_report import LoadReport, summarize
from edge.errors import RemoteProtocolError

LOOK_SECONDS: Final = 0.25
"""Between two looks at the progress."""


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do to whom."""

    urls: tuple[str, ...]
    """Signaling of the edges, which get calls in turn."""
    sessions: int
    ramp: float
    """Calls opened a second."""
    duration: float
    """Seconds for which all calls speak, after the last one was opened."""
    frame_seconds: float = 0.02
    api_key: str = ""
    channel: bool = False
    """Whether every call opens a data channel as well."""

    @property
    def seconds(self) -> float:
        """How long all of it takes."""
        return self.sessions / self.ramp + self.duration

    def __repr__(self) -> str:
        return f"LoadPlan({self.sessions} sessions, {self.ramp:g}/s, {self.duration:g} s)"


class LoadTest:
    """One run; ``connected``, ``failed``, ``sent`` and ``received`` may be read meanwhile."""

    def __init__(self, plan: LoadPlan, load: Load) -> None:
        self.plan = plan
        self.calls: list[LoadClient] = []
        self.failed: Counter[str] = Counter()
        self._load = load

    @property
    def sent(self) -> int:
        """Packets sent so far."""
        return sum(call.sent for call in self.calls)

    @property
    def received(self) -> int:
        """Packets that came back so far."""
        return sum(call.received for call in self.calls)

    async def run(self, stop: trio.Event) -> LoadReport:
        """Open, speak, and sum up; ``stop`` ends it early."""
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when, stop, nursery.cancel_scope)
            await self._open_all()
            await trio.sleep_until(started + self.plan.seconds)
            nursery.cancel_scope.cancel()
        seconds = trio.current_time() - started
        for call in self.calls:
            call.stop_frames()
        await trio.sleep(2 * GRACE_SECONDS)
        return self._sum_up(seconds)

    async def _stop_when(self, stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        scope.cancel()

    async def _open_all(self) -> None:
        started, urls = trio.current_time(), self.plan.urls
        async with trio.open_nursery() as nursery:
            for number in range(self.plan.sessions):
                await trio.sleep_until(started + number / self.plan.ramp)
                nursery.start_soon(self._open, urls[number % len(urls)])

    async def _open(self, url: str) -> None:
        try:
            self.calls.append(await self._load.open_call(url, api_key=self.plan.api_key))
        except CallRefused as refusal:
            self.failed[f"the server answered {refusal.status}"] += 1
        except trio.TooSlowError:
            self.failed["no connection in time"] += 1
        except (RemoteProtocolError, h11.RemoteProtocolError):
            self.failed["an answer that can not be read"] += 1
        except OSError as error:
            self.failed[error.strerror or "no connection"] += 1

    def _sum_up(self, seconds: float) -> LoadReport:
        return summarize(
            [call.statistics() for call in self.calls],
            sessions=self.plan.sessions,
            failed=self.failed,
            ended_early=sum(call.closed for call in self.calls),
            seconds=seconds,
            send_errors=self._load.send_errors,
        )


async def run_load_test(plan: LoadPlan, look: Callable[[LoadTest], None]) -> LoadReport:
    """Run a plan; ``look`` is called now and then. SIGINT and SIGTERM end it early."""
    stop = trio.Event()
    loading = open_load(frame_seconds=plan.frame_seconds, channel=plan.channel)
    async with loading as load, trio.open_nursery() as nursery:
        test = LoadTest(plan, load)
        nursery.start_soon(_watch_signals, stop)
        nursery.start_soon(_watch_progress, test, look)
        report = await test.run(stop)
        look(test)
        nursery.cancel_scope.cancel()
    return report


async def _watch_signals(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        stop.set()


async def _watch_progress(test: LoadTest, look: Callable[[LoadTest], None]) -> None:
    while True:
        look(test)
        await trio.sleep(LOOK_SECONDS)
