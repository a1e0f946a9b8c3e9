"""A DTLS peer that is nothing but OpenSSL: what a stranger's stack makes of our bytes."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL

from edge.webrtc.dtls_records import decode_records
from edge.wire.fingerprint import Fingerprint

DTLS_1_0: Final = 0xFEFF
DTLS_1_2: Final = 0xFEFD
ALL_SUITES: Final = "ALL:eNULL:@SECLEVEL=0"


def self_signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


class PlainPeer:
    """One plain connection; each record travels in a datagram of its own."""

    def __init__(
        self,
        *,
        server: bool,
        suites: str = "DEFAULT",
        version: int = DTLS_1_2,
        srtp: str = "SRTP_AES128_CM_SHA1_80",
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
        with_certificate: bool = True,
    ) -> None:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        context.set_cipher_list(suites.encode())
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if srtp:
            context.set_tlsext_use_srtp(srtp.encode())
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = self_signed(key)
        if with_certificate:
            context.use_certificate(certificate)
            context.use_privatekey(key)
        self.fingerprints: frozenset[Fingerprint] = frozenset(
            {Fingerprint("sha-256", certificate.fingerprint(hashes.SHA256()).hex(":").upper())}
        )
        self.connection = SSL.Connection(context, None)
        self.connection.set_ciphertext_mtu(1200)
        if server:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
        self.established = False
        self.data: list[bytes] = []
        self.error: SSL.Error | None = None

    def start(self) -> list[bytes]:
        return self.receive([b""])

    def receive(self, datagrams: list[bytes]) -> list[bytes]:
        for datagram in datagrams:
            if datagram:
                self.connection.bio_write(datagram)
            try:
                self._step()
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                self.error = error
        return self.drain()

    def _step(self) -> None:
        if not self.established:
            self.connection.do_handshake()
            self.established = True
        while True:
            self.data.append(self.connection.recv(2000))

    def drain(self) -> list[bytes]:
        data = b""
        with suppress(SSL.WantReadError):
            while True:
                data += self.connection.bio_read(65536)
        return [record.encode() for record in decode_records(data)] if data else []
