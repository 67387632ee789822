"""The signing layer: Indodana's QRIS merchant API as this gateway uses it."""

from indodana.answers import CancellationAccepted, TransactionStatus
from indodana.client import (
    CANCEL_READ_SECONDS,
    STATUS_BUDGET_SECONDS,
    Cancellation,
    IndodanaClient,
    Timeouts,
)
from indodana.credentials import SECRETS_SECONDS, Credentials, CredentialStore
from indodana.errors import (
    AnswerTimedOut,
    AnswerUnreadable,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    ContradictingAnswer,
    CredentialsRejected,
    CredentialsUnavailable,
    ForeignAnswer,
    IndodanaError,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Refused,
    SendingTooLate,
    ServerFailed,
)
from indodana.evidence import AnswerEvidence
from indodana.signing import authorization

__all__ = [
    "CANCEL_READ_SECONDS",
    "SECRETS_SECONDS",
    "STATUS_BUDGET_SECONDS",
    "AnswerEvidence",
    "AnswerTimedOut",
    "AnswerUnreadable",
    "Cancellation",
    "CancellationAccepted",
    "ConnectTimedOut",
    "ConnectionFailed",
    "ConnectionLost",
    "ContradictingAnswer",
    "CredentialStore",
    "Credentials",
    "CredentialsRejected",
    "CredentialsUnavailable",
    "ForeignAnswer",
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
]
