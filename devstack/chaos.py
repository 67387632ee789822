"""python -m devstack.chaos: kills the stack under load while Indodana fails, then compares the ledger with the books.

The AWS emulator and the simulator are processes of their own and keep running, as AWS and Indodana would; the stack is
a process that uses them and gets SIGKILL every few seconds. Callers use HTTP and the queue, several for one order, and
repeat what got no answer. When all has settled, the simulator's books and the ledger are compared, refund by refund.

The seed decides the requests, how long the stack runs between kills, and which requests get a fault. It does not decide
the timing: which requests meet in the same moment differs from run to run.
"""

import argparse
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from boto3.dynamodb.types import TypeDeserializer

from devstack.aftermath import AUDIT_ATTRIBUTES, LEDGER_ATTRIBUTES, OPEN, Aftermath, Check
from devstack.aws import client, prepare_environment
from devstack.callers import CALLERS, Callers, Item, Plan, Wanted, refunds_path
from devstack.errors import DevstackError
from testkit.http_caller import call
from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.faults import FAULTS, REFUSE_CONNECTIONS
from testkit.processes import Program, ProgramError

MERCHANT = "m1"
DEFAULT_ORDERS = 200
DEFAULT_SECONDS = 60.0

# ---- the storm
FAULT_SHARE = 0.2
# A slow answer is no fault, but a kill can interrupt it.
SLOW_SHARE = 0.3
SLOW_SECONDS = 0.2
# How long the stack runs, once it is ready, until it is killed.
LIFE_SECONDS = (1.5, 4.5)
# In some of its runs Indodana refuses connections for a while.
OUTAGE_SHARE = 0.3
OUTAGE_SECONDS = (0.3, 1.0)

# ---- patience
START_SECONDS = 60.0
# After the storm: what is left to do, the leases (45 s), then a queued refund's own time with what recovery adds
# (30 s). Less than the queue's visibility timeout (240 s), so that it is not time alone that brings messages back.
SETTLE_SECONDS = 230.0
OVERDUE_SECONDS = 30
POLL_SECONDS = 1.0
# So long the queue must show no message before what a killed worker took away is sent again.
QUIET_POLLS = 3


class ChaosError(DevstackError):
    """The run itself failed, so it says nothing about the gateway."""


class Stack:
    """`python -m devstack`, started again after each kill."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = {"PORT": "0", "LOCAL_DIR": str(directory)} | dict(environment)
        self._program: Program | None = None
        self.starts: list[float] = []
        """How many seconds each took."""
        self.kills = 0
        self.info: Item = {}
        """Where it is, or was until it was killed."""

    def start(self) -> None:
        started = time.monotonic()
        log = self._directory / "functions.log"
        if log.exists():  # the next start would overwrite it
            log.rename(self._directory / f"functions-{len(self.starts)}.log")
        name = f"stack-{len(self.starts) + 1}"
        self._program = Program(self._directory, "devstack", name=name, environment=self._environment)
        self._program.wait_for("^Ctrl-C stops it", START_SECONDS)
        self.info = json.loads((self._directory / "stack.json").read_text(encoding="utf-8"))
        self.starts.append(time.monotonic() - started)

    def kill(self) -> None:
        assert self._program
        if not self._program.is_running:
            raise ChaosError("the stack ended by itself")
        self._program.kill()
        self.kills += 1

    def stop(self) -> None:
        if self._program and self._program.is_running:
            self._program.process.terminate()
            self._program.wait(START_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._program and self._program.is_running:
            self._program.kill()


# ---------------------------------------------------------------------------------------------- the run


class Chaos:
    def __init__(self, directory: Path, seed: int, seconds: float, orders: int) -> None:
        self._directory = directory
        self._seed = seed
        self._seconds = seconds
        self._plan = Plan.of_seed(seed, orders)
        self._chance = random.Random(f"storm {seed}")
        self._outages = 0
        self._restarts = 0
        self._sent_again = 0

    def run(self) -> bool:
        asks = sum(map(len, self._plan.asks))
        say(
            f"Seed {self._seed}: {len(self._plan.orders)} orders, {asks} requests by {CALLERS} callers in "
            f"{self._seconds:g} s; {FAULT_SHARE:.0%} faults at Indodana, SIGKILL every few seconds"
        )
        with ExitStack() as processes:
            aws = processes.enter_context(Program(self._directory, "devstack.aws", "--port", "0", name="aws"))
            ports = ("--port", "0", "--upstream-port", "0")
            simulator = processes.enter_context(Program(self._directory, "testkit.indodana", *ports, name="simulator"))
            self._simulator = SimulatorControl(simulator.wait_for(r"^control +(\S+)", START_SECONDS)[1])
            self._endpoint = aws.wait_for(r"listens on (\S+)", START_SECONDS)[1]
            upstream_url = simulator.wait_for(r"^upstream +(\S+)", START_SECONDS)[1]
            environment = {"AWS_ENDPOINT_URL": self._endpoint, "UPSTREAM_URL": upstream_url}
            for order_id, amount in self._plan.orders.items():
                self._simulator.add_order(order_id, amount, "PAID", MERCHANT)
            prepare_environment()
            self._sqs = client("sqs", self._endpoint)
            self._dynamodb = client("dynamodb", self._endpoint)
            self._stack = processes.enter_context(Stack(self._directory, environment))
            self._callers = Callers(self._plan, self._seed, self._seconds, lambda: self._stack.info, self._sqs)
            processes.callback(self._callers.stop)

            started = time.monotonic()
            self._storm()
            stormy = self._simulator.books()["requests"]
            calm = time.monotonic()
            has_settled = self._settle()
            settled = time.monotonic()
            aftermath = self._look()
            checks = [has_settled, *aftermath.checks()]
            seconds = (calm - started, settled - calm, time.monotonic() - settled)
            self._report(aftermath, checks, stormy, seconds)
        return not any(check.broken for check in checks)

    def _storm(self) -> None:
        """Ends with a kill, and with Indodana without faults."""
        self._set_faults()
        end = time.monotonic() + self._seconds
        while True:
            life = self._chance.uniform(*LIFE_SECONDS)
            outage = self._chance.uniform(0, life) if self._chance.random() < OUTAGE_SHARE else None
            outage_seconds = self._chance.uniform(*OUTAGE_SECONDS)
            if outage is not None:
                time.sleep(outage)
                self._simulator.fault(REFUSE_CONNECTIONS, seconds=outage_seconds)
                self._outages += 1
            time.sleep(life - (outage or 0))
            self._stack.kill()
            if time.monotonic() >= end:
                break
            self._stack.start()
        self._simulator.clear_faults()
        self._stack.start()

    def _set_faults(self) -> None:
        """The same share of each kind. A request gets the first that fits, so the later ones see fewer requests."""
        self._simulator.settings(seed=self._seed)
        kinds = [name for name in FAULTS if name not in (REFUSE_CONNECTIONS, "slow")]
        share = FAULT_SHARE / len(kinds)
        for before, kind in enumerate(kinds):
            self._simulator.fault(kind, probability=share / (1 - share * before))
        self._simulator.fault("slow", probability=SLOW_SHARE, seconds=SLOW_SECONDS)

    def _settle(self) -> Check:
        """Until every caller has an answer and no refund is open; what a killed worker took away is sent again.

        Recovery runs every minute and when the stack starts, so the stack is started anew once all is due.
        A message that a killed worker held comes back after minutes. Where the ledger knows its refund, recovery
        sends another; where the worker was killed before that, its sender does, as one who hears nothing would.
        """
        settled = Check(f"all has settled within {SETTLE_SECONDS:g} s")
        deadline = time.monotonic() + SETTLE_SECONDS
        started, quiet = datetime.now(UTC), 0
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            visible, held = self._messages()
            quiet = 0 if visible or self._callers.left() else quiet + 1
            waiting = self._open_refunds()
            if quiet >= QUIET_POLLS:
                missing = self._not_on_record()
                if not missing and not waiting:
                    settled.that(True, "")
                    return settled
                # Counted before the ledger was read: what was not on record then must be in the queue.
                copies = sum(self._callers.sent[one] for one in missing)
                if held < copies:
                    raise ChaosError(f"{copies} messages are not on record, and the queue holds only {held}: {missing}")
                for one in missing:
                    self._callers.send(one)
                self._sent_again += len(missing)
                quiet = 0
            due = max(map(_due, waiting), default=None)
            if due and started < due <= datetime.now(UTC):
                self._stack.stop()
                self._stack.start()
                self._restarts += 1
                started = datetime.now(UTC)
        left = f"{self._callers.left()} callers without an answer, {len(self._open_refunds())} open refunds"
        settled.that(False, f"{left}; what follows was compared while it went on")
        return settled

    def _open_refunds(self) -> list[Item]:
        return [
            refund
            for status in OPEN
            for refund in self._read(
                "query",
                "ledgerTable",
                ("leaseUntil", "nextAttemptAt"),
                IndexName="open-refunds",
                KeyConditionExpression="openKey = :key",
                ExpressionAttributeValues={":key": {"S": f"{MERCHANT}#{status}"}},
            )
        ]

    def _not_on_record(self) -> list[Wanted]:
        """What was sent to the queue and is not in the ledger."""
        refunds = self._read("scan", "ledgerTable", ("merchantOrderId", "idempotencyKey"))
        known = {(refund.get("merchantOrderId"), refund.get("idempotencyKey")) for refund in refunds}
        return [one for one in self._callers.sent if (one.order_id, one.key) not in known]

    def _messages(self) -> tuple[int, int]:
        """How many messages can be received now, and how many cannot."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        url = self._stack.info["queueUrl"]
        found = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        visible, held, delayed = (int(found[name]) for name in names)
        return visible, held + delayed

    def _read(self, operation: str, table: str, attributes: Sequence[str], **arguments: Any) -> list[Item]:
        """Only what is needed: the emulator is slow with each attribute, and serves nobody else meanwhile."""
        names = {f"#{index}": name for index, name in enumerate(attributes)}
        pages = self._dynamodb.get_paginator(operation).paginate(
            TableName=self._stack.info[table],
            ProjectionExpression=", ".join(names),
            ExpressionAttributeNames=names,
            **arguments,
        )
        plain = TypeDeserializer()
        return [
            {name: plain.deserialize(value) for name, value in item.items()} for page in pages for item in page["Items"]
        ]

    def _look(self) -> Aftermath:
        promised = {
            (ask.wanted.order_id, str(answer.body["refundId"]))
            for ask, answer in self._callers.told
            if answer.status in (201, 202)
        }

        def status(order_id: str, refund_id: str) -> Any:
            target = f"{refunds_path(order_id)}/{refund_id}"
            return call(self._stack.info["baseUrl"], "GET", target, token=self._stack.info["token"]).body.get("status")

        with ThreadPoolExecutor(CALLERS) as pool:
            found = dict(zip(promised, pool.map(lambda place: status(*place), promised), strict=True))
        letters: list[Item] = []
        while messages := self._sqs.receive_message(
            QueueUrl=self._stack.info["deadLetterQueueUrl"], MaxNumberOfMessages=10
        ).get("Messages"):
            letters += [json.loads(message["Body"]) for message in messages]
        return Aftermath(
            orders=self._plan.orders,
            movements=self._simulator.books()["movements"],
            ledger=self._read("scan", "ledgerTable", LEDGER_ATTRIBUTES),
            audit=self._read("scan", "auditTable", AUDIT_ATTRIBUTES),
            dead_letters=letters,
            told=self._callers.told,
            wanted=self._callers.sent,
            found=found,
        )

    def _report(
        self, aftermath: Aftermath, checks: Sequence[Check], stormy: Sequence[Item], seconds: tuple[float, float, float]
    ) -> None:
        moved = aftermath.moved
        counts = Counter((refund["status"], bool(moved[name])) for name, refund in aftermath.refunds.items())
        states = ["SUCCEEDED", "FAILED", "UNKNOWN", *(state for state in OPEN if _of(counts, state))]
        say(f"\n  {'refunds':<12} {'moved':>9} {'not moved':>11} {'in all':>9}")
        for state in states:
            say(f"  {state:<12} {counts[state, True]:>9} {counts[state, False]:>11} {_of(counts, state):>9}")
        say(f"  {'all':<12} {_of(counts, True):>9} {_of(counts, False):>11} {len(aftermath.refunds):>9}")

        callers, stack = self._callers, self._stack
        faults = Counter(request["fault"] for request in stormy if "fault" in request)
        slow = faults.pop("slow", 0)
        share = faults.total() / max(1, len(stormy))
        rows = [
            ("kills", f"{stack.kills}; ready again after {statistics.median(stack.starts):.1f} s (median)"),
            ("cut off", f"{aftermath.cut_off()} refunds, while they were submitted"),
            ("requests", f"{callers.answers.total()}: {_listed(callers.answers)}"),
            ("messages", f"{callers.sent.total()}, {self._sent_again} of them sent again after the storm"),
            ("audit", f"{len(aftermath.audit)} records"),
            ("Indodana", f"{len(stormy)} requests in the storm, {slow} of them slow, {self._outages} outages"),
            ("faults", f"{faults.total()} ({share:.1%}): {_listed(faults)}"),
            (
                "seconds",
                f"{seconds[0]:.0f} of storm, {seconds[1]:.0f} until all had settled "
                f"({self._restarts} restarts), {seconds[2]:.0f} to compare",
            ),
        ]
        say()
        for name, text in rows:
            say(f"  {name:<12} {text}")
        say()
        for check in checks:
            say(f"  {'✗' if check.broken else '✓'} {check.promise} ({check.looked_at})")
            for story in check.broken:
                say(f"      {story}")


def _due(refund: Item) -> datetime:
    """When recovery does something about an open refund."""
    if "leaseUntil" in refund:
        return datetime.fromisoformat(refund["leaseUntil"])
    return datetime.fromisoformat(refund["nextAttemptAt"]) + timedelta(seconds=OVERDUE_SECONDS)


def _of(counts: Counter[tuple[str, bool]], what: str | bool) -> int:
    return sum(count for key, count in counts.items() if what in key)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def say(text: str = "") -> None:
    print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.chaos",
        description="Kills the stack under load, then compares ledger and books.",
    )
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="of storm (default: %(default)g)")
    parser.add_argument("--orders", type=int, default=DEFAULT_ORDERS, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, help="decides all but the timing (default: random)")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    directory = Path(tempfile.mkdtemp(prefix="qris-gateway-chaos-"))
    status = 1
    try:
        if Chaos(directory, seed, options.seconds, options.orders).run():
            status = 0
    except (DevstackError, ProgramError) as error:
        print(f"The run failed: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    except SystemExit as broken_off:
        status = int(broken_off.code or 0)
    except Exception:
        traceback.print_exc()
    finally:
        if status == 1:
            print(f"\nSeed {seed} failed. Its logs are in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
