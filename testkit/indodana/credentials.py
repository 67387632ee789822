"""Who signed a request.

Signatures are checked as Indodana documents them; no code is shared with the gateway, whose signatures are tested here.
"""

import hashlib
import hmac
import re
import threading
from collections.abc import Mapping

from testkit.indodana.answers import RefusalError
from testkit.indodana.fields import InvalidFieldError

MERCHANT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
API_KEY = re.compile(r"[!-~]+")
# The documentation does not say how old a nonce may be; five minutes is the usual allowance for clocks that differ.
NONCE_WINDOW_SECONDS = 300
# The key pairs that a merchant may sign with: one, or several while a new one is handed over.
type Pairs = tuple[tuple[str, str], ...]


class Credentials:
    """The merchants and their key pairs. The first merchant is the default one of the control API."""

    def __init__(self, merchants: Mapping[str, tuple[str, str]]) -> None:
        self._lock = threading.Lock()
        self._pairs: Mapping[str, Pairs] = {merchant_id: (pair,) for merchant_id, pair in merchants.items()}

    def __contains__(self, merchant_id: str) -> bool:
        return merchant_id in self._pairs

    @property
    def default_merchant(self) -> str:
        return next(iter(self._pairs), "")

    def put(self, merchant_id: str, api_key: str, secret_key: str, *, keep_old: bool) -> bool:
        """True if the merchant is new. With `keep_old` its old pairs stay valid, until the next change without it."""
        if not MERCHANT_ID.fullmatch(merchant_id):
            raise InvalidFieldError("merchantId", "must be 1 to 64 letters, digits, _ or -")
        if not API_KEY.fullmatch(api_key):
            raise InvalidFieldError("apiKey", "must be printable ASCII without spaces, because it is sent in a header")
        with self._lock:
            others = [pair for other, pairs in self._pairs.items() if other != merchant_id for pair in pairs]
            if any(key == api_key for key, _ in others):
                raise InvalidFieldError("apiKey", "belongs to another merchant")
            is_new = merchant_id not in self._pairs
            old = self._pairs.get(merchant_id, ()) if keep_old else ()
            # Replaced as a whole: requests read it without the lock.
            self._pairs = {**self._pairs, merchant_id: (*old, (api_key, secret_key))}
            return is_new

    def authenticate(self, authorization: str | None, now: float, nonce_window_seconds: float | None) -> str:
        """The merchant who signed `Bearer {apiKey}:{nonce}:{signature}`. Raises a RefusalError of 401 if none did."""
        # http.server reads header bytes as Latin-1; this gives the bytes back.
        scheme, _, token = (authorization or "").encode("latin-1").partition(b" ")
        parts = token.rsplit(b":", 2)
        if scheme != b"Bearer" or len(parts) != 3:
            raise RefusalError(401, "Authorization header is missing or malformed")
        given_key, nonce, signature = parts
        signer = None
        # Every pair is compared, whoever signed, so that the time taken tells nothing about keys.
        pairs = [(name, *pair) for name, pairs in self._pairs.items() for pair in pairs]
        for merchant_id, api_key, secret_key in pairs:
            key = api_key.encode()
            expected = hmac.new(secret_key.encode(), key + b":" + nonce, hashlib.sha256).hexdigest().encode()
            if hmac.compare_digest(given_key, key) & hmac.compare_digest(signature, expected):
                signer = merchant_id
        if signer is None:
            raise RefusalError(401, "Unknown key or wrong signature")
        if not re.fullmatch(rb"[0-9]{1,15}", nonce):
            raise RefusalError(401, "Nonce is not a Unix time in seconds")
        if nonce_window_seconds is not None and abs(int(nonce) - now) > nonce_window_seconds:
            raise RefusalError(401, "Nonce is too far from the current time")
        return signer
