"""Requests about calls that have moved, over a real Redis: they follow the claim."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio_websocket import open_websocket_url

from edge.client.http import Response, request
from edge.config import HttpConfig
from edge.http.calls import Fleet
from edge.http.owners import Owners
from edge.http.secrets import SecretSealer
from edge.registry.directory import Directory
from edge.registry.protocol import Registry, RegistryUnavailable, Slot, TransceiverRecord
from edge.registry.redis import open_redis_registry
from edge.registry.sessions import Claim
from edge.transceiver.admission import Opener
from edge.transceiver.call_ids import make_call_id
from tests.support.edges import fleet as processes
from tests.support.edges import metric
from tests.support.http import SECRET, UNIX, Live, serve
from tests.support.processes import FLEET_SECRET
from tests.support.redis_server import RedisServer, running_redis

CONFIG = HttpConfig(bind="127.0.0.1:0")
FRAGMENT = "application/trickle-ice-sdpfrag"
RESTART = b"a=ice-ufrag:new1\r\na=ice-pwd:0123456789012345678901\r\nm=audio 9 RTP/AVP 0\r\n"
UNREACHABLE = r'edge_http_refusals_total\{cause="owner_unreachable"\}'
GONE = Slot(99)


@asynccontextmanager
async def opened(redis: RedisServer) -> AsyncGenerator[Registry]:
    async with open_redis_registry(redis.url, secret=FLEET_SECRET) as registry:
        yield registry


async def hang_up(http: str, call_id: str) -> Response:
    return await request("POST", f"{http}/v1/realtime/calls/{call_id}/hangup")


async def wait_metric(http: str, name: str, wanted: int) -> None:
    with trio.fail_after(5.0):
        while await metric(http, name) != wanted:
            await trio.sleep(0.05)


def code_of(response: Response) -> tuple[int, str]:
    return response.status, json.loads(response.body)["error"]["code"]


@dataclass(frozen=True, slots=True)
class Node:
    """The signaling of a transceiver, with calls of strings."""

    slot: Slot
    live: Live
    registry: Registry

    @property
    def http(self) -> str:
        host, port = self.live.listener.address[:2]
        return f"http://{host}:{port}"

    async def claim(self, call_id: str, epoch: int) -> None:
        """Own a call from now on, as an heir does."""
        claim = Claim(session=call_id, owner=self.slot, epoch=epoch)
        assert await self.registry.sessions.claim(claim) == claim
        self.live.service.take_over(call_id, Opener())


@asynccontextmanager
async def node(redis: RedisServer, slot: Slot) -> AsyncIterator[Node]:
    """One that is listed in the registry, as a process would be."""
    async with opened(redis) as registry, trio.open_nursery() as nursery:
        directory = Directory(registry, interval_seconds=0.05, lease_seconds=60.0)
        owners = Owners(
            slot=slot, owner_of=registry.sessions.owner_of, transceiver=directory.transceiver
        )
        fleet = Fleet(
            secrets=SecretSealer(SECRET),
            unix=lambda: UNIX,
            claim_once=registry.claim_once,
            release=registry.release_claim,
            owners=owners,
        )
        await nursery.start(directory.run)
        async with serve(CONFIG, fleet=fleet) as live:
            one = Node(slot, live, registry)
            address = ("127.0.0.1", int(slot))
            await registry.put_transceiver(
                TransceiverRecord(slot=slot, cluster=0, address=address, http_url=one.http)
            )
            yield one
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def nodes(count: int) -> AsyncIterator[tuple[RedisServer, list[Node]]]:
    with trio.fail_after(30.0), running_redis() as redis:
        async with AsyncExitStack() as stack:
            found = [
                await stack.enter_async_context(node(redis, Slot(slot)))
                for slot in range(1, count + 1)
            ]
            await trio.sleep(0.2)  # until each knows the others
            yield redis, found


@pytest.mark.parametrize("asked", ["opener", "heir", "other"])
async def test_signaling_follows_a_call_that_has_moved(asked: str) -> None:
    """Sideband, ICE restart and hangup reach the heir, whoever they come to."""
    async with nodes(3) as (_, (opener, heir, other)):
        at = {"opener": opener, "heir": heir, "other": other}[asked].http
        call_id = make_call_id(opener.slot, bytes)
        await opener.claim(call_id, 1)
        await heir.claim(call_id, 2)
        opener.live.service.hang_up(call_id)  # fenced
        whip = f"{at}/whip/{call_id}"

        async with open_websocket_url(
            f"{at.replace('http', 'ws')}/v1/realtime?call_id={call_id}"
        ) as sideband:
            assert json.loads(await sideband.get_message())["type"] == "session.created"
            await sideband.send_message('{"type":"response.cancel"}')
            headers = (("content-type", FRAGMENT), ("if-match", "*"))
            restarted = await request("PATCH", whip, RESTART, headers=headers)
            assert restarted.status == 200
        assert (await hang_up(at, call_id)).status == 200
        service = heir.live.service
        assert (service.generation, service.said) == (1, [b'{"type":"response.cancel"}'])
        assert not service.open
        assert other.live.service.said == opener.live.service.said == []


async def test_a_call_that_has_ended_is_nowhere_as_soon_as_it_is_forgotten() -> None:
    async with nodes(2) as (_, (opener, other)):
        call_id = make_call_id(opener.slot, bytes)
        await opener.claim(call_id, 1)
        assert (await hang_up(other.http, call_id)).status == 200

        async def forget() -> None:
            await trio.sleep(0.3)
            await opener.registry.sessions.forget(
                Claim(session=call_id, owner=opener.slot, epoch=1)
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(forget)
            assert code_of(await hang_up(other.http, call_id)) == (404, "call_not_found")


async def test_without_redis_calls_are_found_by_their_ids() -> None:
    async with nodes(2) as (redis, (opener, other)):
        call_id = make_call_id(opener.slot, bytes)
        await opener.claim(call_id, 1)
        redis.kill()
        with pytest.raises(RegistryUnavailable):
            await other.registry.sessions.owner_of(call_id)
        assert (await hang_up(other.http, call_id)).status == 200
        unknown = await hang_up(other.http, make_call_id(GONE, bytes))
        assert code_of(unknown) == (503, "registry_unavailable")
        assert unknown.headers["retry-after"] == "1"


@pytest.mark.timeout(120)
async def test_processes_ask_for_the_claim() -> None:
    """Of calls that only the registry knows of: who holds the claim is asked, nobody else."""
    with trio.fail_after(60.0), running_redis() as redis:
        async with opened(redis) as registry, processes(redis.url) as group:
            book = registry.sessions
            at, holder = group.transceivers
            for each in group.transceivers:
                await wait_metric(each.http, "edge_directory_transceivers", 2)
            slots = {record.http_url: record.slot for record in await registry.transceivers()}
            call_id = make_call_id(slots[at.http], bytes)
            assert code_of(await hang_up(at.http, call_id)) == (404, "call_not_found")

            first = Claim(session=call_id, owner=slots[at.http], epoch=1)
            assert await book.claim(first) == first
            second = first.next_of(slots[holder.http])
            assert await book.claim(second) == second
            moving = await hang_up(at.http, call_id)
            assert code_of(moving) == (503, "owner_unreachable")
            assert moving.headers["retry-after"] == "1"
            assert await metric(holder.http, UNREACHABLE) == 1, "passed on"

            third = second.next_of(GONE)
            assert await book.claim(third) == third
            for edge in (at, holder):
                assert code_of(await hang_up(edge.http, call_id)) == (503, "owner_unreachable")
            assert await metric(at.http, UNREACHABLE) == 1
            assert await metric(holder.http, UNREACHABLE) == 2
            await book.forget(third)
            assert code_of(await hang_up(holder.http, call_id)) == (404, "call_not_found")
