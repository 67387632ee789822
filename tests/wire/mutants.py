"""Mutation testing of the signing layer: small mistakes, each of which must break the check that it names.

    python -m tests.wire.mutants            runs all mutants until their checks break
    python -m tests.wire.mutants NAME …     only these

Each mutant is made while the code is loaded (tests/simulation/mutating.py), in its own interpreter, and runs seed after
seed until its check breaks. No module of the gateway may be imported here.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from tests.simulation import mutating
from tests.simulation.mutating import Edit

# Most are caught in the first few.
SEEDS = 240
AT_A_TIME = 2


@dataclass(frozen=True)
class Mutant:
    name: str
    check: str
    edits: tuple[Edit, ...]


def _mutant(name: str, check: str, *edits: Edit) -> Mutant:
    return Mutant(name, check, edits)


MUTANTS = (
    _mutant(
        "treats a 1xx as the answer",
        "a clear answer gets its outcome",
        Edit("_Response._read_status", "not 100 <= status <= 199 or status == SWITCHING_PROTOCOLS", "True"),
    ),
    _mutant(
        "skips a 103 only",
        "a clear answer gets its outcome",
        Edit("_Response._read_status", "not 100 <= status <= 199 or status == SWITCHING_PROTOCOLS", "status != 103"),
    ),
    _mutant(
        "skips a 101",
        "an accepted refund has moved its amount exactly once",
        Edit(
            "_Response._read_status",
            "not 100 <= status <= 199 or status == SWITCHING_PROTOCOLS",
            "not 100 <= status <= 199",
        ),
    ),
    _mutant(
        "treats the headers of a 1xx as the answer's",
        "a clear answer gets its outcome",
        Edit("_Response._read_status", "http.client.parse_headers(self.fp)", "pass"),
    ),
    _mutant(
        "keeps a connection whose answer has not ended",
        "a connection is reused only after its last answer has ended",
        Edit(
            "_Connection.exchange",
            "broken or response.will_close or response.status == SWITCHING_PROTOCOLS or response.reader.has_rest",
            "response.will_close or response.status == SWITCHING_PROTOCOLS",
        ),
        Edit("Transport._get_on", "connection.may_be_used_again and is_ours(answer)", "connection.may_be_used_again"),
    ),
    _mutant(
        "reuses a connection that is closed or has unread bytes",
        "a closed connection, or one with unread bytes, is not reused",
        Edit("Transport._take", "connection.is_silent", "True"),
    ),
    _mutant(
        "keeps connections for an hour",
        "a connection is not reused after a long idle time",
        Edit("IDLE_SECONDS", "20.0", "3600.0"),
    ),
    _mutant(
        "keeps connections after the clock was set back",
        "a connection is not reused after a long idle time",
        Edit(
            "Transport._take",
            "0 <= self._clock() - connection.idle_since <= IDLE_SECONDS",
            "self._clock() - connection.idle_since <= IDLE_SECONDS",
        ),
    ),
    _mutant(
        "sends a refund on a kept connection",
        "a refund is sent on its own connection",
        Edit("Transport.post", "self._connect(connect_seconds)", "self._take() or ORIGINAL"),
    ),
    _mutant(
        "keeps a refund's connection",
        "a connection is reused only after its last answer has ended",
        Edit("Transport.post", "connection.close()", "self._keep(connection)"),
    ),
    _mutant(
        "sends a refund again after its connection broke",
        "a refund is sent once",
        Edit(
            "Transport.post",
            "return connection.exchange(request, headers, time.monotonic() + read_seconds)",
            """
            answer = connection.exchange(request, headers, time.monotonic() + read_seconds)
            if isinstance(answer.broken, ConnectionLost):
                connection = self._connect(connect_seconds)
                answer = connection.exchange(request, headers, time.monotonic() + read_seconds)
            return answer
            """,
        ),
    ),
    _mutant(
        "accepts an answer without an order on a kept connection",
        "every request gets its own answer",
        Edit(
            "is_about",
            'isinstance(value, JsonObject) and value.get("merchantOrderId") == merchant_order_id',
            'not isinstance(value, JsonObject) or value.get("merchantOrderId") in (None, merchant_order_id)',
        ),
    ),
    _mutant(
        "never retries a status check",
        "a status check on a dead connection is retried",
        Edit("Transport.get", "left <= 0 or (answer.broken is None and is_ours(answer))", "True"),
    ),
    _mutant(
        "retries a status check without limit",
        "a status check is sent at most twice",
        Edit(
            "Transport.get",
            "return self._get_on(self._connect(min(connect_seconds, left)), request, deadline, is_ours)",
            """
            while answer.broken is not None and time.monotonic() < deadline:
                answer = self._get_on(self._connect(connect_seconds), request, deadline, is_ours)
            return answer
            """,
        ),
    ),
    _mutant(
        "gives a retried status check its full time again",
        "a call keeps to its time limit",
        Edit(
            "Transport.get",
            "left <= 0 or (answer.broken is None and is_ours(answer))",
            "answer.broken is None and is_ours(answer)",
        ),
        Edit(
            "Transport.get",
            "self._get_on(self._connect(min(connect_seconds, left)), request, deadline, is_ours)",
            "self._get_on(self._connect(connect_seconds), request, time.monotonic() + read_seconds, is_ours)",
        ),
    ),
    _mutant(
        "restarts the timeout for each byte",
        "a call keeps to its time limit",
        Edit("_UntilDeadline.readinto", "self._sock.settimeout(_seconds_until(self._deadline))", "pass"),
    ),
    _mutant(
        "gives the TLS handshake no time limit",
        "a call keeps to its time limit",
        Edit("_Connection._new_conn", "sock.settimeout(_seconds_until(self._connect_by))", "sock.settimeout(None)"),
    ),
    _mutant(
        "reports a broken connection as a failed connect",
        "a refund that was not sent has not moved money",
        Edit("_unknown", "ConnectionLost(...)", "ConnectionFailed('')"),
    ),
    _mutant(
        "reports a failed connect as a broken connection",
        "an error has a cause on the wire",
        Edit(
            "_Connection.connect",
            "ConnectTimedOut if isinstance(error, TimeoutError) else ConnectionFailed",
            "ConnectionLost",
        ),
    ),
    _mutant(
        "calls may_send before it connects",
        "may_send is asked right before sending",
        Edit("Transport.post", "connection = self._connect(connect_seconds)", "may = may_send()\nORIGINAL"),
        Edit("Transport.post", "not may_send()", "not may"),
    ),
    _mutant(
        "does not call may_send",
        "nothing is sent after the lease",
        Edit("Transport.post", "not may_send()", "False"),
    ),
    _mutant(
        "accepts an OK about another refund",
        "an accepted refund has moved its amount exactly once",
        Edit("Reading._contradicted", '("refundId", "merchantOrderId")', '("merchantOrderId",)'),
    ),
    _mutant(
        "accepts an OK about another amount",
        "an accepted refund has moved its amount exactly once",
        Edit("Reading._contradicted", '("cancellationAmount", "refundAmount")', "()"),
    ),
    _mutant(
        "accepts an OK that has an error",
        "an accepted refund has moved its amount exactly once",
        Edit("Reading._contradicted", 'answer.get("error") is not None', "False"),
    ),
    _mutant(
        "accepts an OK with status PENDING",
        "an accepted refund has moved its amount exactly once",
        Edit("Reading._contradicted", "_plain_word(answer.get(name)) in _NOT_DONE", "False"),
    ),
    _mutant(
        "accepts a 202",
        "an accepted refund has moved its amount exactly once",
        Edit("_DONE", "{200, 201}", "{200, 201, 202}"),
    ),
    _mutant(
        "treats a proxy's refusal as Indodana's",
        "a refusal is Indodana's own complete document",
        Edit("Reading._ok", 'self._is_own_document("ERROR") and self._is_about_this()', "True"),
    ),
    _mutant(
        "accepts a duplicate key",
        "an accepted refund has moved its amount exactly once",
        Edit("Reading._ok", "self._document and self._document.is_ambiguous", "False"),
        Edit("Reading._is_own_document", "not self._document.is_ambiguous", "True"),
    ),
    _mutant(
        "accepts an incomplete refusal",
        "an incomplete or late answer is no outcome",
        Edit("Reading._is_own_document", "self._answer.broken is None", "True"),
    ),
    _mutant(
        "accepts the status of another order",
        "a status belongs to the order that was asked for",
        Edit(
            "Reading.transaction_status",
            'answer.get("merchantOrderId") not in (None, self._asked.merchant_order_id)',
            "False",
        ),
    ),
    _mutant(
        "never accepts an OK",
        "a clear answer gets its outcome",
        Edit("Reading.cancellation", "self._contradicted(self._ok())", '"status" if self._ok() else None'),
    ),
    _mutant(
        "hashes only a part of the answer",
        "the evidence matches the answer",
        Edit("Reading._evidence", "self._answer.body", "self._answer.body[:20]"),
    ),
)
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


def run(name: str) -> dict[str, Any]:
    """Runs seeds until its check breaks. Must be called before the gateway's code is imported."""
    mutant = BY_NAME[name]
    mutating.apply(mutant.edits)
    from tests.wire.run import AT_A_TIME, run_seeds

    broken: set[str] = set()
    for first in range(0, SEEDS, AT_A_TIME):
        violations, _ = run_seeds(first, AT_A_TIME)
        broken |= {violation.check for violation in violations}
        if violation := next((violation for violation in violations if violation.check == mutant.check), None):
            return {"mutant": name, "seed": violation.seed, "violation": str(violation), "broken": sorted(broken)}
    return {"mutant": name, "broken": sorted(broken)}


def begin(pool: Executor, name: str) -> Future[dict[str, Any]]:
    return pool.submit(run, name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args().names or list(BY_NAME)
    survivors = 0
    with mutating.interpreters(AT_A_TIME) as pool:
        for result in pool.map(run, names):
            died = "violation" in result
            survivors += not died
            print(f"{result['mutant']}: {result['violation'] if died else 'SURVIVES'} ({len(result['broken'])} broken)")
            if not died:
                print(f"    {result['broken']}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
