"""The one line that a session leaves behind."""

from __future__ import annotations

from math import inf

import structlog

from edge.address import mask_address
from edge.errors import EndReason
from edge.transceiver.environment import Environment
from edge.transceiver.session import Session
from edge.wire.spp import decode_path

log = structlog.get_logger()


def log_end(session: Session, environment: Environment) -> None:
    """Log whose session it was, why it ended, its times, and its client's masked addresses.

    To be called while the session still has its paths.
    """
    now, unix = environment.clock(), environment.unix()
    times, opener = session.times, session.opener
    clients = {mask_address(decode_path(path)[0]) for path in session.relays}
    log.info(
        "session ended",
        session=session.call.session,
        key=opener.key_id,
        secret=opener.secret_id or None,
        opened=round(unix - now + times.opened, 3),
        offered_by=opener.address or None,
        reason=(session.reason or EndReason.INTERNAL_ERROR).value,
        seconds=round(now - times.opened, 3),
        setup_ms=_milliseconds(times.connected - times.opened),
        client=" ".join(sorted(clients)),
    )


def _milliseconds(seconds: float) -> float | None:
    return None if seconds == inf else round(seconds * 1000, 1)
