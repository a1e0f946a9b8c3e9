"""The official ``openai`` package against an edge process: secrets, calls, sideband, hangup."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

import openai
import pytest
import trio
from openai import OpenAI

from edge.client.caller import Caller
from edge.webrtc.certificate import DtlsCertificate
from tests.support.edges import wait_ready
from tests.support.interop import ClientRow, record
from tests.support.processes import FLEET_SECRET, Edge, edge
from tests.support.redis_server import running_redis

KEY, OTHER_KEY = "sk-of-the-first-customer", "sk-of-the-second-customer"
CERTIFICATE = DtlsCertificate.generate()
T = TypeVar("T")


def offer() -> str:
    return Caller(CERTIFICATE, now=0.0).offer.encode().decode()


class Clients:
    """Makes clients, and closes them all."""

    def __init__(self) -> None:
        self._made = ExitStack()

    def __call__(self, server: Edge, key: str = KEY) -> OpenAI:
        client = OpenAI(api_key=key, base_url=f"{server.http}/v1", max_retries=0, timeout=5.0)
        return self._made.enter_context(client)

    def close(self) -> None:
        self._made.close()


@pytest.fixture
def client_of() -> Iterator[Clients]:
    clients = Clients()
    yield clients
    clients.close()


async def in_thread(function: Callable[[], T]) -> T:
    with trio.fail_after(15.0):
        return await trio.to_thread.run_sync(function, abandon_on_cancel=True)


@asynccontextmanager
async def serving(**more: str) -> AsyncIterator[Edge]:
    environment = {
        "EDGE_HTTP_BIND": "127.0.0.1:0",
        "EDGE_RELAY_BIND": "127.0.0.1:0",
        "EDGE_HTTP_API_KEYS": f"{KEY},{OTHER_KEY}",
        **more,
    }
    async with edge("serve", env=environment) as server:
        await wait_ready(server.http)
        yield server


def open_call(client: OpenAI, **session: object) -> str:
    """Open a call and give its id, as a customer's server does."""
    created = client.realtime.calls.create(sdp=offer(), session={"type": "realtime", **session})  # type: ignore[arg-type]
    assert created.text.startswith("v=0")
    return created.response.headers["location"].rpartition("/")[2]


async def test_a_secret_opens_calls_until_they_are_hung_up(client_of: Clients) -> None:
    def scenario(server: Edge) -> None:
        owner = client_of(server)
        secret = owner.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={"type": "realtime", "instructions": "Be brief."},
        )
        assert secret.value.startswith("ek_")
        assert secret.session.type == "realtime"
        assert secret.session.instructions == "Be brief."
        client = client_of(server, secret.value)
        first, second = open_call(client), open_call(client)
        assert first != second
        with pytest.raises(openai.PermissionDeniedError, match="API key"):
            client.realtime.client_secrets.create()
        with pytest.raises(openai.NotFoundError):
            client_of(server, OTHER_KEY).realtime.calls.hangup(first)
        with pytest.raises(openai.ConflictError, match="hangup"):
            owner.realtime.calls.accept(first, type="realtime")
        with pytest.raises(openai.InternalServerError, match="SIP"):
            owner.realtime.calls.refer(first, target_uri="tel:+1")
        client.realtime.calls.hangup(first)
        owner.realtime.calls.hangup(second)
        with pytest.raises(openai.NotFoundError):
            owner.realtime.calls.hangup(second)

    async with serving() as server:
        await in_thread(partial(scenario, server))
        log = await server.child.stderr.wait_for(lambda text: text.count('"session ended"') == 2)
        ended = [json.loads(line) for line in log.splitlines() if '"session ended"' in line]
        assert {line["reason"] for line in ended} == {"hangup"}
        assert len({line["key"] for line in ended}) == 1
        assert all(line["secret"] for line in ended)
        assert KEY not in log
        assert "ek_" not in log


async def test_errors_are_those_of_the_package(client_of: Clients) -> None:
    def scenario(server: Edge) -> None:
        with pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
            open_call(client_of(server, "sk-nobody-has-this"))
        with pytest.raises(openai.AuthenticationError, match="client secret is wrong"):
            open_call(client_of(server, "ek_" + "A" * 80))
        client = client_of(server)
        with pytest.raises(openai.BadRequestError, match="line 1 of the offer"):
            client.realtime.calls.create(sdp="nonsense")
        with pytest.raises(openai.UnprocessableEntityError, match="7200"):
            client.realtime.client_secrets.create(expires_after={"seconds": 7_201})
        for _ in range(3):
            open_call(client)
        with pytest.raises(openai.RateLimitError, match="as many calls") as refused:
            open_call(client)
        assert refused.value.response.headers["retry-after"] == "2"
        assert refused.value.code == "too_many_sessions"
        open_call(client_of(server, OTHER_KEY))  # the limit is each key's own

    async with serving(EDGE_TRANSCEIVER_MAX_SESSIONS_PER_KEY="3") as server:
        await in_thread(partial(scenario, server))


async def test_a_secret_for_one_call_only(client_of: Clients) -> None:
    def scenario(server: Edge) -> None:
        secret = client_of(server).realtime.client_secrets.create()
        client = client_of(server, secret.value)
        with pytest.raises(openai.BadRequestError):
            client.realtime.calls.create(sdp="nonsense")  # which does not use it up
        open_call(client)
        with pytest.raises(openai.AuthenticationError, match="was used"):
            open_call(client)

    async with serving(EDGE_HTTP_SINGLE_USE_SECRETS="true") as server:
        await in_thread(partial(scenario, server))


def watch_call(at_owner: OpenAI, elsewhere: OpenAI) -> None:
    """Open a call, and follow and end it by way of ``elsewhere``."""
    call_id = open_call(at_owner, instructions="Be brief.")
    with elsewhere.realtime.connect(call_id=call_id) as sideband:
        created = sideband.recv()
        assert created.type == "session.created"
        assert created.session.instructions == "Be brief."  # type: ignore[union-attr]
        sideband.session.update(session={"type": "realtime", "instructions": "Be long."})
        updated = sideband.recv()
        assert updated.type == "session.updated"
        assert updated.session.instructions == "Be long."  # type: ignore[union-attr]
        with at_owner.realtime.connect(call_id=call_id) as second:
            assert second.recv().session.instructions == "Be long."  # type: ignore[union-attr]
            elsewhere.realtime.calls.hangup(call_id)
            assert second.recv_bytes() == b'{"type":"session.ended","reason":"hangup"}'
        assert sideband.recv_bytes() == b'{"type":"session.ended","reason":"hangup"}'
        with pytest.raises(Exception, match="1000"):
            sideband.recv()
    with (
        pytest.raises(Exception, match="404"),
        elsewhere.realtime.connect(call_id=call_id),
    ):
        pass
    with pytest.raises(openai.NotFoundError):
        elsewhere.realtime.calls.hangup(call_id)


async def test_a_sideband_hears_and_says(client_of: Clients) -> None:
    async with serving() as server:
        await in_thread(partial(watch_call, client_of(server), client_of(server)))
    record(ClientRow(client="openai", version=openai.__version__, channel="sideband, both ways"))


async def test_a_sideband_needs_the_calls_own_key(client_of: Clients) -> None:
    def scenario(server: Edge) -> None:
        call_id = open_call(client_of(server))
        for key, call, status in [
            (OTHER_KEY, call_id, "404"),
            ("sk-nobody-has-this", call_id, "401"),
            (KEY, "rtc_" + "0" * 32, "404"),
        ]:
            with (
                pytest.raises(Exception, match=status),
                client_of(server, key).realtime.connect(call_id=call),
            ):
                pass

    async with serving() as server:
        await in_thread(partial(scenario, server))


async def test_any_transceiver_reaches_the_call(client_of: Clients) -> None:
    with running_redis() as redis:
        fleet = {
            "EDGE_REGISTRY_URL": redis.url,
            "EDGE_REGISTRY_SECRET": FLEET_SECRET,
        }
        async with serving(**fleet) as one, serving(**fleet) as other:
            await wait_for_each_other(one, other)
            await in_thread(partial(watch_call, client_of(one), client_of(other)))


async def wait_for_each_other(*servers: Edge) -> None:
    """Wait until every process's log tells of two transceivers."""
    with trio.fail_after(10.0):
        for server in servers:
            await server.child.stderr.wait_for(lambda text: text.count('"transceiver"') >= 2)
