"""Types of the C module; ``native`` is what others use."""

from typing import final

_Fields = tuple[int, float, int, float, float]
"""What a ``FlowEntry`` is made of."""

@final
class Core:
    """The loop's threads, and what they share with Python: for one Python thread.

    Endpoints are 18 bytes (IPv6 or v4-mapped host, port, in network order), paths SPP headers, else
    ValueError; hops are 1 to 2**32 - 1. File descriptors stay the caller's.
    """

    def __new__(
        cls,
        advertised: bytes,
        public_family: int,
        internal_family: int,
        strangers_per_second: float,
        max_flows: int,
    ) -> Core: ...
    @property
    def raised_fd(self) -> int: ...
    @property
    def stale_fd(self) -> int: ...
    def start(
        self,
        publics: tuple[int, ...],
        internals: tuple[int, ...],
        threads: int,
        cpus: tuple[int, ...],
        /,
    ) -> None:
        """Start threads, the first ones on these processors; OSError when the system has none."""

    def stop(self) -> None:
        """Stop and join them: a millisecond. May be repeated."""

    def put(
        self,
        path: bytes,
        owner: int,
        heard: float,
        challenger: int,
        challenger_heard: float,
        save_at: float,
        /,
    ) -> bool: ...
    def get(self, path: bytes, /) -> _Fields | None: ...
    def remove(self, path: bytes, /) -> None: ...
    def flow_count(self) -> int: ...
    def scan(
        self, cursor: int, limit: int, heard_before: float, hop: int, /
    ) -> tuple[int, list[tuple[bytes, _Fields]]]: ...
    def set_hop(self, hop: int, address: bytes, group: int, public: bytes | None, /) -> None: ...
    def remove_hop(self, hop: int, /) -> None: ...
    def take(self) -> list[tuple[bytes, bytes, int]]:
        """Take what was raised: path, payload, sender."""

    def clear_stale(self) -> bool:
        """Return whether a hop was found missing or unreachable since the last call."""

    def forward(self, path: bytes, payload: bytes, hop: int, internal: int, /) -> bool: ...
    def deliver(self, path: bytes, payload: bytes, public: int, internal: int, /) -> bool: ...
    def counts(self) -> dict[str, int]:
        """By name: fields of ``ForwarderStatistics``, and values of ``Drop``."""
