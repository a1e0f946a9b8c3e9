"""A realtime server by script, for tests: ``python -m tests.support.realtime_server``.

The model's name in the URL is ``SCENARIO.TALK``: which script is played, and under which name what
was received is written down, one JSON line an event, on stdout. The first line is the port. What it
sends are events of the official client's types, but for the scenarios that are about breaking them.
"""

from __future__ import annotations

import re
import sys
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha1
from itertools import count
from math import pi, sin
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)
from wsproto.utilities import LocalProtocolError

from tests.support.realtime_rig import (
    SECOND,
    Event,
    check_client_event,
    check_server_event,
    encode,
)

DELTA_SECONDS: Final = 0.2
WAVE_SECONDS: Final = 0.02
WAVE: Final = b"".join(
    pack("<h", round(12_000 * sin(2 * pi * 450 * sample / 24_000))) for sample in range(480)
)
"""Nine periods of 450 Hz."""
RAW: Final = ("mute", "noise", "trickle", "hang_up", "flood", "drip")
"""Scenarios below WebSocket; they listen on ports of their own."""

Record = Callable[[str, Event], None]


@dataclass
class Talk:
    """One client's connection."""

    socket: WebSocketConnection
    stream: trio.abc.Stream
    name: str
    record: Record
    heard: int = 0
    """Bytes of audio."""
    events: list[Event] = field(default_factory=list)
    _number: int = 0
    _changed: trio.Event = field(default_factory=trio.Event)

    async def send(self, kind: str, **fields: object) -> None:
        """Send an event that the official types know."""
        self._number += 1
        event = encode(kind, event_id=f"event_{self._number}", **fields)
        check_server_event(event)
        await self.socket.send_message(event.decode())

    async def listen(self) -> None:
        """Take what the client sends until it goes."""
        while True:
            try:
                message = await self.socket.get_message()
            except ConnectionClosed as closed:
                self._note_close(closed)
                return
            self._take(check_client_event(message))

    async def wait_for(self, kind: str, *, times: int = 1) -> Event:
        """Wait for so many events of a type."""
        while len(found := [event for event in self.events if event["type"] == kind]) < times:
            await self._changed.wait()
        return found[times - 1]

    async def wait_for_audio(self, seconds: float) -> None:
        """Wait until so much audio has come."""
        while self.heard < seconds * SECOND:
            await self._changed.wait()

    def _note_close(self, closed: ConnectionClosed) -> None:
        why = closed.reason
        code, text = (why.code, why.reason) if why else (1006, None)
        self.record(self.name, {"type": "closed", "code": int(code), "reason": text})

    def _take(self, event: Event) -> None:
        if event["type"] == "input_audio_buffer.append":
            size = len(b64decode(str(event["audio"])))
            event["audio"] = size
            self.heard += size
        self.events.append(event)
        self.record(self.name, event)
        self._changed.set()
        self._changed = trio.Event()


# What a server does


async def greet(talk: Talk) -> None:
    """Begin a session."""
    await talk.send("session.created", session={"type": "realtime", "model": "fake"})
    update = await talk.wait_for("session.update")
    await talk.send("session.updated", session=update["session"])


async def begin(talk: Talk, response: str, item: str) -> None:
    """Begin an answer."""
    message = {"id": item, "type": "message", "role": "assistant", "content": []}
    await talk.send("response.created", response={"id": response, "status": "in_progress"})
    await talk.send(
        "response.output_item.added", response_id=response, output_index=0, item=message
    )


async def say(talk: Talk, response: str, item: str, seconds: float, *, each: float = 0.0) -> None:
    """Send audio, faster than real time or one delta every ``each`` seconds."""
    audio = b64encode(WAVE * round(DELTA_SECONDS / WAVE_SECONDS)).decode()
    place = {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}
    for _ in range(round(seconds / DELTA_SECONDS)):
        await talk.send("response.output_audio.delta", delta=audio, **place)
        await trio.sleep(each)


async def end(talk: Talk, response: str, item: str, *, status: str = "completed") -> None:
    """End an answer."""
    place = {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}
    await talk.send("response.output_audio.done", **place)
    await talk.send("response.output_audio_transcript.done", transcript="a tone", **place)
    await talk.send("response.done", response={"id": response, "status": status, "output": []})


async def answer(talk: Talk, number: int = 1, *, seconds: float = 0.6, each: float = 0.0) -> None:
    """Speak a whole answer."""
    response, item = f"resp_{number}", f"item_{number}"
    await begin(talk, response, item)
    await say(talk, response, item, seconds, each=each)
    await end(talk, response, item)


async def speech(talk: Talk) -> None:
    """Tell that the user speaks."""
    await talk.send("input_audio_buffer.speech_started", audio_start_ms=1, item_id="item_user")


# Scenarios


async def normal(talk: Talk) -> None:
    """Hear, answer, stay."""
    await greet(talk)
    await talk.wait_for_audio(0.2)
    await speech(talk)
    await talk.send("input_audio_buffer.speech_stopped", audio_end_ms=200, item_id="item_user")
    await answer(talk)


async def barge_in(talk: Talk) -> None:
    """Answer at length, be interrupted, and answer again."""
    await greet(talk)
    await begin(talk, "resp_1", "item_1")
    await say(talk, "resp_1", "item_1", 5.0)
    await talk.wait_for_audio(0.5)
    await speech(talk)
    await say(talk, "resp_1", "item_1", 1.0)  # was on its way already
    cut = await talk.wait_for("conversation.item.truncate")
    await talk.wait_for("response.cancel")
    fields = {key: cut[key] for key in ("item_id", "content_index", "audio_end_ms")}
    await talk.send("conversation.item.truncated", **fields)
    await end(talk, "resp_1", "item_1", status="cancelled")
    await answer(talk, 2)


async def listening(talk: Talk) -> None:
    """Hear, and say nothing."""
    await greet(talk)
    await trio.sleep_forever()


async def talkative(talk: Talk) -> None:
    """Answer at length."""
    await greet(talk)
    await talk.wait_for_audio(0.2)
    await answer(talk, seconds=10.0)


async def scribe(talk: Talk) -> None:
    """Write down what the user says, answer at length, and take what it is told of before."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_acknowledge, talk)
        await greet(talk)
        await talk.wait_for_audio(0.2)
        await talk.send("input_audio_buffer.committed", item_id="item_user")
        await answer(talk, seconds=4.0)
        said = {"item_id": "item_user", "content_index": 0, "transcript": "hello there"}
        usage = {"type": "duration", "seconds": 0.2}
        await talk.send(
            "conversation.item.input_audio_transcription.completed", usage=usage, **said
        )
        await trio.sleep_forever()


async def _acknowledge(talk: Talk) -> None:
    for times in count(1):
        created = await talk.wait_for("conversation.item.create", times=times)
        await talk.send("conversation.item.added", item=created["item"])
        await talk.send("conversation.item.done", item=created["item"])


async def slow(talk: Talk) -> None:
    """Speak at less than half of real time."""
    await greet(talk)
    await answer(talk, each=2.5 * DELTA_SECONDS)


async def deaf(talk: Talk) -> None:
    """Say hello and never read again."""
    await talk.send("session.created", session={"type": "realtime"})
    await trio.sleep_forever()


async def agent(talk: Talk) -> None:
    """Be set up as often as the client likes, and answer until it is told to stop."""
    async with trio.open_nursery() as nursery:
        await talk.send("session.created", session={"type": "realtime", "model": "fake"})
        nursery.start_soon(_keep_updating, talk)
        await talk.wait_for("response.create")
        await begin(talk, "resp_1", "item_1")
        await say(talk, "resp_1", "item_1", 20.0)
        await talk.wait_for("response.cancel")
        await end(talk, "resp_1", "item_1", status="cancelled")


async def _keep_updating(talk: Talk) -> None:
    for times in count(1):
        update = await talk.wait_for("session.update", times=times)
        await talk.send("session.updated", session=update["session"])


async def silent(talk: Talk) -> None:
    """Say nothing at all."""


async def reset(talk: Talk) -> None:
    """Break the connection in the middle of an answer."""
    await greet(talk)
    await begin(talk, "resp_1", "item_1")
    await say(talk, "resp_1", "item_1", 0.4)
    if isinstance(talk.stream, trio.SocketStream):
        talk.stream.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))
    await trio.aclose_forcefully(talk.stream)


async def half_close(talk: Talk) -> None:
    """Say no more on the socket, but keep reading it."""
    await greet(talk)
    if isinstance(talk.stream, trio.SocketStream | trio.StapledStream):
        await talk.stream.send_eof()
    await trio.sleep_forever()


async def garbage(talk: Talk) -> None:
    """Say what is no event, or a wrong one, and then answer."""
    await greet(talk)
    for nonsense in ("", "null", "{", '{"type":1}', "[" * 50_000, '{"type":"error"}'):
        await talk.socket.send_message(nonsense)
    await talk.socket.send_message(b"\xff\x00")
    for wrong in (7, "???", None, "AAA"):
        await talk.socket.send_message(encode("response.output_audio.delta", delta=wrong).decode())
    await talk.socket.send_message(encode("never.heard.of", answer=42).decode())
    await answer(talk)


async def huge(talk: Talk) -> None:
    """One event that nobody takes on, an answer, and one that is beyond all bounds."""
    await greet(talk)
    await talk.socket.send_message(encode("huge", text="a" * 1_000_000).decode())
    await answer(talk)
    await talk.wait_for_audio(1.0)
    await talk.socket.send_message(encode("huge", text="a" * 9_000_000).decode())


async def errors(talk: Talk) -> None:
    """Complain about the client's events, and go on."""
    await greet(talk)
    bad = await talk.wait_for("response.cancel")
    error = {"type": "invalid_request_error", "code": "response_cancel_not_active", "message": "no"}
    await talk.send("error", error=error | {"event_id": bad.get("event_id")})
    await answer(talk)


async def rate_limit(talk: Talk) -> None:
    """Refuse to answer for want of tokens."""
    await greet(talk)
    limits = [{"name": "tokens", "limit": 100, "remaining": 0, "reset_seconds": 2.5}]
    await talk.send("rate_limits.updated", rate_limits=limits)
    error = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "Slow down."}
    await talk.send("error", error=error)


async def closing(talk: Talk) -> None:
    """Close in order while the answer is still being heard."""
    await greet(talk)
    await begin(talk, "resp_1", "item_1")
    await say(talk, "resp_1", "item_1", 1.0)
    await talk.socket.aclose()


async def failing(talk: Talk) -> None:
    """Close with an error of the server's."""
    await greet(talk)
    await talk.socket.aclose(1011, "internal error")


async def banning(talk: Talk) -> None:
    """Close for a breach of policy."""
    await greet(talk)
    await talk.socket.aclose(1008, "policy")


SCENARIOS: Final[dict[str, Callable[[Talk], Awaitable[None]]]] = {
    each.__name__: each
    for each in (
        normal, agent, listening, talkative, scribe, barge_in, slow, deaf, silent, reset,
        half_close, garbage, huge, errors, rate_limit, closing, failing, banning,
    )
}  # fmt: skip
DEAF: Final = ("deaf",)


# The server


class Server:
    """Plays scenarios on streams; ``tries`` counts the connections of each talk."""

    def __init__(self, record: Record) -> None:
        self.tries: dict[str, int] = {}
        self._record = record

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end."""
        try:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, stream)
                await self._play(request, stream)
                nursery.cancel_scope.cancel()
        except* (
            ConnectionClosed,
            LocalProtocolError,  # both sides closed at once
            trio.BusyResourceError,  # and its reader answers while we send
            trio.BrokenResourceError,
            trio.ClosedResourceError,
        ):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _play(self, request: WebSocketRequest, stream: trio.abc.Stream) -> None:
        (model,) = parse_qs(urlsplit(request.path).query)["model"]
        scenario, _, _ = model.partition(".")
        self.tries[model] = count = self.tries.get(model, 0) + 1
        self._record(model, {"type": "connected", "headers": _names(request), "try": count})
        if status := _refusal(scenario, count):
            await request.reject(status, body=b"no")
            return
        talk = Talk(await request.accept(), stream, model, self._record)
        play = SCENARIOS.get(scenario, normal)
        async with trio.open_nursery() as nursery:
            if scenario not in DEAF:
                nursery.start_soon(talk.listen)
            await play(talk)


def _names(request: WebSocketRequest) -> list[str]:
    return sorted(name.decode().lower() for name, _ in request.headers)


def _refusal(scenario: str, count: int) -> int | None:
    match scenario:
        case "forbidden":
            return 401
        case "busy" if count < 3:
            return 503
        case "down":
            return 503
        case _:
            return None


async def play_raw(scenario: str, stream: trio.abc.Stream) -> None:
    """Answer a handshake as no WebSocket server does."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with stream:
            await _play_raw(scenario, stream)


def _accept(request: bytes) -> bytes:
    """The answer to a handshake; RFC 6455, 4.2.2."""
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", request)
    assert key is not None
    digest = b64encode(sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return head + b"Sec-WebSocket-Accept: " + digest + b"\r\n\r\n"


def _text_frame(text: bytes) -> bytes:
    """A short message; RFC 6455, 5.2."""
    return bytes([0x81, len(text)]) + text


async def _play_raw(scenario: str, stream: trio.abc.Stream) -> None:
    request = bytes(await stream.receive_some())
    match scenario:
        case "drip":
            await stream.send_all(_accept(request) + _text_frame(encode("session.created")))
            for byte in b"\x81\x7f" + (1_000_000).to_bytes(8, "big") + bytes(100):
                await stream.send_all(bytes([byte]))
                await trio.sleep(1.0)
        case "noise":
            await stream.send_all(bytes(range(256)) * 4)
            await trio.sleep_forever()
        case "trickle":
            for byte in b"HTTP/1.1 101 Switching Protocols\r\n" * 10:
                await stream.send_all(bytes([byte]))
                await trio.sleep(1.0)
        case "flood":
            await stream.send_all(b"HTTP/1.1 403 No\r\nContent-Length: 99999999\r\n\r\n")
            while True:
                await stream.send_all(bytes(65_536))
        case "hang_up":
            pass
        case _:
            await trio.sleep_forever()


def _print(name: str, event: Event) -> None:
    print(msgspec.json.encode({"talk": name, "event": event}).decode(), flush=True)


async def main() -> None:
    """Serve on free loopback ports: WebSocket first, then each of RAW."""
    server = Server(_print)
    async with trio.open_nursery() as nursery:
        ports = [await _listen(nursery, server.serve)]
        for scenario in RAW:
            ports.append(await _listen(nursery, partial(play_raw, scenario)))
        print(*ports, flush=True)


async def _listen(
    nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[None]]
) -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(partial(trio.serve_listeners, handler, [listener]))
    port: int = listener.socket.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(trio.run(main))
