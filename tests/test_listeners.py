"""Which addresses a relay opens, what it tells clients of each, and who gets in over TCP."""

from __future__ import annotations

import pytest

from edge.app.listeners import make_admits
from edge.app.sockets import Plan, plan_listeners
from edge.config import RelayConfig
from edge.errors import Drop
from edge.token import TokenKey, TokenSealer
from edge.wire import stun

SEALER = TokenSealer(TokenKey.derive("a fleet secret that is long enough"))
NOW = 1_800_000_000.0


def plans(**settings: str) -> list[Plan]:
    return plan_listeners(RelayConfig(**settings))  # type: ignore[arg-type]


def test_one_address_is_one_listener() -> None:
    internal = ("127.0.0.1", 0)
    assert plans(bind="192.0.2.1:3478") == [Plan("udp", ("192.0.2.1", 3478), "", internal)]


def test_both_ip_versions_and_tcp() -> None:
    assert plans(
        bind="0.0.0.0:3478, [::]:3478",
        advertise="192.0.2.1:9, 2001:db8::1",
        tcp_bind="0.0.0.0:443,[::]:443",
        internal_bind="10.0.0.5:7000",
    ) == [
        Plan("udp", ("0.0.0.0", 3478), "192.0.2.1:9", ("10.0.0.5", 7000)),
        Plan("udp", ("::", 3478), "2001:db8::1", ("10.0.0.5", 7001)),
        Plan("tcp", ("0.0.0.0", 443), "192.0.2.1", ("10.0.0.5", 7002)),
        Plan("tcp", ("::", 443), "2001:db8::1", ("10.0.0.5", 7003)),
    ]


def test_tcp_may_be_told_by_itself() -> None:
    told = plans(advertise="192.0.2.1", tcp_bind="127.0.0.1:1", tcp_advertise="192.0.2.2:443")
    assert [plan.advertise for plan in told] == ["192.0.2.1", "192.0.2.2:443"]
    two = plans(advertise="192.0.2.1", tcp_bind="127.0.0.1:1,[::1]:1")
    assert [plan.advertise for plan in two] == ["192.0.2.1", "", ""]


def check(token: str) -> bytes:
    return stun.encode_request(
        bytes(12),
        username=f"{token}:abcd",
        password="p" * 22,
        priority=1,
        use_candidate=False,
        controlling=1,
    )


@pytest.mark.parametrize(
    ("frame", "drop"),
    [
        (check(SEALER.seal(1, 0, int(NOW) + 60, 0)), None),
        (check(SEALER.seal(1, 9, int(NOW) + 60, 0)), None),
        (check(SEALER.seal(1, 0, int(NOW) - 60, 0)), Drop.BAD_TOKEN),
        (check("A" * 23), Drop.BAD_TOKEN),
        (check("abcd"), Drop.BAD_TOKEN),
        (stun.encode_success(bytes(12), ("192.0.2.1", 1), password="p" * 22), Drop.MALFORMED),
        (b"\x16\xfe\xfd" + bytes(50), Drop.MALFORMED),
        (b"\x80\x6f" + bytes(150), Drop.MALFORMED),
    ],
    ids=["ours", "another cluster's", "expired", "forged", "short", "response", "DTLS", "RTP"],
)
def test_a_connection_begins_with_a_check(frame: bytes, drop: Drop | None) -> None:
    assert make_admits(SEALER, lambda: NOW)(frame) is drop
