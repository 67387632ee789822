"""What can go wrong in a call to Indodana, sorted by the one question that matters: was it done?"""

from typing import Any

from indodana.evidence import AnswerEvidence


class IndodanaError(Exception):
    """A call to Indodana did not come out well.

    `kind` and `message` are Indodana's own words, masked and bounded; `evidence` is what may be kept of its answer.
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
    """Surely not done: trying again later is safe."""


class ConnectionFailed(NotSent):
    """No connection came about (refused, DNS, TLS)."""


class ConnectTimedOut(ConnectionFailed):
    """No connection came about in time."""


class SendingTooLate(NotSent):
    """The caller held it back right before it was sent."""


class RateLimited(NotSent):
    """Indodana takes no more requests for now (429)."""


class CredentialsRejected(NotSent):
    """Indodana does not accept the merchant's credentials (401)."""


class CredentialsUnavailable(NotSent):
    """The merchant's credentials could not be had from Secrets Manager."""


class Refused(IndodanaError):
    """Indodana understood and said no: its own error document, with 400, 403, 404, 409 or 422."""


class OutcomeUnknown(IndodanaError):
    """Nobody knows whether it was done."""


class AnswerTimedOut(OutcomeUnknown):
    """The request went out and no whole answer came in time."""


class ConnectionLost(OutcomeUnknown):
    """The connection broke after the request may have gone out."""


class ServerFailed(OutcomeUnknown):
    """Indodana failed while working on it (5xx)."""


class ForeignAnswer(OutcomeUnknown):
    """A refusal's status without Indodana's error document: somebody in between may have said it."""


class AnswerUnreadable(OutcomeUnknown):
    """An answer came that does not say what was done."""


class ContradictingAnswer(OutcomeUnknown):
    """An OK that says in `field` something else than was asked."""

    def __init__(self, text: str, *, field: str = "unknown", **said: Any) -> None:
        super().__init__(text, **said)
        self.field = field
