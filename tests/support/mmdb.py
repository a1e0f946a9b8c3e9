"""A writer of small MaxMind DB files (format 2.0), for IPv4 networks."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Final, TypeAlias

Value: TypeAlias = "str | float | Mapping[str, Value]"

_MARKER: Final = b"\xab\xcd\xefMaxMind.com"
_SEPARATOR: Final = bytes(16)


def make_database(records: Mapping[str, Value]) -> bytes:
    """Write a file that maps networks (``192.0.2.0/24``), none inside another, to records."""
    nodes: list[list[int | None]] = [[None, None]]
    data = b""
    leaves: dict[tuple[int, int], int] = {}
    for text, record in records.items():
        network = IPv4Network(text)
        leaves[_place(nodes, network)] = len(data)
        data += _encode(record)
    count = len(nodes)
    tree = b""
    for number, node in enumerate(nodes):
        for side, child in enumerate(node):
            offset = leaves.get((number, side))
            value = (child or count) if offset is None else count + len(_SEPARATOR) + offset
            tree += value.to_bytes(3)
    return tree + _SEPARATOR + data + _MARKER + _encode_metadata(count)


def _place(nodes: list[list[int | None]], network: IPv4Network) -> tuple[int, int]:
    """Make the nodes on the way to a network; where its record's offset belongs."""
    bits = f"{int(network.network_address):032b}"[: network.prefixlen]
    number = 0
    for bit in bits[:-1]:
        child = nodes[number][int(bit)]
        if child is None:
            child = nodes[number][int(bit)] = len(nodes)
            nodes.append([None, None])
        number = child
    return number, int(bits[-1])


def _encode_metadata(count: int) -> bytes:
    fields = {
        "binary_format_major_version": _uint16(2),
        "binary_format_minor_version": _uint16(0),
        "build_epoch": bytes([8, 2]) + (1).to_bytes(8),  # uint64
        "database_type": _encode("Test"),
        "description": _encode({}),
        "ip_version": _uint16(4),
        "languages": bytes([0, 4]),  # an empty array
        "node_count": bytes([6 << 5 | 4]) + struct.pack(">I", count),
        "record_size": _uint16(24),
    }
    pairs = b"".join(_encode(key) + value for key, value in fields.items())
    return bytes([7 << 5 | len(fields)]) + pairs


def _uint16(value: int) -> bytes:
    return bytes([5 << 5 | 2]) + struct.pack(">H", value)


def _encode(value: Value) -> bytes:
    match value:
        case str():
            return bytes([2 << 5 | len(value)]) + value.encode()
        case float():
            return bytes([3 << 5 | 8]) + struct.pack(">d", value)
        case _:
            pairs = b"".join(_encode(key) + _encode(one) for key, one in value.items())
            return bytes([7 << 5 | len(value)]) + pairs
