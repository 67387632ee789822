"""Status check and cancellation at Indodana: sends signed requests (answers.py reads the answers)."""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import requests
import simplejson

from indodana import answers
from indodana.amounts import exact_amount
from indodana.answers import Asked, CancellationAccepted, Reading, TransactionStatus
from indodana.credentials import SECRETS_SECONDS, Credentials, CredentialStore
from indodana.signing import authorization
from indodana.transport import Answer, Transport

# TCP and TLS together: a round trip within the region takes milliseconds; a lost packet is sent again after 1 s.
# (The DNS lookup before it cannot be interrupted from here: RES_OPTIONS limits it.)
CONNECT_SECONDS = 2.0
# From sending the request to the last byte of the answer. A caller is waiting, and a retry is harmless.
STATUS_READ_SECONDS = 5.0
# A missing answer becomes an operator's work, so a slow one gets more time, well within the functions' timeouts.
CANCEL_READ_SECONDS = 10.0
# After a 401 the secret is read and the request repeated only if the 401 came quickly, so that the call's total time
# stays limited. Whoever authenticates answers before the work is done.
RETRY_WITHIN_SECONDS = 2.0
# The longest that a status check takes: the secret, an exchange that ends with a quick 401, and one more exchange (or,
# for less time, the secret again).
STATUS_BUDGET_SECONDS = SECRETS_SECONDS + RETRY_WITHIN_SECONDS + CONNECT_SECONDS + STATUS_READ_SECONDS

_JAKARTA = timezone(timedelta(hours=7))


@dataclass(frozen=True)
class Timeouts:
    """Seconds."""

    connect: float = CONNECT_SECONDS
    status_read: float = STATUS_READ_SECONDS
    cancel_read: float = CANCEL_READ_SECONDS


@dataclass(frozen=True)
class Cancellation:
    """A refund as Indodana accepts it; `reason` is one of Indodana's values, `date` is aware."""

    refund_id: str
    merchant_order_id: str
    amount: Decimal
    reason: str
    cancelled_by: str
    date: datetime

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Decimal) or not exact_amount(self.amount):
            raise ValueError("amount must be a positive Decimal of at most two decimals")
        if self.date.tzinfo is None:
            raise ValueError("date must have an offset")


type _Send = Callable[[requests.PreparedRequest], Answer]


class IndodanaClient:
    """Client of Indodana's API, for several merchants and threads. `base_url` is scheme, host and base path."""

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
        transport: Transport | None = None,
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
        self._transport = transport or Transport(base, pool_size, ssl_context, clock)

    def check_status(self, merchant_id: str, merchant_order_id: str) -> TransactionStatus:
        request = requests.Request("GET", self._status_url, params={"merchantOrderId": merchant_order_id})

        def ask(prepared: requests.PreparedRequest) -> Answer:
            return self._transport.get(
                prepared,
                connect_seconds=self._timeouts.connect,
                read_seconds=self._timeouts.status_read,
                is_ours=lambda answer: answers.is_about(answer, merchant_order_id),
            )

        return self._call(merchant_id, request, ask, Asked(merchant_order_id)).transaction_status()

    def cancel(
        self, merchant_id: str, cancellation: Cancellation, *, may_send: Callable[[], bool] = lambda: True
    ) -> CancellationAccepted:
        """Moves money; a second call may move it again. `may_send` is called right before the request is written."""
        body = simplejson.dumps(_body(cancellation), use_decimal=True).encode()
        headers = {"Content-Type": "application/json"}
        request = requests.Request("POST", self._cancellation_url, data=body, headers=headers)

        def send(prepared: requests.PreparedRequest) -> Answer:
            return self._transport.post(
                prepared,
                connect_seconds=self._timeouts.connect,
                read_seconds=self._timeouts.cancel_read,
                may_send=may_send,
            )

        asked = Asked(cancellation.merchant_order_id, cancellation.refund_id, cancellation.amount)
        reading = self._call(merchant_id, request, send, asked, cancellation.cancelled_by)
        return reading.cancellation()

    def close(self) -> None:
        """Closes the idle connections; the client can still be used."""
        self._transport.close()

    def _call(self, merchant_id: str, request: requests.Request, send: _Send, asked: Asked, *private: str) -> Reading:
        """One exchange; a second one with new credentials if Indodana rejects the first."""
        credentials = self._credentials.get(merchant_id)
        started = time.monotonic()
        prepared = self._signed(request, credentials)
        answer = send(prepared)
        if answer.http_status == 401:
            if time.monotonic() - started > RETRY_WITHIN_SECONDS:
                # The caller's time is needed to record the answer.
                self._credentials.expire(merchant_id, credentials)
            else:
                replaced = self._credentials.replace(merchant_id, credentials)
                if replaced != credentials and time.monotonic() - started <= RETRY_WITHIN_SECONDS:
                    credentials, prepared = replaced, self._signed(request, replaced)
                    answer = send(prepared)
        signature = prepared.headers["Authorization"].rpartition(":")[2]
        secrets = (credentials.api_key, credentials.secret_key, signature)
        return Reading(answer, asked, (*secrets, *private), self._clock())

    def _signed(self, request: requests.Request, credentials: Credentials) -> requests.PreparedRequest:
        prepared = request.prepare()
        prepared.headers["Authorization"] = authorization(credentials, str(int(self._clock())))
        prepared.headers["Accept"] = "application/json"
        prepared.headers["Accept-Encoding"] = "identity"
        prepared.headers["User-Agent"] = "qris-gateway"
        return prepared


def _body(cancellation: Cancellation) -> dict[str, Any]:
    return {
        "refundId": cancellation.refund_id,
        "merchantOrderId": cancellation.merchant_order_id,
        # In plain digits: 1E+5 is sent as 100000.
        "cancellationAmount": exact_amount(cancellation.amount),
        "cancellationReason": cancellation.reason,
        "cancelledBy": cancellation.cancelled_by,
        "cancellationDate": cancellation.date.astimezone(_JAKARTA).isoformat(timespec="seconds"),
    }
