"""Listening sockets and TLS for HTTP: certificate files, or a certificate made up at start.

A page may use the microphone only over HTTPS or on localhost, so a phone on the same network
needs some certificate: the made-up one names this machine's addresses and lives in memory, but
for the moment in which OpenSSL reads it.
"""

from __future__ import annotations

import datetime
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.address import Address, format_address, parse_address
from edge.config import HttpConfig
from edge.errors import ConfigError
from edge.ready import StartupError

BACKLOG: Final = 1_024
SELF_SIGNED_DAYS: Final = 365

# Addresses of RFC 5737 and RFC 3849, for asking the routing table; nothing is sent there.
_PROBES: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


@dataclass(frozen=True, slots=True)
class HttpListener:
    """A listening socket and its TLS, None for plain HTTP."""

    listener: trio.SocketListener
    tls: ssl.SSLContext | None

    @property
    def address(self) -> Address:
        """The bound address."""
        host, port = self.listener.socket.getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        """``http://HOST:PORT`` or ``https://HOST:PORT``."""
        return f"{'https' if self.tls else 'http'}://{format_address(self.address)}"


async def make_listeners(http: HttpConfig) -> list[HttpListener]:
    """Bind ``http.bind`` (port 0 takes a free one). Raises ConfigError, StartupError."""
    try:
        host, port = parse_address(http.bind)
    except ValueError as error:
        raise ConfigError(f"http.bind {error}") from None
    tls = make_tls(http)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        raise StartupError(f"http.bind {http.bind}: {error.strerror}") from None
    return [HttpListener(listener, tls) for listener in listeners]


def make_tls(http: HttpConfig) -> ssl.SSLContext | None:
    """Make the TLS context, HTTP/1.1 only, TLS 1.2 or later. Raises ConfigError."""
    if http.tls == "off":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    match http.tls:
        case "files":
            try:
                context.load_cert_chain(http.certificate_file, http.key_file)
            except OSError as error:  # ssl.SSLError is one
                raise ConfigError(
                    f"http.certificate_file, http.key_file: can not be loaded ({error.strerror})"
                ) from None
        case "self-signed":
            with tempfile.NamedTemporaryFile(prefix="edge-") as file:  # readable by us alone
                file.write(make_certificate(certificate_hosts(http.bind)))
                file.flush()
                context.load_cert_chain(file.name)
        case _:
            raise ConfigError("http.tls must be off, self-signed or files")
    return context


def certificate_hosts(bind: str) -> list[str]:
    """The names and addresses by which this machine may be called, without asking the network."""
    hosts = ["localhost", "127.0.0.1", "::1", socket.gethostname(), parse_address(bind)[0]]
    return list(dict.fromkeys([*hosts, *_route_addresses()]))


def make_certificate(hosts: list[str]) -> bytes:
    """Make a key and a self-signed certificate for these hosts, as one PEM text."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("ascii", "replace").decode().replace("?", "-"))


def _route_addresses() -> Iterator[str]:
    for family, probe in _PROBES:
        with socket.socket(family, socket.SOCK_DGRAM) as probing:
            try:
                probing.connect((probe, 9))
            except OSError:
                continue  # no route of this family
            yield probing.getsockname()[0]
