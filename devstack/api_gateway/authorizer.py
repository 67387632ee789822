"""The JWT authorizer of an HTTP API: who may take a route."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from devstack.errors import DevstackError
from devstack.template import Authorizer

# API Gateway takes RSA signatures only; so neither `none` nor HMAC with the public key as the secret can pass.
ALGORITHMS = ("RS256", "RS384", "RS512")
# The year 9999. Larger numbers, Infinity among them, are no time at all.
LATEST_TIME = 253_402_300_800


class UnauthorizedError(DevstackError):
    """The token is missing or cannot be trusted."""


class ForbiddenError(DevstackError):
    """The token is valid and has none of the route's scopes."""


def authorize(
    header: str | None,
    authorizer: Authorizer,
    scopes: Iterable[str],
    keys: KeySet,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """The claims of a token that opens the route, checked as API Gateway's JWT authorizer documents it."""
    if not header or not header.strip():
        raise UnauthorizedError("there is no token")
    scheme, _, rest = header.strip().partition(" ")
    text = rest.strip() if scheme.lower() == "bearer" else header.strip()
    try:
        token = jwt.decode(text, _RequireKid(keys).find, algorithms=list(ALGORITHMS))
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise UnauthorizedError(f"the token is not one of this issuer's: {error}") from error
    claims = token.claims
    if not isinstance(claims, dict):
        raise UnauthorizedError("the token's claims are not an object")
    _check_claims(claims, authorizer, clock())
    wanted = set(scopes)
    if wanted and not wanted & set(granted_scopes(claims)):
        raise ForbiddenError(" ".join(sorted(wanted)))
    return claims


class _RequireKid:
    """Finds the key by the header's `kid` alone; joserfc would try an only key for a token that names none."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def find(self, token: Any) -> Any:
        kid = token.headers().get("kid")
        if not isinstance(kid, str):
            raise ValueError("its header has no kid")
        return self._keys.get_by_kid(kid)


def _check_claims(claims: Mapping[str, Any], authorizer: Authorizer, now: float) -> None:
    if claims.get("iss") != authorizer.issuer:
        raise UnauthorizedError("iss is another issuer")
    # client_id counts only where there is no aud.
    audience = claims["aud"] if "aud" in claims else claims.get("client_id")
    if not any(entry in authorizer.audience for entry in (audience if isinstance(audience, list) else [audience])):
        raise UnauthorizedError("aud is another audience")
    expires = _moment(claims, "exp")
    if expires is None or expires <= now:
        raise UnauthorizedError("the token has expired, or never does")
    for name in ("nbf", "iat"):
        moment = _moment(claims, name)
        if moment is not None and moment > now:
            raise UnauthorizedError(f"{name} is in the future")


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LATEST_TIME < value < LATEST_TIME:
        raise UnauthorizedError(f"{name} is not a time")
    return float(value)


def granted_scopes(claims: Mapping[str, Any]) -> list[str]:
    """From `scope` or `scp`, each a text with spaces or a list."""
    granted: list[str] = []
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            granted += value.split()
        elif isinstance(value, list):
            granted += [item for item in value if isinstance(item, str)]
    return granted
