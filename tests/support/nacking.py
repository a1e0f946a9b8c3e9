"""A client that agreed on NACK (RFC 4585, 6.2.1): sends again what it is asked for, and asks."""

from __future__ import annotations

import trio

from edge.client.offer import Offer
from edge.datagram import Datagrams
from edge.wire.demux import Kind, classify
from edge.wire.rtcp import (
    GenericNack,
    ReceiverReport,
    ReportBlock,
    SenderReport,
    decode_rtcp,
    encode_rtcp,
)
from tests.support.edge_net import CERTIFICATES, Phone
from tests.support.talker import Talker


class NackOffer(Offer):
    """Offers NACK for its audio, as a page can make Chromium do."""

    def encode(self) -> bytes:
        """Write the SDP."""
        return super().encode() + b"a=rtcp-fb:111 nack\r\n"


class NackingPhone(Phone):
    """Answers sender reports, so that the edge learns the round trip, and NACKs."""

    def __init__(self, socket: Datagrams) -> None:
        super().__init__(socket)
        self.caller = self.talker = Talker(CERTIFICATES[0], now=trio.current_time())
        self.caller.offer = NackOffer.make(CERTIFICATES[0].fingerprint)
        self.asked: list[int] = []
        self._said: dict[int, bytes] = {}

    def ask(self, ssrc: int, *lost: int) -> None:
        """Ask the edge for packets."""
        self._report(GenericNack(self.caller.offer.ssrc, ssrc, lost))

    def _send(self, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            if classify(datagram) is Kind.RTP:
                self._said[int.from_bytes(datagram[2:4], "big")] = datagram
        super()._send(datagrams)

    async def _receive(self) -> None:
        while True:
            for datagram, _ in await self.socket.receive_batch():
                if classify(datagram) is Kind.RTCP:
                    self._receive_rtcp(datagram)
                self._send(self.caller.receive(datagram, now=trio.current_time()))

    def _receive_rtcp(self, datagram: bytes) -> None:
        assert self.caller._receiver is not None
        for packet in decode_rtcp(self.caller._receiver.unprotect_rtcp(datagram)):
            if isinstance(packet, SenderReport):
                block = ReportBlock(packet.ssrc, 0, 0, 0, 0, packet.ntp >> 16 & 0xFFFFFFFF, 0)
                self._report(ReceiverReport(self.caller.offer.ssrc, (block,)))
            if isinstance(packet, GenericNack):
                assert packet.media_ssrc == self.caller.offer.ssrc
                self.asked += packet.lost
                self._send([self._said[sequence] for sequence in packet.lost])

    def _report(self, packet: ReceiverReport | GenericNack) -> None:
        assert self.caller._sender is not None
        self._send([self.caller._sender.protect_rtcp(encode_rtcp((packet,)))])
