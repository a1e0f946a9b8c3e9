"""A caller whose DTLS travels inside of its checks, as libwebrtc's does, and a call of one."""

from __future__ import annotations

import os
from binascii import crc32
from collections import deque

from edge.client.caller import Caller
from edge.webrtc.dtls import Dtls, DtlsState
from edge.webrtc.ice import IceCredentials, IceLite
from edge.webrtc.media import Media
from edge.webrtc.peer import Peer
from edge.webrtc.sped import Sped
from edge.webrtc.streams import SendStream
from edge.wire import stun, stun_peek
from edge.wire.sdp import decode_offer, encode_answer, negotiate
from tests.webrtc.peer_call import CERTIFICATES, NTP_OFFSET, RELAY, Call

CHECK_SECONDS = 0.05
"""Chromium's, as long as it is not connected."""


class SpedCaller(Caller):
    """``carries`` may be cleared at any time: a client that stops."""

    carries = True

    def __init__(self) -> None:
        super().__init__(CERTIFICATES[0], now=0.0)
        self.answers: list[stun.BindingSuccess] = []
        self._received: deque[int] = deque(maxlen=stun.MAX_ACKNOWLEDGED)
        self._acknowledged: tuple[int, ...] = ()
        self._hello: list[bytes] = []

    def _make_check(self, now: float) -> bytes:
        assert self._dtls is not None
        if self._dtls.state is DtlsState.NEW:
            self._hello = self._follow_dtls(self._dtls.start(now=now), now)
        check = super()._make_check(now)
        self._next_check = min(self._next_check, now + CHECK_SECONDS)
        return self._carry(check) if self.carries else check

    def _checked(self, now: float) -> list[bytes]:
        self.checks_answered += 1
        return []

    def _carry(self, check: bytes) -> bytes:
        assert self._answer is not None
        password = self._answer.password
        request = stun.decode_request(check, password=password)
        return stun.encode_request(
            request.transaction_id,
            username=request.username,
            password=password,
            priority=request.priority,
            use_candidate=request.use_candidate,
            controlling=request.controlling,
            carried=self._carried(),
        )

    def _carried(self) -> stun.CarriedDtls | None:
        assert self._dtls is not None
        left = [each for each in self._dtls.flight if crc32(each) not in self._acknowledged]
        if self.secured and not left:
            return None
        return stun.CarriedDtls(left[0] if left else None, tuple(self._received))

    def _receive_stun(self, datagram: bytes, now: float) -> list[bytes]:
        assert self._answer is not None
        datagrams = super()._receive_stun(datagram, now)
        if stun_peek.peek(datagram)[0] is not stun_peek.MessageClass.SUCCESS or not self.carries:
            return datagrams
        answer = stun.decode_response(datagram, password=self._answer.password)
        assert isinstance(answer, stun.BindingSuccess)
        self.answers.append(answer)
        if answer.carried is not None:
            self._acknowledged = answer.carried.acknowledged
            datagrams += self._take(answer.carried.data, now)
        return datagrams

    def _take(self, data: bytes | None, now: float) -> list[bytes]:
        assert self._dtls is not None
        if not data or crc32(data) in self._received:
            return []
        self._received.append(crc32(data))
        return self._receive_dtls(self._dtls, data, now)


def make_sped_call(
    *, setup: str = "actpass", option: str = "sped", served: bool = True
) -> tuple[Call, SpedCaller]:
    """Negotiate a call that is not started; ``served`` is whether we want SPED."""
    caller = SpedCaller()
    offer = caller.offer.encode().replace(b"options:trickle", b"options:trickle " + option.encode())
    offer = offer.replace(b"setup:actpass", b"setup:" + setup.encode())
    negotiated = negotiate(decode_offer(offer), sped=served)
    local = IceCredentials("token" * 4, "password" * 4)
    peer = Peer(
        ice=IceLite(
            local,
            IceCredentials(negotiated.remote_ice.ufrag, negotiated.remote_ice.password),
            tie_breaker=1,
            entropy=os.urandom,
            now=0.0,
            defers=bool(negotiated.sped),
        ),
        dtls=Dtls(CERTIFICATES[1], role=negotiated.dtls_role, fingerprints=negotiated.fingerprints),
        media=Media(
            SendStream(7, 111, 48_000, first_index=65, first_timestamp=7),
            cname="cname",
            now=0.0,
            ntp_offset=NTP_OFFSET,
        ),
        sped=Sped() if negotiated.sped else None,
    )
    answer = encode_answer(
        negotiated,
        ufrag=local.ufrag,
        password=local.password,
        fingerprint=CERTIFICATES[1].fingerprint,
        candidates=[RELAY],
        ssrc=7,
        cname="cname",
        session_id=1,
    )
    return Call(peer, caller, answer.encode()), caller
