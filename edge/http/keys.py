"""Whose request it is: API keys of the configuration, and client secrets made with them.

A key is known to everything behind this module by its id, which logs and limits use: the first
bytes of its hash. Without configured keys everybody is ``anonymous``, and a client secret still
brings its session configuration along.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NoReturn, cast

from starlette.types import Scope

from edge.errors import Drop, RemoteProtocolError
from edge.http.problem import Cause, Problem
from edge.http.secrets import PREFIX, ClientSecret, SecretSealer
from edge.transceiver.admission import ANONYMOUS, Opener

_SCOPE: Final = "edge.principal"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the id of an API key, and the client secret if it came with one."""

    key_id: str = ANONYMOUS
    secret: ClientSecret | None = field(default=None, repr=False)

    def opener(self, address: str = "") -> Opener:
        """What a call remembers of it; ``address`` is masked."""
        return Opener(self.key_id, self.secret.id if self.secret else "", address)

    def require_key(self) -> None:
        """Raise a 403 Problem for one who came with a client secret."""
        if self.secret is not None:
            raise Problem(
                Cause.KEY_NOT_ALLOWED, "a client secret only opens calls: this needs an API key"
            )


def name_key(key: bytes) -> str:
    """Name an API key without telling it."""
    return sha256(key).hexdigest()[:8]


def remember(scope: Scope, principal: Principal) -> None:
    """Note who asks, for the routes."""
    scope[_SCOPE] = principal


def principal_of(scope: Scope) -> Principal:
    """Who asks, as the gate has found."""
    return cast(Principal, scope[_SCOPE])


class Keyring:
    """Tells who asks by the Authorization header (RFC 6750, section 2.1)."""

    def __init__(
        self, api_keys: Sequence[str], *, secrets: SecretSealer, unix: Callable[[], float]
    ) -> None:
        self._keys = [(key.encode(), name_key(key.encode())) for key in api_keys]
        self._secrets = secrets
        self._unix = unix

    def authenticate(self, authorization: str) -> Principal:
        """Find out who it is; raises a 401 Problem."""
        scheme, _, credential = authorization.partition(" ")
        credential = credential.strip()
        is_bearer = scheme.lower() == "bearer" and bool(credential)
        if is_bearer and credential.startswith(PREFIX):
            return self._open_secret(credential)
        if not self._keys:
            return Principal()
        if not is_bearer:
            raise Problem(
                Cause.MISSING_API_KEY,
                "an API key is needed, as in: Authorization: Bearer KEY",
                {"WWW-Authenticate": 'Bearer realm="edge"'},
            )
        return self._find_key(credential.encode("latin-1", "replace"))

    def _find_key(self, given: bytes) -> Principal:
        # Every key is compared, so that the time taken does not tell which one was close.
        found = [name for key, name in self._keys if hmac.compare_digest(given, key)]
        if not found:
            _refuse(Cause.INVALID_API_KEY, "the API key is wrong")
        return Principal(found[0])

    def _open_secret(self, value: str) -> Principal:
        try:
            secret = self._secrets.open(value, now=self._unix())
        except RemoteProtocolError as error:
            if error.drop is Drop.REPLAY:
                _refuse(Cause.EXPIRED_SECRET, "the client secret has expired: ask for a new one")
            _refuse(Cause.INVALID_API_KEY, "the client secret is wrong")
        if secret.key_id not in ({name for _, name in self._keys} or {ANONYMOUS}):
            _refuse(Cause.INVALID_API_KEY, "the API key behind this client secret is gone")
        return Principal(secret.key_id, secret)


def _refuse(cause: Cause, detail: str) -> NoReturn:
    challenge = 'Bearer realm="edge", error="invalid_token"'
    raise Problem(cause, detail, {"WWW-Authenticate": challenge})
