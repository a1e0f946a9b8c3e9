"""Client secrets, and whose request it is."""

from __future__ import annotations

import random
import string

import pytest

from edge.config import HttpConfig
from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.http.keys import Keyring, Principal, name_key
from edge.http.limits import Limits
from edge.http.problem import STATUS, Cause, Problem
from edge.http.secrets import MAX_SECRET_CHARACTERS, ClientSecret, SecretSealer
from edge.limits import BucketTable
from edge.session_config import MAX_DEPTH, MAX_SESSION_BYTES, decode_session, merge
from edge.transceiver.admission import ANONYMOUS, Opener

OLD, NEW = "the old secret of a fleet, long enough", "the new secret of a fleet, long enough"
SECRET = ClientSecret(id="5f0c", key_id="key1", expires=1_000, session=b'{"voice":"marin"}')


def test_a_secret_opens_until_it_expires() -> None:
    sealer = SecretSealer(OLD)
    value = sealer.seal(SECRET)
    assert value.startswith("ek_")
    assert set(value) <= set(string.ascii_letters + string.digits + "-_")
    assert "marin" not in value
    assert sealer.open(value, now=999.9) == SECRET
    with pytest.raises(RemoteProtocolError, match="expired") as error:
        sealer.open(value, now=1_000.0)
    assert error.value.drop is Drop.REPLAY
    assert "marin" not in repr(SECRET)


def test_a_rotation_breaks_no_secret() -> None:
    value = SecretSealer(OLD).seal(SECRET)
    assert SecretSealer(NEW, OLD).open(value, now=0.0) == SECRET
    with pytest.raises(RemoteProtocolError):
        SecretSealer(NEW).open(value, now=0.0)
    fresh = SecretSealer(NEW, OLD).seal(SECRET)
    with pytest.raises(RemoteProtocolError):
        SecretSealer(OLD).open(fresh, now=0.0)


def test_no_change_of_a_secret_opens() -> None:
    sealer, rng = SecretSealer(OLD), random.Random(3)
    value = sealer.seal(SECRET)
    alphabet = string.ascii_letters + string.digits + "-_=+/ \xe9"
    for _ in range(2_000):
        changed = list(value)
        at = rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[at] = rng.choice(alphabet)
            case 1:
                del changed[at:]
            case 2:
                changed.insert(at, rng.choice(alphabet))
            case _:
                del changed[at]
        text = "".join(changed)
        try:
            opened = sealer.open(text, now=0.0)
        except RemoteProtocolError:
            continue
        # Base64's last digit may have bits that nobody reads.
        assert opened == SECRET
        assert text[:-1] == value[:-1]
    for other in ("", "ek_", "ek_AAAA", "ek_" + "A" * 40, "ek_" + "A" * 20_000, "sk_x"):
        with pytest.raises(RemoteProtocolError):
            sealer.open(other, now=0.0)


def test_what_does_not_fit_into_a_header_is_refused() -> None:
    noise = random.Random(1).randbytes(8_000).hex().encode()
    with pytest.raises(LocalProtocolError):
        SecretSealer(OLD).seal(ClientSecret(id="1", key_id="k", expires=1, session=noise))
    plain = b'{"instructions":"' + b"Be brief. " * 3_000 + b'"}'
    value = SecretSealer(OLD).seal(ClientSecret(id="1", key_id="k", expires=1, session=plain))
    assert len(value) < MAX_SECRET_CHARACTERS / 10
    assert SecretSealer(OLD).open(value, now=0.0).session == plain


# Whose request it is.

KEYS = ("key-one-1", "key-two-2")


def keyring(keys: tuple[str, ...] = KEYS, now: float = 0.0) -> Keyring:
    return Keyring(keys, secrets=SecretSealer(OLD), unix=lambda: now)


def secret_for(key_id: str) -> str:
    return "Bearer " + SecretSealer(OLD).seal(
        ClientSecret(id="5f0c", key_id=key_id, expires=1_000, session=b"{}")
    )


def refused(ring: Keyring, authorization: str) -> Cause:
    with pytest.raises(Problem) as error:
        ring.authenticate(authorization)
    assert error.value.status == 401
    assert error.value.headers["WWW-Authenticate"].startswith("Bearer")
    return error.value.cause


def test_keys_are_known_by_their_ids() -> None:
    ids = [keyring().authenticate(f"Bearer {key}").key_id for key in KEYS]
    assert ids == [name_key(key.encode()) for key in KEYS]
    assert len(set(ids)) == 2
    assert not any(word in one for one in ids for word in ("key", "one", "two"))
    assert refused(keyring(), "Bearer nobody") is Cause.INVALID_API_KEY
    assert refused(keyring(), "") is Cause.MISSING_API_KEY
    assert keyring(()).authenticate("Bearer whatever") == Principal(ANONYMOUS)


def test_a_secret_is_worth_the_key_behind_it() -> None:
    authorization = secret_for(name_key(b"key-one-1"))
    principal = keyring().authenticate(authorization)
    assert principal.key_id == name_key(b"key-one-1")
    assert principal.secret is not None
    with pytest.raises(Problem) as error:
        principal.require_key()
    assert error.value.status == 403
    assert refused(keyring(now=1_000.0), authorization) is Cause.EXPIRED_SECRET
    assert refused(keyring(("another-key",)), authorization) is Cause.INVALID_API_KEY
    assert refused(keyring(()), authorization) is Cause.INVALID_API_KEY
    assert refused(keyring(()), "Bearer ek_nonsense") is Cause.INVALID_API_KEY
    assert keyring(()).authenticate(secret_for(ANONYMOUS)).secret is not None


def test_who_may_touch_a_call() -> None:
    opened_by_key, opened_by_secret = Opener("one"), Opener("one", "s1", "192.0.2.0/24")
    for who, by_key, by_secret in [
        (Opener("one"), True, True),
        (Opener("one", "s1"), False, True),
        (Opener("one", "s2"), False, False),
        (Opener("two"), False, False),
        (Opener("two", "s1"), False, False),
    ]:
        assert who.may_touch(opened_by_key) is by_key
        assert who.may_touch(opened_by_secret) is by_secret


def test_every_cause_has_a_status() -> None:
    assert set(STATUS) == set(Cause)
    assert {401, 403, 404, 409, 412, 413, 415, 422, 428, 429, 501, 503} <= set(STATUS.values())


# Limits.


def test_limits_are_asked_from_the_narrowest_on() -> None:
    now = 0.0
    config = HttpConfig(
        offers_per_second=6.0, offers_per_second_per_key=4.0, offers_per_second_per_address=2.0
    )
    limits = Limits(config, now=lambda: now)

    refusals: list[Problem] = []

    def taken(key: str, address: str) -> int:
        for count in range(10):
            try:
                limits.take(key=key, address=address)
            except Problem as problem:
                refusals.append(problem)
                return count
        return 10

    assert taken("a", "192.0.2.1") == 2
    assert taken("a", "192.0.2.2") == 2
    assert taken("a", "192.0.2.3") == 0, "the key's limit, whatever the address"
    assert taken("b", "192.0.2.4") == 2, "of the six of all, four were taken"
    assert taken("c", "192.0.2.5") == 0
    now += 1.0
    assert taken("a", "2001:db8::1") == 2
    assert taken("b", "2001:db8::2") == 0, "one /64 is one address"
    assert taken("b", "2001:db8:0:1::2") == 2
    assert taken("b", "") == 2, "an address that is not known is one too"
    assert {problem.cause for problem in refusals} == {Cause.RATE_LIMIT_EXCEEDED}
    assert all(int(problem.headers["Retry-After"]) >= 1 for problem in refusals)


def test_a_table_of_buckets_is_bounded() -> None:
    table = BucketTable(1.0, max_names=3)
    for name in "abc":
        assert table.take(name, now=0.0) == 0.0
    assert table.take("a", now=0.0) > 0.0
    assert table.take("d", now=0.0) == 0.0
    assert len(table) == 3
    assert table.take("a", now=0.0) > 0.0, "it was used later than b, which gave way"
    assert table.take("b", now=0.0) == 0.0


# Session configurations.


def test_configurations_are_laid_over_each_other() -> None:
    base = decode_session(b'{"a":1,"audio":{"input":{"x":1},"output":{"voice":"a"}},"tools":[1]}')
    changes = decode_session(b'{"audio":{"output":{"voice":"b"}},"tools":[2],"b":null}')
    assert merge(base, changes) == {
        "a": 1,
        "audio": {"input": {"x": 1}, "output": {"voice": "b"}},
        "tools": [2],
        "b": None,
    }
    assert base["tools"] == [1]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a":\xff}',
        b'{"a":' * MAX_DEPTH + b"{}" + b"}" * MAX_DEPTH,
        b'{"a":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"a":"' + b"x" * MAX_SESSION_BYTES + b'"}',
    ],
)
def test_no_configuration(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_session(text)


def test_a_deep_configuration_can_be_merged() -> None:
    deep = decode_session(b'{"a":' * (MAX_DEPTH - 1) + b"{}" + b"}" * (MAX_DEPTH - 1))
    assert merge(deep, deep) == deep
