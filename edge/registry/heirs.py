"""Who takes a session over whose owner is gone: everybody proposes the same one.

Rendezvous hashing proposes, the claim decides (``sessions``): where two parts of a fleet see
different transceivers alive, two may be asked, and one is granted the session.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from edge.registry.protocol import Slot, TransceiverRecord
from edge.rendezvous import weigh

NOBODY: Final = Slot(0)


def heirs(
    session: str, living: Iterable[TransceiverRecord], *, without: Slot = NOBODY
) -> list[TransceiverRecord]:
    """Sort who may take a session over, the first choice first.

    ``without`` is the owner that is gone or leaves. Those that drain come last: they can hold what
    nobody else can.
    """
    key = session.encode()
    able = [record for record in living if record.slot != without]
    return sorted(
        able, key=lambda record: (not record.draining, weigh(str(record.slot), key)), reverse=True
    )


def heir(
    session: str, living: Iterable[TransceiverRecord], *, without: Slot = NOBODY
) -> TransceiverRecord | None:
    """Return the first choice; None where nobody is left."""
    return next(iter(heirs(session, living, without=without)), None)
