"""A caller's data channel: opened when DTLS is up, with or without a handshake of SCTP's."""

from __future__ import annotations

import secrets
from collections import deque
from typing import Final

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.webrtc.channel_outputs import (
    ChannelClosed,
    ChannelMessage,
    ChannelOpened,
    ChannelOutput,
)
from edge.webrtc.channels import Channels
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_outputs import SctpTransmit
from edge.webrtc.sctp_state import SctpConfig, SctpState
from edge.wire.dcep import ChannelOpen

MAX_KEPT: Final = 1_024
"""Messages kept for whoever reads ``received``; older ones go."""


class CallerChannel:
    """One channel; inputs return the SCTP packets to send over DTLS."""

    def __init__(self, label: str, *, snap: bool = False) -> None:
        self.opened = False
        self.closed = False
        self.received: deque[str | bytes] = deque(maxlen=MAX_KEPT)
        self.number = 0
        self._settings = ChannelOpen(label)
        self._association = Association(entropy=secrets.token_bytes, config=SctpConfig())
        self.init = self._association.local_init() if snap else None
        """For ``a=sctp-init`` of the offer."""
        self._channels: Channels | None = None

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next."""
        return self._association.deadline

    @property
    def progress(self) -> tuple[SctpState, bool]:
        """How far it is open: each state that it goes through takes a round trip."""
        return self._association.state, self.opened

    def start(self, remote_init: bytes | None, *, dtls_client: bool, now: float) -> list[bytes]:
        """Begin, as DTLS is up; ``remote_init`` is the answer's, if it has one."""
        self._channels = channels = Channels(self._association, dtls_client=dtls_client)
        self.number, outputs = channels.open(self._settings, now=now)
        if self.init is not None and remote_init is not None:
            outputs += channels.start_with(remote_init, now=now)
        else:
            outputs += channels.connect(now=now)
        return self._follow(outputs)

    def receive(self, packet: bytes, *, now: float) -> list[bytes]:
        """Take the content of one DTLS record."""
        if self._channels is None:
            raise RemoteProtocolError("SCTP before the handshake was done")
        return self._follow(self._channels.receive(packet, now=now))

    def send(self, data: str | bytes, *, now: float) -> list[bytes]:
        """Send a message; LocalProtocolError before the channel was started, or after its end."""
        if self._channels is None:
            raise LocalProtocolError("the channel is not open")
        return self._follow(self._channels.send(self.number, data, now=now))

    def tick(self, *, now: float) -> list[bytes]:
        """Do what is due."""
        return self._follow(self._channels.tick(now=now)) if self._channels is not None else []

    def _follow(self, outputs: list[ChannelOutput]) -> list[bytes]:
        packets = []
        for output in outputs:
            match output:
                case SctpTransmit(data):
                    packets.append(data)
                case ChannelOpened():
                    self.opened = True
                case ChannelMessage(data=data):
                    self.received.append(data)
                case ChannelClosed():
                    self.closed = True
                case _:
                    pass
        return packets
