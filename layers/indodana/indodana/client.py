"""Check status and cancel at Indodana, every failure sorted into surely not sent, refused, nobody knows."""

import http.client
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import requests
import simplejson
from requests.exceptions import ContentDecodingError
from urllib3.exceptions import ReadTimeoutError

from indodana import transport
from indodana.credentials import SECRETS_SECONDS, Credentials, CredentialStore
from indodana.errors import (
    AnswerTimedOut,
    AnswerUnreadable,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    CredentialsRejected,
    ErrorMessage,
    IndodanaError,
    OutcomeUnknown,
    RateLimited,
    Refused,
    SendingTooLate,
    ServerFailed,
)
from indodana.signing import authorization

# TCP and TLS together: within the region a round trip takes milliseconds, and a lost packet is sent again after 1 s.
# (The name's lookup before it cannot be interrupted from here: RES_OPTIONS bounds that.)
CONNECT_SECONDS = 2.0
# From the request being sent to the last byte of the answer. A caller is waiting, and asking again costs nothing.
STATUS_READ_SECONDS = 5.0
# An answer given up on becomes an operator's work, so a slow one is waited for; still well within the functions' time.
CANCEL_READ_SECONDS = 10.0
# After a 401 the request is made again only if that went fast, so that one call stays bounded.
RETRY_WITHIN_SECONDS = 3.0
# Answers known are below 1 KiB, a proxy's error pages some KiB.
MAX_BODY_BYTES = 64 * 1024
# Nobody means more; a date far off would park a refund for good.
MAX_RETRY_AFTER_SECONDS = 3600.0


def _budget(exchange_seconds: float) -> float:
    # First the secret; then an exchange, and either the secret again (and no time for more) or all again at once.
    after_secret = max(exchange_seconds + SECRETS_SECONDS, RETRY_WITHIN_SECONDS + exchange_seconds)
    return SECRETS_SECONDS + after_secret


# The most that one call takes.
STATUS_BUDGET_SECONDS = _budget(CONNECT_SECONDS + STATUS_READ_SECONDS)
CANCEL_BUDGET_SECONDS = _budget(CONNECT_SECONDS + CANCEL_READ_SECONDS)

_JAKARTA = timezone(timedelta(hours=7))
# decimal(16,2)
_AMOUNT_LIMIT = Decimal(10) ** 14
_CENT = Decimal("0.01")
_REFUSALS = frozenset({400, 403, 404, 409, 422})
_DOCUMENTED_FIELDS = (
    "transactionStatus",
    "merchantOrderId",
    "transactionId",
    "amount",
    "paymentType",
    "transactionTime",
    "fraudStatus",
    "legalName",
    "indodanaUserId",
)


@dataclass(frozen=True)
class Timeouts:
    """Seconds."""

    connect: float = CONNECT_SECONDS
    status_read: float = STATUS_READ_SECONDS
    cancel_read: float = CANCEL_READ_SECONDS


@dataclass(frozen=True)
class Cancellation:
    """A refund as Indodana takes it; `reason` in Indodana's words, `date` aware."""

    refund_id: str
    merchant_order_id: str
    amount: Decimal
    reason: str
    cancelled_by: str
    date: datetime

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Decimal) or not _is_amount(self.amount) or self.amount == 0:
            raise ValueError("amount must be a positive Decimal of at most two decimals")
        if self.date.tzinfo is None:
            raise ValueError("date must have an offset")


@dataclass(frozen=True)
class TransactionStatus:
    """Indodana's answer; `fields` are the documented ones as they came. Some are personal data: never log them."""

    transaction_status: str
    amount: Decimal | None
    fields: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class CancellationAccepted:
    """Indodana said OK; the body, undocumented beyond that, is kept verbatim as evidence."""

    http_status: int
    body: str = field(repr=False)


class _Answer(NamedTuple):
    http_status: int
    body: str
    retry_after_seconds: float | None
    # Why the body is not whole. A status other than 2xx says enough without it.
    broken: OutcomeUnknown | None


class IndodanaClient:
    """Indodana's API, for any number of merchants and threads. `base_url` is scheme, host and base path."""

    def __init__(
        self,
        base_url: str,
        credentials: CredentialStore,
        *,
        status_version: str = "v1",
        cancellation_version: str = "v3",
        pool_size: int = 10,
        clock: Callable[[], float] = time.time,
        timeouts: Timeouts = Timeouts(),
        ssl_context: ssl.SSLContext | None = None,
        session: requests.Session | None = None,
    ) -> None:
        base = base_url.rstrip("/")
        parts = urlsplit(base)
        # A user in the URL would replace the Authorization header.
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or "?" in base:
            raise ValueError("base_url must be http(s)://host[/path]")
        self._status_url = f"{base}/{status_version}/transactions/qris/check_status"
        self._cancellation_url = f"{base}/{cancellation_version}/order_cancellation"
        self._credentials = credentials
        self._clock = clock
        self._timeouts = timeouts
        self._session = session or transport.session(base, pool_size, ssl_context, clock)

    def check_status(self, merchant_id: str, merchant_order_id: str) -> TransactionStatus:
        request = requests.Request("GET", self._status_url, params={"merchantOrderId": merchant_order_id})
        answer = self._call(merchant_id, request, self._timeouts.status_read)
        document = _accepted(answer, merchant_order_id)
        status = document.get("transactionStatus")
        if not isinstance(status, str) or not status or not status.isprintable():
            raise _unreadable(answer, "without a transactionStatus")
        amount = document.get("amount")
        if amount is not None and not _is_amount(amount):
            raise _unreadable(answer, "whose amount is none")
        fields = {name: document[name] for name in _DOCUMENTED_FIELDS if name in document}
        return TransactionStatus(status, None if amount is None else Decimal(amount), fields)

    def cancel(
        self, merchant_id: str, cancellation: Cancellation, *, may_send: Callable[[], bool] = lambda: True
    ) -> CancellationAccepted:
        """Moves money: called again, it may move it again."""
        amount = cancellation.amount
        body = simplejson.dumps(
            {
                "refundId": cancellation.refund_id,
                "merchantOrderId": cancellation.merchant_order_id,
                # Plain digits, however the Decimal was spelled: 1E+5 goes out as 100000.
                "cancellationAmount": int(amount) if amount == int(amount) else amount.quantize(_CENT),
                "cancellationReason": cancellation.reason,
                "cancelledBy": cancellation.cancelled_by,
                "cancellationDate": cancellation.date.astimezone(_JAKARTA).isoformat(timespec="seconds"),
            },
            use_decimal=True,
        )
        headers = {"Content-Type": "application/json"}
        request = requests.Request("POST", self._cancellation_url, data=body.encode(), headers=headers)
        if not may_send():
            raise SendingTooLate("it was too late to send it")
        answer = self._call(merchant_id, request, self._timeouts.cancel_read)
        _accepted(answer, cancellation.merchant_order_id)
        return CancellationAccepted(answer.http_status, answer.body)

    def close(self) -> None:
        """Closes the idle connections; the client can still be used."""
        self._session.close()

    def _call(self, merchant_id: str, request: requests.Request, read_seconds: float) -> _Answer:
        credentials = self._credentials.get(merchant_id)
        started = time.monotonic()
        answer = self._exchange(credentials, request, read_seconds)
        if answer.http_status == 401:
            replaced = self._credentials.replace(merchant_id, credentials)
            if replaced != credentials and time.monotonic() - started <= RETRY_WITHIN_SECONDS:
                answer = self._exchange(replaced, request, read_seconds)
        return answer

    def _exchange(self, credentials: Credentials, request: requests.Request, read_seconds: float) -> _Answer:
        """One request and its answer, whatever that says."""
        prepared = request.prepare()
        prepared.headers["Authorization"] = authorization(credentials, str(int(self._clock())))
        prepared.headers["Accept"] = "application/json"
        prepared.headers["Accept-Encoding"] = "identity"
        prepared.headers["User-Agent"] = "qris-gateway"
        timeout = (self._timeouts.connect, read_seconds)
        try:
            response = self._session.send(prepared, stream=True, timeout=timeout, allow_redirects=False)
        except Exception as error:
            _raise_sorted(error)
        with response:
            body, broken = _read(response)
            retry_after = _retry_after_seconds(response.headers.get("Retry-After"), self._clock())
            return _Answer(response.status_code, body, retry_after, broken)


def _read(response: requests.Response) -> tuple[str, OutcomeUnknown | None]:
    body = bytearray()
    broken: OutcomeUnknown | None = None
    try:
        for chunk in response.iter_content(8192):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                # Leaving off in the middle, `with response` closes the connection instead of keeping it.
                broken = AnswerUnreadable(f"Indodana's answer is larger than {MAX_BODY_BYTES} bytes")
                break
    except Exception as error:
        broken = _unknown(error)
    return bytes(body[:MAX_BODY_BYTES]).decode("utf-8-sig", "replace"), broken


def _raise_sorted(error: Exception) -> NoReturn:
    """Raises what it means that no answer came."""
    for cause in transport.causes(error):
        if isinstance(cause, transport.NotConnected):
            failed = ConnectTimedOut if cause.timed_out else ConnectionFailed
            raise failed(f"no connection to Indodana: {cause.reason}") from cause
    unknown = _unknown(error)
    # What is not HTTP stands in its error in full, whatever it says.
    raise unknown from None if isinstance(unknown, AnswerUnreadable) else error


def _unknown(error: Exception) -> OutcomeUnknown:
    """What it means that the exchange broke off after connecting. Whatever is not foreseen is unknown too."""
    causes = list(transport.causes(error))
    # Both are raised for a connection that ends early, and both are http.client.HTTPException.
    ended = (http.client.RemoteDisconnected, http.client.IncompleteRead)
    if any(isinstance(cause, ReadTimeoutError | TimeoutError) for cause in causes):
        return AnswerTimedOut("Indodana gave no whole answer in time")
    if any(isinstance(cause, ContentDecodingError | http.client.HTTPException) for cause in causes) and not any(
        isinstance(cause, ended) for cause in causes
    ):
        return AnswerUnreadable("Indodana's answer is not HTTP")
    return ConnectionLost(f"the connection to Indodana broke before its answer was whole ({type(causes[-1]).__name__})")


def _accepted(answer: _Answer, merchant_order_id: str) -> dict[str, Any]:
    """The answer's document if it says OK, about this order; otherwise raises what it says."""
    status = answer.http_status
    if status == 429:
        raise _error(RateLimited, answer, "Indodana takes no more requests for now")
    if status == 401:
        raise _error(CredentialsRejected, answer, "Indodana rejects the merchant's credentials")
    if status in _REFUSALS:
        raise _error(Refused, answer, "Indodana refuses")
    if 500 <= status <= 599:
        raise _error(ServerFailed, answer, "Indodana failed")
    if not 200 <= status <= 299:
        raise _unreadable(answer, "of a status it does not document")
    if answer.broken is not None:
        raise _error(type(answer.broken), answer, str(answer.broken))
    document = _document(answer.body)
    if document is None:
        raise _unreadable(answer, "that is no JSON object")
    if document.get("status") != "OK":
        raise _unreadable(answer, "that does not say OK")
    if document.get("merchantOrderId", merchant_order_id) != merchant_order_id:
        raise _unreadable(answer, "about another order")
    return document


def _unreadable(answer: _Answer, what: str) -> AnswerUnreadable:
    return _error(AnswerUnreadable, answer, f"Indodana gave an answer {what}")


def _error[E: IndodanaError](error_class: type[E], answer: _Answer, text: str) -> E:
    error = (_document(answer.body) or {}).get("error")
    kind: Any = error.get("kind") if isinstance(error, dict) else None
    message: Any = error.get("message") if isinstance(error, dict) else None
    # The kind is theirs: it stands in the text only if it looks like one.
    named = f", {kind}" if isinstance(kind, str) and re.fullmatch(r"[A-Za-z]{1,50}Error", kind) else ""
    typed_message: ErrorMessage | None = message if isinstance(message, str | dict) else None
    return error_class(
        f"{text} (HTTP {answer.http_status}{named})",
        http_status=answer.http_status,
        kind=kind if isinstance(kind, str) and kind.isprintable() else None,
        message=typed_message,
        body=answer.body,
        retry_after_seconds=answer.retry_after_seconds,
    )


def _document(body: str) -> dict[str, Any] | None:
    try:
        document = json.loads(body, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, ArithmeticError, RecursionError):  # ArithmeticError: an exponent too large for a Decimal
        return None
    return document if isinstance(document, dict) else None


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_amount(value: object) -> bool:
    """Rupiah as the API has them: decimal(16,2), not negative."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return False
    value = Decimal(value)
    # The range before the decimals: within it quantize() is exact.
    return value.is_finite() and 0 <= value < _AMOUNT_LIMIT and value == value.quantize(_CENT)


def _retry_after_seconds(header: str | None, now: float) -> float | None:
    if header is None:
        return None
    header = header.strip()
    try:
        if header.isascii() and header.isdigit():
            seconds = float(header)
        else:
            date = parsedate_to_datetime(header)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
