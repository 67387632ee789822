"""Small mistakes in the signing layer, each of which the wire must show: where, and the check that it breaks.

    python -m tests.wire.mutants            tells each of them until its check breaks
    python -m tests.wire.mutants NAME …     these alone

Each is made while the code is loaded (tests/simulation/mutating.py), in an interpreter of its own, and told seed after
seed until its check breaks. Nothing of the gateway may be imported here.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

from tests.simulation import mutating
from tests.simulation.mutating import Edit

# Most die in the first few.
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
        "takes a 1xx for the answer",
        "a plain answer is understood",
        Edit("_Response._read_status", "not 100 <= status <= 199 or status == SWITCHING_PROTOCOLS", "True"),
    ),
    _mutant(
        "reads past a 103 alone",
        "a plain answer is understood",
        Edit("_Response._read_status", "not 100 <= status <= 199 or status == SWITCHING_PROTOCOLS", "status != 103"),
    ),
    _mutant(
        "reads past a 101",
        "what was accepted has moved, once and exactly",
        Edit(
            "_Response._read_status",
            "not 100 <= status <= 199 or status == SWITCHING_PROTOCOLS",
            "not 100 <= status <= 199",
        ),
    ),
    _mutant(
        "reads the headers of a 1xx as the answer's",
        "a plain answer is understood",
        Edit("_Response._read_status", "http.client.parse_headers(self.fp)", "pass"),
    ),
    _mutant(
        "keeps a connection whose answer has not ended",
        "a connection is used again only after its last answer has ended",
        Edit(
            "_Connection.exchange",
            "broken or response.will_close or response.status == SWITCHING_PROTOCOLS or response.reader.has_rest",
            "response.will_close or response.status == SWITCHING_PROTOCOLS",
        ),
        Edit("Transport._get_on", "connection.may_be_used_again and is_ours(answer)", "connection.may_be_used_again"),
    ),
    _mutant(
        "uses a connection again that has been closed or has something left on it",
        "a connection is not used again with something left on it",
        Edit("Transport._take", "connection.is_silent", "True"),
    ),
    _mutant(
        "keeps connections for an hour",
        "a connection is not used again after a long time",
        Edit("IDLE_SECONDS", "20.0", "3600.0"),
    ),
    _mutant(
        "keeps connections when the clock was set back",
        "a connection is not used again after a long time",
        Edit(
            "Transport._take",
            "0 <= self._clock() - connection.idle_since <= IDLE_SECONDS",
            "self._clock() - connection.idle_since <= IDLE_SECONDS",
        ),
    ),
    _mutant(
        "sends a refund on a kept connection",
        "a refund is sent on a connection of its own",
        Edit("Transport.post", "self._connect(connect_seconds)", "self._take() or ORIGINAL"),
    ),
    _mutant(
        "keeps a refund's connection",
        "a connection is used again only after its last answer has ended",
        Edit("Transport.post", "connection.close()", "self._keep(connection)"),
    ),
    _mutant(
        "sends a refund once more when its connection broke",
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
        "takes an answer that names no order, on a kept connection",
        "every request gets its own answer",
        Edit(
            "is_about",
            'isinstance(value, JsonObject) and value.get("merchantOrderId") == merchant_order_id',
            'not isinstance(value, JsonObject) or value.get("merchantOrderId") in (None, merchant_order_id)',
        ),
    ),
    _mutant(
        "makes no status check once more",
        "a status check on a connection that had died is made once more",
        Edit("Transport.get", "left <= 0 or (answer.broken is None and is_ours(answer))", "True"),
    ),
    _mutant(
        "makes a status check again and again",
        "a status check is sent twice at most",
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
        "gives a status check that is made once more all of the time again",
        "a call keeps to its time",
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
        "waits anew for each byte",
        "a call keeps to its time",
        Edit("_UntilDeadline.readinto", "self._sock.settimeout(_seconds_until(self._deadline))", "pass"),
    ),
    _mutant(
        "waits for TLS as if nothing had been waited for",
        "a call keeps to its time",
        Edit("_Connection._new_conn", "sock.settimeout(_seconds_until(self._connect_by))", "sock.settimeout(None)"),
    ),
    _mutant(
        "takes a connection that broke for one that never was",
        "what was not sent has not moved",
        Edit("_unknown", "ConnectionLost(...)", "ConnectionFailed('')"),
    ),
    _mutant(
        "takes a connection that never was for one that broke",
        "unknown is said only where the wire gave cause",
        Edit(
            "_Connection.connect",
            "ConnectTimedOut if isinstance(error, TimeoutError) else ConnectionFailed",
            "ConnectionLost",
        ),
    ),
    _mutant(
        "asks whether it may send before it connects",
        "the last look is right before sending",
        Edit("Transport.post", "connection = self._connect(connect_seconds)", "may = may_send()\nORIGINAL"),
        Edit("Transport.post", "not may_send()", "not may"),
    ),
    _mutant(
        "does not ask whether it may send",
        "nothing is sent when it is too late",
        Edit("Transport.post", "not may_send()", "False"),
    ),
    _mutant(
        "takes an OK about another refund",
        "what was accepted has moved, once and exactly",
        Edit("Reading._contradicted", '("refundId", "merchantOrderId")', '("merchantOrderId",)'),
    ),
    _mutant(
        "takes an OK about another sum",
        "what was accepted has moved, once and exactly",
        Edit("Reading._contradicted", '("cancellationAmount", "refundAmount")', "()"),
    ),
    _mutant(
        "takes an OK with an error in it",
        "what was accepted has moved, once and exactly",
        Edit("Reading._contradicted", 'answer.get("error") is not None', "False"),
    ),
    _mutant(
        "takes an OK that says pending",
        "what was accepted has moved, once and exactly",
        Edit("Reading._contradicted", "_plain_word(answer.get(name)) in _NOT_DONE", "False"),
    ),
    _mutant(
        "takes a 202 for done",
        "what was accepted has moved, once and exactly",
        Edit("_DONE", "{200, 201}", "{200, 201, 202}"),
    ),
    _mutant(
        "takes what somebody else refused for Indodana's refusal",
        "a refusal is Indodana's own, and whole",
        Edit("Reading._ok", 'self._is_own_document("ERROR") and self._is_about_this()', "True"),
    ),
    _mutant(
        "takes the last of two keys",
        "what was accepted has moved, once and exactly",
        Edit("Reading._ok", "self._document and self._document.is_ambiguous", "False"),
        Edit("Reading._is_own_document", "not self._document.is_ambiguous", "True"),
    ),
    _mutant(
        "takes a refusal that was cut for a whole one",
        "what the wire hid is not claimed",
        Edit("Reading._is_own_document", "self._answer.broken is None", "True"),
    ),
    _mutant(
        "takes the status of another order",
        "a status is of the order that was asked for",
        Edit(
            "Reading.transaction_status",
            'answer.get("merchantOrderId") not in (None, self._asked.merchant_order_id)',
            "False",
        ),
    ),
    _mutant(
        "is too careful to understand anything",
        "a plain answer is understood",
        Edit("Reading.cancellation", "self._contradicted(self._ok())", '"status" if self._ok() else None'),
    ),
    _mutant(
        "keeps the hash of a part of the answer",
        "the evidence is of the answer",
        Edit("Reading._evidence", "self._answer.body", "self._answer.body[:20]"),
    ),
)
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


def run(name: str) -> dict[str, Any]:
    """Tells seeds until its check breaks. Must be called before the gateway's code is imported."""
    mutant = BY_NAME[name]
    mutating.apply(mutant.edits)
    from tests.wire.run import AT_A_TIME, many

    broken: set[str] = set()
    for first in range(0, SEEDS, AT_A_TIME):
        faults, _ = many(first, AT_A_TIME)
        broken |= {fault.check for fault in faults}
        if fault := next((fault for fault in faults if fault.check == mutant.check), None):
            return {"mutant": name, "seed": fault.seed, "fault": str(fault), "broken": sorted(broken)}
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
            died = "fault" in result
            survivors += not died
            print(f"{result['mutant']}: {result['fault'] if died else 'SURVIVES'} ({len(result['broken'])} broken)")
            if not died:
                print(f"    {result['broken']}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
