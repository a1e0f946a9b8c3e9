"""``edge.app.run`` cancelled after any of its steps: no socket, thread, port or record is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import h11
import pytest
import trio

from edge import app
from edge.client import CallRefused, Load, LoadClient, open_load
from edge.config import Config, HttpConfig, RegistryConfig, RelayConfig
from edge.ready import Ready, Role, StartupError
from edge.registry.redis import open_redis_registry
from tests.conftest import leaked, living_threads, open_descriptors
from tests.support.processes import FLEET_SECRET
from tests.support.redis_server import RedisServer, running_redis
from tests.support.sweep import Cut, sweep

SAMPLES = 12


def make_config(registry: str = "memory:") -> Config:
    """A configuration on loopback."""
    return Config(
        http=HttpConfig(bind="127.0.0.1:0"),
        relay=RelayConfig(bind="127.0.0.1:0,[::1]:0", tcp_bind="127.0.0.1:0"),
        registry=RegistryConfig(url=registry, secret=FLEET_SECRET),
    )


class Caller:
    """Calls as soon as it can, listens for a moment, then asks the edge to stop."""

    def __init__(self, *, hang_up: bool) -> None:
        self.stop = trio.Event()
        self._hang_up = hang_up
        self._url = ""
        self._ready = trio.Event()

    def announce(self, ready: Ready) -> None:
        self._url = ready.http
        self._ready.set()

    async def run(self) -> None:
        await self._ready.wait()
        async with open_load() as load:
            with suppress(OSError, h11.RemoteProtocolError, trio.BrokenResourceError):
                call = await self._open_call(load)
                await call.wait_received(5)
                if self._hang_up:
                    await call.hang_up()
            self.stop.set()
            await trio.sleep_forever()

    async def _open_call(self, load: Load) -> LoadClient:
        while True:
            with suppress(CallRefused):  # the relay is not known yet
                return await load.open_call(self._url)
            await trio.sleep(0.01)


async def run_and_cut(cut: Cut, *, role: Role, config: Config, hang_up: bool) -> None:
    caller = Caller(hang_up=hang_up)
    async with trio.open_nursery() as nursery:
        if role == "serve":
            nursery.start_soon(caller.run)
        with trio.fail_after(10.0), trio.CancelScope() as scope:
            cut.arm(scope.cancel)
            await app.run(role, config, announce=caller.announce, stop=caller.stop)
        cut.disarm()
        nursery.cancel_scope.cancel()


def nothing_left() -> Callable[[], None]:
    """Make a check that descriptors and threads are what they are now."""
    threads, descriptors = living_threads(), open_descriptors()

    def check() -> None:
        assert not leaked(living_threads, threads)
        assert not leaked(open_descriptors, descriptors)

    return check


def test_serve_cancelled_at_any_step() -> None:
    scenario = partial(run_and_cut, role="serve", config=make_config(), hang_up=True)
    sweep(scenario, samples=SAMPLES, real=True, check=nothing_left())


def no_record(redis: RedisServer, check: Callable[[], None]) -> None:
    """Nobody is registered, and no flow of a call is."""

    async def look() -> None:
        async with open_redis_registry(redis.url, secret=FLEET_SECRET) as registry:
            assert not await registry.transceivers()
            assert not await registry.relays()

    trio.run(look)
    with redis.client() as client:
        assert list(client.scan_iter("edge:*:flow:*", count=1000)) == []
    check()


def test_serve_with_redis_cancelled_at_any_step() -> None:
    with running_redis() as redis:
        config = make_config(redis.url)
        scenario = partial(run_and_cut, role="serve", config=config, hang_up=False)
        check = partial(no_record, redis, nothing_left())
        sweep(scenario, samples=SAMPLES, real=True, check=check)


@pytest.mark.parametrize("role", ["serve", "relay", "transceiver"])
async def test_a_registry_that_does_not_answer_is_one_line(role: Role) -> None:
    """Whatever nurseries the cause went through, nothing else is in the group."""
    config = make_config("redis://127.0.0.1:1/0")
    caller = Caller(hang_up=False)
    with pytest.raises((StartupError, ExceptionGroup)) as raised, trio.fail_after(5.0):
        await app.run(role, config, announce=caller.announce, stop=caller.stop)
    error: BaseException = raised.value
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, StartupError)
    assert str(error).startswith("registry.url: ")
