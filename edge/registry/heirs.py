"""Who takes over what was another's: who sees the same transceivers proposes the same one.

Rendezvous hashing proposes, the claim decides (``sessions``): where two parts of a fleet see
different transceivers alive, two may be asked, and one is granted the session.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge.registry.protocol import Slot, TransceiverRecord
from edge.rendezvous import weigh


def able(living: Iterable[TransceiverRecord]) -> tuple[Slot, ...]:
    """Return who may take over: who drains does when all do, as nobody else can."""
    everybody = tuple(living)
    staying = tuple(record.slot for record in everybody if not record.draining)
    return staying or tuple(record.slot for record in everybody)


def heir(key: bytes, slots: Iterable[Slot]) -> Slot | None:
    """Choose who takes over what has this key, a session's name or a path; None of nobody."""
    return max(slots, key=lambda slot: weigh(str(slot), key), default=None)


def next_heir(key: bytes, slots: Iterable[Slot], own: Slot) -> Slot | None:
    """Choose who is asked after us, who can not; in the end everybody is. None: we are alone."""
    ranked = sorted({*slots, own}, key=lambda slot: weigh(str(slot), key), reverse=True)
    after = ranked[(ranked.index(own) + 1) % len(ranked)]
    return None if after == own else after
