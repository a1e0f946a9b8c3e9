"""WHIP's PATCH through ASGI: trickle, ICE restart, entity tags (RFC 9725, section 4.3)."""

from __future__ import annotations

import random

import httpx
import pytest

from edge.config import HttpConfig
from edge.errors import RemoteProtocolError
from edge.http.whip import FRAGMENT, link_header
from edge.transceiver.admission import Overloaded
from edge.wire.sdp_fragment import MAX_LINES, decode_fragment, encode_fragment
from tests.shells.test_signaling import OFFER, SDP, check_problem, client_of
from tests.support.http import FakeService, make_app

CANDIDATE = b"a=candidate:1 1 udp 2113937151 192.0.2.1 5000 typ host ufrag client0\r\n"
TRICKLE = (
    b"a=ice-ufrag:client0\r\na=ice-pwd:0123456789012345678901\r\n"
    b"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n" + CANDIDATE + b"a=end-of-candidates\r\n"
)
RESTART = TRICKLE.replace(b"a=ice-ufrag:client0", b"a=ice-ufrag:client1")


async def patch(
    client: httpx.AsyncClient, body: bytes, *, if_match: str | None, content_type: str = FRAGMENT
) -> httpx.Response:
    headers = {"Content-Type": content_type}
    if if_match is not None:
        headers["If-Match"] = if_match
    return await client.patch("/whip/rtc_1", content=body, headers=headers)


async def test_candidates_are_taken_politely() -> None:
    service = FakeService()
    async with client_of(make_app(service, HttpConfig())) as client:
        created = await client.post("/whip", content=OFFER, headers=SDP)
        assert created.headers["accept-patch"] == FRAGMENT
        tag = created.headers["etag"]
        for body in (TRICKLE, CANDIDATE, b"a=end-of-candidates\r\n"):
            response = await patch(client, body, if_match=tag)
            assert response.status_code == 204
            assert response.content == b""
            assert response.headers["etag"] == tag
        assert (await patch(client, TRICKLE, if_match="*")).status_code == 204
        assert (await patch(client, TRICKLE, if_match=f'"x", {tag}')).status_code == 204
    assert service.generation == 0


async def test_the_tag_may_come_as_in_the_drafts() -> None:
    async with client_of(make_app(FakeService(), HttpConfig())) as client:
        tag = (await client.post("/whip", content=OFFER, headers=SDP)).headers["etag"]
        for etag, status in ((tag, 204), ('"other"', 412)):
            headers = {"Content-Type": FRAGMENT, "ETag": etag}
            answer = await client.patch("/whip/rtc_1", content=CANDIDATE, headers=headers)
            assert answer.status_code == status


async def test_a_restart_gives_new_credentials_and_a_new_tag() -> None:
    service = FakeService()
    async with client_of(make_app(service, HttpConfig())) as client:
        first = (await client.post("/whip", content=OFFER, headers=SDP)).headers["etag"]
        response = await patch(client, RESTART, if_match="*")
        assert response.status_code == 200
        assert response.headers["content-type"] == FRAGMENT
        assert response.text == "a=ice-ufrag:server1\r\n"
        second = response.headers["etag"]
        assert second != first
        check_problem(await patch(client, CANDIDATE, if_match=first), 412, "etag_mismatch")
        assert (await patch(client, CANDIDATE, if_match=second)).status_code == 204
        # The client's own, once more: it is the present session's, so nothing restarts.
        assert (await patch(client, RESTART, if_match="*")).status_code == 204
    assert service.generation == 1


@pytest.mark.parametrize(
    ("body", "if_match", "status", "code"),
    [
        (CANDIDATE, None, 428, "missing_if_match"),
        (RESTART, None, 428, "missing_if_match"),
        (CANDIDATE, '"other"', 412, "etag_mismatch"),
        (RESTART, '"ice-0"', 412, "etag_mismatch"),
        (b"", "*", 400, "invalid_fragment"),
        (b"v=0\r\n", "*", 400, "invalid_fragment"),
        (b"a=ice-ufrag:abcd\r\n", "*", 400, "invalid_fragment"),
        (b"a=ice-ufrag:abcd\r\na=ice-pwd:short\r\n", "*", 400, "invalid_fragment"),
        (RESTART + b"a=ice-ufrag:client2\r\n", "*", 400, "invalid_fragment"),
        (b"a=x\r\n" * (MAX_LINES + 1), "*", 400, "invalid_fragment"),
        (b"a=" + b"x" * 2_000, "*", 400, "invalid_fragment"),
        (b"a=\xff", "*", 400, "invalid_fragment"),
    ],
)
async def test_what_is_refused(body: bytes, if_match: str | None, status: int, code: str) -> None:
    service = FakeService()
    async with client_of(make_app(service, HttpConfig())) as client:
        await client.post("/whip", content=OFFER, headers=SDP)
        check_problem(await patch(client, body, if_match=if_match), status, code)
    assert service.generation == 0


async def test_other_types_and_other_calls() -> None:
    async with client_of(make_app(FakeService(), HttpConfig())) as client:
        check_problem(await patch(client, CANDIDATE, if_match="*"), 404, "call_not_found")
        await client.post("/whip", content=OFFER, headers=SDP)
        wrong = await patch(client, OFFER, if_match="*", content_type="application/sdp")
        check_problem(wrong, 415, "unsupported_media_type")
        assert wrong.headers["accept-patch"] == FRAGMENT
        options = await client.options("/whip/rtc_1")
        assert options.headers["accept-patch"] == FRAGMENT


async def test_no_relay_for_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Overloaded(1.0, "no relay is up")

    service = FakeService()
    monkeypatch.setattr(service, "restart_ice", fail)
    async with client_of(make_app(service, HttpConfig())) as client:
        await client.post("/whip", content=OFFER, headers=SDP)
        response = await patch(client, RESTART, if_match="*")
    check_problem(response, 503, "overloaded")
    assert response.headers["retry-after"] == "1"


async def test_ice_servers_are_told() -> None:
    servers = ("stun:stun.example.net:3478", "turn:turn.example.net?transport=udp name word")
    async with client_of(make_app(FakeService(), HttpConfig(ice_servers=servers))) as client:
        created = await client.post("/whip", content=OFFER, headers=SDP)
    assert created.headers["link"] == (
        '<stun:stun.example.net:3478>; rel="ice-server", '
        '<turn:turn.example.net?transport=udp>; rel="ice-server"; username="name"; '
        'credential="word"; credential-type="password"'
    )
    assert link_header(()) == {}


# Fragments.


def test_a_fragment_of_ours_reads_back() -> None:
    text = encode_fragment(
        "abcd", "p" * 22, mid="0", candidates=[("203.0.113.1", 3478), ("2001:db8::1", 3478)]
    )
    fragment = decode_fragment(text.encode())
    assert (fragment.ufrag, fragment.password, fragment.candidates) == ("abcd", "p" * 22, 2)
    assert "abcd" not in repr(fragment)


def test_mutated_fragments_give_a_value_or_a_remote_error() -> None:
    rng = random.Random(9)
    refused = 0
    for _ in range(2_000):
        body = bytearray(RESTART)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(body))
            body[at : at + rng.randrange(4)] = rng.choice(
                [b"", b"\r\n", b"\n", b"a=", b"\xff", b"\xe2\x80\xa8", b"a=ice-pwd:"]
            )
        try:
            fragment = decode_fragment(bytes(body))
        except RemoteProtocolError:
            refused += 1
        else:
            assert not fragment.ufrag or fragment.ufrag.isascii()
    assert 100 < refused < 2_000
