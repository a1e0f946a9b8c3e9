"""Our DTLS identity, and the policy of every handshake made with it; RFC 8827, section 6.5.

One key, one self-signed certificate and one OpenSSL context serve a whole process: a context
costs more than a handshake. Trust comes from the fingerprints in the SDP alone, so a peer's
certificate may be self-signed, expired or of any name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from edge.webrtc.keys import SrtpProfile
from edge.wire.fingerprint import Fingerprint

DTLS_1_2: Final = 0xFEFD
CIPHER_SUITES: Final = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
    b":ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"
)
_OPTIONS: Final = (
    SSL.OP_NO_TICKET
    | SSL.OP_NO_COMPRESSION
    | SSL.OP_NO_RENEGOTIATION
    | SSL.OP_NO_QUERY_MTU
    | SSL.OP_CIPHER_SERVER_PREFERENCE
    | 1 << 19  # SSL_OP_NO_ENCRYPT_THEN_MAC: for CBC suites, of which we have none
)
_SIGNATURES: Final = b"ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA384"
_VALID_BEFORE: Final = timedelta(days=1)  # the peer's clock may be behind ours
_VALID_FOR: Final = timedelta(days=30)

_DIGESTS: Final = {"sha-512": "sha512", "sha-384": "sha384", "sha-256": "sha256"}
"""What we accept in ``a=fingerprint``, best first, with hashlib's name of it."""


def _fingerprint(algorithm: str, der: bytes) -> str:
    return hashlib.new(_DIGESTS[algorithm], der).digest().hex(":").upper()


class DtlsCertificate:
    """One ECDSA P-256 key with its certificate; make one a process with :meth:`generate`."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._contexts: dict[tuple[SrtpProfile, ...], SSL.Context] = {}
        value = _fingerprint("sha-256", certificate.public_bytes(Encoding.DER))
        self.fingerprint = Fingerprint("sha-256", value)
        """What our SDP says about this certificate."""

    @classmethod
    def generate(
        cls, *, now: datetime | None = None, profiles: Sequence[SrtpProfile] = ()
    ) -> DtlsCertificate:
        """A new key and certificate, valid for 30 days from ``now`` (else the wall clock).

        With ``profiles`` the context for these is made as well, which takes 1.5 ms: else the first
        call waits for it.
        """
        issued = datetime.now(UTC) if now is None else now
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "edge")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(issued - _VALID_BEFORE)
            .not_valid_after(issued + _VALID_FOR)
        )
        made = cls(key, builder.sign(key, hashes.SHA256()))
        if profiles:
            made.context(profiles)
        return made

    def context(self, profiles: Sequence[SrtpProfile]) -> SSL.Context:
        """The OpenSSL context that offers these SRTP profiles, in this order; made once."""
        wanted = tuple(profiles)
        if wanted not in self._contexts:
            self._contexts[wanted] = self._make_context(wanted)
        return self._contexts[wanted]

    def _make_context(self, profiles: tuple[SrtpProfile, ...]) -> SSL.Context:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(DTLS_1_2)
        context.set_max_proto_version(DTLS_1_2)
        context.set_options(_OPTIONS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_cipher_list(CIPHER_SUITES)
        _shorten_hello(context)
        context.use_certificate(self._certificate)
        context.use_privatekey(self._key)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
        names = ":".join(profile.openssl_name for profile in profiles)
        context.set_tlsext_use_srtp(names.encode("ascii"))
        return context


def _shorten_hello(context: SSL.Context) -> None:
    """Offer P-256 and four signature algorithms: a ClientHello of 125 bytes instead of 169.

    Before its path is proven a client gets three times the bytes of its check: the answer and two
    copies of this ClientHello fit, so that a lost one costs 100 ms and no further check. pyOpenSSL
    has no public name for the second call.
    """
    context.set_tmp_ecdh(ec.SECP256R1())
    if Binding.lib.SSL_CTX_set1_sigalgs_list(context._context, _SIGNATURES) != 1:
        raise RuntimeError("OpenSSL does not know the signature algorithms")


@dataclass(slots=True)
class PeerCheck:
    """What the SDP says about the peer's certificate; hung on a connection as its app data."""

    fingerprints: frozenset[Fingerprint] = field(repr=False)
    refused: bool = False

    def accepts(self, certificate: crypto.X509) -> bool:
        """Whether one fingerprint of the best algorithm that is present names ``certificate``."""
        for algorithm in _DIGESTS:
            values = {f.value for f in self.fingerprints if f.algorithm == algorithm}
            if values:
                der = crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
                return _fingerprint(algorithm, der) in values
        return False


def _verify(
    connection: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, _ok: int
) -> bool:
    if depth > 0:
        return True  # only the peer's own certificate counts, not what it claims stands above it
    check: PeerCheck = connection.get_app_data()
    accepted = check.accepts(certificate)
    check.refused = not accepted
    return accepted
