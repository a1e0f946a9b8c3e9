"""The token: its published vectors, and that nothing but a sealed one ever opens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import string
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.token import TOKEN_CHARS, Token, TokenKey, TokenSealer

ICE_CHARS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
CURRENT = TokenKey.derive("the current secret of this fleet, 0001")
OTHER = TokenKey.derive("the secret of some other fleet, 000002")
SEALER = TokenSealer(CURRENT)
NOW = 1_800_000_000.0

tokens = st.builds(
    Token,
    slot=st.integers(0, 2**24 - 1),
    cluster=st.integers(0, 2**16 - 1),
    expiry=st.integers(int(NOW) + 1, 2**32 - 1),
    nonce=st.integers(0, 2**32 - 1),
)


class Vector(msgspec.Struct, forbid_unknown_fields=True):
    secret: str
    key: str
    key_id: int
    slot: int
    cluster: int
    expiry: int
    nonce: int
    plaintext: str
    token: str


def vectors() -> list[Vector]:
    text = (Path(__file__).parent.parent / "docs" / "token.md").read_text(encoding="utf-8")
    return msgspec.convert(json.loads(text.split("```json")[1].split("```")[0]), list[Vector])


def seal(sealer: TokenSealer, token: Token) -> str:
    return sealer.seal(token.slot, token.cluster, token.expiry, token.nonce)


def refused(token: str, sealer: TokenSealer = SEALER, *, unix_now: float = NOW) -> bool:
    try:
        sealer.open(token, unix_now=unix_now)
    except RemoteProtocolError as error:
        return error.drop is Drop.BAD_TOKEN
    return False


def test_there_are_vectors_for_more_than_one_key() -> None:
    assert len({vector.key_id for vector in vectors()}) >= 2


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.token)
def test_vectors_hold(vector: Vector) -> None:
    key = TokenKey.derive(vector.secret)
    assert (key.key.hex(), key.key_id) == (vector.key, vector.key_id)
    sealer = TokenSealer(key)
    token = Token(vector.slot, vector.cluster, vector.expiry, vector.nonce)
    assert seal(sealer, token) == vector.token
    assert sealer.open(vector.token, unix_now=vector.expiry - 1) == token


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.token)
def test_vectors_follow_from_the_description(vector: Vector) -> None:
    # HKDF of RFC 5869 by hand: extract with 32 zero bytes, then one block of expand.
    prk = hmac.digest(bytes(32), vector.secret.encode(), hashlib.sha256)
    material = hmac.digest(prk, b"edge token v0\x01", hashlib.sha256)[:17]
    assert (material[:16].hex(), material[16] & 7) == (vector.key, vector.key_id)
    plaintext = (
        vector.slot.to_bytes(3)
        + vector.cluster.to_bytes(2)
        + vector.expiry.to_bytes(4)
        + vector.nonce.to_bytes(4)
        + bytes(3)
    )
    assert plaintext.hex() == vector.plaintext
    block = Cipher(AES(material[:16]), ECB()).encryptor().update(plaintext)
    body = base64.b64encode(block).decode().rstrip("=")
    assert ICE_CHARS[vector.key_id] + body == vector.token


@given(tokens)
def test_what_is_sealed_opens(token: Token) -> None:
    text = seal(SEALER, token)
    assert len(text) == TOKEN_CHARS
    assert set(text) <= set(ICE_CHARS)
    assert SEALER.open(text, unix_now=NOW) == token


@given(tokens, st.integers(0, TOKEN_CHARS * 6 - 1))
def test_any_flipped_bit_is_refused(token: Token, bit: int) -> None:
    text = seal(SEALER, token)
    place, shift = divmod(bit, 6)
    changed = ICE_CHARS[ICE_CHARS.index(text[place]) ^ 1 << shift]
    assert refused(text[:place] + changed + text[place + 1 :])


@given(tokens)
def test_another_key_is_refused_even_with_the_same_id(token: Token) -> None:
    same_id = TokenSealer(TokenKey(OTHER.key, CURRENT.key_id))
    assert refused(seal(same_id, token))
    assert refused(seal(TokenSealer(OTHER), token))


@given(st.text(max_size=40) | st.text(ICE_CHARS, min_size=23, max_size=23))
def test_any_text_is_refused(text: str) -> None:
    assert refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "A" * 22,
        "A" * 24,
        "A" * 600,
        "=" * 23,
        "A" * 21 + "==",
        "é" * 22 + "A",
        "A" * 22 + "\n",
    ],
)
def test_malformed_text_is_refused(text: str) -> None:
    assert refused(text)


def test_the_spare_bits_are_not_malleable() -> None:
    text = SEALER.seal(1, 0, int(NOW) + 60, 7)
    last = ICE_CHARS.index(text[-1])
    for spare in range(1, 16):
        assert refused(text[:-1] + ICE_CHARS[last | spare])


def test_random_tokens_are_refused() -> None:
    rng = random.Random(1)
    first = ICE_CHARS[CURRENT.key_id]  # version and key id are no secret
    for _ in range(100_000):
        block = base64.b64encode(rng.randbytes(16))[:22].decode()
        assert refused(first + block)


def test_a_token_is_good_before_its_expiry_only() -> None:
    text = SEALER.seal(1, 0, int(NOW), 7)
    assert not refused(text, unix_now=NOW - 0.001)
    assert refused(text, unix_now=NOW)
    assert refused(text, unix_now=NOW + 1e9)


def test_rotation_keeps_old_tokens_and_seals_new_ones_with_the_current_key() -> None:
    old, new = TokenSealer(OTHER), TokenSealer(CURRENT, OTHER)
    fields = Token(5, 6, int(NOW) + 60, 7)
    assert new.open(seal(old, fields), unix_now=NOW) == fields
    assert seal(new, fields) == seal(SEALER, fields)
    assert refused(seal(old, fields), SEALER)


def test_rotation_works_when_both_keys_have_one_id() -> None:
    previous = TokenKey(OTHER.key, CURRENT.key_id)
    both = TokenSealer(CURRENT, previous)
    fields = Token(5, 6, int(NOW) + 60, 7)
    assert both.open(seal(TokenSealer(previous), fields), unix_now=NOW) == fields
    assert both.open(seal(both, fields), unix_now=NOW) == fields


@pytest.mark.parametrize(
    ("slot", "cluster", "expiry", "nonce"),
    [(2**24, 0, 1, 0), (-1, 0, 1, 0), (1, 2**16, 1, 0), (1, 0, 2**32, 0), (1, 0, 1, -1)],
)
def test_values_that_do_not_fit_are_our_callers_fault(
    slot: int, cluster: int, expiry: int, nonce: int
) -> None:
    with pytest.raises(LocalProtocolError):
        SEALER.seal(slot, cluster, expiry, nonce)


def test_no_key_in_a_repr() -> None:
    assert "key=" not in repr(CURRENT)
