"""Call ids, which tell in what transceiver of its cluster a call was opened.

``rtc_``, the slot in six hex digits, and 104 random bits. So whichever transceiver a later request
for the call reaches can pass it on, without a record for each call. The slot is no secret: it is a
number that counts processes, and a call is touched only with the key that opened it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from edge.registry.protocol import Slot

CALL_ID: Final = re.compile(r"rtc_[A-Za-z0-9_-]{1,64}", re.ASCII)
"""What may be looked up at all."""

_RANDOM_BYTES: Final = 13
_WITH_SLOT: Final = re.compile(r"rtc_([0-9a-f]{6})[0-9a-f]{26}", re.ASCII)


def make_call_id(slot: Slot, entropy: Callable[[int], bytes]) -> str:
    """Make the id of a new call."""
    return f"rtc_{slot:06x}{entropy(_RANDOM_BYTES).hex()}"


def slot_of(call_id: str) -> Slot | None:
    """Read who opened a call; None for what is no id of ours."""
    match = _WITH_SLOT.fullmatch(call_id)
    return Slot(int(match[1], 16)) if match else None
