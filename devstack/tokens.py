"""Local access tokens: an RSA key, its JWKS, and tokens signed with it.

    python -m devstack.tokens --scopes "transactions:read refunds:write" --merchant m1

prints a token for the stack on PORT (default 8080) and nothing else.
"""

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey

from devstack.errors import DevstackError
from devstack.local_files import create_private, directory_of, port_of, running_ports, running_stack
from devstack.template import Model, Template

MERCHANT_CLAIM = "merchant_id"
DEFAULT_SUBJECT = "local-developer"
TOKEN_TTL_SECONDS = 12 * 60 * 60


class Issuer:
    """Signs tokens with the key in `directory`, which is created on first use."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
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
    if not path.exists():
        # Of two processes that start at once, both use the key of the first.
        create_private(path, json.dumps(RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True)))
    try:
        return RSAKey.import_key(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, JoseError) as error:
        raise DevstackError(f"{path} is not an RSA key; delete it, and a new one is created") from error


def check_scopes(scopes: Iterable[str], model: Model) -> None:
    unknown = [scope for scope in scopes if scope not in model.scopes]
    if unknown:
        names = ", ".join(unknown)
        raise DevstackError(
            f"unknown scope{'' if len(unknown) == 1 else 's'} {names}; the API's scopes are: {' '.join(model.scopes)}"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.tokens", description="Prints a token for the local stack on PORT."
    )
    parser.add_argument("--scopes", help="separated by spaces (default: every scope of the API)")
    parser.add_argument("--merchant", default="m1", help="(default: %(default)s; empty: no such claim)")
    parser.add_argument("--subject", default=DEFAULT_SUBJECT, help="(default: %(default)s)")
    parser.add_argument("--ttl", type=float, default=TOKEN_TTL_SECONDS, help="in seconds (default: %(default)s)")
    parser.add_argument("--audience", help="(default: the template's authorizer's)")
    parser.add_argument("--issuer", help="(default: the running stack's, else http://127.0.0.1:$PORT)")
    options = parser.parse_args(arguments)
    try:
        port, directory = port_of(os.environ), directory_of(os.environ)
        running = running_stack(directory)
        if not running and not options.issuer:
            others = "".join(f"; PORT={other} runs" for other in running_ports())
            print(f"No stack runs on port {port}{others}. The token works once one does.", file=sys.stderr)
        issuer = options.issuer or running.get("issuer") or f"http://127.0.0.1:{port}"
        model = Template.load_local(issuer=issuer).model()
        scopes = model.scopes if options.scopes is None else options.scopes.split()
        check_scopes(scopes, model)
        audience = options.audience or next(route.authorizer.audience[0] for route in model.routes if route.authorizer)
        token = Issuer(issuer, directory).token(
            scopes,
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
