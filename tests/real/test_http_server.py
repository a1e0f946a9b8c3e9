"""The HTTP server on loopback sockets against clients that do not behave."""

from __future__ import annotations

import random
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from pathlib import Path

import httpx
import pytest
import trio
from cryptography import x509

from edge.config import HttpConfig
from edge.errors import ConfigError
from edge.http.listen import bind_http, make_listeners
from edge.http.self_signed import certificate_hosts, make_certificate
from edge.http.server import HttpEvent, HttpServer
from edge.ready import StartupError
from tests.fuzz.fuzz_http import Fuzzer
from tests.support.http import HOST, FakeService, Live, make_app, serve

CONFIG = HttpConfig(bind="127.0.0.1:0", request_timeout_seconds=0.3)
OFFER = b"v=0\r\n"


def post(body: bytes, *extra: bytes) -> bytes:
    lines = [
        *(
            b"POST /v1/realtime/calls HTTP/1.1",
            b"Host: localhost",
            b"Content-Type: application/sdp",
        ),
        *(b"Content-Length: %d" % len(body), *extra),
    ]
    return b"\r\n".join([*lines, b"", body])


async def send_until_cut(
    stream: trio.SocketStream, pieces: Iterable[bytes], *, pause: float = 0.0
) -> None:
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        for piece in pieces:
            await stream.send_all(piece)
            await trio.sleep(pause)


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartupError, match=rf"^http\.bind {bind}: Address already in use$"):
            bind_http(HttpConfig(bind=bind))


async def test_answers_and_keeps_the_connection() -> None:
    async with serve(CONFIG) as live, await live.connect() as stream:
        for _ in range(3):
            await stream.send_all(post(OFFER))
            answer = b""
            while not answer.endswith(b"s=5\r\n"):
                answer += await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 201 ")
        assert len(live.service.offers) == 3
        assert live.server.connections == 1
        assert live.server.events == {HttpEvent.ACCEPTED: 1}


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serve(CONFIG) as live:
        answer = await live.exchange(
            post(OFFER) + post(OFFER + b"a=b\r\n") + post(OFFER, b"Connection: close")
        )
        lengths = [line for line in answer.split(b"\r\n") if line.startswith(b"s=")]
        assert lengths == [b"s=5", b"s=10", b"s=5"]


@pytest.mark.parametrize(
    "head",
    [
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: x\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Extensions: \xff;;=\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: !!\r\n",
        b"Upgrade: h2c\r\nConnection: Upgrade\r\n",
    ],
)
async def test_upgrades_are_ignored(head: bytes) -> None:
    async with serve(CONFIG) as live:
        for path, status in [(b"/healthz", b"200"), (b"/v1/realtime", b"404")]:
            lines = [b"GET " + path + b" HTTP/1.1\r\n", HOST, head, b"\r\n"]
            async with await live.connect() as stream:
                await stream.send_all(b"".join(lines))
                answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 " + status)
        assert await live.is_healthy()
        assert live.server.events[HttpEvent.BUG] == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"\r\n\r\n\r\n",
        b"POST /whip HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /whip HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 30_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * 10_000 + b"\r\n",
    ],
)
async def test_malformed_requests_end_their_own_connection(request_bytes: bytes) -> None:
    async with serve(CONFIG) as live:
        with trio.fail_after(2):
            answer = await live.exchange(request_bytes)
        assert not answer or answer.startswith(b"HTTP/1.1 4")
        assert await live.is_healthy()
        assert live.server.events[HttpEvent.BUG] == 0


async def test_10_000_header_bytes_are_fine() -> None:
    async with serve(CONFIG) as live:
        answer = await live.exchange(
            post(OFFER, b"X-Filler: " + b"x" * 10_000, b"Connection: close")
        )
        assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("where", ["first byte", "head", "body"])
async def test_a_trickled_request_is_cut(where: str) -> None:
    request = post(b"x" * 1_000)
    start = {"first byte": 0, "head": 30, "body": request.index(b"\r\n\r\n") + 10}[where]
    async with serve(CONFIG) as live, await live.connect() as stream:
        await stream.send_all(request[:start])
        began = trio.current_time()
        await send_until_cut(stream, [bytes([byte]) for byte in request[start:]], pause=0.02)
        # From the first byte on, whatever it is a byte of.
        assert 0.25 < trio.current_time() - began < 0.9
        assert live.server.events[HttpEvent.TIMED_OUT] == 1
        assert live.service.offers == []
        assert await live.is_healthy()


async def test_an_idle_connection_is_closed_without_blame() -> None:
    async with serve(CONFIG) as live:
        began = trio.current_time()
        assert await live.exchange() == b""
        assert 0.25 < trio.current_time() - began < 0.9
        assert live.server.events[HttpEvent.TIMED_OUT] == 0


async def test_a_client_that_does_not_read_is_cut() -> None:
    async with serve(CONFIG) as live:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        await sock.connect(live.listener.address)
        stream = trio.SocketStream(sock)
        # The server's send buffer fills up, then it reads no more, then ours fills up.
        await send_until_cut(stream, repeat((b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n") * 999))
        await stream.aclose()
        assert live.server.events[HttpEvent.TIMED_OUT] == 1
        assert live.server.connections == 0
        assert await live.is_healthy()


async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with serve(CONFIG) as live:
        for _ in range(10):
            with trio.fail_after(2):
                answer = await live.exchange(post(b"x" * 300_000, b"Connection: close"))
            assert answer.startswith(b"HTTP/1.1 413 ")
        assert live.server.events[HttpEvent.TIMED_OUT] == 0


async def test_an_endless_body_is_cut() -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with serve(CONFIG) as live, await live.connect() as stream:
        await stream.send_all(head)
        await send_until_cut(stream, repeat(chunk))
        assert await live.is_healthy()


async def test_connections_are_limited() -> None:
    async with serve(HttpConfig(bind="127.0.0.1:0", max_connections=3)) as live:
        held = [await live.connect() for _ in range(3)]
        await trio.sleep(0.05)
        assert await live.exchange() == b""
        assert live.server.events == {HttpEvent.ACCEPTED: 3, HttpEvent.REFUSED: 1}
        await held[0].aclose()
        with trio.fail_after(1):
            while live.server.connections == 3:
                await trio.sleep(0.005)
        assert await live.is_healthy()
        for stream in held:
            await stream.aclose()


async def test_resets_leave_nothing_behind() -> None:
    async with serve(CONFIG) as live:
        for cut in (0, 10, 60, 200):
            stream = await live.connect()
            await stream.send_all(post(OFFER * 50)[:cut])
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
        assert await live.is_healthy()
        assert live.server.events[HttpEvent.BUG] == 0


async def test_a_running_request_finishes_on_stop() -> None:
    config = HttpConfig(bind="127.0.0.1:0", request_timeout_seconds=5)
    async with serve(config) as live, await live.connect() as busy, await live.connect() as idle:
        request, address = post(OFFER), live.listener.address
        await busy.send_all(request[:-2])
        await trio.sleep(0.05)
        live.stop.set()
        assert await idle.receive_some() == b""
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(*address)
        await busy.send_all(request[-2:])
        answer = b"".join([bytes(chunk) async for chunk in busy])
        assert answer.startswith(b"HTTP/1.1 201 ")


async def test_the_grace_time_ends() -> None:
    config = HttpConfig(bind="127.0.0.1:0", request_timeout_seconds=30)
    async with serve(config, grace_seconds=0.2) as live, await live.connect() as stream:
        await stream.send_all(post(OFFER)[:-2])
        await trio.sleep(0.05)
        began = trio.current_time()
        live.stop.set()
        assert await stream.receive_some() == b""
        assert trio.current_time() - began < 0.5


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003, 0.01, 0.03])
async def test_cancelling_at_any_moment_leaves_no_task(delay: float) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    server = HttpServer(make_app(FakeService(), CONFIG), http=CONFIG)
    (listener,) = make_listeners(CONFIG, bind_http(CONFIG))
    live = Live(server, listener, FakeService(), trio.Event())
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, [listener], stop=live.stop))
        for _ in range(5):
            nursery.start_soon(live.exchange, post(OFFER), post(OFFER)[:-1])
        await trio.sleep(delay)
        nursery.cancel_scope.cancel()
    assert server.connections == 0
    assert server.events[HttpEvent.BUG] == 0
    assert trio.lowlevel.current_statistics().tasks_living == before


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_self_signed_tls(version: ssl.TLSVersion) -> None:
    config = HttpConfig(bind="127.0.0.1:0", tls="self-signed", request_timeout_seconds=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with serve(config) as live:
        assert live.listener.url.startswith("https://127.0.0.1:")
        async with trio.SSLStream(await live.connect(), context, https_compatible=True) as stream:
            for _ in range(2):
                await stream.send_all(post(OFFER))
                answer = b""
                while not answer.endswith(b"s=5\r\n"):
                    answer += await stream.receive_some()
            assert stream.selected_alpn_protocol() == "http/1.1"
        garbage = await live.exchange(b"GET / HTTP/1.1\r\n\r\n")  # plain HTTP, to TLS
        assert b"HTTP" not in garbage
        async with httpx.AsyncClient(verify=context) as client:
            response = await client.post(
                f"{live.listener.url}/whip",
                content=b"x" * 200_000,
                headers={"Content-Type": "application/sdp"},
            )
        assert response.status_code == 413
        assert live.server.events[HttpEvent.BUG] == 0


async def test_a_tls_handshake_that_stalls_is_cut() -> None:
    config = HttpConfig(bind="127.0.0.1:0", tls="self-signed", request_timeout_seconds=0.3)
    async with serve(config) as live:
        with trio.fail_after(1):
            await live.exchange(b"\x16\x03\x01")
        assert live.server.events[HttpEvent.TIMED_OUT] == 1


def test_the_made_up_certificate_names_this_machine() -> None:
    hosts = certificate_hosts("[::]:8443")
    assert {"localhost", "127.0.0.1", "::1", "::", socket.gethostname()} <= set(hosts)
    pem = make_certificate([*hosts, "käse"])
    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert "127.0.0.1" in map(str, names.get_values_for_type(x509.IPAddress))


async def test_certificate_files(tmp_path: Path) -> None:
    file = tmp_path / "both.pem"
    file.write_bytes(make_certificate(["localhost"]))
    config = HttpConfig(
        bind="127.0.0.1:0", tls="files", certificate_file=str(file), key_file=str(file)
    )
    trust = ssl.create_default_context(cafile=str(file))
    async with serve(config) as live, httpx.AsyncClient(verify=trust) as client:
        port = live.listener.address[1]
        assert (await client.get(f"https://localhost:{port}/healthz")).text == "ok\n"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (HttpConfig(bind="nonsense"), r"http\.bind"),
        (HttpConfig(tls="maybe"), r"http\.tls"),
        (HttpConfig(tls="files", certificate_file="/nonexistent"), r"http\.certificate_file"),
        (HttpConfig(tls="files", certificate_file="/etc/hosts", key_file="/etc/hosts"), "loaded"),
    ],
)
async def test_configuration_errors(config: HttpConfig, sentence: str) -> None:
    make = bind_http if config.bind == "nonsense" else partial(make_listeners, sockets=[])
    with pytest.raises(ConfigError, match=sentence):
        make(config)


async def test_exceptions_are_contained(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    class Log:
        def error(self, event: str, **fields: object) -> None:
            lines.append(event)

    def explode(*args: object) -> Callable[[], None]:
        raise RuntimeError("bug")

    monkeypatch.setattr("edge.http.server.log", Log())
    async with serve(CONFIG) as live:
        with monkeypatch.context() as patch:
            patch.setattr("edge.http.http1.Http1._create_stream", explode)
            for _ in range(3):
                assert await live.exchange(post(OFFER)) == b""
        assert live.server.events[HttpEvent.BUG] == 3
        assert lines == ["http_connection_failed"]  # once in ten seconds
        assert await live.is_healthy()


async def test_fuzzed_requests(capsys: pytest.CaptureFixture[str]) -> None:
    config = HttpConfig(bind="127.0.0.1:0", request_timeout_seconds=0.2)
    async with serve(config) as live:
        fuzzer = Fuzzer(live, random.Random(20))
        await fuzzer.run(250)
        assert fuzzer.broken == []
        assert len(fuzzer.statuses) > 5
        assert "failed" not in capsys.readouterr().out  # no log of an exception
        assert live.server.events[HttpEvent.BUG] == 0
        assert await live.is_healthy()
