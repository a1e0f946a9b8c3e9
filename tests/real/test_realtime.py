"""The realtime backend over loopback, against a scripted server that is a process of its own."""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import pytest
import trio

from edge.backends.protocol import AudioFormat, AudioFrame, Call
from edge.backends.realtime.backend import make_realtime
from edge.backends.realtime.connection import ConnectionLost
from edge.backends.realtime.conversation import RealtimeConversation
from edge.config import BackendConfig
from edge.http.self_signed import make_certificate
from tests.real.test_aiortc import call
from tests.support.edges import SERVE
from tests.support.processes import ROOT, edge
from tests.support.realtime_rig import SECOND, ClockSpeaker, Ear, Event, encode
from tests.support.realtime_server import RAW, Server

KEY: Final = "sk-of-the-real-test"
PCM24: Final = AudioFormat("pcm16", 24_000)
FRAME: Final = AudioFrame(b"\x01\x00" * 480, 0.02)
START_SECONDS: Final = 30.0


@dataclass
class ServerProcess:
    """The server's ports, by RAW's names or "", and what it wrote down."""

    ports: dict[str, int]
    log: Path

    def received(self, talk: str) -> list[Event]:
        """What came under this name."""
        lines = self.log.read_text(encoding="utf-8").splitlines()[1:]
        records = [msgspec.json.decode(line, type=dict[str, object]) for line in lines]
        events = [record["event"] for record in records if record["talk"] == talk]
        return [event for event in events if isinstance(event, dict)]

    async def wait_for(self, talk: str, kind: str) -> Event:
        """Wait until an event of this type has come."""
        with trio.fail_after(10):
            while True:
                for event in self.received(talk):
                    if event["type"] == kind:
                        return event
                await trio.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("realtime") / "log"
    command = [sys.executable, "-m", "tests.support.realtime_server"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output)
    try:
        until = time.monotonic() + START_SECONDS
        while "\n" not in (text := log.read_text(encoding="utf-8")):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.02)
        ports = map(int, text.splitlines()[0].split())
        yield ServerProcess(dict(zip(("", *RAW), ports, strict=True)), log)
    finally:
        process.terminate()
        process.wait(10)


@dataclass
class Rig:
    conversation: RealtimeConversation
    ear: Ear
    speaker: ClockSpeaker

    async def talk(self) -> None:
        """Speak until cancelled."""
        while True:
            self.conversation.hear(FRAME)
            await trio.sleep(0.02)


def make_rig(url: str, scenario: str, *, ca_file: str = "") -> Rig:
    settings = BackendConfig(url=url, model=scenario, ca_file=ca_file)
    backend = make_realtime(settings, {"OPENAI_API_KEY": KEY}, random=lambda: 0.0)
    ear, speaker = Ear(), ClockSpeaker()
    return Rig(backend.open(Call("rtc_1", PCM24), speaker, ear), ear, speaker)


@asynccontextmanager
async def running(rig: Rig) -> AsyncGenerator[Rig]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.conversation.run)
            nursery.start_soon(rig.talk)
            yield rig
            nursery.cancel_scope.cancel()


async def test_a_conversation(server: ServerProcess) -> None:
    rig = make_rig(f"ws://127.0.0.1:{server.ports['']}/v1/realtime", "normal.conversation")
    async with running(rig):
        await rig.ear.wait_for("output_audio_buffer.stopped")
        rig.conversation.receive_event(encode("response.create"))
        await server.wait_for("normal.conversation", "response.create")
    assert len(rig.speaker.audio) == 0.6 * 48_000
    kinds = [event["type"] for event in server.received("normal.conversation")]
    assert kinds[:3] == ["connected", "session.update", "input_audio_buffer.append"]
    assert KEY not in server.log.read_text(encoding="utf-8")


async def test_barge_in(server: ServerProcess) -> None:
    rig = make_rig(f"ws://127.0.0.1:{server.ports['']}/v1/realtime", "barge_in.real")
    async with running(rig):
        await rig.ear.wait_for("output_audio_buffer.cleared")
        played = rig.speaker.played
        cut = await server.wait_for("barge_in.real", "conversation.item.truncate")
        assert cut["audio_end_ms"] == int(played * 1_000 + 1e-6)
        await rig.ear.wait_for("output_audio_buffer.stopped")
    assert cut["item_id"] == "item_1"
    assert rig.ear.find("output_audio_buffer.stopped")["response_id"] == "resp_2"


@pytest.mark.parametrize("scenario", ["reset", "half_close", "failing"])
async def test_a_broken_connection_is_made_again(server: ServerProcess, scenario: str) -> None:
    rig = make_rig(f"ws://127.0.0.1:{server.ports['']}/v1/realtime", f"{scenario}.broken")
    async with running(rig):
        await rig.ear.wait_for("session.created", times=2)
    codes = [event["error"] for event in rig.ear.events if event["type"] == "error"]
    assert "backend_reconnecting" in str(codes[0])


@pytest.mark.parametrize("scenario", ["noise", "hang_up", "flood"])
async def test_what_is_no_websocket_server_is_given_up(
    server: ServerProcess, scenario: str
) -> None:
    rig = make_rig(f"ws://127.0.0.1:{server.ports[scenario]}/v1/realtime", "x")
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(20):
        await rig.conversation.run()
    assert isinstance(caught.value.exceptions[0], ConnectionLost)
    assert rig.ear.kinds == ["error"] * 4


async def test_an_independent_peer_hears_the_model_through_a_whole_edge(
    server: ServerProcess,
) -> None:
    settings = {
        "EDGE_BACKEND_URL": f"ws://127.0.0.1:{server.ports['']}/v1/realtime",
        "EDGE_BACKEND_MODEL": "talkative.edge",
        "OPENAI_API_KEY": KEY,
    }
    async with edge(*SERVE, "--backend", "realtime", env=settings) as running:
        code, report = await call(running.http, 2.5)
        assert code == 0
        assert report.audio_energy > 1e-3
        assert KEY not in running.child.stderr.text
    heard = sum(int(str(e.get("audio", 0))) for e in server.received("talkative.edge"))
    assert heard / SECOND == pytest.approx(2.5, abs=0.8)


async def test_over_tls_only_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(make_certificate(["localhost"]))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    talk = Server(lambda name, event: None)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_ssl_over_tcp, https_compatible=True, host="127.0.0.1"),
            talk.serve,
            0,
            context,
        )
        port = listeners[0].transport_listener.socket.getsockname()[1]
        url = f"wss://localhost:{port}/v1/realtime"
        trusted = make_rig(url, "normal.tls", ca_file=str(certificate))
        async with running(trusted):
            await trusted.ear.wait_for("output_audio_buffer.stopped")
        stranger = make_rig(url, "normal.tls")
        with pytest.raises(ExceptionGroup) as caught, trio.fail_after(20):
            await stranger.conversation.run()
        assert "TLS" in str(caught.value.exceptions[0])
        nursery.cancel_scope.cancel()
