"""A merchant's credentials, from Secrets Manager.

get        cached ──ttl──► read ──fails──► the cached ones are used, read again after a pause
replace    401 ──► read at once, unless another thread has just read them, changed or unchanged
expire     401, too late for a second request ──► read with the next call
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeIs

from indodana.errors import CredentialsUnavailable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

# How long a rotation stays unnoticed if the old key still works (no 401 from Indodana).
TTL_SECONDS = 300.0
# The longest that one read may take: the client connects in 1 s, reads in 1.5 s, and tries once. A failure within
# AT_ONCE_SECONDS is retried once, and still fits.
SECRETS_SECONDS = 3.0
AT_ONCE_SECONDS = 0.5
# During an outage of Secrets Manager one call per pause waits for it; the others use the cached credentials.
FAILED_READ_PAUSE_SECONDS = 30.0
# While 401s continue, each merchant's secret is read this often: soon enough for a secret stored just after the key
# was changed, but not so often that a revoked key under load causes throttling for other merchants.
UNCHANGED_READ_PAUSE_SECONDS = 5.0

# The apiKey is sent in a header. The secretKey is not, but other characters in it were pasted by mistake, and would
# only show as a signature that Indodana rejects.
_PRINTABLE_ASCII = re.compile(r"[!-~]+")
_log = logging.getLogger("indodana")


@dataclass(frozen=True)
class Credentials:
    """A merchant's key pair."""

    api_key: str = field(repr=False)
    secret_key: str = field(repr=False)


class _SecretError(Exception):
    """A secret cannot be used; the text has the reason, never the value."""


class _MalformedError(_SecretError):
    """A secret does not have the required format."""


@dataclass(frozen=True)
class _Period:
    """A period of wall-clock time: a monotonic clock may stop while the function is frozen."""

    start: float
    seconds: float

    def contains(self, now: float) -> bool:
        """False after the clock was set back: the time since then is not known."""
        return 0 <= now - self.start < self.seconds


_NEVER = _Period(0.0, 0.0)


class _Cached:
    """The cached secret of one merchant; read and replaced only under `lock`."""

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self.lock = lock
        self.credentials: Credentials | None = None
        self.fresh = _NEVER
        self.unchanged = _NEVER
        # A thread that waited for the lock sees by this number that another thread has read, and uses its result.
        self.reads = 0
        self.failure = ""


class CredentialStore:
    """Credentials by merchant: one secret each, named prefix + merchant id. Cached and thread-safe."""

    def __init__(
        self,
        secrets_manager_client: "SecretsManagerClient",
        prefix: str,
        *,
        ttl_seconds: float = TTL_SECONDS,
        clock: Callable[[], float] = time.time,
        new_lock: Callable[[], AbstractContextManager[Any]] = threading.Lock,
    ) -> None:
        self._client = secrets_manager_client
        self._prefix = prefix
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._new_lock = new_lock
        self._lock = new_lock()
        self._merchants: dict[str, _Cached] = {}

    def get(self, merchant_id: str) -> Credentials:
        cached = self._cached(merchant_id)
        reads = cached.reads
        if cached.credentials is not None and cached.fresh.contains(self._clock()):
            return cached.credentials
        with cached.lock:
            if cached.reads == reads:
                self._read(merchant_id, cached)
            return self._outcome(cached)

    def replace(self, merchant_id: str, rejected: Credentials) -> Credentials:
        """The credentials to use after a 401: equal to `rejected` if no others are available."""
        cached = self._cached(merchant_id)
        reads = cached.reads
        with cached.lock:
            others_known = cached.credentials not in (None, rejected)
            just_read = cached.reads != reads or cached.unchanged.contains(self._clock())
            if not others_known and not just_read:
                self._read(merchant_id, cached)
                if cached.credentials == rejected:
                    cached.unchanged = _Period(self._clock(), UNCHANGED_READ_PAUSE_SECONDS)
            return self._outcome(cached)

    def expire(self, merchant_id: str, rejected: Credentials) -> None:
        """Makes the next call read the secret, unless it was replaced already."""
        cached = self._cached(merchant_id)
        # Without the lock: another thread may hold it for as long as a read takes. At worst there is one more read.
        if cached.credentials == rejected:
            cached.fresh = _NEVER

    def _cached(self, merchant_id: str) -> _Cached:
        with self._lock:
            return self._merchants.setdefault(merchant_id, _Cached(self._new_lock()))

    def _read(self, merchant_id: str, cached: _Cached) -> None:
        name = self._prefix + merchant_id
        try:
            credentials = _parsed(self._secret_string(name))
        except _SecretError as error:
            cached.failure = f"the secret {name} {error}"
            cached.fresh = _Period(self._clock(), FAILED_READ_PAUSE_SECONDS)
            if cached.credentials is not None:
                # A malformed secret would only fail after the old keys expire, so an operator must be alarmed now.
                level = logging.ERROR if isinstance(error, _MalformedError) else logging.WARNING
                _log.log(level, "%s; continuing with the cached credentials", cached.failure)
        else:
            cached.credentials = credentials
            cached.fresh = _Period(self._clock(), self._ttl_seconds)
        cached.reads += 1

    def _secret_string(self, name: str) -> object:
        started = self._clock()
        try:
            try:
                return self._get_secret_value(name)
            except Exception as error:  # botocore's own classes are not imported here, for the sake of the cold start
                # The idle connection was closed since the last read, perhaps while the function was frozen. After a 401
                # this read decides whether a rotation is noticed, so it is repeated on a new connection.
                died = type(error).__name__ == "ConnectionClosedError"
                if not died or not _Period(started, AT_ONCE_SECONDS).contains(self._clock()):
                    raise
                return self._get_secret_value(name)
        except Exception as error:
            response = getattr(error, "response", None) or {}
            reason = response.get("Error", {}).get("Code") or type(error).__name__
            raise _SecretError(f"could not be read ({reason})") from error

    def _get_secret_value(self, name: str) -> object:
        # Without VersionStage, not every implementation returns the new value right after a rotation.
        return self._client.get_secret_value(SecretId=name, VersionStage="AWSCURRENT").get("SecretString")

    @staticmethod
    def _outcome(cached: _Cached) -> Credentials:
        if cached.credentials is None:
            raise CredentialsUnavailable(cached.failure)
        return cached.credentials


def _parsed(secret_string: object) -> Credentials:
    api_key: object = None
    secret_key: object = None
    if isinstance(secret_string, str):
        try:
            secret = json.loads(secret_string)
        except (ValueError, RecursionError):
            secret = None  # not re-raised: the parser's error contains the text, which is the secret
        if isinstance(secret, dict):
            api_key, secret_key = secret.get("apiKey"), secret.get("secretKey")
    if not _is_printable_ascii(api_key) or not _is_printable_ascii(secret_key):
        raise _MalformedError("is malformed: it must be JSON with apiKey and secretKey, printable ASCII without spaces")
    return Credentials(api_key, secret_key)


def _is_printable_ascii(value: object) -> TypeIs[str]:
    return isinstance(value, str) and _PRINTABLE_ASCII.fullmatch(value) is not None
