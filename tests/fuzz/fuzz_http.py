"""Throw mutated requests at a live server on loopback; it must survive and stay orderly.

The invariant: whatever a client sends, it gets HTTP responses or a closed connection within the
server's time-out, no exception has to be contained, and the next client is served.

    python -m tests.fuzz.fuzz_http --runs 5000 --seed 1 --json result.json
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import trio

from edge.config import HttpConfig
from edge.http.server import HttpEvent
from tests.support.http import Live, serve

_BOUNDARY = b"b0undary"
_FORM = (
    b'--b0undary\r\nContent-Disposition: form-data; name="sdp"\r\n'
    b"Content-Type: application/sdp\r\n\r\nv=0\r\n\r\n"
    b'--b0undary\r\nContent-Disposition: form-data; name="session"\r\n'
    b'Content-Type: application/json\r\n\r\n{"type":"realtime"}\r\n--b0undary--\r\n'
)


def _request(start: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    length = [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([start + b" HTTP/1.1", b"Host: localhost", *headers, *length, b"", body])


GOOD = [
    _request(b"GET /healthz"),
    _request(b"GET /metrics", b"Connection: close"),
    _request(b"GET /web/app.js?x=%20", b"Accept-Encoding: gzip"),
    _request(b"POST /v1/realtime/calls", b"Content-Type: application/sdp", body=b"v=0\r\n"),
    _request(
        b"POST /v1/realtime/calls",
        b"Content-Type: multipart/form-data; boundary=" + _BOUNDARY,
        body=_FORM,
    ),
    _request(b"POST /v1/realtime/calls/rtc_2/hangup", b"Authorization: Bearer sk-1"),
    _request(
        b"POST /whip",
        b"Content-Type: application/sdp",
        b"Expect: 100-continue",
        b"Transfer-Encoding: chunked",
    )
    + b"3\r\nv=0\r\n2\r\n\r\n\r\n0\r\n\r\n",
    _request(b"OPTIONS /whip", b"Origin: http://x", b"Access-Control-Request-Method: POST"),
    _request(b"DELETE /whip/rtc_2"),
    _request(
        b"GET /v1/realtime",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    _request(
        b"GET /v1/realtime?call_id=rtc_1",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Protocol: realtime",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    + b'\x81\xa6\0\0\0\0{"type":"session.update","session":{}}'
    + b"\x89\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8",
    _request(
        b"POST /v1/realtime/client_secrets",
        b"Content-Type: application/json",
        body=b'{"expires_after":{"anchor":"created_at","seconds":60},"session":{"a":[1]}}',
    ),
    _request(
        b"PATCH /whip/rtc_1",
        b"Content-Type: application/trickle-ice-sdpfrag",
        b"If-Match: *",
        body=b"a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\na=candidate:1 1\r\n",
    ),
    _request(b"POST /v1/realtime/calls/rtc_1/refer", b"Authorization: Bearer ek_AAAA"),
    _request(b"GET /", b"Upgrade: h2c", b"Connection: Upgrade", b"HTTP2-Settings: AAMAAABkAAQ"),
]

_SPLICES = [b"\r\n", b"\n", b"\0", b"\xff\xfe", b" ", b":", b"%00", b"%c3", b"../", b"\r\n\r\n"]
_SPLICES += [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"A" * 20_000, b"9" * 40]


def mutate(rng: random.Random) -> bytes:
    """Return a good request, or a few in a row, with some damage."""
    data = bytearray(b"".join(rng.choices(GOOD, k=rng.choice([1, 1, 1, 2, 4]))))
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                data[at:at] = rng.choice(_SPLICES)
            case 2:
                del data[at : at + rng.randrange(1, 40)]
            case 3:
                data[at:at] = data[rng.randrange(len(data) + 1) :][:60]
            case 4:
                del data[at:]
            case _:
                lines = data.split(b"\r\n")
                rng.shuffle(lines)
                data = bytearray(b"\r\n".join(lines))
    return bytes(data)


class Fuzzer:
    """Sends mutated requests, some at a time; ``broken`` lists the inputs that broke the rule."""

    def __init__(self, live: Live, rng: random.Random, *, at_once: int = 20) -> None:
        self.statuses: Counter[str] = Counter()
        self.broken: list[bytes] = []
        self.slowest = 0.0
        self._live = live
        self._rng = rng
        self._slots = trio.Semaphore(at_once)

    async def run(self, count: int) -> None:
        """Send ``count`` requests, each on its own connection."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                await self._slots.acquire()
                nursery.start_soon(self._try, mutate(self._rng), self._rng.random())

    async def _try(self, data: bytes, dice: float) -> None:
        began = trio.current_time()
        try:
            with trio.fail_after(5.0):
                answer = await self._exchange(data, dice)
        except trio.TooSlowError:
            self.broken.append(data)
        else:
            statuses = re.findall(rb"^HTTP/1\.1 (\d{3}) ", answer, re.MULTILINE)
            self.statuses.update(status.decode() for status in statuses or [b"closed"])
            if answer and not answer.startswith(b"HTTP/1.1 "):
                self.broken.append(data)
        finally:
            self.slowest = max(self.slowest, trio.current_time() - began)
            self._slots.release()

    async def _exchange(self, data: bytes, dice: float) -> bytes:
        answer = b""
        try:
            async with await self._live.connect() as stream:
                await stream.send_all(data)
                if dice < 0.1:
                    return b""  # gone without a word
                if dice < 0.3:
                    await stream.send_eof()
                async for chunk in stream:
                    answer += chunk
                    if b"HTTP/1.1 101 " in answer:  # a sideband lasts as long as its call
                        await trio.sleep(0.02)
                        break
        except trio.BrokenResourceError:
            pass
        return answer


async def _main(runs: int, seed: int, json_file: str) -> int:
    began = time.monotonic()
    config = HttpConfig(bind="127.0.0.1:0", request_timeout_seconds=0.3)
    async with serve(config) as live:
        fuzzer = Fuzzer(live, random.Random(seed))
        await fuzzer.run(runs)
        healthy = await live.is_healthy()
        events = {str(name): count for name, count in live.server.events.items()}
    result = {
        "runs": runs,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 2),
        "slowest_exchange_seconds": round(fuzzer.slowest, 3),
        "statuses": dict(sorted(fuzzer.statuses.items())),
        "server": events,
        "healthy": healthy,
        "broken": [data.hex() for data in fuzzer.broken],
    }
    for name, value in result.items():
        print(f"{name:26} {value}")
    if json_file:
        Path(json_file).write_text(json.dumps(result, indent=2))
    return int(bool(fuzzer.broken) or not healthy or events.get(HttpEvent.BUG, 0) > 0)


def main() -> int:
    """Run from the command line; 0 when the invariant held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args()
    return trio.run(_main, options.runs, options.seed, options.json)


if __name__ == "__main__":
    sys.exit(main())
