"""How an ICE agent is written down."""

from __future__ import annotations

import msgspec

from edge.webrtc.ice_credentials import Credentials, IceCredentials
from edge.webrtc.ice_paths import PathState
from edge.wire.spp import Path


class IceSnapshot(msgspec.Struct, frozen=True):
    """All of an agent's state, on a clock that is 0 when it is taken.

    Holds both passwords: seal it before it leaves the process.
    """

    local: IceCredentials
    remote: IceCredentials
    tie_breaker: int
    consent_timeout: float
    max_paths: int
    consent_until: float | None
    """None before the first valid check."""
    established: bool
    ended: bool
    selected: Path | None
    paths: tuple[tuple[Path, PathState], ...]
    early_checks: tuple[tuple[bytes, Path], ...]
    restarts: int = 0
    used: bool = False
    former: Credentials | None = None
    former_until: float | None = None

    def __repr__(self) -> str:
        return f"IceSnapshot(paths={len(self.paths)}, established={self.established})"
