"""What the gateway costs on AWS: a formula over what it uses (bench/usage.json) and its prices (bench/prices.json).

    python -m bench.cost            prints the tables of docs/cost.md
    python -m bench.cost --write    puts them into it

Prices are inputs: put your region's into bench/prices.json, and run this again.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from bench import usage
from bench.usage import Usage
from bench.warm import BATCH
from devstack.cloudformation import ROOT
from devstack.template import Template

INPUTS = Path(__file__).parent / "prices.json"
DOCUMENT = ROOT / "docs" / "cost.md"

MILLION = 10**6
GB = 2**30
MONTH_HOURS = 730
MONTH_SECONDS = MONTH_HOURS * 3600
RATES = (1, 100, 10_000)

# What Lambda itself logs of an invocation that is traced.
PLATFORM_LINES = (
    "START RequestId: 8f5f2f6c-1f2f-4a8e-9a57-1c1f7a3f0c11 Version: 12\n"
    "END RequestId: 8f5f2f6c-1f2f-4a8e-9a57-1c1f7a3f0c11\n"
    "REPORT RequestId: 8f5f2f6c-1f2f-4a8e-9a57-1c1f7a3f0c11\tDuration: 234.56 ms\tBilled Duration: 235 ms\t"
    "Memory Size: 512 MB\tMax Memory Used: 92 MB\t\n"
    "XRAY TraceId: 1-6746d7a0-3f2a1c0b5d4e6f7081920a1b\tSegmentId: 53995c3f42cd8ad8\tSampled: true\t\n"
)
# What the API's access log format (template.yaml) becomes; a variable without a value is "-".
ACCESS_LOG_VALUES = {
    "$context.requestId": "QkVfT010CyQEPcg=",
    "$context.routeKey": "POST /v1/transactions/{merchantOrderId}/refunds",
    "$context.status": "201",
    "$context.identity.sourceIp": "203.0.113.24",
    "$context.authorizer.claims.sub": "8f5f2f6c-1f2f-4a8e-9a57-1c1f7a3f0c11",
    "$context.responseLatency": "250",
    "$context.requestTimeEpoch": "1795331100",
}


@dataclass(frozen=True)
class Way:
    """How one status check or refund goes: so much of these invocations, and what others ask of AWS for it."""

    title: str
    parts: Mapping[str, float]
    api_requests: int = 0
    queue_requests: float = 0
    """The sender's, and those of Lambda's pollers: a receive and a delete for each batch."""


STATUS = Way("a status check", {"status check": 1}, api_requests=1)
REFUND = Way("a refund by API, its order's first", {"refund by API": 1}, api_requests=1)
FURTHER = Way("… of an order that the process knows", {"further refund by API": 1}, api_requests=1)
QUEUED = Way("a refund by queue, ten at a time", {"batch of refunds": 1 / BATCH}, queue_requests=1 + 2 / BATCH)
ALONE = Way("… one at a time", {"batch of one refund": 1}, queue_requests=3)
LATER = Way(
    "a refund by API, `Prefer: respond-async`",
    {"refund accepted for later": 1, "batch of one accepted refund": 1},
    api_requests=1,
    queue_requests=2,
)
WAYS = (STATUS, REFUND, FURTHER, QUEUED, ALONE, LATER)
COMPARED = (STATUS, REFUND, QUEUED)


@dataclass(frozen=True)
class Choices:
    """As template.yaml has them."""

    rest_api: bool = False
    x86_64: bool = False
    memory_mb: int | None = None
    """Instead of the template's."""
    transactions: bool = True
    provisioned_use: float | None = None
    """The share of provisioned capacity that is used; None: on demand."""
    traces: bool = True
    metrics: bool = True
    platform_lines: bool = True
    access_log: bool = True
    assumptions: Mapping[str, float] = field(default_factory=dict)
    """Instead of those in prices.json."""


class Cost:
    def __init__(self, usages: Mapping[str, Usage], inputs: Mapping[str, Any], template: Template) -> None:
        self.usages = usages
        self.inputs = inputs
        self._prices: dict[str, float] = {name: price["price"] for name, price in inputs["prices"].items()}
        self._assumed: dict[str, float] = {name: value["value"] for name, value in inputs["assumptions"].items()}
        self._quotas: dict[str, float] = {name: quota["value"] for name, quota in inputs["quotas"].items()}
        self._template = template
        self._model = template.model()

    # ---- one invocation

    def wait_ms(self, used: Usage, choices: Choices) -> float:
        """What it waits for others, one call after the other; a batch's refunds wait at the same time."""
        at_a_time = used.works if used.function == "RefundWorkerFunction" else 1
        transactions = used.calls.get("dynamodb.TransactWriteItems", 0)
        upstream = sum(count for name, count in used.calls.items() if name.startswith("indodana."))
        others = sum(used.calls.values()) - transactions - upstream
        assumed = {**self._assumed, **choices.assumptions}
        return (
            transactions * assumed["aws_transaction_ms"]
            + upstream * assumed["upstream_ms"]
            + others * assumed["aws_call_ms"]
        ) / at_a_time

    def cpu_ms(self, used: Usage, choices: Choices) -> float:
        """On the share of a vCPU that the function's memory gives it."""
        share = min(1.0, self._memory_mb(used, choices) / self._assumed["vcpu_mb"])
        return used.cpu_ms / share / self._assumed["cpu_speed"]

    def duration_ms(self, used: Usage, choices: Choices = Choices()) -> int:
        """Billed when warm: the most it can be, for what a batch computes and what it waits for partly coincide."""
        return ceil(self.wait_ms(used, choices) + self.cpu_ms(used, choices))

    def _memory_mb(self, used: Usage, choices: Choices) -> int:
        return choices.memory_mb or self._model.functions[used.function].memory_mb

    def _gb_seconds(self, used: Usage, choices: Choices) -> float:
        assumed = {**self._assumed, **choices.assumptions}
        seconds = (self.duration_ms(used, choices) + assumed["cold_share"] * assumed["init_ms"]) / 1000
        return seconds * self._memory_mb(used, choices) / 1024

    def _log_bytes(self, used: Usage, choices: Choices) -> float:
        own = used.log_bytes + (used.metric_bytes if choices.metrics else 0)
        return own + (len(PLATFORM_LINES) if choices.platform_lines else 0)

    @cached_property
    def _access_log_bytes(self) -> int:
        line: str = self._template.document["Resources"]["Api"]["Properties"]["AccessLogSettings"]["Format"]
        for variable, value in sorted(ACCESS_LOG_VALUES.items(), reverse=True):
            line = line.replace(variable, value)
        return len(re.sub(r"\$context\.[A-Za-z.]+", "-", line)) + 1

    def traced_share(self, per_second: float) -> float:
        reservoir, rate = self._quotas["xray_reservoir_per_second"], self._quotas["xray_rate"]
        return min(1.0, (reservoir + rate * max(0.0, per_second - reservoir)) / per_second)

    @property
    def spread_per_second(self) -> float:
        """A million in a month."""
        return MILLION / (MONTH_SECONDS * self._assumed["open_hours"] / 24)

    @property
    def _log_price(self) -> float:
        """Of a GB, taken in and kept as long as the template says; not compressed, so at most."""
        months = int(self._template.parameters["LogRetentionDays"]) * 24 / MONTH_HOURS
        return self._prices["logs_gb"] + months * self._prices["logs_gb_month"]

    # ---- a million

    def million(self, way: Way, choices: Choices = Choices(), per_second: float | None = None) -> dict[str, float]:
        """USD by what is charged. `per_second`: at which rate, for traces are sampled by it."""
        price = self._prices
        used = [(self.usages[name], share) for name, share in way.parts.items()]

        def total(of: Callable[[Usage], float]) -> float:
            return sum(of(one) * share for one, share in used)

        writes = total(lambda one: one.write_units / (1 if choices.transactions else _transacted(one)))
        index_writes = total(lambda one: one.index_write_units)
        reads = total(lambda one: one.read_units)
        if choices.provisioned_use is None:
            write_price, read_price = price["dynamodb_million_writes"], price["dynamodb_million_reads"]
        else:
            capacity = MILLION / 3600 / choices.provisioned_use
            write_price = price["dynamodb_write_capacity_hour"] * capacity
            read_price = price["dynamodb_read_capacity_hour"] * capacity
        requests = way.queue_requests + total(lambda one: one.calls.get("sqs.SendMessage", 0))
        architecture = "x86_64" if choices.x86_64 else "arm64"
        log_bytes = total(lambda one: self._log_bytes(one, choices))
        log_bytes += way.api_requests * self._access_log_bytes if choices.access_log else 0
        invocations = total(lambda _: 1)
        traced = self.traced_share((per_second or self.spread_per_second) * invocations) if choices.traces else 0
        out_bytes = total(lambda one: one.bytes_sent + one.bytes_answered)
        return {
            "API": way.api_requests
            * price["rest_api_million_requests" if choices.rest_api else "http_api_million_requests"],
            "Lambda requests": invocations * price["lambda_million_requests"],
            "Lambda time": MILLION
            * total(lambda one: self._gb_seconds(one, choices))
            * price[f"lambda_{architecture}_gb_second"],
            "DynamoDB writes": (writes + index_writes) * write_price,
            "DynamoDB reads": reads * read_price,
            "SQS": requests * price["sqs_million_requests"],
            "logs": MILLION * log_bytes / GB * self._log_price,
            "traces": invocations * traced * price["xray_million_traces"],
            "traffic out": MILLION * out_bytes / GB * price["traffic_out_gb"],
        }

    # ---- the tables

    def tables(self) -> dict[str, str]:
        return {
            "used": self.used_table(),
            "million": self.million_table(),
            "fixed": self.fixed_table(),
            "choices": self.choices_table(),
            "ahead": self.ahead_table(),
            "limits": self.limits_table(),
            "rates": self.rates_table(),
            "outage": self.outage_table(),
            "prices": self.prices_table(),
            "assumptions": self.assumptions_table(),
        }

    def used_table(self) -> str:
        head = ["one …", "invocations", "calls to AWS", "to Indodana", "write units", "of the index", "read units"]
        head += ["SQS requests", "log bytes", "CPU ms", "billed ms", "bytes kept"]
        rows = []
        for way in WAYS:
            used = [(self.usages[name], share) for name, share in way.parts.items()]

            def total(of: Callable[[Usage], float], used: list[tuple[Usage, float]] = used) -> float:
                return sum(of(one) * share for one, share in used)

            upstream = total(lambda one: sum(n for name, n in one.calls.items() if name.startswith("indodana.")))
            sent = total(lambda one: one.calls.get("sqs.SendMessage", 0))
            log_bytes = total(lambda one: self._log_bytes(one, Choices())) + way.api_requests * self._access_log_bytes
            rows.append(
                (
                    way.title,
                    _number(total(lambda _: 1)),
                    _number(total(lambda one: sum(one.calls.values())) - upstream),
                    _number(upstream),
                    _number(total(lambda one: one.write_units)),
                    _number(total(lambda one: one.index_write_units)),
                    _number(total(lambda one: one.read_units)),
                    _number(way.queue_requests + sent),
                    f"{log_bytes:,.0f}",
                    f"{total(lambda one: one.cpu_ms):.1f}",
                    f"{total(self.duration_ms):.0f}",
                    f"{total(lambda one: one.stored_bytes):,.0f}",
                )
            )
        return _markdown(head, rows)

    def million_table(self) -> str:
        rows = []
        for way in WAYS:
            costs = self.million(way)
            kept = sum(self.usages[name].stored_bytes * share for name, share in way.parts.items()) * MILLION / GB
            month = kept * (self._prices["dynamodb_gb_month"] + self._prices["dynamodb_recovery_gb_month"])
            rows.append((way.title, f"**{sum(costs.values()):.2f}**", *map(_usd, costs.values()), _usd(month)))
        return _markdown(("a million of …", "USD", *self.million(STATUS), "kept, each month"), rows)

    def fixed_table(self) -> str:
        price, document = self._prices, self._template.document["Resources"]
        metrics = {metric for used in self.usages.values() for metric in used.metrics}
        alarms = [resource for resource in document.values() if resource["Type"] == "AWS::CloudWatch::Alarm"]
        watched = sum(
            len([metric for metric in alarm["Properties"].get("Metrics", []) if "MetricStat" in metric]) or 1
            for alarm in alarms
        )
        dashboards = sum(resource["Type"] == "AWS::CloudWatch::Dashboard" for resource in document.values())
        runs = MONTH_HOURS * 60
        run = Way("", {"reconciler": 1})
        polls = self._quotas["sqs_pollers"] * MONTH_SECONDS / 20
        reads = MONTH_SECONDS / self._assumed["secret_ttl_s"]
        rows = [
            (f"{len(metrics)} custom metrics, in a month without faults", len(metrics) * price["metric_month"]),
            (f"{watched} metrics of {len(alarms)} alarms", watched * price["alarm_metric_month"]),
            ("the dashboard", dashboards * price["dashboard_month"]),
            (
                f"the reconciler, {runs:,} runs, of which traces are the most",
                sum(self.million(run).values()) * runs / MILLION,
            ),
            (
                f"Lambda's polling of an idle queue, {polls:,.0f} requests",
                polls * price["sqs_million_requests"] / MILLION,
            ),
            ("a merchant's secret", price["secret_month"]),
            (
                f"its reading by one process that never rests, {reads:,.0f} calls",
                reads * price["secrets_million_calls"] / MILLION,
            ),
        ]
        total = ("**together**", f"**{sum(usd for _, usd in rows):.2f}**")
        return _markdown(("each month", "USD"), [*((title, f"{usd:.2f}") for title, usd in rows), total])

    def choices_table(self) -> str:
        plain = Choices()
        slow = {"upstream_ms": self._assumed["upstream_ms"] * 5}
        rows: list[tuple[str, Choices]] = [
            ("REST API instead of HTTP API", replace(plain, rest_api=True)),
            ("x86_64 instead of arm64, as fast", replace(plain, x86_64=True)),
            ("256 MB instead of 512", replace(plain, memory_mb=256)),
            ("1,769 MB, a whole vCPU", replace(plain, memory_mb=1769)),
            ("Indodana five times as slow", replace(plain, assumptions=slow)),
            ("every tenth invocation starts cold", replace(plain, assumptions={"cold_share": 0.1})),
            ("without transactions, so without the guarantees", replace(plain, transactions=False)),
            ("provisioned capacity, 70 % of it used", replace(plain, provisioned_use=0.7)),
            ("… 20 % of it used", replace(plain, provisioned_use=0.2)),
            ("without Lambda's traces", replace(plain, traces=False)),
            ("without metrics in the log", replace(plain, metrics=False)),
            ("without Lambda's own log lines", replace(plain, platform_lines=False)),
            ("without the API's access log", replace(plain, access_log=False)),
        ]
        table = [("as it is", *(f"{sum(self.million(way).values()):.2f}" for way in COMPARED))]
        for title, choices in rows:
            changes = [sum(self.million(way, choices).values()) - sum(self.million(way).values()) for way in COMPARED]
            table.append((title, *map(_change, changes)))
        return _markdown(("USD a million", *(way.title for way in COMPARED)), table)

    def ahead_table(self) -> str:
        """What the parameters ProvisionedConcurrency and SnapStart cost."""
        memory_gb = self._model.functions["RefundApiFunction"].memory_mb / 1024
        price, starts = self._prices, self._assumed["cold_share"] * MILLION
        ready = memory_gb * MONTH_SECONDS * price["lambda_arm64_provisioned_gb_second"]
        snapshot = memory_gb * MONTH_SECONDS * price["snapstart_cache_gb_second"]
        restored = memory_gb * starts * price["snapstart_restored_gb"]
        billed = memory_gb * starts * self._assumed["init_ms"] / 1000 * price["lambda_arm64_gb_second"]
        return _markdown(
            ("for one function of 512 MB", "USD"),
            [
                ("`ProvisionedConcurrency`: an instance kept ready, a month", f"{ready:.2f}"),
                ("`SnapStart`: a version's snapshot kept, a month", f"{snapshot:.2f}"),
                (f"… {starts:,.0f} restores, of a million invocations", f"{restored:.2f}"),
                (f"neither: the time of {starts:,.0f} cold starts", f"{billed:.2f}"),
            ],
        )

    # ---- throughput

    def limits_table(self) -> str:
        quotas = self._quotas
        api, batch = self.usages["refund by API"], self.usages["batch of refunds"]
        throttle = self._template.document["Resources"]["Api"]["Properties"]["DefaultRouteSettings"][
            "ThrottlingRateLimit"
        ]
        (mapping,) = self._model.queue_mappings
        ledger_writes = api.write_units - api.audit_write_units + api.index_write_units
        index_writes = api.index_write_units
        rows: list[tuple[str, str, float]] = [
            ("by API: the stack's own throttle", f"{throttle} requests/s", throttle),
            (
                "by API: the account's",
                f"{quotas['api_account_per_second']:,} requests/s",
                quotas["api_account_per_second"],
            ),
            (
                "by API: Lambda",
                f"{quotas['lambda_concurrency']:,} at a time, {self.duration_ms(api)} ms each",
                quotas["lambda_concurrency"] * 1000 / self.duration_ms(api),
            ),
            (
                "by queue: `WorkerMaximumConcurrency`",
                f"{mapping.maximum_concurrency} batches of {BATCH} at a time, {self.duration_ms(batch)} ms each",
                mapping.maximum_concurrency * BATCH * 1000 / self.duration_ms(batch),
            ),
            (
                "ledger table with its index, when new",
                f"{quotas['dynamodb_new_table_writes']:,} write units/s, {ledger_writes:g} each",
                quotas["dynamodb_new_table_writes"] / ledger_writes,
            ),
            (
                "…, its quota",
                f"{quotas['dynamodb_table_writes']:,} write units/s, {ledger_writes:g} each",
                quotas["dynamodb_table_writes"] / ledger_writes,
            ),
            (
                "audit table, when new",
                f"{quotas['dynamodb_new_table_writes']:,} write units/s, {api.audit_write_units:g} each",
                quotas["dynamodb_new_table_writes"] / api.audit_write_units,
            ),
            (
                "one merchant: its key in the index `open-refunds`",
                f"{quotas['dynamodb_partition_writes']:,} write units/s, {index_writes:g} each",
                quotas["dynamodb_partition_writes"] / index_writes,
            ),
            (
                "one order: its sums are written twice, one transaction at a time",
                f"{self._assumed['aws_transaction_ms']:g} ms a transaction",
                1000 / (2 * self._assumed["aws_transaction_ms"]),
            ),
        ]
        table = [(title, limit, f"{most:,.0f}", *(_fits(rate, most) for rate in RATES)) for title, limit, most in rows]
        return _markdown(("limit", "", "refunds/s at most", *(f"at {rate:,}/s" for rate in RATES)), table)

    def rates_table(self) -> str:
        api = self.usages["refund by API"]
        upstream = sum(count for name, count in api.calls.items() if name.startswith("indodana."))
        seconds = self._assumed["upstream_ms"] / 1000
        log_bytes = self._log_bytes(api, Choices()) + self._access_log_bytes
        figures: dict[str, Callable[[int], str]] = {
            "requests to Indodana, a second": lambda rate: f"{rate * upstream:,}",
            "… under way at a time": lambda rate: f"{rate * upstream * seconds:,.1f}",
            "invocations at a time": lambda rate: f"{rate * self.duration_ms(api) / 1000:,.1f}",
            "write units a second, both tables and the index": lambda rate: (
                f"{rate * (api.write_units + api.index_write_units):,.0f}"
            ),
            "logs, a day": lambda rate: f"{rate * log_bytes * 86_400 / GB:,.1f} GB",
            "traced": lambda rate: f"{self.traced_share(rate):.0%}",
            "USD a million refunds": lambda rate: f"{sum(self.million(REFUND, per_second=rate).values()):.2f}",
            "USD a month, around the clock": lambda rate: (
                f"{rate * MONTH_SECONDS / MILLION * sum(self.million(REFUND, per_second=rate).values()):,.0f}"
            ),
        }
        rows = [(title, *(figure(rate) for rate in RATES)) for title, figure in figures.items()]
        return _markdown(("refunds by API", *(f"{rate:,} a second" for rate in RATES)), rows)

    def outage_table(self) -> str:
        """How long Indodana may take nothing before something is full, at each rate of refunds by queue."""
        due, idle = self.usages["reconciler with refunds due"], self.usages["reconciler"]
        plain = Choices()
        each_ms = (self.wait_ms(due, plain) - self.wait_ms(idle, plain)) / due.works
        each_ms += (self.cpu_ms(due, plain) - self.cpu_ms(idle, plain)) / due.works
        run_seconds = self._model.functions["RecoveryFunction"].timeout_seconds
        overdue = int(run_seconds * 1000 / each_ms)
        in_flight = self._quotas["sqs_in_flight"]
        rows: list[tuple[str, float]] = [
            (f"messages that wait are in flight: {in_flight:,} at most in a queue", in_flight),
            (
                f"overdue refunds that one run of the reconciler enqueues: {overdue:,} in {run_seconds:.0f} s, "
                f"{each_ms:.0f} ms each",
                overdue,
            ),
        ]
        head = ("full after", *(f"at {rate:,}/s" for rate in RATES))
        return _markdown(head, [(title, *(_span(most / rate) for rate in RATES)) for title, most in rows])

    # ---- the inputs

    def prices_table(self) -> str:
        rows = [
            (price["of"], f"{price['price']:.10f}".rstrip("0").rstrip("."), price["source"], price["dated"])
            for price in self.inputs["prices"].values()
        ]
        return _markdown((f"price in {self.inputs['region']}", "USD", "seen in", "dated"), rows, text=True)

    def assumptions_table(self) -> str:
        given = [*self.inputs["assumptions"].values(), *self.inputs["quotas"].values()]
        return _markdown(
            ("assumed, or a quota", "value", "from"),
            [(one["of"], f"{one['value']:,}", one.get("source", "assumed")) for one in given],
            text=True,
        )


def _transacted(used: Usage) -> int:
    """What a transaction makes of each write."""
    return 2 if "dynamodb.TransactWriteItems" in used.calls else 1


def _fits(rate: int, most: float) -> str:
    return f"{rate / most:.0%}" if rate <= most else f"**× {rate / most:,.1f}**"


def _number(value: float) -> str:
    return f"{value:g}" if value == int(value) else f"{value:.1f}"


def _usd(value: float) -> str:
    return f"{value:.2f}" if value else ""


def _change(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0"


def _span(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    """`text`: all columns are; else all but the first are figures."""
    lines = [head, ["---", *(["---" if text else "---:"] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- the document


def load() -> Cost:
    return Cost(usage.load(), json.loads(INPUTS.read_text(encoding="utf-8")), Template.load_local())


def with_tables(text: str, tables: Mapping[str, str]) -> str:
    """The document with the tables between their marks. Raises KeyError for a mark without a table."""
    marked = re.compile(r"(<!-- table: (\w+) -->\n)[^<]*(<!-- end -->)")
    return marked.sub(lambda match: f"{match[1]}\n{tables[match[2]]}\n\n{match[3]}", text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"put the tables into {DOCUMENT.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    tables = load().tables()
    if options.write:
        DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8"), tables), encoding="utf-8")
    else:
        print("\n\n".join(f"{name}\n\n{table}" for name, table in tables.items()))


if __name__ == "__main__":
    main()
