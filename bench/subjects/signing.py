"""Indodana's signature for the floors and peers, which must not use the gateway's code."""

import hashlib
import hmac
import time


def authorization(api_key: str, secret_key: str) -> str:
    signed = f"{api_key}:{int(time.time())}"
    return f"Bearer {signed}:{hmac.new(secret_key.encode(), signed.encode(), hashlib.sha256).hexdigest()}"
