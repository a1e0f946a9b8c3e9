"""The realtime protocol of one session, without I/O: audio and events in, audio and events out.

Two clocks meet here. The server runs ahead: it thinks that the client has heard all it has sent.
The speaker plays in real time. When the user speaks up (``input_audio_buffer.speech_started``) the
machine silences the speaker, learns from it how much was played, and tells the server by
``conversation.item.truncate``, so that the model knows what it was able to say.

To the client it is what OpenAI's own WebRTC servers are: no audio in events, but
``output_audio_buffer.started``, ``stopped`` and ``cleared``.

A server that was not there before is told what the ``Memory`` holds, and the client that it was.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, assert_never

from edge.backends.protocol import (
    BACKEND_RESTARTED,
    AudioFormat,
    AudioFrame,
    EventSink,
    Speaker,
)
from edge.backends.realtime import events
from edge.backends.realtime.answer import Layout
from edge.backends.realtime.history import ITEM_EVENTS, ItemEvent, creations
from edge.backends.realtime.memory import Memory
from edge.backends.realtime.outbox import Outbox
from edge.backends.realtime.playback import Heard, Playback, Truncated
from edge.backends.realtime.profile import Profile
from edge.errors import Drop, EndReason, RemoteProtocolError
from edge.session_config import merge

CHUNK_SECONDS: Final = 0.04
"""Audio of one ``input_audio_buffer.append``, at least."""
MAX_APPEND_SECONDS: Final = 1.0
MAX_UNSENT_SECONDS: Final = 5.0
"""The client's audio that waits for a slow server, or for a connection."""
MAX_CLIENT_EVENT: Final = 262_144
"""Bytes of an event of the client's, as browsers' data channels send them."""
MAX_RESPONSES: Final = 64
"""Under way at a time; the oldest is forgotten beyond it."""


class RealtimeMachine:
    """One session; ``outbox`` is what shall be sent, ``first_session`` begins each connection.

    ``memory`` is what another process left of it.
    """

    def __init__(
        self,
        profile: Profile,
        audio: AudioFormat,
        speaker: Speaker,
        sink: EventSink,
        *,
        first_session: object,
        memory: Memory | None = None,
    ) -> None:
        layout = Layout.of(audio)
        self.drops: Counter[Drop] = Counter()
        """What was discarded, in both directions."""
        self.outbox = Outbox(
            self.drops,
            chunk_bytes=layout.bytes_of(CHUNK_SECONDS),
            max_append_bytes=layout.bytes_of(MAX_APPEND_SECONDS),
            max_audio_bytes=layout.bytes_of(MAX_UNSENT_SECONDS),
        )
        self.end_reason: EndReason | None = None
        """Why the session is over, once it is."""
        self.errors = 0
        """How many error events came that were not about events of our own."""
        self.last_error = ""
        """The code of the last of them, fit for a log."""
        self.changed: Callable[[], None] = lambda: None
        """Called when ``token`` gives something new."""
        self.moved = False
        """Nothing is taken, played or told any more."""
        self._profile = profile
        self._sink = sink
        self._first_session = first_session
        self._playback = Playback(layout, speaker)
        self._silenced: dict[str, bool] = {}  # by response under way: whether it was cut off
        self._interrupts = True
        self._made = 0
        self._memory = memory or Memory()
        self._token: bytes | None = None
        self._forgets = memory is not None  # the next server that answers was not there before
        self._is_new = False
        self._replayed: set[str] = set()

    @property
    def feed_below(self) -> float | None:
        """Call ``feed`` when the speaker holds no more seconds than this; None: not now."""
        return None if self.moved else self._playback.feed_below

    def connect(self) -> None:
        """Begin a connection: what it must know goes before all that waits."""
        self._playback.begin()
        items = self._memory.history.items
        session = self._first_session
        if isinstance(session, dict):
            session = merge(session, self._memory.session)
        opening = [self._make("session.update", session=session)]
        for item in creations(items, self._profile.text_part):
            opening.append(self._make("conversation.item.create", item=item))
        self.outbox.begin(opening)
        self._replayed = {item.id for item in items}
        self._is_new = True

    def token(self) -> bytes:
        """Give what another process goes on with; of what is being played, what is heard by now."""
        if self._token is None:
            unheard = {cut.item: cut.share for cut in self._playback.unheard()}
            self._token = self._memory.pack(unheard, self._playback.playing)
        return self._token

    def move(self) -> None:
        """Another process goes on."""
        self._token = None
        self.moved, self.end_reason = True, EndReason.MOVED

    def disconnect(self) -> None:
        """The server is gone, and its responses with it; what came is still played."""
        self._is_new = False
        self._silenced.clear()
        self._playback.end()
        self.feed()

    def hear(self, frame: AudioFrame) -> None:
        """Take what the client said."""
        if self.moved:
            self.drops[Drop.NOT_READY] += 1
            return
        self.outbox.put_audio(frame.payload)

    def receive_client(self, event: bytes) -> None:
        """Take an event from the session's event channel."""
        if self.moved:
            self.drops[Drop.NOT_READY] += 1
            return
        try:
            self._receive_client(event)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1

    def receive_server(self, message: bytes | str) -> None:
        """Take a message of the server."""
        if self.moved:
            return
        try:
            self._receive_server(message)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1

    def feed(self) -> None:
        """Hand the speaker what it is due."""
        if not self.moved:
            self._carry_out(self._playback.feed())

    def tell_error(self, code: str, message: str) -> None:
        """Tell the client what went wrong between us and the server."""
        self._tell("error", error={"type": "server_error", "code": code, "message": message})

    # From the client

    def _receive_client(self, event: bytes) -> None:
        if len(event) > MAX_CLIENT_EVENT:
            raise RemoteProtocolError("event too long")
        match events.decode_event(event, events.Head).type:
            case "output_audio_buffer.clear":
                self._interrupt()
            case "session.ended":  # the edge's own; the connection's last frame tells the server
                self.end_reason = events.decode_event(event, events.SessionEnded).reason
            case "session.update":
                update = events.without(event, self._profile.fixed)
                self.outbox.put_event(update)
                self._remember_session(update)
            case "response.create":
                self.outbox.put_event(events.without(event, self._profile.fixed))
            case _:
                self.outbox.put_event(event)

    def _remember_session(self, update: bytes) -> None:
        session = events.find(update, "session")
        if not isinstance(session, dict):
            return
        if self._memory.update(session):
            self._touch()
        else:
            self.drops[Drop.TABLE_FULL] += 1

    # From the server

    def _receive_server(self, message: bytes | str) -> None:
        kind = events.decode_event(message, events.Head).type
        if self._is_new:
            self._is_new = False
            self._tell_restarted()
        name = self._profile.names.get(kind, kind)
        if name == events.AUDIO_DELTA:
            self._receive_audio(events.decode_event(message, events.AudioDelta))
            return
        if name == "error" and self._is_about_us(message):
            return
        if self._replayed and name in ITEM_EVENTS and self._is_replayed(message):
            return
        event = message.encode() if isinstance(message, str) else message
        self._sink.send_event(event if name == kind else events.renamed(event, name))
        self._note(name, message)

    def _tell_restarted(self) -> None:
        if self._forgets:
            self._tell(BACKEND_RESTARTED, items=len(self._replayed))
            for response in self._memory.playing:
                self._tell("output_audio_buffer.cleared", response_id=response)
            self._memory.playing = []
        self._forgets = True

    def _is_replayed(self, message: bytes | str) -> bool:
        try:
            return events.decode_event(message, ItemEvent).item.id in self._replayed
        except RemoteProtocolError:  # the client may make more of it
            return False

    def _note(self, name: str, message: bytes | str) -> None:
        if self._memory.history.note(name, message):
            self._touch()
        match name:
            case "input_audio_buffer.speech_started" if self._interrupts:
                self._interrupt()
            case "response.created":
                self._begin_response(_response_of(message))
            case "response.done":
                self._end_response(_response_of(message))
            case "response.output_audio.done":
                done = events.decode_event(message, events.AudioDone)
                self._playback.end_item(done.response_id)
                self.feed()
            case "session.created" | "session.updated":
                self._note_session(message)
            case _:
                pass

    def _note_session(self, message: bytes | str) -> None:
        detection = events.find(message, self._profile.turn_detection)
        if isinstance(detection, dict):
            self._interrupts = detection.get("interrupt_response") is not False

    def _is_about_us(self, message: bytes | str) -> bool:
        error = events.decode_event(message, events.ErrorEvent).error
        if (error.event_id or "").startswith(events.OWN_PREFIX):
            # A response may end by itself just before our cancel arrives: nobody's error.
            self.drops[Drop.LATE] += 1
            return True
        self.errors += 1
        code = error.code or error.type or ""
        self.last_error = re.sub(r"[^A-Za-z0-9_.-]", "?", code[:64])
        return False

    def _receive_audio(self, delta: events.AudioDelta) -> None:
        if self._silenced.get(delta.response_id):
            self.drops[Drop.LATE] += 1
            return
        if delta.response_id not in self._silenced:
            self._begin_response(delta.response_id)
        audio = events.decode_audio(delta.delta)
        if not self._playback.add(delta.response_id, delta.item_id, delta.content_index, audio):
            self.drops[Drop.QUEUE_FULL] += 1
        self.feed()

    def _begin_response(self, response: str) -> None:
        self._silenced[response] = False
        if len(self._silenced) > MAX_RESPONSES:
            del self._silenced[next(iter(self._silenced))]

    def _end_response(self, response: str) -> None:
        self._silenced.pop(response, None)
        self._playback.end(response)
        self.feed()

    # Barge-in

    def _interrupt(self) -> None:
        """Silence, tell the server what was heard, and take no more of what is under way."""
        cut = self._playback.interrupt()
        for response in [each for each, silenced in self._silenced.items() if not silenced]:
            self._silenced[response] = True
            self._send("response.cancel", **({"response_id": response} if response else {}))
        self._carry_out(cut)

    def _carry_out(self, outputs: Sequence[Heard | Truncated]) -> None:
        for output in outputs:
            match output:
                case Heard(event, response):
                    self._touch()
                    self._tell(f"output_audio_buffer.{event}", response_id=response)
                case Truncated():
                    self._memory.history.cut(output.item, output.share)
                    self._truncate(output)
                case _:
                    assert_never(output)

    def _truncate(self, cut: Truncated) -> None:
        if self._profile.truncates:
            self._send(
                "conversation.item.truncate",
                item_id=cut.item,
                content_index=cut.content_index,
                audio_end_ms=cut.played_ms,
            )

    # Events out

    def _touch(self) -> None:
        self._token = None
        self.changed()

    def _send(self, kind: str, **fields: object) -> None:
        self.outbox.put_event(self._make(kind, **fields))

    def _tell(self, kind: str, **fields: object) -> None:
        self._sink.send_event(self._make(kind, **fields))

    def _make(self, kind: str, **fields: object) -> bytes:
        self._made += 1
        return events.make_event(kind, f"{events.OWN_PREFIX}{self._made}", **fields)


def _response_of(message: bytes | str) -> str:
    return events.decode_event(message, events.ResponseEvent).response.id or ""
