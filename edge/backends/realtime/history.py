"""What we hold of a conversation as text, for a server that knows nothing of it.

Items keep the order in which the server named them: what the user said is written down later than
the answer to it begins. Audio is not held, and of the user's words only what the server wrote down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from edge.backends.realtime.events import decode_event

MAX_ITEMS: Final = 64
"""The oldest is forgotten beyond it."""
MAX_TEXT: Final = 4_096
"""Characters of one item; of a longer one the end is not held."""

ITEM_EVENTS: Final = (
    "conversation.item.added",
    "conversation.item.created",
    "conversation.item.done",
    "response.output_item.added",
    "response.output_item.done",
)


class _Part(msgspec.Struct, frozen=True):
    text: str | None = None
    transcript: str | None = None


class _Item(msgspec.Struct, frozen=True):
    id: str = ""
    type: str = "message"
    role: str | None = None
    content: list[_Part] | None = None
    name: str | None = None
    call_id: str | None = None
    arguments: str | None = None
    output: str | None = None


class ItemEvent(msgspec.Struct, frozen=True):
    """An event that holds an item."""

    item: _Item


class _TextEvent(msgspec.Struct, frozen=True):
    item_id: str
    transcript: str = ""
    text: str = ""


class Held(msgspec.Struct):
    """One item; ``text`` is empty for what is not known (yet)."""

    id: str
    kind: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["user", "assistant", "system"] = "user"
    text: str = ""
    """Of a function call its arguments, or its output."""
    name: str = ""
    call_id: str = ""
    heard: float = 1.0
    """Of what the model said, the part that the client was played, 0 to 1."""

    def __repr__(self) -> str:
        return f"Held({self.kind}, {len(self.text)} characters)"

    def known(self) -> str:
        """The text, as far as it was heard: to a whole word."""
        if self.heard >= 1.0:
            return self.text
        cut = self.text[: round(len(self.text) * max(self.heard, 0.0))]
        return cut.rpartition(" ")[0]


class History:
    """The items of one session."""

    def __init__(self, items: list[Held] | None = None) -> None:
        self._items = {item.id: item for item in items or ()}

    @property
    def items(self) -> list[Held]:
        """All that we know some text of, in order."""
        return [item for item in self._items.values() if item.known() or item.call_id]

    def note(self, name: str, message: bytes | str) -> bool:
        """Look at an event of the server's, by its GA name; True when we know more than before.

        Raises RemoteProtocolError for one of a wrong shape.
        """
        match name:
            case "input_audio_buffer.committed":
                self._hold(decode_event(message, _TextEvent).item_id)
                return False
            case "conversation.item.input_audio_transcription.completed":
                return self._write(decode_event(message, _TextEvent), "user")
            case "response.output_audio_transcript.done" | "response.output_text.done":
                return self._write(decode_event(message, _TextEvent), "assistant")
            case "conversation.item.deleted":
                return self._items.pop(decode_event(message, _TextEvent).item_id, None) is not None
            case _ if name in ITEM_EVENTS:
                return self._take(decode_event(message, ItemEvent).item)
            case _:
                return False

    def cut(self, item: str, heard: float) -> None:
        """The client heard only this part, 0 to 1, of what the model said."""
        if item in self._items:
            self._items[item].heard = heard

    def _write(self, event: _TextEvent, role: Literal["user", "assistant"]) -> bool:
        held = self._hold(event.item_id)
        held.role = role
        return _set_text(held, event.transcript or event.text)

    def _take(self, item: _Item) -> bool:
        if not item.id or item.type not in ("message", "function_call", "function_call_output"):
            return False
        held = self._hold(item.id)
        match item.type:
            case "message":
                held.role = _role(item.role)
                parts = [part.transcript or part.text for part in item.content or ()]
                return _set_text(held, " ".join(part for part in parts if part))
            case "function_call":
                held.kind, held.name = "function_call", item.name or ""
                text = item.arguments
            case _:
                held.kind, text = "function_call_output", item.output
        known, held.call_id = held.call_id, item.call_id or ""
        return _set_text(held, text or "") or known != held.call_id

    def _hold(self, item: str) -> Held:
        held = self._items.setdefault(item, Held(item))
        if len(self._items) > MAX_ITEMS:
            del self._items[next(iter(self._items))]
        return held


def creations(items: list[Held], said: str) -> Iterator[dict[str, object]]:
    """Write items as ``conversation.item.create`` takes them.

    ``said`` is the ``type`` of a content part that holds what the model said.
    """
    for item in items:
        match item.kind:
            case "message":
                kind = said if item.role == "assistant" else "input_text"
                content = [{"type": kind, "text": item.known()}]
                body: dict[str, object] = {"role": item.role, "content": content}
            case "function_call":
                body = {"name": item.name, "call_id": item.call_id, "arguments": item.text}
            case _:
                body = {"call_id": item.call_id, "output": item.text}
        yield {"id": item.id, "type": item.kind, **body}


def _set_text(held: Held, text: str) -> bool:
    text = text[:MAX_TEXT]
    if not text or text == held.text:
        return False
    held.text = text
    return True


def _role(role: str | None) -> Literal["user", "assistant", "system"]:
    match role:
        case "assistant" | "system":
            return role
        case _:
            return "user"
