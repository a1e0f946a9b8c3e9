"""What a call is opened with reaches its backend, and a sideband, whatever the backend is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from edge.backends.echo import Echo
from edge.backends.frames.session import BackendSession
from edge.backends.frames.wire import FORMATS, VERSION, Kind, Open, decode_open
from edge.backends.protocol import AnswersSession, AudioFormat, Call
from edge.backends.realtime.backend import make_realtime
from edge.config import BackendConfig, TransceiverConfig
from edge.errors import EndReason
from edge.transceiver.admission import Opener, TooManySessions
from tests.support.backend_line import Dialled, ListedEvents, ListedSpeaker, make_backend
from tests.support.edge_net import open_edge
from tests.support.net import open_network
from tests.support.realtime_rig import check_client_event
from tests.test_dialect import Ear, event

Clock = trio.abc.Clock
PCM = AudioFormat("pcm16", 24_000)
CONFIG: dict[str, Any] = {
    "type": "realtime",
    "model": "gpt-other",
    "instructions": "Be brief.",
    "audio": {"output": {"voice": "marin", "format": {"type": "audio/pcmu"}}},
}


def call(config: dict[str, Any] | None = CONFIG) -> Call:
    return Call("rtc_1", PCM, msgspec.json.encode(config) if config is not None else None)


def first_session(config: dict[str, Any] | None) -> dict[str, Any]:
    """The ``session`` of the first event for a realtime server."""
    settings = BackendConfig(kind="realtime", voice="cedar", instructions="Of the configuration.")
    backend = make_realtime(settings, {"OPENAI_API_KEY": "sk"})
    conversation = backend.open(call(config), ListedSpeaker(), ListedEvents())
    conversation._machine.connect()
    update = conversation._machine.outbox.take()
    assert update is not None
    session = check_client_event(update)["session"]
    assert isinstance(session, dict)
    return session


async def test_a_realtime_server_is_told_in_its_first_event() -> None:
    plain, told = first_session(None), first_session(CONFIG)
    assert plain["instructions"] == "Of the configuration."
    assert told["instructions"] == "Be brief."
    assert told["audio"]["output"]["voice"] == "marin"
    assert "model" not in told, "the model is the edge's to choose"
    assert told["audio"]["output"]["format"] == plain["audio"]["output"]["format"]
    assert told["audio"]["input"] == plain["audio"]["input"]


async def test_a_frames_backend_is_told_when_it_opens(autojump_clock: Clock) -> None:
    dialled = Dialled()
    backend = make_backend(dialled)
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        nursery.start_soon(backend.open(call(), ListedSpeaker(), ListedEvents()).run)
        raw = await dialled.accept()
        opened = decode_open((await raw.next(Kind.OPEN)).payload)
        assert opened.session == CONFIG
        await raw.send(Kind.CLOSE)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("session", [CONFIG, msgspec.UNSET])
def test_a_backend_in_python_reads_it(session: dict[str, object] | msgspec.UnsetType) -> None:
    class Wire:
        def give_up(self) -> None:
            pass

        async def send(self, *_: object) -> None:
            raise AssertionError

    audio = next(iter(FORMATS))
    opened = Open(version=VERSION, call="rtc_1", audio=audio, window_ms=1, session=session)
    read = BackendSession(decode_open(msgspec.json.encode(opened)), 1, Wire())
    assert read.config == (CONFIG if isinstance(session, dict) else {})


def test_who_answers() -> None:
    assert not isinstance(Echo(), AnswersSession)
    assert make_realtime(BackendConfig(), {"OPENAI_API_KEY": "sk"}).answers_session
    assert "brief" not in repr(call())


async def test_a_sideband_of_a_running_call(autojump_clock: Clock) -> None:
    async with open_network() as network, open_edge(network) as edge, edge.call() as phone:
        service, ear = edge.transceivers[0], Ear()
        assert phone.call is not None
        with service.join(phone.call.call_id, ear) as say:
            await phone.connected()
            say(event("session.update", session=CONFIG))
            assert service.hang_up(phone.call.call_id)
            assert service.opener_of(phone.call.call_id) is None, "it is over for everybody"
            await trio.sleep(0.1)
        assert ear.kinds == ["session.created", "session.updated", "session.ended"]
        assert ear.heard[1]["session"]["instructions"] == "Be brief."
        assert ear.heard[2]["reason"] == EndReason.HANGUP
        assert ear.closed
        with pytest.raises(LookupError), service.join(phone.call.call_id, ear):
            pass


async def test_each_key_has_sessions_of_its_own(autojump_clock: Clock) -> None:
    config = TransceiverConfig(max_sessions_per_key=2, setup_timeout_seconds=1.0)
    async with open_network() as network, open_edge(network, config=config) as edge:
        service = edge.transceivers[0]
        async with edge.call() as phone:
            offer = phone.caller.offer.encode()
            one, other = Opener("one"), Opener("other")
            first = await service.open_call(offer, opener=one, session=b'{"a":1}')
            await service.open_call(offer, opener=Opener("one", "secret"))
            with pytest.raises(TooManySessions):
                await service.open_call(offer, opener=one)
            await service.open_call(offer, opener=other)
            assert service.opener_of(first.call_id) == one
            await trio.sleep(1.5)  # none of them connects
            assert service.opener_of(first.call_id) is None
            await service.open_call(offer, opener=one)
            assert service.roster.per_key == {"anonymous": 1, "one": 1}
