"""The errors of a call to Indodana, by what matters most: was the request carried out?"""

from typing import Any

from indodana.evidence import AnswerEvidence


class IndodanaError(Exception):
    """A call to Indodana failed.

    `kind` and `message` are from Indodana's answer, masked and limited; `evidence` is the part that may be stored.
    """

    def __init__(
        self,
        text: str,
        *,
        http_status: int | None = None,
        kind: str | None = None,
        message: str | None = None,
        evidence: AnswerEvidence | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(text)
        self.http_status = http_status
        self.kind = kind
        self.message = message
        self.evidence = evidence
        self.retry_after_seconds = retry_after_seconds


class NotSent(IndodanaError):
    """Certainly not done: a later retry is safe."""


class ConnectionFailed(NotSent):
    """The connection could not be opened (refused, DNS, TLS)."""


class ConnectTimedOut(ConnectionFailed):
    """The connection could not be opened in time."""


class SendingTooLate(NotSent):
    """The caller stopped the request right before it was sent (`may_send`)."""


class RateLimited(NotSent):
    """Indodana is rate-limiting requests (429)."""


class CredentialsRejected(NotSent):
    """Indodana rejected the merchant's credentials (401)."""


class CredentialsUnavailable(NotSent):
    """The merchant's credentials could not be read from Secrets Manager."""


class Refused(IndodanaError):
    """Indodana refused the request: its own error document, with 400, 403, 404, 409 or 422."""


class OutcomeUnknown(IndodanaError):
    """The request may have been carried out or not."""


class AnswerTimedOut(OutcomeUnknown):
    """The request was sent, and no complete answer came in time."""


class ConnectionLost(OutcomeUnknown):
    """The connection was lost when the request may already have been sent."""


class ServerFailed(OutcomeUnknown):
    """Indodana returned a server error (5xx)."""


class ForeignAnswer(OutcomeUnknown):
    """A refusal's status without Indodana's error document: a proxy may have sent it."""


class AnswerUnreadable(OutcomeUnknown):
    """The answer does not show whether the request was carried out."""


class ContradictingAnswer(OutcomeUnknown):
    """An OK that contradicts the request in `field`."""

    def __init__(self, text: str, *, field: str = "unknown", **details: Any) -> None:
        super().__init__(text, **details)
        self.field = field
