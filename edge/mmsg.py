"""Many datagrams by one call: recvmmsg and sendmmsg (Linux) over memory that is set up once.

A packet's address stays what the kernel gave: the bytes of a ``sockaddr``, here called *endpoint*.
It is good as a key of a dict and for sending back, and its fields lie at fixed places:

    IPv4, 16 bytes: family 2, port 2, host 4, zeros 8
    IPv6, 28 bytes: family 2, port 2, flow information 4, host 16, scope 4

The family is in the machine's order, port and host are in the network's. The kernel's own
structures are written as rows of 64-bit words, a whole column of a batch by one assignment; so this
is for 64-bit little-endian machines, as x86-64 and arm64 are.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from mmap import mmap
from typing import Final, NewType

from edge.address import Address
from edge.errors import LocalProtocolError

Endpoint = NewType("Endpoint", bytes)
"""A ``sockaddr_in`` or ``sockaddr_in6``."""

BATCH: Final = 128
"""Datagrams taken or sent at once: 1 to 2 ms of work, other tasks wait no longer than that."""
PACKET_BYTES: Final = 2048
"""The longest datagram that is sent or forwarded with others."""
MAX_ENDPOINTS: Final = 4_096
"""Addresses that are remembered in both of their forms."""

ENDPOINT_BYTES: Final = {socket.AF_INET: 16, socket.AF_INET6: 28}

_V4: Final = struct.Struct("=H2s4s8x")
_V6: Final = struct.Struct("=H2s4x16s4x")

# struct mmsghdr (linux/socket.h) as eight words; of those here the pad is zero.
_WORDS: Final = 8
_NAME, _NAME_LENGTH, _VECTOR, _VECTOR_LENGTH, _LENGTH = 0, 1, 2, 3, 7
_HEADER_BYTES: Final = 8 * _WORDS

LATE_ERRORS: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EPROTO,
        errno.EOPNOTSUPP,
        errno.EACCES,
        errno.EMSGSIZE,
    }
)
"""What ICMP errors become (net/ipv4/icmp.c, net/ipv6/icmp.c)."""

Call = Callable[[int, int, int, int], int]


def to_endpoint(address: Address) -> Endpoint:
    """Return what the kernel calls an address. Raises LocalProtocolError if it is not numeric."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        packed = socket.inet_pton(family, host)
        layout = _V6 if family == socket.AF_INET6 else _V4
        return Endpoint(layout.pack(family, port.to_bytes(2, "big"), packed))
    except (OSError, OverflowError):
        raise LocalProtocolError("an endpoint is a numeric host and a 16-bit port") from None


def to_address(endpoint: Endpoint) -> Address:
    """Return the address of an endpoint."""
    if len(endpoint) == _V4.size:
        family, port, packed = _V4.unpack(endpoint)
    else:
        family, port, packed = _V6.unpack(endpoint)
    return socket.inet_ntop(family, packed), int.from_bytes(port, "big")


def _find(name: str) -> Call:
    """Return a call of the C library by plain numbers; what it returns is -errno on failure.

    PyDLL keeps the GIL: these calls never wait, and giving it away twice a batch costs more.
    """
    if sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
        raise OSError(errno.ENOSYS, "batches of datagrams need a 64-bit little-endian machine")
    function = getattr(ctypes.PyDLL(None, use_errno=True), name)
    function.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int] + [
        ctypes.c_void_p
    ] * (name == "recvmmsg")
    no_timeout = (None,) * (name == "recvmmsg")

    def call(descriptor: int, headers: int, count: int, flags: int) -> int:
        done: int = function(descriptor, headers, count, flags, *no_timeout)
        return done if done >= 0 else -ctypes.get_errno()

    return call


class _Batch:
    """Headers, endpoints, vectors and room for ``count`` datagrams, tied together by address."""

    def __init__(self, family: int, count: int, room: int) -> None:
        self.endpoint_bytes = ENDPOINT_BYTES[socket.AddressFamily(family)]
        self.endpoints = mmap(-1, count * self.endpoint_bytes)  # its slices are bytes
        self.data = mmap(-1, room)
        self.data_at = _address_of(self.data)
        self.vectors = array("Q", bytes(16 * count))  # struct iovec: base, length
        self.headers = array("Q", bytes(_HEADER_BYTES * count))
        self.headers_at = self.headers.buffer_info()[0]
        self._column(_NAME, _address_of(self.endpoints), self.endpoint_bytes)
        self._column(_NAME_LENGTH, self.endpoint_bytes, 0)
        self._column(_VECTOR, self.vectors.buffer_info()[0], 16)
        self._column(_VECTOR_LENGTH, 1, 0)

    def _column(self, word: int, start: int, step: int) -> None:
        rows = len(self.headers) // _WORDS
        self.headers[word::_WORDS] = array("Q", [start + row * step for row in range(rows)])


def _address_of(memory: mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class BatchReceiver:
    """Takes up to ``count`` datagrams of up to ``size`` bytes at once.

    Longer ones are left out and counted in ``too_long``.
    """

    def __init__(self, family: int, count: int, size: int) -> None:
        self.too_long = 0
        size += 1
        self._size = size
        self._call = _find("recvmmsg")
        self._batch = batch = _Batch(family, count, count * size)
        self._count = count
        self._offsets = range(0, count * size, size)
        self._endpoint = struct.Struct(f"{batch.endpoint_bytes}s")
        batch.vectors[0::2] = array("Q", [batch.data_at + offset for offset in self._offsets])
        batch.vectors[1::2] = array("Q", [size]) * count

    def receive(self, descriptor: int) -> list[tuple[bytes, Endpoint]]:
        """Return what is there now. Raises OSError, BlockingIOError when there is nothing."""
        batch = self._batch
        done = self._call(descriptor, batch.headers_at, self._count, socket.MSG_DONTWAIT)
        if done < 0:
            raise OSError(-done, "recvmmsg")
        data = batch.data
        lengths = batch.headers[_LENGTH : done * _WORDS : _WORDS]
        endpoints = self._endpoint.iter_unpack(batch.endpoints[: done * batch.endpoint_bytes])
        taken = [
            (data[offset : offset + length], endpoint)
            for offset, length, (endpoint,) in zip(self._offsets, lengths, endpoints, strict=False)
        ]
        return taken if max(lengths) < self._size else self._without_long(taken)

    def _without_long(self, taken: list[tuple[bytes, Endpoint]]) -> list[tuple[bytes, Endpoint]]:
        whole = [(data, endpoint) for data, endpoint in taken if len(data) < self._size]
        self.too_long += len(taken) - len(whole)
        return whole


class BatchSender:
    """Sends up to ``count`` datagrams of at most ``size`` bytes at once.

    ``interrupted`` counts calls that ended early: maybe since an error of an earlier datagram was
    pending, which is thereby forgotten and stands in the socket's error queue alone.
    """

    def __init__(self, family: int, count: int, size: int) -> None:
        self.interrupted = 0
        self._call = _find("sendmmsg")
        self._batch = _Batch(family, count, count * size)
        self._count = count

    def send(
        self, descriptor: int, datagrams: Sequence[bytes], endpoints: Sequence[bytes]
    ) -> list[tuple[int, int]]:
        """Send any number in order; returns place and errno of each that could not be sent."""
        failed: list[tuple[int, int]] = []
        for start in range(0, len(datagrams), self._count):
            end = start + self._count
            self._fill(datagrams[start:end], endpoints[start:end])
            count = min(len(datagrams) - start, self._count)
            failed += [(start + place, code) for place, code in self._send(descriptor, count)]
        return failed

    def _send(self, descriptor: int, count: int) -> Iterator[tuple[int, int]]:
        """Send what is filled in. sendmmsg stops at an error and tells it only at the front.

        An error that an earlier datagram may have caused is worth one more try.
        """
        place, tried = 0, -1
        while place < count:
            headers = self._batch.headers_at + place * _HEADER_BYTES
            done = self._call(descriptor, headers, count - place, socket.MSG_DONTWAIT)
            self.interrupted += done < count - place
            if done > 0:
                place += done
            elif -done in LATE_ERRORS and place != tried:
                tried = place
            else:
                yield place, -done
                place += 1

    def _fill(self, datagrams: Sequence[bytes], endpoints: Sequence[bytes]) -> None:
        batch, count = self._batch, len(datagrams)
        names, data = b"".join(endpoints), b"".join(datagrams)
        if len(names) != count * batch.endpoint_bytes:
            names = b"".join(map(self._fitting, endpoints))
        batch.endpoints[: len(names)] = names
        batch.data[: len(data)] = data
        lengths = array("Q", map(len, datagrams))
        starts = array("Q", accumulate(lengths[:-1], initial=batch.data_at))
        batch.vectors[0 : 2 * count : 2] = starts
        batch.vectors[1 : 2 * count : 2] = lengths

    def _fitting(self, endpoint: bytes) -> bytes:
        """Keep the places when an endpoint is of another family; the kernel will refuse that."""
        size = self._batch.endpoint_bytes
        return endpoint[:size].ljust(size, b"\0")


class Outbox:
    """Datagrams that leave together: some 2 us each instead of 4."""

    def __init__(self, sock: socket.socket) -> None:
        self.open = False
        self._socket = sock
        self._sender = BatchSender(sock.family, BATCH, PACKET_BYTES)
        self._endpoints: dict[Address, Endpoint] = {}
        self._datagrams: list[bytes] = []
        self._targets: list[Endpoint] = []
        self._failed: list[int] = []

    def put(self, datagram: bytes, address: Address) -> bool:
        """Take a datagram; False when it is none for a batch."""
        endpoint = self._endpoints.get(address) or self._find(address)
        if endpoint is None or len(datagram) > PACKET_BYTES:
            return False
        self._datagrams.append(datagram)
        self._targets.append(endpoint)
        if len(self._datagrams) == BATCH:
            self._send()
        return True

    def flush(self) -> list[int]:
        """Send; returns the errno of each datagram that was not taken."""
        if self._datagrams:
            self._send()
        failed, self._failed = self._failed, []
        return failed

    def _send(self) -> None:
        failed = self._sender.send(self._socket.fileno(), self._datagrams, self._targets)
        self._failed += [code for _, code in failed]
        self._datagrams.clear()
        self._targets.clear()

    def _find(self, address: Address) -> Endpoint | None:
        try:
            endpoint = to_endpoint(address)
        except LocalProtocolError:
            return None
        if len(self._endpoints) >= MAX_ENDPOINTS:
            self._endpoints.clear()
        self._endpoints[address] = endpoint
        return endpoint
