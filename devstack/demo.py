"""python -m devstack.demo: what refunds go through, shown in a minute on a stack of its own.

Every line with a tick was compared with what the API answers and what the simulator's books say of the money.
The first that differs ends the demo with exit code 1.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from devstack.aws import client
from devstack.errors import DevstackError
from devstack.run import Settings, Stack
from devstack.tokens import Issuer
from testkit.http_caller import Answer, call
from testkit.indodana.control_client import SimulatorControl

MERCHANT = "m1"
# Longer than any wait in the demo should take.
WAIT_SECONDS = 30.0
POLL_SECONDS = 0.1
# Narrower, the table has no room for its last column; wider, its lines are hard to read.
LEAST_WIDTH, MOST_WIDTH = 100, 150
LONGEST_CELL = 3  # lines

BOLD, DIM, RED, GREEN, PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[0m"


class UnexpectedResult(Exception):
    """Something differs from what the demo expects."""


class Teller:
    """Prints the demo, and compares it with what happens."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = out.isatty() and "NO_COLOR" not in os.environ
        self._steps = 0
        self.checks = 0

    def say(self, text: str = "") -> None:
        print(text, file=self._out, flush=True)

    def step(self, title: str) -> None:
        self._steps += 1
        self.say(f"\n{self._in(BOLD, f'{self._steps:>2}  {title}')}")

    def ask(self, text: str) -> None:
        self.say(f"    {self._in(DIM, f'→ {text}')}")

    def check(self, text: str, came: object, expected: object) -> None:
        """Prints `text` with a tick if what came is what was expected."""
        if came != expected:
            self.say(f"    {self._in(RED, '✗')} {text}")
            self.say(f"        expected  {_shown(expected)}")
            self.say(f"        got       {_shown(came)}")
            raise UnexpectedResult(text)
        self.checks += 1
        self.say(f"    {self._in(GREEN, '✓')} {text}")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Columns as wide as they need, the last one wrapped into what is left of the line."""
        rows = list(rows)
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head) - 1)]
        indent = 4 + sum(width + 2 for width in widths)
        line = min(max(shutil.get_terminal_size((MOST_WIDTH, 24)).columns, LEAST_WIDTH), MOST_WIDTH)
        for row in [head, *rows]:
            cells = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
            first, *more = textwrap.wrap(row[-1], max(line - indent, 24), max_lines=LONGEST_CELL, placeholder=" …") or [
                ""
            ]
            text = f"    {cells}{first}".rstrip()
            self.say(self._in(DIM, text) if row is head else text)
            for part in more:
                self.say(" " * indent + part)

    def end(self, seconds: float) -> None:
        self.say(f"\n{self._in(GREEN, '✓')} {self.checks} checks passed in {seconds:.0f} s")

    def _in(self, style: str, text: str) -> str:
        return f"{style}{text}{PLAIN}" if self._colour else text


def _shown(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


class Caller:
    """A client of the API with a token."""

    def __init__(self, base_url: str, token: str) -> None:
        self._base_url = base_url
        self._token = token

    def get(self, path: str) -> Answer:
        return call(self._base_url, "GET", path, token=self._token)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return call(self._base_url, "POST", path, body, token=self._token, headers=headers)

    def refund(self, order: str, key: str, amount: int | None = None, **fields: str) -> Answer:
        body: dict[str, Any] = {"reason": "ITEMS_RETURNED", "requestedBy": "Rina, till 3", **fields}
        if amount is not None:
            body["amount"] = amount
        return self.post(f"/v1/transactions/{order}/refunds", body, **{"Idempotency-Key": key})


class Demo:
    def __init__(self, stack: Stack, issuer: Issuer, tell: Teller) -> None:
        self.tell = tell
        self.simulator = SimulatorControl(stack.info["simulatorUrl"])
        self.sqs = client("sqs", stack.info["awsEndpointUrl"])
        self.queue_url, self.dead_letter_url = stack.info["queueUrl"], stack.info["deadLetterQueueUrl"]

        assert stack.model is not None  # it has started
        audience = next(route.authorizer.audience[0] for route in stack.model.routes if route.authorizer)

        def caller(subject: str, *scopes: str) -> Caller:
            token = issuer.token(scopes, audience=audience, merchant=MERCHANT, subject=subject)
            return Caller(stack.info["baseUrl"], token)

        self.till = caller("till-app", "transactions:read", "refunds:write", "refunds:read")
        self.operator = caller("maya-operator", "refunds:read", "refunds:resolve", "audit:read")

    def run(self) -> None:
        self.statuses()
        self.refunds("ORDER-PAID")
        self.simulator.add_order("ORDER-STORM", 200_000, "PAID", MERCHANT)
        self.outage("ORDER-STORM")
        self.timeout("ORDER-STORM")
        self.poison("ORDER-STORM")
        self.timelines("ORDER-PAID", "ORDER-STORM")

    def statuses(self) -> None:
        self.tell.step("Is this order paid? Indodana's four answers")
        self.tell.ask("GET /v1/transactions/{order}")
        for status, amount in {"PAID": 100_000, "INITIATED": 50_000, "EXPIRED": 50_000, "REJECTED": 50_000}.items():
            order = f"ORDER-{status}"
            answer = self.till.get(f"/v1/transactions/{order}")
            self.tell.check(
                f"{order:<16} 200  {status:<10} {rupiah(amount):>14}",
                (answer.status, answer.body.get("transactionStatus"), answer.body.get("amount")),
                (200, status, amount),
            )

    def refunds(self, order: str) -> None:
        tell = self.tell
        tell.step("A customer returns one item: a partial refund")
        tell.ask(f"POST …/{order}/refunds   25,000 rupiah, Idempotency-Key return-1")
        first = self.till.refund(order, "return-1", 25_000, note="one of four mugs")
        tell.check(
            "201 SUCCEEDED, PARTIAL",
            (first.status, first.body.get("status"), first.body.get("type"), first.body.get("amount")),
            (201, "SUCCEEDED", "PARTIAL", 25_000),
        )
        self.check_books(order, [25_000])

        tell.step("The till got no answer and repeats the request: the same key is the same refund")
        tell.ask(f"POST …/{order}/refunds   25,000 rupiah, Idempotency-Key return-1")
        again = self.till.refund(order, "return-1", 25_000, note="one of four mugs")
        tell.check(
            "201, the first refund again, Idempotency-Replayed: true",
            (again.status, again.body.get("refundId"), again.headers.get("idempotency-replayed")),
            (201, first.body.get("refundId"), "true"),
        )
        self.check_books(order, [25_000])

        tell.step("A refund of more than is left is refused before Indodana is called")
        tell.ask(f"POST …/{order}/refunds   80,000 rupiah, Idempotency-Key return-2")
        over = self.till.refund(order, "return-2", 80_000)
        tell.check(
            "422 AMOUNT_EXCEEDS_REFUNDABLE", (over.status, over.body.get("code")), (422, "AMOUNT_EXCEEDS_REFUNDABLE")
        )
        self.check_sums(order, refunded=25_000, reserved=0, refundable=75_000)

        tell.step("The customer returns the rest: without an amount, all that remains is refunded")
        tell.ask(f"POST …/{order}/refunds   Idempotency-Key return-3")
        rest = self.till.refund(order, "return-3")
        tell.check(
            "201 SUCCEEDED, 75,000 rupiah",
            (rest.status, rest.body.get("status"), rest.body.get("amount")),
            (201, "SUCCEEDED", 75_000),
        )
        self.check_sums(order, refunded=100_000, reserved=0, refundable=0)
        self.check_books(order, [25_000, 75_000])

    def outage(self, order: str) -> None:
        tell = self.tell
        tell.step("Indodana is down: refunds by API and by queue are queued, and none is lost")
        self.simulator.fault("refuse_connections")
        tell.ask(f"GET /v1/transactions/{order}   a status check cannot be queued")
        status = self.till.get(f"/v1/transactions/{order}")
        tell.check("502 UPSTREAM_UNREACHABLE", (status.status, status.body.get("code")), (502, "UPSTREAM_UNREACHABLE"))
        tell.ask(f"POST …/{order}/refunds   60,000 rupiah, Idempotency-Key storm-1")
        by_api = self.till.refund(order, "storm-1", 60_000, reason="OUT_OF_STOCK")
        tell.check("202 QUEUED", (by_api.status, by_api.body.get("status")), (202, "QUEUED"))
        tell.ask("a message in the refund queue   40,000 rupiah, idempotencyKey storm-2")
        self.send(
            {
                "merchantOrderId": order,
                "idempotencyKey": "storm-2",
                "amount": 40_000,
                "reason": "OTHERS",
                "requestedBy": "back office",
            }
        )
        queued = ["QUEUED"] * 2
        tell.check("both are on record as QUEUED", self.until(lambda: self.states(order), queued), queued)
        self.check_books(order, [])
        self.simulator.clear_faults()
        back = time.monotonic()
        came = self.until(lambda: self.states(order), ["SUCCEEDED"] * 2)
        tell.check(
            f"Indodana is back: both are SUCCEEDED {time.monotonic() - back:.1f} s later", came, ["SUCCEEDED"] * 2
        )
        self.check_books(order, [40_000, 60_000])

    def timeout(self, order: str) -> None:
        tell = self.tell
        tell.step("Indodana moves the money and its answer is lost: the refund is UNKNOWN")
        self.simulator.fault("timeout_after", path="order_cancellation", merchant_order_id=order, times=1)
        tell.ask(f"POST …/{order}/refunds   50,000 rupiah, Idempotency-Key storm-3   (10 s pass)")
        unknown = self.till.refund(order, "storm-3", 50_000)
        refund_id = unknown.body.get("refundId")
        tell.check("202 UNKNOWN", (unknown.status, unknown.body.get("status")), (202, "UNKNOWN"))
        self.check_sums(order, refunded=100_000, reserved=50_000, refundable=50_000)
        again = self.till.refund(order, "storm-3", 50_000)
        tell.check("repeated, it is still UNKNOWN", (again.status, again.body.get("status")), (202, "UNKNOWN"))
        sent = [request for request in self.requests(order) if request["refundId"] == refund_id]
        tell.check("it was sent to Indodana once, never twice", len(sent), 1)

        tell.ask("GET /v1/refunds?status=UNKNOWN   the open refunds, for an operator")
        work = self.operator.get("/v1/refunds?status=UNKNOWN")
        listed = [refund["refundId"] for refund in work.body.get("refunds") or []]
        tell.check(
            f"200, one refund: {rupiah(50_000)} of {order}",
            (work.status, listed),
            (200, [refund_id]),
        )
        looked_up = self.operator.get(f"/v1/transactions/{order}/refunds/{refund_id}")
        tell.ask("POST …/resolution   SUCCEEDED, with Indodana's settlement report as evidence")
        resolved = self.operator.post(
            f"/v1/transactions/{order}/refunds/{refund_id}/resolution",
            {
                "outcome": "SUCCEEDED",
                "evidence": {
                    "source": "SETTLEMENT_REPORT",
                    "reference": "line 12",
                    "checkedAt": datetime.now(UTC).isoformat(),
                },
            },
            **{"If-Match": looked_up.headers["etag"]},
        )
        tell.check("200 SUCCEEDED", (resolved.status, resolved.body.get("status")), (200, "SUCCEEDED"))
        self.check_sums(order, refunded=150_000, reserved=0, refundable=50_000)
        self.check_books(order, [40_000, 50_000, 60_000])

    def poison(self, order: str) -> None:
        tell = self.tell
        tell.step("An invalid message goes to the dead-letter queue; the others are not affected")
        body = {"merchantOrderId": order, "amount": "fifty thousand", "reason": "OTHERS", "idempotencyKey": "storm-4"}
        tell.ask('a message in the refund queue   amount "fifty thousand", requestedBy missing')
        self.send(body)
        letters: list[Any] = []

        def received() -> int:
            answer = self.sqs.receive_message(
                QueueUrl=self.dead_letter_url, WaitTimeSeconds=1, MessageAttributeNames=["All"]
            )
            letters.extend(answer.get("Messages", []))
            return len(letters)

        tell.check("one message is in the dead-letter queue", self.until(received, 1), 1)
        tell.check("as it was sent", json.loads(letters[0]["Body"]), body)
        cause = letters[0]["MessageAttributes"]["cause"]["StringValue"]
        named = [field for field in ("amount", "requestedBy") if f"{field}: " in cause]
        tell.check("with its cause: amount and requestedBy are invalid", named, ["amount", "requestedBy"])
        records = [record for record in self.timeline(order) if record["action"] == "MESSAGE_DEAD_LETTERED"]
        tell.check("and it is on record", [record["cause"] for record in records], [cause])

    def timelines(self, *orders: str) -> None:
        tell = self.tell
        tell.step("All of it is in the audit log: who did what, when, by which channel, and why")
        for order in orders:
            records = self.timeline(order)
            tell.ask(f"GET /v1/transactions/{order}/audit   {len(records)} records, times in UTC")
            tell.table(
                ("time", "actor", "channel", "action", "before → after", "  amount", "why"),
                [_row(record) for record in records],
            )
            done = Counter(record["refundId"] for record in records if record.get("after") == "SUCCEEDED")
            moved = Counter(movement["refundId"] for movement in self.movements(order))
            tell.check("each refund that SUCCEEDED, and no other, is one movement in Indodana's books", done, moved)
            if order != orders[-1]:
                tell.say()

    # ---- what is checked

    def check_sums(self, order: str, **sums: int) -> None:
        listed = self.till.get(f"/v1/transactions/{order}/refunds")
        text = ", ".join(f"{name} {amount:,}" for name, amount in sums.items())
        self.tell.check(f"the order: {text}", {name: listed.body.get(name) for name in sums}, sums)

    def check_books(self, order: str, amounts: list[int]) -> None:
        """What Indodana really moved, by the simulator's books."""
        count = {0: "nothing has moved", 1: "moved once"}.get(len(amounts), f"moved in {len(amounts)} movements")
        text = f"{rupiah(sum(amounts))} {count}" if amounts else count
        came = sorted(movement["amount"] for movement in self.movements(order))
        self.tell.check(f"Indodana's books: {text}", came, amounts)

    def movements(self, order: str) -> list[Any]:
        return list(self.simulator.books(order)["movements"])

    def requests(self, order: str) -> list[Any]:
        return [found for found in self.simulator.books(order)["requests"] if found["path"] == "order_cancellation"]

    def states(self, order: str) -> list[str]:
        listed = self.till.get(f"/v1/transactions/{order}/refunds")
        return [refund["status"] for refund in listed.body.get("refunds") or []]

    def timeline(self, order: str) -> list[Any]:
        return list(self.operator.get(f"/v1/transactions/{order}/audit?limit=100").body.get("records") or [])

    def send(self, body: Any) -> None:
        self.sqs.send_message(QueueUrl=self.queue_url, MessageBody=json.dumps(body))

    def until(self, look: Callable[[], Any], expected: object) -> Any:
        """What it sees once that is as expected, or what it saw last when the time is up."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (seen := look()) != expected and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return seen


def _row(record: Any) -> tuple[str, ...]:
    before, after, amount = record.get("before"), record.get("after"), record.get("amount")
    change = after or ""
    if "refundId" in record and after:
        change = f"{before or '·'} → {after}"
    evidence = record.get("evidence")
    why = evidence and f"{evidence['source']}, {evidence['reference']}"
    why = why or record.get("cause") or record.get("failureDetail")
    if why is None and before is None and "reason" in record:
        why = ", ".join(filter(None, [record["reason"], record.get("note"), record.get("requestedBy")]))
    return (
        datetime.fromisoformat(record["at"]).strftime("%H:%M:%S.%f")[:-3],
        record["actor"],
        record["channel"],
        record["action"],
        change,
        "" if amount is None else f"{amount:>8,}",
        why or "",
    )


def rupiah(amount: Decimal | int) -> str:
    return f"{amount:,} rupiah"


def _interrupt(number: int, _: object) -> None:
    # The stack is about to be stopped, which a second signal must not interrupt.
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    started = time.monotonic()
    tell = Teller(sys.stdout)
    directory = Path(tempfile.mkdtemp(prefix="qris-gateway-demo-"))
    status = 1
    with (directory / "requests.log").open("w", encoding="utf-8") as console:
        stack = Stack(Settings(port=0, directory=directory), console)
        try:
            stack.start()
            tell.say(f"The QRIS gateway on a stack of its own, started in {time.monotonic() - started:.1f} s")
            Demo(stack, Issuer(stack.info["issuer"], directory), tell).run()
            tell.end(time.monotonic() - started)
            status = 0
        except UnexpectedResult:
            pass
        except DevstackError as error:
            print(f"The stack cannot start: {error}", file=sys.stderr)
        except SystemExit as interrupted:
            status = int(interrupted.code or 0)
        except Exception:
            traceback.print_exc()
        finally:
            stack.stop()
            if status == 1:
                print(f"\nThe demo failed. Its logs are in {directory}", file=sys.stderr)
            else:
                shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
