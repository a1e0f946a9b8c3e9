"""Which socket serves media: the one with an offload where it was built, else the plain one."""

from __future__ import annotations

import socket
from collections.abc import Callable

from edge.datagram import DatagramSocket
from edge.ready import StartupError
from edge.webrtc.offload import MediaOffload


def open_media_socket(
    sock: socket.socket, engine: str, *, clock: Callable[[], float], seed: int
) -> tuple[DatagramSocket, MediaOffload | None]:
    """Wrap a bound, non-blocking UDP socket; the second is its offload, or None.

    ``engine`` is ``transceiver.engine``; raises StartupError when it asks for what is not there.
    """
    if engine == "pure":
        return DatagramSocket(sock), None
    try:
        from edge.offload.socket import MediaSocket
    except ImportError as error:  # not built, or no libcrypto
        if engine == "native":
            raise StartupError(f"transceiver.engine: no native engine here ({error})") from None
        return DatagramSocket(sock), None
    media = MediaSocket(sock, clock=clock, seed=seed)
    return media, media
