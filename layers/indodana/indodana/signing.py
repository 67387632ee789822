"""Indodana's Authorization header."""

import hashlib
import hmac

from indodana.credentials import Credentials


def authorization(credentials: Credentials, nonce: str) -> str:
    """The header's value; `nonce` is the Unix time in whole seconds. The signature covers neither path nor body."""
    signed = f"{credentials.api_key}:{nonce}"
    signature = hmac.new(credentials.secret_key.encode(), signed.encode(), hashlib.sha256).hexdigest()
    return f"Bearer {signed}:{signature}"
