"""A certificate that is made up at start, for all the names by which this machine may be called."""

from __future__ import annotations

import datetime
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge.address import parse_address

SELF_SIGNED_DAYS: Final = 365

# Addresses of RFC 5737 and RFC 3849, for asking the routing table; nothing is sent there.
_PROBES: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


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
