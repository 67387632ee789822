"""What Indodana's answers mean: done, refused, certainly not done, or unknown.

200, 201    complete, one unambiguous JSON object, `status: OK`, about this request    done
400 … 422   complete, one unambiguous JSON object, `status: ERROR`                     refused
401, 429    in any form: authentication and rate limits come before any processing     certainly not done
else                                                                                   unknown
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any

from indodana import evidence
from indodana.amounts import exact_amount
from indodana.documents import JsonObject, parse
from indodana.errors import (
    AnswerUnreadable,
    ContradictingAnswer,
    CredentialsRejected,
    ForeignAnswer,
    IndodanaError,
    RateLimited,
    Refused,
    ServerFailed,
)
from indodana.evidence import AnswerEvidence
from indodana.masking import Known
from indodana.transport import Answer

# No server means more; a date far in the future would stop a refund forever.
MAX_RETRY_AFTER_SECONDS = 86_400.0

DOCUMENTED_FIELDS = (
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
_LONGEST_TEXT = 256
_LONGEST_STATUS = 64
_LONGEST_NUMBER = 20

_DONE = frozenset({200, 201})
_REFUSALS = frozenset({400, 403, 404, 409, 422})

# If one of these fields has one of these values, an OK does not mean that the refund is done.
_STATUS_FIELDS = ("refundStatus", "cancellationStatus", "transactionStatus")
_NOT_DONE = frozenset({"PENDING", "PROCESSING", "INPROGRESS", "FAILED", "REJECTED", "EXPIRED"})

# The field names of an error's kind and message, in Indodana's own format first, then in others'.
_KINDS = ("kind", "type", "code", "errorcode")
_MESSAGES = (
    *("message", "messages", "errormessage", "errordescription", "description", "detail", "details", "reason"),
    *("msg", "pesan", "errors", "title"),
)
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}|[0-9]{1,8}")
_SAFE_KIND = re.compile(r"[A-Za-z]{1,50}Error")

_DEEPEST_WORDS = 3
_MOST_WORDS = 10

_CUSTOMER_FIELDS = frozenset({"legalname", "indodanauserid"})
_MOST_CUSTOMER_TEXTS = 20
_SHORTEST_NAME = 3

_SEPARATORS = re.compile(r"[\s_-]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_log = logging.getLogger("indodana")


@dataclass(frozen=True)
class Asked:
    """The request that an answer belongs to; `refund_id` and `amount` only for a cancellation."""

    merchant_order_id: str
    refund_id: str | None = None
    amount: Decimal | None = None


@dataclass(frozen=True)
class TransactionStatus:
    """Indodana's answer; `fields` are the documented ones, all scalars. Some are personal data: never log them.

    The amount is exact, also if it was sent as text.
    """

    transaction_status: str
    amount: Decimal | None
    fields: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class CancellationAccepted:
    """Indodana answered OK."""

    http_status: int
    evidence: AnswerEvidence = field(repr=False)


def is_about(answer: Answer, merchant_order_id: str) -> bool:
    """Whether the answer is safe even if it belongs to another request: it names the order, or means "not now"."""
    status = answer.http_status or 0
    if status in (401, 429) or 500 <= status <= 599:
        return True
    document = parse(answer.body)
    value = document.value if document else None
    return isinstance(value, JsonObject) and value.get("merchantOrderId") == merchant_order_id


class Reading:
    """Reads one answer to one request. Raises only IndodanaErrors, whatever the answer is."""

    def __init__(self, answer: Answer, asked: Asked, private: tuple[str, ...], now: float) -> None:
        self._answer = answer
        self._asked = asked
        self._now = now
        self._document = parse(answer.body)
        value = self._document.value if self._document else None
        self._object = value if isinstance(value, JsonObject) else None
        ids = tuple(text for text in (asked.merchant_order_id, asked.refund_id) if text)
        self._known = Known(ids, asked.amount, (*private, *islice(_customer_texts(value), _MOST_CUSTOMER_TEXTS)))

    def transaction_status(self) -> TransactionStatus:
        """Raises IndodanaError."""
        answer = self._ok()
        if answer.get("merchantOrderId") not in (None, self._asked.merchant_order_id):
            raise self._unreadable("an answer about another order")
        fields = {name: answer[name] for name in DOCUMENTED_FIELDS if name in answer}
        for name, value in fields.items():
            if not _is_bounded_scalar(value):
                raise self._unreadable(f"an invalid {name}")
        status = fields.get("transactionStatus")
        if not isinstance(status, str) or not _is_status(status):
            raise self._unreadable("no valid transactionStatus")
        amount = None
        if fields.get("amount") is not None:
            amount = fields["amount"] = exact_amount(fields["amount"])
            if amount is None:
                raise self._unreadable("an invalid amount")
        return TransactionStatus(status, amount, fields)

    def cancellation(self) -> CancellationAccepted:
        """Raises IndodanaError."""
        contradicted = self._contradicted(self._ok())
        if contradicted:
            text = f"Indodana answered OK, but its {contradicted} contradicts the request"
            raise self._error(ContradictingAnswer, text, field=contradicted)
        status = self._answer.http_status
        assert status is not None
        return CancellationAccepted(status, self._evidence())

    def _ok(self) -> JsonObject:
        """The document of an OK. Raises the IndodanaError of any other answer."""
        answer, status = self._answer, self._answer.http_status
        if status is None:
            assert answer.broken
            raise answer.broken
        if status == 429:
            raise self._error(RateLimited, "Indodana is rate-limiting requests")
        if status == 401:
            raise self._error(CredentialsRejected, "Indodana rejected the merchant's credentials")
        if status in _REFUSALS:
            if self._is_own_document("ERROR") and self._is_about_this():
                raise self._error(Refused, "Indodana refused the request")
            raise self._error(ForeignAnswer, "refusal without Indodana's error document")
        if 500 <= status <= 599:
            raise self._error(ServerFailed, "Indodana returned a server error")
        if status not in _DONE:
            raise self._unreadable("an undocumented HTTP status")
        if answer.broken is not None:
            raise self._error(type(answer.broken), str(answer.broken)) from answer.broken
        if self._object is None:
            raise self._unreadable("an answer that is not a JSON object")
        if self._document and self._document.is_ambiguous:
            raise self._unreadable("JSON with a duplicate key")
        if not self._is_own_document("OK"):
            raise self._unreadable("an answer without status OK")
        return self._object

    def _is_own_document(self, status: str) -> bool:
        return (
            self._answer.broken is None
            and self._object is not None
            and self._object.get("status") == status
            and self._document is not None
            and not self._document.is_ambiguous
        )

    def _is_about_this(self) -> bool:
        return not any(self._names_another(name) for name in ("refundId", "merchantOrderId"))

    def _names_another(self, name: str) -> bool:
        asked = self._asked.refund_id if name == "refundId" else self._asked.merchant_order_id
        answered = self._object.get(name) if self._object else None
        return answered is not None and asked is not None and answered != asked

    def _contradicted(self, answer: JsonObject) -> str | None:
        """The field of an OK that contradicts the request, or shows that the refund is not done."""
        for name in ("cancellationAmount", "refundAmount"):
            if answer.get(name) is not None and exact_amount(answer[name]) != self._asked.amount:
                return name
        for name in ("refundId", "merchantOrderId"):
            if self._names_another(name):
                return name
        if answer.get("error") is not None:
            return "error"
        for name in _STATUS_FIELDS:
            if _plain_word(answer.get(name)) in _NOT_DONE:
                return name
        return None

    def _unreadable(self, what: str) -> AnswerUnreadable:
        return self._error(AnswerUnreadable, f"Indodana returned {what}")

    def _error[E: IndodanaError](self, error_class: type[E], text: str, **more: str) -> E:
        answer = self._answer
        kind, message = self._words()
        # The kind is upstream text: it is used only if it looks like a kind.
        named = f", {kind}" if kind and _SAFE_KIND.fullmatch(kind) else ""
        return error_class(
            f"{text} (HTTP {answer.http_status}{named})",
            http_status=answer.http_status,
            kind=kind,
            message=message,
            evidence=self._evidence(),
            retry_after_seconds=_retry_after_seconds(answer.headers.get("Retry-After"), self._now),
            **more,
        )

    def _evidence(self) -> AnswerEvidence:
        return evidence.of(self._answer.headers, self._answer.body, self._document, self._known)

    def _words(self) -> tuple[str | None, str | None]:
        """Kind and message of an error, in Indodana's format or another one."""
        if self._object is None:
            return None, None
        outer = _by_flat_name(self._object)
        error = outer.get("error")
        inner = _by_flat_name(error) if isinstance(error, JsonObject) else {}
        kinds = [fields.get(name) for fields in (inner, outer) for name in _KINDS]
        message = _first(inner, _MESSAGES)
        if message is None:
            message = _first(outer, _MESSAGES)
            if isinstance(error, str) and message is not None and _KIND.fullmatch(error):
                kinds.insert(0, error)  # as in OAuth: the message is in another field
            elif error and not inner:
                message = error if message is None else [error, message]
        kind = next((text for kind in kinds if (text := self._kind(kind))), None)
        if message is None and kind is None:
            message = error
        return kind, None if message is None else self._message(message)

    def _kind(self, kind: object) -> str | None:
        text = str(kind) if isinstance(kind, str | int) and not isinstance(kind, bool) else ""
        return text if _KIND.fullmatch(text) and evidence.is_harmless(text, self._known) else None

    def _message(self, message: object) -> str:
        text = _text(message)
        return evidence.words(message if text is None else text, self._known)


def _customer_texts(value: object) -> Iterator[str]:
    """Names and ids of customers in a document: they must never be stored."""
    waiting: list[tuple[bool, object]] = [(False, value)]
    while waiting:
        is_customers, value = waiting.pop()
        if isinstance(value, JsonObject):
            for name, inner in value.pairs:
                waiting.append((is_customers or evidence.flat_name(name) in _CUSTOMER_FIELDS, inner))
        elif isinstance(value, list):
            waiting += [(is_customers, inner) for inner in value if not isinstance(inner, int | Decimal)]
        elif is_customers and isinstance(value, str) and _SHORTEST_NAME <= len(value) <= _LONGEST_TEXT:
            yield value


def _text(message: object, depth: int = 0) -> str | None:
    """The message in it, if it contains nothing else."""
    if isinstance(message, str):
        return message
    if depth < _DEEPEST_WORDS and isinstance(message, list):
        texts = [_text(part, depth + 1) for part in message[:_MOST_WORDS]]
        return "; ".join(text for text in texts if text) if texts and all(texts) else None
    if depth < _DEEPEST_WORDS and isinstance(message, JsonObject):
        return _text(_first(_by_flat_name(message), _MESSAGES), depth + 1)
    return None


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first that is neither missing nor empty."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "", [], {})), None)


def _by_flat_name(fields: JsonObject) -> dict[str, Any]:
    return {evidence.flat_name(name): value for name, value in fields.pairs}


def _is_bounded_scalar(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return len(value) <= _LONGEST_TEXT and not _SURROGATE.search(value)
    if not isinstance(value, int | Decimal):
        return False
    _, digits, exponent = Decimal(value).as_tuple()
    return len(digits) <= _LONGEST_NUMBER and isinstance(exponent, int) and abs(exponent) <= _LONGEST_NUMBER


def _is_status(text: str) -> bool:
    return text.isprintable() and not text.isspace() and 0 < len(text) <= _LONGEST_STATUS


def _plain_word(value: object) -> str:
    return _SEPARATORS.sub("", value[:_LONGEST_TEXT]).upper() if isinstance(value, str) else ""


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
    if seconds > MAX_RETRY_AFTER_SECONDS:
        _log.warning("Indodana sent Retry-After %.0f s; limited to %.0f s", seconds, MAX_RETRY_AFTER_SECONDS)
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)
