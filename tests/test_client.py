"""The load client: what it writes down is right, and its machine talks to ours in memory."""

import os
from math import isnan

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from edge.client.caller import CHECK_SECONDS, Caller
from edge.client.http import request
from edge.client.journal import (
    FRAME_SECONDS,
    GRACE_SECONDS,
    TOCS,
    Journal,
    longest_run_of_zeros,
)
from edge.client.offer import Answer
from edge.client.turns import SetupTrips
from edge.errors import RemoteProtocolError
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.dtls import Dtls, DtlsClosed, DtlsEstablished, DtlsOutput, DtlsTransmit
from edge.webrtc.ice import IceCredentials, IceLite
from edge.webrtc.outputs import Transmit
from edge.webrtc.srtp import SrtpReceiver, SrtpSender
from edge.wire.demux import Kind, classify
from edge.wire.opus import CLOCK_RATE, opus_samples
from edge.wire.rtcp import ReceiverReport, ReportBlock, encode_rtcp
from edge.wire.rtp import build_header, decode_rtp
from edge.wire.sdp import decode_offer, encode_answer, negotiate
from edge.wire.spp import encode_path

SERVER, CLIENT = ("127.0.0.1", 3478), ("127.0.0.1", 40_000)
PATH = encode_path(CLIENT, SERVER)


class EchoServer:
    """Our ICE, DTLS and SRTP with nothing around them; the echo has an SSRC of its own."""

    def __init__(self, certificate: DtlsCertificate, offer: bytes) -> None:
        negotiated = negotiate(decode_offer(offer))
        local = IceCredentials("serverufrag", "a-password-of-22-chars-or-more")
        remote = IceCredentials(negotiated.remote_ice.ufrag, negotiated.remote_ice.password)
        self.ice = IceLite(local, remote, tie_breaker=1, entropy=os.urandom, now=0.0)
        self.dtls = Dtls(
            certificate, role=negotiated.dtls_role, fingerprints=negotiated.fingerprints
        )
        self.answer = encode_answer(
            negotiated,
            ufrag=local.ufrag,
            password=local.password,
            fingerprint=certificate.fingerprint,
            candidates=[SERVER],
            ssrc=7,
            cname="echo",
            session_id=1,
        ).encode()
        self.checks = 0
        self.closed = False
        self.leaves_out = 0
        """How many of the next packets are not said again."""
        self._next_index = 1

    def receive(self, datagram: bytes, *, now: float) -> list[bytes]:
        match classify(datagram):
            case Kind.STUN:
                self.checks += 1
                outputs = self.ice.receive(datagram, PATH, now=now)
                answers = [output.data for output in outputs if isinstance(output, Transmit)]
                return answers + (
                    self._follow(self.dtls.start(now=now)) if self.checks == 1 else []
                )
            case Kind.DTLS:
                return self._follow(self.dtls.receive(datagram, now=now))
            case _:
                plain, self._latest = self._receiver.unprotect_rtp(datagram)
                packet = decode_rtp(plain)
                self._source = packet.ssrc
                assert packet.extensions == ((1, b"0"),)
                if self.leaves_out:
                    self.leaves_out -= 1
                    return []
                self._next_index += 1
                header = build_header(111, False, self._next_index, packet.timestamp, 7)
                return [self._sender.protect_rtp(header, packet.payload, index=self._next_index)]

    def report(self, *, lost: int) -> list[bytes]:
        """Tell how many packets were lost up to the latest."""
        block = ReportBlock(self._source, 0, lost, self._latest, 0, 0, 0)
        return [self._sender.protect_rtcp(encode_rtcp([ReceiverReport(7, (block,))]))]

    def _follow(self, outputs: list[DtlsOutput]) -> list[bytes]:
        for output in outputs:
            if isinstance(output, DtlsEstablished):
                keys = output.keys
                self._sender = SrtpSender(keys.profile, keys.local_key, keys.local_salt)
                self._receiver = SrtpReceiver(keys.profile, keys.remote_key, keys.remote_salt)
            self.closed = self.closed or isinstance(output, DtlsClosed)
        return [output.data for output in outputs if isinstance(output, DtlsTransmit)]


@pytest.fixture(scope="module")
def certificate() -> DtlsCertificate:
    return DtlsCertificate.generate()


def transfer(caller: Caller, server: EchoServer, datagrams: list[bytes], *, now: float) -> None:
    """Carry datagrams to the server, its answers back, and so on until all is quiet."""
    while datagrams:
        answers = [answer for each in datagrams for answer in server.receive(each, now=now)]
        datagrams = [each for answer in answers for each in caller.receive(answer, now=now)]


def run(caller: Caller, server: EchoServer, *, until: float, now: float = 0.0) -> None:
    """Tick the caller on its deadlines, and the network takes no time."""
    while (now := max(now, caller.deadline)) < until:
        transfer(caller, server, caller.tick(now=now), now=now)


def connected(certificate: DtlsCertificate) -> tuple[Caller, EchoServer]:
    caller = Caller(certificate, now=0.0)
    server = EchoServer(certificate, caller.offer.encode())
    transfer(caller, server, caller.take_answer(server.answer, now=0.0), now=0.0)
    assert caller.secured
    return caller, server


def test_every_packet_comes_back_and_is_checked_off(certificate: DtlsCertificate) -> None:
    caller, server = connected(certificate)
    run(caller, server, until=9.99)
    statistics = caller.journal.statistics(now=20.0)
    assert statistics.sent == statistics.received == 500
    assert (statistics.missing, statistics.rejected, statistics.duplicates) == (0, 0, 0)
    assert statistics.setup.first_echo == 0.0
    assert server.checks == caller.checks_answered == 1 + int(10.0 / CHECK_SECONDS - 1e-9)


@pytest.mark.parametrize(
    ("setup", "to_media"), [("actpass", 2), ("active", 3)], ids=["DTLS server", "DTLS client"]
)
def test_round_trips_are_counted_where_all_takes_no_time(
    certificate: DtlsCertificate, setup: str, to_media: int
) -> None:
    caller = Caller(certificate, now=0.0)
    offer = caller.offer.encode().replace(b"actpass", setup.encode())
    server = EchoServer(certificate, offer)
    assert len(caller.take_answer(server.answer, now=0.0)) == 1  # and it is lost
    run(caller, server, until=0.2)
    trips = caller.journal.trips
    assert trips == SetupTrips(checked=1, secured=to_media, first_echo=to_media + 1)


def test_a_caller_that_was_stalled_does_not_send_it_all_at_once(
    certificate: DtlsCertificate,
) -> None:
    caller, server = connected(certificate)
    run(caller, server, until=1.0)
    sent = caller.journal.sent
    caller.stop_checks()
    assert len(caller.tick(now=caller.deadline + 0.09)) == 5
    assert len(caller.tick(now=9.0)) == 1
    assert caller.journal.sent == sent + 6


def test_goodbye_is_said_and_heard(certificate: DtlsCertificate) -> None:
    caller, server = connected(certificate)
    for datagram in caller.close():
        server.receive(datagram, now=1.0)
    assert server.closed
    assert caller.tick(now=9.0) == []

    caller, server = connected(certificate)
    for output in server.dtls.close():
        if isinstance(output, DtlsTransmit):
            caller.receive(output.data, now=1.0)
    assert caller.closed


def test_checks_repeat_until_answered_and_can_be_stopped(certificate: DtlsCertificate) -> None:
    caller = Caller(certificate, now=0.0)
    server = EchoServer(certificate, caller.offer.encode())
    assert len(caller.take_answer(server.answer, now=0.0)) == 1
    times = []
    for _ in range(4):
        times.append(caller.deadline)
        assert len(caller.tick(now=caller.deadline)) == 1
    assert times == pytest.approx([0.05, 0.15, 0.35, 0.55])
    caller.stop_checks()
    assert caller.tick(now=100.0) == []


def test_noise_is_counted_and_harmless(certificate: DtlsCertificate) -> None:
    caller, server = connected(certificate)
    caller.receive(b"\x80" + bytes(99), now=0.0)
    caller.receive(b"\x01\x01" + bytes(40), now=0.0)
    assert caller.journal.rejected == 2
    run(caller, server, until=1.0)
    assert caller.journal.received == 50


def test_packets_protected_ahead_are_sent_as_the_others(certificate: DtlsCertificate) -> None:
    caller, server = connected(certificate)
    run(caller, server, until=0.5)
    caller.prepare(20)
    run(caller, server, until=1.99)
    statistics = caller.journal.statistics(now=20.0)
    assert statistics.sent == statistics.received == 100
    assert statistics.rejected == 0


def test_a_packet_that_comes_twice_is_a_duplicate(certificate: DtlsCertificate) -> None:
    caller, server = connected(certificate)
    (echo,) = (a for d in caller.tick(now=caller.deadline) for a in server.receive(d, now=1.0))
    caller.receive(echo, now=1.0)
    caller.receive(echo, now=1.0)
    assert (caller.journal.duplicates, caller.journal.rejected) == (1, 0)


@pytest.mark.parametrize("frame_seconds", TOCS)
def test_frames_may_be_of_any_length(certificate: DtlsCertificate, frame_seconds: float) -> None:
    caller = Caller(certificate, now=0.0, frame_seconds=frame_seconds)
    server = EchoServer(certificate, caller.offer.encode())
    transfer(caller, server, caller.take_answer(server.answer, now=0.0), now=0.0)
    run(caller, server, until=1.2 - frame_seconds / 2)
    assert caller.journal.received == round(1.2 / frame_seconds)
    assert opus_samples(caller.journal.payload(0)) == round(frame_seconds * CLOCK_RATE)


@given(lost=st.lists(st.booleans(), min_size=1, max_size=100))
def test_the_longest_hole_is_the_longest_run_of_lost_packets(lost: list[bool]) -> None:
    journal = Journal()
    for number, gone in enumerate(lost):
        payload = journal.next_payload(number * FRAME_SECONDS)
        if not gone:
            journal.check_off(payload, number * FRAME_SECONDS + 0.01)
            journal.check_off(payload, number * FRAME_SECONDS + 0.01)
    statistics = journal.statistics(now=100.0)
    runs = "".join("x" if gone else " " for gone in lost).split()
    assert statistics.missing == sum(lost)
    assert statistics.holes == len(runs)
    assert statistics.duplicates == statistics.received == len(lost) - sum(lost)
    assert statistics.longest_hole == pytest.approx(max(map(len, runs), default=0) * FRAME_SECONDS)
    if runs:
        assert lost[statistics.hole_at]


def test_what_the_server_leaves_out_is_told_from_what_the_network_loses(
    certificate: DtlsCertificate,
) -> None:
    caller, server = connected(certificate)
    run(caller, server, until=1.99)
    server.leaves_out = 3
    run(caller, server, until=2.99)
    assert len(caller.tick(now=caller.deadline)) == 1, "lost on the way there"
    [packet] = caller.tick(now=caller.deadline)
    assert len(server.receive(packet, now=3.0)) == 1, "lost on the way back"
    run(caller, server, until=5.0)
    assert caller.journal.statistics(now=9.0).skipped == 0, "nobody knows yet"
    for datagram in server.report(lost=1):
        assert caller.receive(datagram, now=5.0) == []
    server.leaves_out = 2  # after the report, so they may have got lost as well
    run(caller, server, until=6.0)
    statistics = caller.journal.statistics(now=9.0)
    assert (statistics.missing, statistics.skipped) == (7, 3)


def test_a_young_packet_is_not_missed_yet() -> None:
    journal = Journal()
    journal.next_payload(0.0)
    journal.next_payload(10.0)
    assert journal.statistics(now=10.0 + GRACE_SECONDS / 2).missing == 1
    assert journal.statistics(now=10.0 + GRACE_SECONDS * 2).missing == 2
    assert journal.statistics(now=20.0, since=1).missing == 1
    assert isnan(journal.setup.first_echo)


def test_what_comes_after_the_last_echo_is_no_hole_yet() -> None:
    journal = Journal()
    payloads = [journal.next_payload(number * FRAME_SECONDS) for number in range(9)]
    assert journal.longest_hole() == 0.0
    for number in (1, 4):
        journal.check_off(payloads[number], 1.0)
    assert journal.longest_hole() == pytest.approx(2 * FRAME_SECONDS)
    assert journal.longest_hole(since=4) == 0.0


def test_runs_of_zeros() -> None:
    assert longest_run_of_zeros(b"") == (0, 0)
    assert longest_run_of_zeros(b"\1\1") == (0, 0)
    assert longest_run_of_zeros(b"\0\1\0\0\1") == (2, 2)


def test_forged_echoes_are_rejected() -> None:
    journal = Journal()
    payload = journal.next_payload(1.0)
    journal.check_off(payload[:-1], 1.1)
    journal.check_off(payload[:17] + bytes(8) + payload[25:], 1.1)
    assert (journal.rejected, journal.foreign, journal.received) == (2, 0, 0)


def test_what_another_call_said_is_told_apart() -> None:
    mine, other = Journal(), Journal()
    mine.next_payload(1.0)
    mine.check_off(other.next_payload(1.0), 1.1)
    statistics = mine.statistics(now=9.0)
    assert (statistics.foreign, statistics.rejected, statistics.received) == (1, 0, 0)


def test_echoes_out_of_order_are_counted() -> None:
    journal = Journal()
    payloads = [journal.next_payload(number * FRAME_SECONDS) for number in range(4)]
    for number in (0, 2, 1, 3):
        journal.check_off(payloads[number], 1.0)
    assert (journal.reordered, journal.received) == (1, 4)


def test_a_call_enters_at_the_best_candidate_or_where_it_is_told(
    certificate: DtlsCertificate,
) -> None:
    caller = Caller(certificate, now=0.0)
    answer = EchoServer(certificate, caller.offer.encode()).answer.decode()
    (line,) = (line for line in answer.split("\r\n") if line.startswith("a=candidate"))
    worst = line.replace(f" {SERVER[1]} ", " 9 ").replace(line.split()[3], "7")
    body = answer.replace(line, f"{worst}\r\n{line}").encode()
    assert Answer.decode(body).candidates == (SERVER, (SERVER[0], 9))

    caller.take_answer(body, now=0.0)
    assert caller.server == SERVER
    caller.take_answer(body, now=0.0, enter=("192.0.2.7", 3478))
    assert caller.server == ("192.0.2.7", 3478)


@given(st.binary(max_size=200))
def test_an_answer_decodes_or_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Answer.decode(body)


async def test_one_http_request() -> None:
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            seen.append(bytes(await stream.receive_some(65_536)))
            await stream.send_all(b"HTTP/1.1 201 Created\r\nLocation: /x\r\n")
            await stream.send_all(b"Content-Length: 5\r\n\r\nhel")
            await stream.send_all(b"lo")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        port = listeners[0].socket.getsockname()[1]
        response = await request("POST", f"http://127.0.0.1:{port}/a?b=c", b"body")
        nursery.cancel_scope.cancel()
    assert (response.status, response.body) == (201, b"hello")
    assert response.headers["location"] == "/x"
    (whole,) = seen  # headers and body in one write
    assert whole.startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert whole.endswith(b"\r\n\r\nbody")
