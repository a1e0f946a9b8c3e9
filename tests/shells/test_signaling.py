"""The signaling application through ASGI: both dialects, who may call, and how it says no."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from starlette.types import ASGIApp, Message

from edge.config import HttpConfig
from edge.errors import ConfigError, RemoteProtocolError
from edge.geo import GeoSettings, HeaderNames, Place, Point
from edge.http.form import decode_form
from edge.http.gate import check_exposure
from edge.http.pages import page_routes
from edge.limits import TokenBucket
from edge.signaling import create_operations_app
from edge.transceiver.admission import Overloaded
from tests.support.http import FakeService, make_app

OPEN = HttpConfig()
LOCKED = HttpConfig(
    bind="0.0.0.0:8080", api_keys=("key-one-1", "key-two-2"), cors_origins=("https://app.example",)
)
SDP = {"Content-Type": "application/sdp"}
BEARER = {"Authorization": "Bearer key-two-2"}
OFFER = b"v=0\r\n"
PATHS = ["/v1/realtime/calls", "/whip"]


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://localhost:8080"
    )


@asynccontextmanager
async def calling(
    http: HttpConfig = OPEN,
    service: FakeService | None = None,
    *,
    ready: bool = True,
    geography: GeoSettings | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app(service or FakeService(), http, ready=ready, geography=geography)
    async with client_of(app) as client:
        yield client


def check_problem(response: httpx.Response, status: int, code: str) -> str:
    """Return the sentence, which stands where each dialect looks for it."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["type"] == "about:blank"
    assert problem["error"]["code"] == code
    assert problem["error"]["message"] == problem["detail"]
    return str(problem["detail"])


async def call_asgi(app: ASGIApp, path: str, chunks: Sequence[bytes | None]) -> tuple[int, int]:
    """POST chunks, None for a client that leaves; return (status or 0, chunks that were read)."""
    read = status = 0

    async def receive() -> Message:
        nonlocal read
        await trio.lowlevel.checkpoint()
        chunk = chunks[read]
        read += 1
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": read < len(chunks)}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/sdp")]
    headers.append((b"content-length", b"5"))  # a lie that must not matter
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": headers,
    }
    await app(scope, receive, send)
    return status, read


# --- The two dialects ----------------------------------------------------------------------


async def test_openai_offer_as_body_and_hangup() -> None:
    service = FakeService()
    async with calling(service=service) as client:
        response = await client.post("/v1/realtime/calls", content=OFFER, headers=SDP)
        assert response.status_code == 201
        assert response.headers["content-type"] == "application/sdp"
        assert response.headers["location"] == "/v1/realtime/calls/rtc_1"
        assert response.content == b"v=0\r\ns=5\r\n"
        assert service.offers == [(OFFER, None)]
        assert (await client.post("/v1/realtime/calls/rtc_1/hangup")).status_code == 200
        assert service.open == set()
        again = await client.post("/v1/realtime/calls/rtc_1/hangup")
        check_problem(again, 404, "call_not_found")


@pytest.mark.parametrize("with_file_names", [True, False])
async def test_openai_offer_as_form(with_file_names: bool) -> None:
    service = FakeService()
    name = "blob" if with_file_names else None
    sdp, session = (name, OFFER, "application/sdp"), (name, b'{"type":"realtime"}')
    async with calling(service=service) as client:
        both = await client.post("/v1/realtime/calls", files={"sdp": sdp, "session": session})
        assert both.status_code == 201
        alone = await client.post("/v1/realtime/calls", files={"sdp": sdp})
        assert alone.headers["location"] == "/v1/realtime/calls/rtc_2"
    assert service.offers == [(OFFER, b'{"type":"realtime"}'), (OFFER, None)]


@pytest.mark.parametrize(
    "session", [b"", b"nonsense", b"[]", b'"x"', b"{", b'{"a":\xff}', b'{"a":' * 6_000]
)
async def test_a_session_must_be_a_json_object(session: bytes) -> None:
    service = FakeService()
    async with calling(HttpConfig(max_body_bytes=200_000), service) as client:
        response = await client.post(
            "/v1/realtime/calls", files={"sdp": (None, OFFER), "session": (None, session)}
        )
    check_problem(response, 400, "invalid_session")
    assert service.offers == []


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("multipart/form-data", b"", "invalid_form"),
        ("multipart/form-data; boundary=" + "b" * 3_000, b"", "invalid_form"),
        ("multipart/form-data; boundary=b", b"", "invalid_form"),
        ("multipart/form-data; boundary=b", b"nonsense", "invalid_form"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n", "invalid_form"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="sdp"\r\n\r\nv=0\r\n',
            "invalid_form",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="sdp"\r\n\r\nv=0\r\n' * 2 + b"--b--\r\n",
            "invalid_form",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nv=0\r\n--b--\r\n',
            "missing_sdp",
        ),
    ],
)
async def test_broken_forms(content_type: str, body: bytes, code: str) -> None:
    async with calling() as client:
        response = await client.post(
            "/v1/realtime/calls", content=body, headers={"Content-Type": content_type}
        )
    check_problem(response, 400, code)


def test_mutated_forms_give_parts_or_a_remote_error() -> None:
    rng = random.Random(5)
    good = (
        b'--b\r\nContent-Disposition: form-data; name="sdp"; filename="x"\r\n'
        b"Content-Type: application/sdp\r\n\r\nv=0\r\n--b\r\n"
        b'Content-Disposition: form-data; name="session"\r\n\r\n{}\r\n--b--\r\n'
    )
    assert decode_form("multipart/form-data; boundary=b", good) == {"sdp": b"v=0", "session": b"{}"}
    refused = 0
    for _ in range(1_000):
        body = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(body))
            body[at : at + rng.randrange(4)] = rng.choice(
                [b"", b"\r\n", b"--b", b'"', b"\xff", b";"]
            )
        content_type = rng.choice(['boundary="b"', "boundary=b", "boundary*=utf-8''b"])
        try:
            decode_form(f"multipart/form-data; {content_type}", bytes(body))
        except RemoteProtocolError:
            refused += 1
    assert 100 < refused < 1_000


async def test_whip() -> None:
    service = FakeService()
    async with calling(service=service) as client:
        options = await client.options("/whip")
        assert options.status_code == 204
        assert options.headers["accept-post"] == "application/sdp"
        assert "PATCH" in options.headers["access-control-allow-methods"]
        response = await client.post("/whip", content=OFFER, headers=SDP)
        assert response.status_code == 201
        assert response.headers["location"] == "/whip/rtc_1"
        assert response.headers["etag"]
        put = await client.put("/whip/rtc_1", content=b"a=x")
        check_problem(put, 405, "method_not_allowed")
        assert {word.strip() for word in put.headers["allow"].split(",")} == {
            *("DELETE", "OPTIONS", "PATCH")
        }
        assert (await client.delete("/whip/rtc_1")).status_code == 200
        check_problem(await client.delete("/whip/rtc_1"), 404, "call_not_found")
        for method in ("GET", "PUT", "DELETE"):
            check_problem(await client.request(method, "/whip"), 405, "method_not_allowed")


@pytest.mark.parametrize("call_id", ["x", "rtc_", "rtc_%0a", "rtc_a%2fb", "rtc_" + "a" * 65])
async def test_malformed_call_ids(call_id: str) -> None:
    async with calling() as client:
        assert (await client.delete(f"/whip/{call_id}")).status_code == 404


# --- Refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_a_bad_offer_is_400_with_the_reason(path: str) -> None:
    async with calling() as client:
        response = await client.post(path, content=b"<script>", headers=SDP)
    assert "v=0" in check_problem(response, 400, "invalid_offer")
    assert "script" not in response.text


@pytest.mark.parametrize("path", PATHS)
async def test_overload_is_503_with_retry_after(path: str) -> None:
    async with calling(service=FakeService(failure=Overloaded(2.3, "no relay is up"))) as client:
        response = await client.post(path, content=OFFER, headers=SDP)
    assert check_problem(response, 503, "overloaded") == "no relay is up"
    assert response.headers["retry-after"] == "3"


async def test_a_bug_is_500_and_stays_inside() -> None:
    async with calling(service=FakeService(failure=ZeroDivisionError("secret"))) as client:
        response = await client.post("/whip", content=OFFER, headers=SDP)
    check_problem(response, 500, "internal_error")
    assert "secret" not in response.text


@pytest.mark.parametrize("path", PATHS)
async def test_body_limit_counts_what_arrives(path: str) -> None:
    service = FakeService()
    app = make_app(service, HttpConfig(max_body_bytes=1_000))
    fits = [OFFER, *[b"a=bcdefg\r\n"] * 99, b"a=b\r\n"]
    assert sum(map(len, fits)) == 1_000
    assert await call_asgi(app, path, fits) == (201, 101)
    assert await call_asgi(app, path, [*fits, b"x", b"never read"]) == (413, 102)
    assert len(service.offers) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_while_sending_is_no_error(path: str) -> None:
    service = FakeService()
    assert await call_asgi(make_app(service, OPEN), path, [OFFER, None]) == (0, 2)
    assert service.offers == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/whip", {}),
        ("/whip", {"Content-Type": "text/plain"}),
        ("/whip", {"Content-Type": "multipart/form-data; boundary=b"}),
        ("/whip", {**SDP, "Content-Encoding": "gzip"}),
        ("/v1/realtime/calls", {"Content-Type": "application/json"}),
    ],
)
async def test_media_types(path: str, headers: dict[str, str]) -> None:
    async with calling() as client:
        response = await client.post(path, content=OFFER, headers=headers)
        check_problem(response, 415, "unsupported_media_type")
        assert "application/sdp" in response.headers["accept-post"]
        upper = {"Content-Type": "Application/SDP; charset=utf-8"}
        assert (await client.post(path, content=OFFER, headers=upper)).status_code == 201


async def test_unknown_paths_and_methods() -> None:
    async with calling() as client:
        for path in ("/nothing", "/v1/realtime/calls/", "/web/../signaling.py", "/web/%2e%2e/x"):
            check_problem(await client.get(path), 404, "not_found")
        check_problem(await client.get("/v1/realtime/calls"), 405, "method_not_allowed")


async def test_offers_are_rate_limited() -> None:
    time = 100.0
    app = make_app(FakeService(), HttpConfig(offers_per_second=2.0), now=lambda: time)
    async with client_of(app) as client:

        async def statuses(count: int) -> list[int]:
            answers = [await client.post("/whip", content=OFFER, headers=SDP) for _ in range(count)]
            return [answer.status_code for answer in answers]

        assert await statuses(3) == [201, 201, 429]
        refused = await client.post("/whip", content=OFFER, headers=SDP)
        check_problem(refused, 429, "rate_limit_exceeded")
        assert refused.headers["retry-after"] == "1"
        time += 0.5
        assert await statuses(2) == [201, 429]
        time += 3600
        assert await statuses(3) == [201, 201, 429]


def test_token_bucket() -> None:
    slow = TokenBucket(0.1, now=0.0)
    assert slow.take(now=0.0) == 0.0
    assert slow.take(now=0.0) == pytest.approx(10.0)
    assert slow.take(now=9.9) == pytest.approx(0.1)
    assert slow.take(now=10.1) == 0.0
    assert slow.take(now=5.0) > 0.0  # a clock that steps back gives nothing


# --- Where a client is ---------------------------------------------------------------------

SYDNEY = Point(-33.87, 151.21)
ELSEWHERE = {"x-lat": "-33.87", "x-lon": "151.21"}


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_is_where_the_front_says_and_is_answered_here(path: str) -> None:
    service = FakeService()
    believing = GeoSettings(names=HeaderNames(latitude="x-lat", longitude="x-lon"))
    async with calling(service=service, geography=believing) as client:
        for headers in (ELSEWHERE, {"x-lat": "south"}, {}):
            response = await client.post(path, content=OFFER, headers={**SDP, **headers})
            assert response.status_code == 201, "never a redirect, never a refusal"
            assert response.headers["location"].startswith(path)
    assert service.places == [Place(point=SYDNEY), None, None]


async def test_headers_that_nobody_configured_say_nothing() -> None:
    service = FakeService()
    cloudflare = {"cf-ipcountry": "AU", "cf-iplatitude": "-33.87", "cf-iplongitude": "151.21"}
    async with calling(service=service) as client:
        await client.post("/whip", content=OFFER, headers={**SDP, **cloudflare})
    assert service.places == [None]


async def test_the_address_that_is_looked_up_is_the_peers() -> None:
    asked: list[str] = []

    def look_up(address: str) -> Point:
        asked.append(address)
        return SYDNEY

    service = FakeService()
    async with calling(service=service, geography=GeoSettings(look_up=look_up)) as client:
        await client.post("/whip", content=OFFER, headers=SDP)
    assert asked == ["127.0.0.1"]
    assert service.places == [Place(point=SYDNEY)]


# --- Who may call --------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PATHS, "/v1/realtime/calls/rtc_1/hangup", "/v1/anything"])
@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "missing_api_key"),
        (b"Basic a2V5LW9uZS0x", "missing_api_key"),
        (b"Bearer", "missing_api_key"),
        (b"Bearer wrong", "invalid_api_key"),
        (b"Bearer key-one-1x", "invalid_api_key"),
        (b"Bearer key-one-1 key-two-2", "invalid_api_key"),
        (b"Bearer \xff\xfe", "invalid_api_key"),
    ],
)
async def test_a_key_is_needed(path: str, authorization: bytes | None, code: str) -> None:
    headers = {b"content-type": b"application/sdp"}
    if authorization is not None:
        headers[b"authorization"] = authorization
    service = FakeService()
    async with calling(LOCKED, service) as client:
        response = await client.post(path, content=OFFER, headers=headers)
    check_problem(response, 401, code)
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert service.offers == []


@pytest.mark.parametrize("key", ["key-one-1", "key-two-2"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_each_key_opens(scheme: str, key: str) -> None:
    async with calling(LOCKED) as client:
        headers = {**SDP, "Authorization": f"{scheme} {key}"}
        assert (await client.post("/whip", content=OFFER, headers=headers)).status_code == 201


async def test_health_and_metrics_need_no_key() -> None:
    async with calling(LOCKED) as client:
        assert (await client.get("/healthz")).text == "ok\n"
        assert (await client.get("/readyz")).status_code == 200
        metrics = await client.get("/metrics")
        assert metrics.content == b"edge_up 1\n"
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_not_ready() -> None:
    async with calling(ready=False) as client:
        check_problem(await client.get("/readyz"), 503, "not_ready")
        assert (await client.get("/healthz")).status_code == 200


async def test_operations_app_serves_no_calls() -> None:
    app = create_operations_app(http=OPEN, render_metrics=lambda: b"x 1\n", ready=lambda: True)
    async with client_of(app) as client:
        assert (await client.get("/metrics")).text == "x 1\n"
        check_problem(await client.post("/whip", content=OFFER, headers=SDP), 404, "not_found")
    everywhere = HttpConfig(bind="0.0.0.0:9100")  # without keys, because there is nothing to open
    app = create_operations_app(http=everywhere, render_metrics=lambda: b"", ready=lambda: True)
    async with client_of(app) as client:
        scraped = await client.get("/metrics", headers={"Host": "10.0.0.5:9100"})
    assert scraped.status_code == 200


@pytest.mark.parametrize(
    ("config", "exposed"),
    [
        (HttpConfig(bind="127.0.0.1:80"), False),
        (HttpConfig(bind="[::1]:80"), False),
        (HttpConfig(bind="localhost:80"), False),
        (HttpConfig(bind="0.0.0.0:80"), True),
        (HttpConfig(bind="[::]:80"), True),
        (HttpConfig(bind="192.0.2.1:80"), True),
        (HttpConfig(bind="0.0.0.0:80", api_keys=("k",)), False),
        (HttpConfig(bind="0.0.0.0:80", allow_anonymous=True), False),
        (HttpConfig(bind="nonsense"), True),
    ],
)
async def test_exposure(config: HttpConfig, exposed: bool) -> None:
    if not exposed:
        check_exposure(config)
        return
    with pytest.raises(ConfigError, match=r"http\.bind"):
        check_exposure(config)
    with pytest.raises(ConfigError, match=r"http\.bind"):
        make_app(FakeService(), config)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8080", True),
        ("LOCALHOST", True),
        ("127.0.0.1:1", True),
        ("[::1]:8080", True),
        ("attacker.example", False),
        ("attacker.example:8080", False),
        ("localhost.attacker.example", False),
        ("127.0.0.1.attacker.example", False),
        ("[::1", True),
        ("", False),
    ],
)
@pytest.mark.parametrize("path", ["/healthz", "/whip"])
async def test_rebound_names_are_refused_without_keys(path: str, host: str, allowed: bool) -> None:
    async with calling() as client:
        response = await client.request(
            "GET" if path == "/healthz" else "POST",
            path,
            content=b"" if path == "/healthz" else OFFER,
            headers={**SDP, "Host": host},
        )
    if allowed:
        assert response.is_success
    else:
        check_problem(response, 421, "wrong_host")


async def test_any_host_with_keys_or_permission() -> None:
    anonymous = HttpConfig(bind="0.0.0.0:80", allow_anonymous=True)
    for config in (LOCKED, anonymous):
        async with calling(config) as client:
            headers = {**SDP, **BEARER, "Host": "edge.example"}
            assert (await client.post("/whip", content=OFFER, headers=headers)).status_code == 201


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "http://localhost:8080"}, True),
        ({"Origin": "https://proxy.example", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://attacker.example", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://localhost:9999", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "null"}, False),
    ],
)
async def test_foreign_pages_can_not_borrow_an_open_server(
    headers: dict[str, str], allowed: bool
) -> None:
    service = FakeService()
    async with calling(service=service) as client:
        # A form needs no preflight: the browser sends it whatever CORS says.
        response = await client.post(
            "/v1/realtime/calls", files={"sdp": (None, OFFER)}, headers=headers
        )
    assert len(service.offers) == allowed
    if not allowed:
        check_problem(response, 403, "origin_not_allowed")


# --- CORS ----------------------------------------------------------------------------------

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-openai-agents-sdk",
}


async def test_preflight_of_an_allowed_origin() -> None:
    async with calling(LOCKED) as client:
        response = await client.options(
            "/v1/realtime/calls", headers={**PREFLIGHT, "Origin": "https://app.example"}
        )
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert {"POST", "DELETE"} <= set(
        response.headers["access-control-allow-methods"].replace(",", " ").split()
    )
    assert {"authorization", "content-type", "x-openai-agents-sdk"} <= set(
        response.headers["access-control-allow-headers"].replace(",", " ").split()
    )
    assert response.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.attacker.example",
        "http://app.example",
        "https://app.example:444",
        "null",
    ],
)
async def test_other_origins_get_nothing(origin: str) -> None:
    async with calling(LOCKED) as client:
        preflight = await client.options("/whip", headers={**PREFLIGHT, "Origin": origin})
        check_problem(preflight, 403, "origin_not_allowed")
        response = await client.post(
            "/whip", content=OFFER, headers={**SDP, **BEARER, "Origin": origin}
        )
    for answer in (preflight, response):
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("headers", [{**SDP, **BEARER}, SDP])
async def test_allowed_origin_can_read_answers_and_errors(headers: dict[str, str]) -> None:
    async with calling(LOCKED) as client:
        response = await client.post(
            "/whip", content=OFFER, headers={**headers, "Origin": "https://app.example"}
        )
    assert response.status_code == (201 if headers is not SDP else 401)
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    exposed = response.headers["access-control-expose-headers"].replace(",", " ").split()
    assert {"Location", "ETag", "Link", "Access-Control-Allow-Methods"} <= set(exposed)


# --- Pages ---------------------------------------------------------------------------------


async def test_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text("<p>hello")
    (tmp_path / "app.js").write_text("1")
    (tmp_path / "notes.txt").write_text("not for the public")
    monkeypatch.setattr("edge.signaling.page_routes", lambda: page_routes(tmp_path))
    async with calling() as client:
        page = await client.get("/")
        assert page.text == "<p>hello"
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["cache-control"] == "no-store"
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        script = await client.get("/web/app.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert (await client.head("/")).status_code == 200
        check_problem(await client.get("/web/notes.txt"), 404, "not_found")
