"""Lends a session's media to an offload beside the socket, while all is as usual."""

from __future__ import annotations

from edge.address import Address
from edge.webrtc.offload import Hear, MediaOffload, RtpOffload
from edge.webrtc.peer import Peer
from edge.wire.spp import Path


class Lender:
    """One session's place in the offload, if there is an offload and the session is connected."""

    def __init__(
        self,
        offload: MediaOffload | None,
        peer: Peer,
        relays: dict[Path, Address],
        *,
        sends: bool,
    ) -> None:
        """``relays`` are the session's; ``sends``: the client listens."""
        self.stream: RtpOffload | None = None
        self._offload = offload
        self._peer = peer
        self._relays = relays
        self._sends = sends

    def open(self, hear: Hear) -> None:
        """Make the place, now that there are keys; ``hear`` gets what the offload has opened."""
        keys = self._peer.rtp_keys()
        if self._offload is not None and keys is not None:
            self.stream = self._offload.open_stream(keys, hear)

    def lend(self, path: Path) -> None:
        """Lend what comes from and goes to a path, if it is one of ours."""
        relay = self._relays.get(path)
        if relay is not None and self.stream is not None and self._offload is not None:
            endpoint = self._offload.endpoint(relay)
            self._peer.lend(self.stream, path, endpoint, sends=self._sends)

    def close(self) -> None:
        """Leave the offload for good."""
        if self.stream is not None:
            self.stream.close()
