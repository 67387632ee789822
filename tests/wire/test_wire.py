"""Whatever the wire does, each verdict is of what the very request did; see scene.py. SEEDS=5000 tells more of them."""

from __future__ import annotations

import os
import re
from collections import Counter

import pytest

from tests.wire.checks import Fault
from tests.wire.run import everywhere, once_more, summary

SEEDS = int(os.environ.get("SEEDS", "300"))

# What has to have happened for the seeds to say anything, and the least often: what is rare in 300 of them.
VERDICTS = (
    "AnswerTimedOut", "AnswerUnreadable", "CancellationAccepted", "ConnectTimedOut", "ConnectionFailed",
    "ConnectionLost", "ContradictingAnswer", "CredentialsRejected", "ForeignAnswer", "RateLimited", "Refused",
    "SendingTooLate", "ServerFailed", "TransactionStatus",
)  # fmt: skip
SAID = (
    "OK", "201 OK", "OK that names its request", "OK, exchanged with another's", "OK of another refund", "large OK",
    "OK of another cancellationAmount", "OK of another refundAmount", "OK of another refundId", "OK of another error",
    "OK of another merchantOrderId", "OK of another refundStatus", "OK of another cancellationStatus",
    "OK of another transactionStatus", "OK with a key twice", "OK after a byte order mark", "OK compressed, unasked",
    "200 that is no answer", "202", "203", "204", "206", "Indodana's own refusal", "somebody else's 400",
    "somebody else's 403", "somebody else's 404", "somebody else's 409", "somebody else's 422", "401", "429", "5xx",
    "a redirect", "a status that is not documented", "101", "a transaction's status", "a status that is none",
)  # fmt: skip
CARRIED = (
    "content-length", "chunked", "close-delimited", "HTTP/1.0", "1xx before it", "1xx without end",
    "1xx, then nothing in time", "split", "byte by byte", "delayed", "too late", "dripping past the deadline",
    "no answer at all", "a large header block", "answered twice at once", "Content-Length too long",
    "Content-Length too short", "two Content-Lengths", "Content-Length that is none", "Content-Length and chunks",
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

type Told = tuple[list[Fault], Counter[str]]


@pytest.fixture(scope="module")
def told() -> Told:
    return everywhere(0, SEEDS)


def test_every_verdict_is_of_what_the_very_request_did(told: Told) -> None:
    found, counts = told
    print(summary(counts))
    print("\n".join(map(str, found[:20])))

    again = once_more(found)

    assert not again, "\n".join(map(str, again[:20]))


def test_all_that_a_wire_can_do_was_done(told: Told) -> None:
    _, counts = told
    happened: Counter[str] = Counter()
    for name, count in counts.items():
        happened[name.removeprefix("wire: ").removeprefix("verdict: ")] += count
        if cut := re.fullmatch(r"wire: cut ([^,]*), (.*)", name):
            happened[f"cut {cut[1]}"] += count
            happened[f"cut by {cut[2]}"] += count

    wanted = (
        *VERDICTS,
        *SAID,
        *CARRIED,
        *CONNECTIONS,
        *(f"cut {where}" for where in CUTS),
        *(f"cut by {how}" for how in CUT_BY),
    )
    seldom = {name: happened[name] for name in wanted if happened[name] < LEAST}

    assert not seldom


def test_most_answers_are_held_to_one_verdict(told: Told) -> None:
    """A client that always says "nobody knows" would pass where every answer is in doubt or late."""
    _, counts = told

    assert counts["clear answers"] - counts["excused for slowness"] > counts["calls"] / 3
    assert counts["asked once more"] > SEEDS / 2
    assert counts["sent again with another key"] > SEEDS / 10
    assert counts["answered on a kept connection"] > SEEDS
