"""The signing layer: Indodana's QRIS merchant API as this gateway uses it."""

from indodana.client import (
    CANCEL_BUDGET_SECONDS,
    CANCEL_READ_SECONDS,
    STATUS_BUDGET_SECONDS,
    Cancellation,
    CancellationAccepted,
    IndodanaClient,
    Timeouts,
    TransactionStatus,
)
from indodana.credentials import SECRETS_SECONDS, Credentials, CredentialStore
from indodana.errors import (
    AnswerTimedOut,
    AnswerUnreadable,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    CredentialsRejected,
    CredentialsUnavailable,
    IndodanaError,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Refused,
    SendingTooLate,
    ServerFailed,
)
from indodana.redaction import redact, redact_value
from indodana.signing import authorization

__all__ = [
    "CANCEL_BUDGET_SECONDS",
    "CANCEL_READ_SECONDS",
    "SECRETS_SECONDS",
    "STATUS_BUDGET_SECONDS",
    "AnswerTimedOut",
    "AnswerUnreadable",
    "Cancellation",
    "CancellationAccepted",
    "ConnectTimedOut",
    "ConnectionFailed",
    "ConnectionLost",
    "CredentialStore",
    "Credentials",
    "CredentialsRejected",
    "CredentialsUnavailable",
    "IndodanaClient",
    "IndodanaError",
    "NotSent",
    "OutcomeUnknown",
    "RateLimited",
    "Refused",
    "SendingTooLate",
    "ServerFailed",
    "Timeouts",
    "TransactionStatus",
    "authorization",
    "redact",
    "redact_value",
]
