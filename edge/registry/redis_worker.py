"""The one thread that speaks to Redis, and the only importer of redis-py.

redis-py is synchronous (its asyncio half can not run on Trio), so a thread of its own turns what
waits into pipelines: read commands that somebody waits for, then posted writes that nobody waits
for. The connection belongs to the thread alone. A waiter that is cancelled just stops waiting: its
replies are read like any others and thrown away, so no half-read connection is ever left behind.

While Redis does not answer, calls fail at once, the thread probes with a growing pause, and posted
writes wait in a bounded buffer that holds the latest write of each key. Each is made into commands
right before it is sent, because its remaining lifetime has shrunk meanwhile.

All times in records are by Redis's own clock, carried between readings by the monotonic clock; so
a host whose wall clock jumps or is wrong neither hides its records nor loses sight of others'.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import redis
import structlog
import trio
from redis.backoff import NoBackoff
from redis.retry import Retry

from edge.errors import ConfigError, Drop
from edge.registry.protocol import RegistryStatistics, RegistryUnavailable
from edge.registry.redis_clock import RedisClock

SOCKET_SECONDS: Final = 1.0
"""How long a connect or one read may take."""
CALL_SECONDS: Final = 1.4
"""How long a caller waits at most."""
STOP_SECONDS: Final = 1.0
"""How long what waits may still be sent at the end."""
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 0.2
"""Short: what an emptied Redis has lost is known to its owners alone until they are back."""
MAX_BATCH: Final = 256
MAX_WAITING_CALLS: Final = 1_000

SWITCH_SECONDS: Final = 0.0005
"""For how long the loop keeps our thread waiting while it is busy itself; Python's own is 5 ms.

Beside a loop that is busy for half of the time, 2 ms at once, a round trip took 2.9 ms by that
(median; 7.5 ms of ten the slowest), and takes 1.0 ms (2.7).
"""

_JOIN_SECONDS: Final = STOP_SECONDS + 2 * SOCKET_SECONDS

Command: TypeAlias = tuple[str | bytes | int | float, ...]
Reply: TypeAlias = object
"""What Redis said: bytes, int, list, None, or an exception for a refused command."""
Write: TypeAlias = Callable[[], Sequence[Command]]

log = structlog.get_logger(__name__)


class _Call:
    """Commands that a task waits for; ``replies`` stays None when Redis did not answer."""

    __slots__ = ("commands", "done", "replies")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.done = trio.Event()
        self.replies: Sequence[Reply] | None = None


class RedisWorker:
    """Commands in, replies out. ``start`` and ``stop`` bound the thread's life."""

    def __init__(self, url: str, *, max_waiting_writes: int = 20_000, label: str = "") -> None:
        """``label`` tells one server from another in the log; it holds no secret."""
        self.drops: Counter[Drop] = Counter()
        self._label = {"peer": label} if label else {}
        self._client = _make_client(url)
        self._max_waiting_writes = max_waiting_writes
        self._thread = threading.Thread(target=self._run, name="edge-redis", daemon=True)
        self._token: trio.lowlevel.TrioToken | None = None

        # Everything that both threads touch is guarded by this.
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._writes: dict[Hashable, Write] = {}
        self._writes_under_way = 0
        self._stop_at: float | None = None

        # The thread's own; single values that others only read.
        self._up: bool | None = None
        self._operations = 0
        self._failures = 0
        self._clock = RedisClock(offset=time.time() - time.monotonic())

    # The Trio side.

    def start(self) -> None:
        """Start the thread; returns at once, whether Redis answers or not."""
        self._token = trio.lowlevel.current_trio_token()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.start()

    async def stop(self) -> None:
        """Send what waits for at most ``STOP_SECONDS``, then end the thread."""
        with self._changed:
            self._stop_at = time.monotonic() + STOP_SECONDS
            self._changed.notify()
        # Each step of the thread has a time-out but a name look-up, hence the bound (and daemon).
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join, _JOIN_SECONDS)

    def now(self) -> float:
        """Unix time by Redis's clock."""
        return time.monotonic() + self._clock.offset

    async def call(self, *commands: Command) -> Sequence[Reply]:
        """Send commands and wait for a reply to each; RegistryUnavailable within CALL_SECONDS."""
        call = self._enter(commands)
        if call is None:
            await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_after(CALL_SECONDS):
                await call.done.wait()
        if call is None or call.replies is None:
            raise RegistryUnavailable("Redis does not answer")
        return call.replies

    def post(self, key: Hashable, write: Write) -> None:
        """Queue a write that nobody waits for; the latest of each key counts, the oldest drops."""
        with self._changed:
            self._writes.pop(key, None)
            self._writes[key] = write
            self._drop_writes_over_limit()
            self._changed.notify()

    def statistics(self, more_drops: Counter[Drop]) -> RegistryStatistics:
        """Count; ``more_drops`` is what the user of the worker has dropped itself."""
        with self._changed:
            return RegistryStatistics(
                up=bool(self._up),
                operations=self._operations,
                failures=self._failures,
                waiting_writes=len(self._writes) + self._writes_under_way,
                drops=self.drops + more_drops,
            )

    def _enter(self, commands: Sequence[Command]) -> _Call | None:
        with self._changed:
            if self._up is False or self._stop_at is not None:
                return None
            if len(self._calls) >= MAX_WAITING_CALLS:
                self.drops[Drop.QUEUE_FULL] += 1
                return None
            call = _Call(commands)
            self._calls.append(call)
            self._changed.notify()
            return call

    # The thread's side.

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._wait_for_work():
            calls, writes = self._take_batch()
            if self._exchange(calls, writes):
                pause = FIRST_PAUSE
            else:
                self._sleep(pause)
                pause = min(pause * 2, LAST_PAUSE)
        self._fail([])
        self._client.close()

    def _wait_for_work(self) -> bool:
        """Block until there is something to do or to probe; False at the end."""
        with self._changed:
            if self._up:
                # To read the clock is also the probe of an idle connection.
                idle = self._clock.next_read - time.monotonic()
                self._changed.wait_for(self._has_work, timeout=max(idle, 0.0))
            if self._stop_at is None:
                return True
            waiting = bool(self._calls or self._writes)
            return waiting and self._up is not False and time.monotonic() < self._stop_at

    def _has_work(self) -> bool:
        return bool(self._calls or self._writes) or self._stop_at is not None

    def _take_batch(self) -> tuple[list[_Call], dict[Hashable, Write]]:
        """Take calls first: somebody waits for them."""
        calls: list[_Call] = []
        room = MAX_BATCH
        with self._changed:
            while self._calls and (not calls or len(self._calls[0].commands) <= room):
                calls.append(self._calls.popleft())
                room -= len(calls[-1].commands)
            keys = [key for key, _ in zip(self._writes, range(max(room, 0)), strict=False)]
            self._writes_under_way = len(keys)
            return calls, {key: self._writes.pop(key) for key in keys}

    def _exchange(self, calls: list[_Call], writes: dict[Hashable, Write]) -> bool:
        """Send one batch and hand its replies out; False when Redis did not answer."""
        commands = [command for call in calls for command in call.commands]
        commands += self._make(writes)
        try:
            replies = self._round_trip(commands)
        except Exception as error:  # redis-py's, OSError, or whatever its parser makes of garbage
            self._lost(error)
            self._keep(writes)
            self._fail(calls)
            return False
        self._found(len(commands))
        end = 0
        for call in calls:
            start, end = end, end + len(call.commands)
            call.replies = replies[start:end]
        self._count_written(replies[end:])
        self._wake(calls)
        return True

    def _make(self, writes: dict[Hashable, Write]) -> list[Command]:
        commands: list[Command] = []
        for write in writes.values():
            try:
                commands += write()
            except Exception:
                log.exception("registry_write_failed")
                with self._changed:
                    self.drops[Drop.BUG] += 1
        return commands

    def _round_trip(self, commands: list[Command]) -> list[Reply]:
        pipeline = self._client.pipeline(transaction=False)
        queue: Callable[..., object] = pipeline.execute_command
        for command in commands:
            queue(*command)
        asked = time.monotonic()
        clock_is_due = self._clock.is_due(now=asked)
        if clock_is_due:
            pipeline.time()
        replies: list[Reply] = pipeline.execute(raise_on_error=False)
        if clock_is_due:
            self._read_clock(replies.pop(), asked)
        return replies

    def _read_clock(self, reply: Reply, asked: float) -> None:
        match reply:
            case (int(seconds), int(microseconds)):
                unix = seconds + microseconds / 1e6
                self._clock.read(unix, asked=asked, answered=time.monotonic())
            case _:
                raise redis.ResponseError("TIME was refused")

    def _found(self, operations: int) -> None:
        self._operations += operations
        if not self._up:
            log.info("registry_up", **self._label)
        self._up = True

    def _lost(self, error: Exception) -> None:
        """Note a failure. Of the error only its kind is told: its text may hold the URL."""
        self._failures += 1
        if self._up is not False:
            log.warning("registry_down", error=type(error).__name__, **self._label)
        self._up = False
        self._clock.doubt()
        with suppress(Exception):
            self._client.connection_pool.disconnect()

    def _count_written(self, replies: Sequence[Reply]) -> None:
        with self._changed:
            self._writes_under_way = 0
            self.drops[Drop.SEND_ERROR] += sum(isinstance(one, Exception) for one in replies)

    def _keep(self, writes: dict[Hashable, Write]) -> None:
        """Put writes back, in front of and unless replaced by newer ones."""
        with self._changed:
            self._writes_under_way = 0
            self._writes = writes | self._writes
            self._drop_writes_over_limit()

    def _drop_writes_over_limit(self) -> None:
        while len(self._writes) > self._max_waiting_writes:
            del self._writes[next(iter(self._writes))]
            self.drops[Drop.QUEUE_FULL] += 1

    def _fail(self, calls: list[_Call]) -> None:
        """Let these and all waiting calls know that there is no answer."""
        with self._changed:
            calls = [*calls, *self._calls]
            self._calls.clear()
        self._wake(calls)

    def _wake(self, calls: list[_Call]) -> None:
        if calls and self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(_set_all, calls)

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stop_at is not None, timeout=seconds)


def is_unknown_script(reply: Reply) -> bool:
    """Whether Redis does not know the script that an EVALSHA names; nothing was done then."""
    return isinstance(reply, redis.exceptions.NoScriptError)


def _set_all(calls: list[_Call]) -> None:
    for call in calls:
        call.done.set()


def _make_client(url: str) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=SOCKET_SECONDS,
            retry=Retry(NoBackoff(), 0),
            max_connections=1,
            protocol=2,
        )
    except (ValueError, TypeError):
        # The URL may carry a password: it is not repeated.
        raise ConfigError("the registry URL is not a redis://, rediss:// or unix:// URL") from None
