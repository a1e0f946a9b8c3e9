"""Pipecat's small-webrtc dialect through ASGI."""

from __future__ import annotations

import pytest

from edge.config import HttpConfig
from tests.shells.test_signaling import OFFER, check_problem, client_of
from tests.support.http import FakeService, make_app

ASK = {"sdp": OFFER.decode(), "type": "offer", "pc_id": None, "restart_pc": False}
CANDIDATES = [{"candidate": "candidate:1 1 udp 1 x.local 5 typ host", "sdp_mid": "0"}]


async def test_an_offer_and_its_candidates() -> None:
    service = FakeService()
    async with client_of(make_app(service, HttpConfig())) as client:
        response = await client.post("/api/offer", json={**ASK, "requestData": {"a": 1}})
        assert response.status_code == 200
        answer = response.json()
        assert answer == {"sdp": "v=0\r\ns=5\r\n", "type": "answer", "pc_id": "rtc_1"}
        trickle = {"pc_id": "rtc_1", "candidates": CANDIDATES}
        taken = await client.patch("/api/offer", json=trickle)
        assert taken.json() == {"status": "success"}
        nobody = await client.patch("/api/offer", json={"pc_id": "rtc_9", "candidates": []})
        check_problem(nobody, 404, "call_not_found")
    assert service.offers == [(OFFER, None)]


async def test_a_restart_is_a_new_call() -> None:
    service = FakeService()
    async with client_of(make_app(service, HttpConfig())) as client:
        await client.post("/api/offer", json=ASK)
        again = await client.post("/api/offer", json={**ASK, "pc_id": "rtc_1"})
        check_problem(again, 409, "call_is_running")
        response = await client.post(
            "/api/offer", json={**ASK, "pc_id": "rtc_1", "restart_pc": True}
        )
        assert response.json()["pc_id"] == "rtc_2"
        assert service.open == {"rtc_2"}
        stale = await client.post("/api/offer", json={**ASK, "pc_id": "rtc_1"})
        assert stale.json()["pc_id"] == "rtc_3", "a call that is over is no hindrance"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"nonsense", 400),
        (b"{}", 422),
        (b'{"sdp":5}', 422),
        (b'{"sdp":"v=0","type":"answer"}', 422),
        (b'{"sdp":"\\ud800"}', 400),
        (b'{"sdp":"x"}', 400),
    ],
)
async def test_no_offer(body: bytes, status: int) -> None:
    async with client_of(make_app(FakeService(), HttpConfig())) as client:
        headers = {"Content-Type": "application/json"}
        response = await client.post("/api/offer", content=body, headers=headers)
    assert response.status_code == status
    assert response.json()["error"]["message"]


async def test_it_needs_a_key_like_the_others() -> None:
    locked = HttpConfig(api_keys=("key-one-1",))
    async with client_of(make_app(FakeService(), locked)) as client:
        check_problem(await client.post("/api/offer", json=ASK), 401, "missing_api_key")
        check_problem(await client.patch("/api/offer", json={}), 401, "missing_api_key")
