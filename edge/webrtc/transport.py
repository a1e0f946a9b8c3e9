"""What carries a session: ICE, DTLS by the paths that ICE found, and data channels over DTLS.

DTLS starts on the first authenticated check, without waiting for a nomination; its keys exist only
after the client's certificate matched the offer (RFC 5763, section 5). SCTP with its data channels
is what DTLS carries from then on. Media goes beside it, by the same paths (``peer``).
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import assert_never

from edge.errors import Drop, EndReason, RemoteProtocolError
from edge.webrtc.channel_outputs import (
    AssociationFailed,
    ChannelClosed,
    ChannelDrained,
    ChannelMessage,
    ChannelOpened,
    ChannelOutput,
)
from edge.webrtc.channels import Channels
from edge.webrtc.dtls import Dtls
from edge.webrtc.dtls_outputs import (
    DtlsClosed,
    DtlsData,
    DtlsEstablished,
    DtlsFailed,
    DtlsOutput,
    DtlsState,
    DtlsTransmit,
)
from edge.webrtc.ice import Check, IceLite, IceOutput
from edge.webrtc.outputs import Connected, Ended, PathSelected, PeerOutput, Transmit
from edge.webrtc.sctp_outputs import (
    CheckpointWanted,
    SctpEstablished,
    SctpRestarted,
    SctpTransmit,
)
from edge.webrtc.sped import Sped
from edge.wire.spp import Path

TransportOutput = PeerOutput | DtlsEstablished
"""The keys come right before all that follows from them."""


class Transport:
    """ICE, DTLS and the channels of one peer, which is over when an output is ``Ended``."""

    def __init__(
        self,
        *,
        ice: IceLite,
        dtls: Dtls | None,
        channels: Channels | None,
        sctp_init: bytes | None = None,
        sped: Sped | None = None,
    ) -> None:
        """See ``Peer``."""
        self.ice = ice
        self.dtls = dtls
        self.channels = channels
        self._sctp_init = sctp_init
        self._sped = sped
        # Where it was restored there is nothing to start.
        self._dtls_started = dtls is not None and dtls.state is DtlsState.ESTABLISHED
        self._dtls_path: Path | None = None
        self._dtls_paths = 0
        """How often our DTLS datagrams took another path than the one before."""
        self._drops: Counter[Drop] = Counter()

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next; ``math.inf`` when nothing is pending."""
        dtls = self.dtls.deadline if self.dtls is not None else inf
        channels = self.channels.deadline if self.channels is not None else inf
        return min(self.ice.deadline, dtls, channels)

    @property
    def drops(self) -> Counter[Drop]:
        """What was dropped here and below, by name."""
        drops = self._drops + self.ice.drops
        if self.dtls is not None:
            drops += self.dtls.drops
        if self.channels is not None:
            drops += self.channels.drops
        return drops

    @property
    def local_sctp_init(self) -> bytes | None:
        """Our INIT chunk for SDP, where the client's is known; see ``Association.local_init``."""
        if self.channels is None or self._sctp_init is None:
            return None
        return self.channels.association.local_init()

    # Inputs.

    def receive_stun(self, datagram: bytes, path: Path, *, now: float) -> list[TransportOutput]:
        """Take a STUN datagram."""
        return self._follow_ice(self.ice.receive(datagram, path, now=now), now)

    def receive_dtls(self, datagram: bytes, *, now: float) -> list[TransportOutput]:
        """Take a DTLS datagram; RemoteProtocolError where there is no DTLS."""
        if self.dtls is None:
            raise RemoteProtocolError("there is no DTLS", Drop.NOT_READY)
        if self._sped is not None:
            self._sped.note(datagram, self.dtls)
        return self._follow_dtls(self.dtls.receive(datagram, now=now), now)

    def tick(self, *, now: float) -> list[TransportOutput]:
        """Do what is due at ``now``: consent, our own checks, retransmissions."""
        outputs = self._follow_ice(self.ice.tick(now=now), now)
        if self.dtls is not None and now >= self.dtls.deadline:
            outputs += self._follow_dtls(self.dtls.tick(now=now), now)
        if self.channels is not None and now >= self.channels.deadline:
            outputs += self.carry(self.channels.tick(now=now), now=now)
        return outputs

    def close(self, *, connected: bool, now: float) -> list[TransportOutput]:
        """Say goodbye, to a client that is ``connected`` by SCTP as well."""
        outputs: list[TransportOutput] = []
        if self.channels is not None and connected:
            outputs += self.carry(self.channels.close(now=now), now=now)
        if self.dtls is not None and self._dtls_started:
            outputs += self._follow_dtls(self.dtls.close(), now)
        return outputs

    def carry(self, outputs: list[ChannelOutput], *, now: float) -> list[TransportOutput]:
        """Send what the channels want sent, and hand on what they tell.

        What leaves comes first: an answer to what is told must not overtake it.
        """
        sent: list[TransportOutput] = []
        told: list[TransportOutput] = []
        for output in outputs:
            match output:
                case SctpTransmit(data):
                    sent += self._send_sctp(data, now)
                case ChannelOpened() | ChannelMessage() | ChannelDrained() | ChannelClosed():
                    told.append(output)
                case CheckpointWanted():
                    told.append(output)
                case SctpEstablished() | SctpRestarted() | AssociationFailed():
                    pass  # the channels tell what matters of it; a call may go on without any
                case _:
                    assert_never(output)
        return sent + told

    # What ICE hands back.

    def _follow_ice(self, outputs: list[IceOutput], now: float) -> list[TransportOutput]:
        followed: list[TransportOutput] = []
        for output in outputs:
            match output:
                case Check():
                    followed += self._answer(output, now)
                case PathSelected():
                    followed += [output, *self._follow_dtls(self._start_dtls(now), now)]
                case Transmit() | Ended():
                    followed.append(output)
                case _:
                    assert_never(output)
        return followed

    def _start_dtls(self, now: float) -> list[DtlsOutput]:
        if self.dtls is None or self._dtls_started:
            return []
        self._dtls_started = True
        return self.dtls.start(now=now)

    def _answer(self, check: Check, now: float) -> list[TransportOutput]:
        """Hand DTLS what the check carries, and have the answer carry our flight."""
        if self._sped is None or self._sped.over or self.dtls is None:
            return [self.ice.answer(check)]
        outputs = self._start_dtls(now)
        room = self.ice.paths.room(check.path)
        answer, more = self._sped.exchange(check.carried, self.dtls, outputs, room=room, now=now)
        if answer is not None and answer.data:
            self._note_dtls_path(check.path)
        return [self.ice.answer(check, answer), *self._follow_dtls(more, now)]

    # What DTLS hands back.

    def _follow_dtls(self, outputs: list[DtlsOutput], now: float) -> list[TransportOutput]:
        followed: list[TransportOutput] = []
        for output in outputs:
            match output:
                case DtlsTransmit(data):
                    self._note_dtls_path(self.ice.paths.selected)
                    followed += self.ice.transmit(data)
                case DtlsEstablished():
                    followed += [output, *self._establish(now)]
                case DtlsData(data):
                    followed += self._receive_sctp(data, now)
                case DtlsClosed():
                    followed.append(Ended(EndReason.PEER_CLOSED))
                case DtlsFailed(reason):
                    followed.append(Ended(reason))
                case _:
                    assert_never(output)
        return followed

    def _note_dtls_path(self, path: Path | None) -> None:
        if path != self._dtls_path:
            self._dtls_path = path
            self._dtls_paths += 1

    def _establish(self, now: float) -> list[TransportOutput]:
        if self._dtls_path is not None and self._dtls_paths == 1:
            # The peer's Finished depends on our flights, which were to be read there and nowhere
            # else. Where it comes from proves nothing.
            self.ice.prove(self._dtls_path)
        return [*self.ice.establish(now=now), Connected(), *self._start_channels(now)]

    def _start_channels(self, now: float) -> list[TransportOutput]:
        if self.channels is None:
            return []
        if self._sctp_init is None:
            return self.carry(self.channels.connect(now=now), now=now)
        return self.carry(self.channels.start_with(self._sctp_init, now=now), now=now)

    def _receive_sctp(self, packet: bytes, now: float) -> list[TransportOutput]:
        if self.channels is None:  # and nothing else may speak over DTLS
            self._drops[Drop.UNEXPECTED_PAYLOAD] += 1
            return []
        return self.carry(self.channels.receive(packet, now=now), now=now)

    def _send_sctp(self, packet: bytes, now: float) -> list[TransportOutput]:
        if self.dtls is None or self.dtls.state is not DtlsState.ESTABLISHED:
            self._drops[Drop.NOT_READY] += 1
            return []
        return self._follow_dtls(self.dtls.send(packet), now)
