"""OpenAI's dialect through ASGI: client secrets, what they open, and what is refused."""

from __future__ import annotations

from collections import Counter

import httpx
import msgspec
import pytest
import trio
import trio.testing

from edge.config import HttpConfig
from edge.http.keys import name_key
from edge.http.problem import Cause
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import RegistryUnavailable, Slot
from edge.transceiver.admission import Opener, TooManySessions
from edge.transceiver.call_ids import make_call_id, slot_of
from tests.shells.test_signaling import OFFER, SDP, check_problem, client_of
from tests.support.http import UNIX, FakeService, make_app, make_fleet

LOCKED = HttpConfig(api_keys=("key-one-1", "key-two-2"))
ONE, TWO = ({"Authorization": f"Bearer {key}"} for key in LOCKED.api_keys)
SECRETS, CALLS = "/v1/realtime/client_secrets", "/v1/realtime/calls"


async def make_secret(client: httpx.AsyncClient, **body: object) -> dict[str, str]:
    """Make a client secret with the first key; give the header that uses it."""
    made = await client.post(SECRETS, json=body, headers=ONE)
    assert made.status_code == 200, made.text
    return {"Authorization": f"Bearer {made.json()['value']}"}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (b"", 600),
        (b"{}", 600),
        (b'{"expires_after":{"anchor":"created_at","seconds":10}}', 10),
        (b'{"expires_after":{"seconds":7200},"session":{"type":"realtime"}}', 7_200),
    ],
)
async def test_a_client_secret(body: bytes, seconds: int) -> None:
    async with client_of(make_app(FakeService(), LOCKED)) as client:
        headers = {**ONE, "Content-Type": "application/json"}
        response = await client.post(SECRETS, content=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    made = response.json()
    assert made["value"].startswith("ek_")
    assert made["expires_at"] == UNIX + seconds
    assert made["session"]["type"] == "realtime"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"nonsense", 400, "invalid_json"),
        (b"[]", 422, "invalid_value"),
        (b'{"expires_after":{"seconds":9}}', 422, "invalid_value"),
        (b'{"expires_after":{"seconds":7201}}', 422, "invalid_value"),
        (b'{"expires_after":{"seconds":"60"}}', 422, "invalid_value"),
        (b'{"expires_after":{"anchor":"now"}}', 422, "invalid_value"),
        (b'{"session":[]}', 400, "invalid_session"),
        (b'{"session":' + b'{"a":' * 40 + b"1" + b"}" * 41, 400, "invalid_session"),
        (b'{"session":{"a":"' + b"x" * 33_000 + b'"}}', 413, "session_too_large"),
    ],
)
async def test_no_client_secret(body: bytes, status: int, code: str) -> None:
    async with client_of(make_app(FakeService(), LOCKED)) as client:
        headers = {**ONE, "Content-Type": "application/json"}
        check_problem(await client.post(SECRETS, content=body, headers=headers), status, code)


async def test_a_session_that_does_not_fit_into_a_secret() -> None:
    session = {"a": "".join(chr(0x4E00 + n * 7_919 % 20_000) for n in range(9_000))}
    async with client_of(make_app(FakeService(), LOCKED)) as client:
        response = await client.post(SECRETS, json={"session": session}, headers=ONE)
    assert "call" in check_problem(response, 413, "session_too_large")


async def test_a_call_takes_its_secrets_session_and_may_change_it() -> None:
    service = FakeService()
    async with client_of(make_app(service, LOCKED)) as client:
        secret = await make_secret(
            client, session={"type": "realtime", "instructions": "a", "audio": {"x": 1}}
        )
        raw = await client.post(CALLS, content=OFFER, headers={**SDP, **secret})
        assert raw.status_code == 201
        changes = msgspec.json.encode({"instructions": "b", "audio": {"y": 2}})
        form = {"sdp": (None, OFFER), "session": (None, changes)}
        assert (await client.post(CALLS, files=form, headers=secret)).status_code == 201
        whip = await client.post("/whip", content=OFFER, headers={**SDP, **secret})
        assert whip.status_code == 201
        nothing = await make_secret(client)
        assert (await client.post(CALLS, content=OFFER, headers={**SDP, **nothing})).is_success
    sessions = [msgspec.json.decode(one or b"null") for _, one in service.offers]
    opened = {"type": "realtime", "instructions": "a", "audio": {"x": 1}}
    changed = {"type": "realtime", "instructions": "b", "audio": {"x": 1, "y": 2}}
    assert sessions == [opened, changed, opened, {}]
    first, *_ = service.openers.values()
    assert first.key_id == name_key(b"key-one-1")
    assert first.secret_id
    assert first.address == "127.0.0.0/24"


async def test_a_merged_session_is_bounded_too() -> None:
    async with client_of(make_app(FakeService(), LOCKED)) as client:
        secret = await make_secret(client, session={"a": "x" * 20_000})
        changes = msgspec.json.encode({"b": "y" * 20_000})
        form = {"sdp": (None, OFFER), "session": (None, changes)}
        response = await client.post(CALLS, files=form, headers=secret)
    check_problem(response, 413, "session_too_large")


async def test_an_expired_secret_and_what_a_secret_can_not_do() -> None:
    time = UNIX
    fleet = make_fleet(unix=lambda: time)
    async with client_of(make_app(FakeService(), LOCKED, fleet=fleet)) as client:
        secret = await make_secret(client, expires_after={"seconds": 10})
        check_problem(await client.post(SECRETS, json={}, headers=secret), 403, "key_not_allowed")
        opened = await client.post(CALLS, content=OFFER, headers={**SDP, **secret})
        call = opened.headers["location"]
        time += 10
        late = await client.post(CALLS, content=OFFER, headers={**SDP, **secret})
        assert "ask for a new one" in check_problem(late, 401, "expired_secret")
        assert late.headers["www-authenticate"].startswith("Bearer")
        assert (await client.post(f"{call}/hangup", headers=ONE)).status_code == 200


async def test_calls_belong_to_their_key() -> None:
    service = FakeService()
    async with client_of(make_app(service, LOCKED)) as client:
        secret, other = await make_secret(client), await make_secret(client)
        opened = await client.post(CALLS, content=OFFER, headers={**SDP, **secret})
        call = opened.headers["location"]
        for stranger in (TWO, other):
            response = await client.post(f"{call}/hangup", headers=stranger)
            check_problem(response, 404, "call_not_found")
            response = await client.delete("/whip/rtc_1", headers=stranger)
            check_problem(response, 404, "call_not_found")
        assert service.open == {"rtc_1"}
        assert (await client.post(f"{call}/hangup", headers=secret)).status_code == 200


async def test_a_secret_that_is_used_once() -> None:
    service, registry = FakeService(), MemoryRegistry(clock=lambda: 0.0)
    config = HttpConfig(api_keys=LOCKED.api_keys, single_use_secrets=True)
    app = make_app(service, config, fleet=make_fleet(registry=registry))
    async with client_of(app) as client:
        secret = {**SDP, **await make_secret(client)}
        assert (await client.post(CALLS, content=b"nonsense", headers=secret)).status_code == 400
        assert (await client.post(CALLS, content=OFFER, headers=secret)).status_code == 201
        again = await client.post(CALLS, content=OFFER, headers=secret)
        check_problem(again, 401, "used_secret")
        for _ in range(2):  # keys are not used up
            assert (await client.post(CALLS, content=OFFER, headers={**SDP, **ONE})).is_success


async def test_without_the_registry_a_single_use_can_not_be_told() -> None:
    class Gone(MemoryRegistry):
        async def claim_once(self, name: str, seconds: float) -> bool:
            await trio.lowlevel.checkpoint()
            raise RegistryUnavailable

    config = HttpConfig(api_keys=LOCKED.api_keys, single_use_secrets=True)
    app = make_app(FakeService(), config, fleet=make_fleet(registry=Gone()))
    async with client_of(app) as client:
        secret = await make_secret(client)
        refused = await client.post(CALLS, content=OFFER, headers={**SDP, **secret})
    check_problem(refused, 503, "registry_unavailable")
    assert refused.headers["retry-after"] == "1"


async def test_claims_in_memory() -> None:
    now = 0.0
    registry = MemoryRegistry(clock=lambda: now)
    assert await registry.claim_once("a", 10.0)
    assert not await registry.claim_once("a", 10.0)
    assert await registry.claim_once("b", 10.0)
    await registry.release_claim("b")
    assert await registry.claim_once("b", 10.0)
    now = 10.0
    assert await registry.claim_once("a", 10.0)


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        ("accept", 409, "call_is_running"),
        ("reject", 409, "call_is_running"),
        ("refer", 501, "not_supported"),
    ],
)
async def test_what_webrtc_calls_do_not_have(operation: str, status: int, code: str) -> None:
    async with client_of(make_app(FakeService(), LOCKED)) as client:
        nobody = await client.post(f"{CALLS}/rtc_1/{operation}", json={}, headers=ONE)
        check_problem(nobody, 404, "call_not_found")
        await client.post(CALLS, content=OFFER, headers={**SDP, **ONE})
        response = await client.post(f"{CALLS}/rtc_1/{operation}", json={}, headers=ONE)
        check_problem(response, status, code)


async def test_too_many_sessions_are_429_and_refusals_are_counted() -> None:
    refusals: Counter[Cause] = Counter()
    service = FakeService(failure=TooManySessions(2.0, "as many calls as it may have"))
    async with client_of(make_app(service, LOCKED, refusals=refusals)) as client:
        refused = await client.post(CALLS, content=OFFER, headers={**SDP, **ONE})
        check_problem(refused, 429, "too_many_sessions")
        assert refused.headers["retry-after"] == "2"
        await client.post(CALLS, content=OFFER, headers=SDP)
        await client.get("/nothing")
    assert refusals == {
        Cause.TOO_MANY_SESSIONS: 1,
        Cause.MISSING_API_KEY: 1,
        Cause.NOT_FOUND: 1,
    }


async def test_an_owner_that_does_not_answer() -> None:
    # Nobody listens there: port 9 is discard's.
    fleet = make_fleet(others={Slot(2): "http://127.0.0.1:9"})
    hangup_path = f"{CALLS}/{make_call_id(Slot(2), bytes)}/hangup"
    async with client_of(make_app(FakeService(), LOCKED, fleet=fleet)) as client:
        hangup = await client.post(hangup_path, headers=ONE)
        check_problem(hangup, 503, "owner_unreachable")
        # What was passed on once is answered here, whatever the table says.
        hop = {**ONE, "Edge-Forwarded": "1"}
        last = await client.post(hangup_path, headers=hop)
        check_problem(last, 404, "call_not_found")


def test_call_ids_name_their_transceiver() -> None:
    call_id = make_call_id(Slot(0xABCDE), lambda count: b"\x01" * count)
    assert call_id == "rtc_0abcde" + "01" * 13
    assert slot_of(call_id) == 0xABCDE
    for other in ("", "rtc_", "rtc_1", call_id + "0", call_id.upper(), call_id[:-1] + "\n"):
        assert slot_of(other) is None


def test_a_default_opener_is_nobody() -> None:
    assert Opener().may_touch(Opener())
