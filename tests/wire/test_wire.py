"""Whatever the wire does, each call's outcome matches what its own request did; see scene.py. SEEDS=5000 runs more."""

from __future__ import annotations

import os
import re
from collections import Counter

import pytest

from tests.wire.checks import Violation
from tests.wire.run import replayed, run_in_processes, summary

SEEDS = int(os.environ.get("SEEDS", "300"))

# What must have happened in the seeds, so that they prove something; all of it is frequent enough in 300 seeds.
OUTCOMES = (
    "AnswerTimedOut", "AnswerUnreadable", "CancellationAccepted", "ConnectTimedOut", "ConnectionFailed",
    "ConnectionLost", "ContradictingAnswer", "CredentialsRejected", "ForeignAnswer", "RateLimited", "Refused",
    "SendingTooLate", "ServerFailed", "TransactionStatus",
)  # fmt: skip
ANSWERS = (
    "OK", "201 OK", "OK that names its request", "OK exchanged with another's", "OK of another refund", "large OK",
    "OK contradicting in cancellationAmount", "OK contradicting in refundAmount", "OK contradicting in refundId",
    "OK contradicting in error", "OK contradicting in merchantOrderId", "OK contradicting in refundStatus",
    "OK contradicting in cancellationStatus", "OK contradicting in transactionStatus", "OK with a duplicate key",
    "OK after a byte order mark", "OK compressed, unasked", "200 with an invalid body", "202", "203", "204", "206",
    "Indodana's own refusal", "a proxy's 400", "a proxy's 403", "a proxy's 404", "a proxy's 409", "a proxy's 422",
    "401", "429", "5xx", "a redirect", "an undocumented status", "101", "a transaction's status", "an invalid status",
)  # fmt: skip
DELIVERIES = (
    "content-length", "chunked", "close-delimited", "HTTP/1.0", "1xx before it", "1xx without end",
    "1xx, then nothing in time", "split", "byte by byte", "delayed", "too late", "dripping past the deadline",
    "no answer at all", "a large header block", "answered twice at once", "Content-Length too long",
    "Content-Length too short", "two Content-Lengths", "invalid Content-Length", "Content-Length and chunks",
    "chunks announced, none sent", "a header without a colon", "a folded header", "bare line feeds",
    "an empty line first", "another protocol", "no HTTP",
)  # fmt: skip
CONNECTIONS = (
    "TLS: FIN at once", "TLS: RST at once", "TLS: FIN after the client's hello", "TLS: RST after the client's hello",
    "TLS: cut in the handshake", "TLS: refused by an alert", "TLS: answered in HTTP", "TLS: no handshake",
    "TLS: a slow handshake", "FIN when accepted", "RST when accepted", "FIN in the middle of the request",
    "RST in the middle of the request", "answered before the request was read", "kept: FIN while idle",
    "kept: RST while idle", "kept: RST at the next request, before reading it",
    "kept: FIN at the next request, after reading half of it", "kept: FIN at the next request, after reading it",
    "kept: mute from now on", "kept: more bytes while idle", "kept: an earlier answer at the next request",
    "kept connections closed during a freeze", "whole, FIN", "whole, RST", "whole, half-closed",
    "whole, FIN without close_notify", "closed port", "black hole",
)  # fmt: skip
CUTS = (
    "before any byte", "in the status line", "in the headers", "in the blank line", "in the body",
    "in the body to the end", "in the chunk size", "in the chunk", "in the chunk end", "in the last chunk",
    "in the trailers", "in the end of chunks",
)  # fmt: skip
CUT_BY = ("FIN", "RST", "FIN without close_notify", "half-closed", "left open without a word")
LEAST = 5

type Results = tuple[list[Violation], Counter[str]]


@pytest.fixture(scope="module")
def results() -> Results:
    return run_in_processes(0, SEEDS)


def test_every_outcome_matches_what_its_request_did(results: Results) -> None:
    found, counts = results
    print(summary(counts))
    print("\n".join(map(str, found[:20])))

    again = replayed(found)

    assert not again, "\n".join(map(str, again[:20]))


def test_every_kind_of_answer_and_fault_occurred(results: Results) -> None:
    _, counts = results
    happened: Counter[str] = Counter()
    for name, count in counts.items():
        happened[name.removeprefix("wire: ").removeprefix("outcome: ")] += count
        if cut := re.fullmatch(r"wire: cut ([^,]*), (.*)", name):
            happened[f"cut {cut[1]}"] += count
            happened[f"cut by {cut[2]}"] += count

    wanted = (
        *OUTCOMES,
        *ANSWERS,
        *DELIVERIES,
        *CONNECTIONS,
        *(f"cut {where}" for where in CUTS),
        *(f"cut by {how}" for how in CUT_BY),
    )
    seldom = {name: happened[name] for name in wanted if happened[name] < LEAST}

    assert not seldom


def test_most_answers_allow_only_one_outcome(results: Results) -> None:
    """A client that always raises OutcomeUnknown would pass if every answer were doubtful or late."""
    _, counts = results

    assert counts["clear answers"] - counts["excused because the machine was slow"] > counts["calls"] / 3
    assert counts["status check retried"] > SEEDS / 2
    assert counts["sent again with new credentials"] > SEEDS / 10
    assert counts["answered on a kept connection"] > SEEDS
