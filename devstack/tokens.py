"""Local access tokens: an RSA key, its JWKS, tokens signed with it, and the checks of an HTTP API's JWT authorizer.

    python -m devstack.tokens --scopes "transactions:read refunds:write" --merchant m1

prints a token for the running stack and nothing else.
"""

import argparse
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey

from devstack.cloudformation import ROOT
from devstack.errors import DevstackError
from devstack.template import Authorizer, Template

LOCAL_DIR = Path(os.environ.get("LOCAL_DIR", ROOT / ".local"))
"""Holds what a run leaves behind: the key, stack.json, logs. Two stacks at once each need their own."""

MERCHANT_CLAIM = "merchant_id"
DEFAULT_SUBJECT = "local-developer"
DEFAULT_PORT = 8080
TOKEN_TTL_SECONDS = 12 * 60 * 60
# API Gateway takes RSA signatures only; so neither `none` nor HMAC with the public key as the secret can pass.
ALGORITHMS = ("RS256", "RS384", "RS512")

# The year 9999: beyond it stand numbers that are no time at all, Infinity among them.
LATEST_TIME = 253_402_300_800


class UnauthorizedError(DevstackError):
    """There is no token, or not one to be trusted."""


class ForbiddenError(DevstackError):
    """The token is good and holds none of the route's scopes."""


class Issuer:
    """Signs tokens with the key in `directory`, which is made on first use."""

    def __init__(self, url: str, directory: Path = LOCAL_DIR) -> None:
        self.url = url
        self._key = _key(directory / "signing-key.json")

    def keys(self) -> KeySet:
        return KeySet([self._key])

    def jwks(self) -> dict[str, Any]:
        return {"keys": [self._key.as_dict(private=False, alg="RS256", use="sig")]}

    def configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/.well-known/jwks.json",
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
        }

    def token(
        self,
        scopes: Iterable[str],
        *,
        audience: str,
        merchant: str | None = None,
        subject: str = DEFAULT_SUBJECT,
        ttl_seconds: float = TOKEN_TTL_SECONDS,
        claims: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> str:
        """`claims` replace the usual ones; a value of None leaves one out."""
        now = int(clock())
        payload: dict[str, Any] = {
            "iss": self.url,
            "sub": subject,
            "aud": audience,
            "client_id": subject,
            "scope": " ".join(scopes),
            MERCHANT_CLAIM: merchant,
            "iat": now,
            "exp": now + int(ttl_seconds),
            "jti": str(uuid.uuid4()),
            **(claims or {}),
        }
        present = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": self._key.kid, "typ": "JWT"}, present, self._key)


def _key(path: Path) -> RSAKey:
    try:
        stored = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        stored = _created_key(path)
    try:
        return RSAKey.import_key(json.loads(stored))
    except (ValueError, JoseError) as error:
        raise DevstackError(f"{path} is not an RSA key; delete it, and a new one is made") from error


def _created_key(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    key = json.dumps(RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True))
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(key)
    # A link refuses to replace: of two processes that start at once, both use the first one's key.
    with suppress(FileExistsError):
        path.hardlink_to(draft)
    draft.unlink()
    return path.read_text(encoding="utf-8")


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


def running_stack(directory: Path = LOCAL_DIR) -> dict[str, Any]:
    """What the running stack wrote of itself; empty when none is."""
    try:
        document = json.loads((directory / "stack.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.tokens", description="Prints a token for the local stack."
    )
    parser.add_argument("--scopes", help="with spaces between them (default: all of the template's)")
    parser.add_argument("--merchant", default="m1", help="(default: %(default)s; empty: no such claim)")
    parser.add_argument("--subject", default=DEFAULT_SUBJECT, help="(default: %(default)s)")
    parser.add_argument("--ttl", type=float, default=TOKEN_TTL_SECONDS, help="in seconds (default: %(default)s)")
    parser.add_argument("--audience", help="(default: the template's authorizer's)")
    parser.add_argument("--issuer", help="(default: the running stack's, else http://127.0.0.1:$PORT)")
    options = parser.parse_args(arguments)
    fallback = f"http://127.0.0.1:{os.environ.get('PORT') or DEFAULT_PORT}"
    issuer = options.issuer or running_stack().get("issuer") or fallback
    try:
        scopes, audience = options.scopes, options.audience
        if scopes is None or audience is None:
            model = Template.load_local(issuer=issuer).model()
            scopes = " ".join(model.scopes) if scopes is None else scopes
            audience = audience or next(route.authorizer.audience[0] for route in model.routes if route.authorizer)
        token = Issuer(issuer).token(
            scopes.split(),
            audience=audience,
            merchant=options.merchant or None,
            subject=options.subject,
            ttl_seconds=options.ttl,
        )
    except DevstackError as error:
        parser.exit(1, f"{error}\n")
    print(token)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
