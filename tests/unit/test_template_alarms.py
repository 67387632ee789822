"""The alarms and the dashboard: each looks at a metric that somebody emits, under exactly those dimensions."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Never

import pytest

from devstack.template import Template
from gateway.core.context import RequestContext
from gateway.core.model import OrderKey, Reason, RefundRequest, new_refund
from gateway.core.transitions import RefundStatus
from gateway.refunds.recovery import Counts
from gateway.refunds.sweep import Totals
from gateway.runtime import telemetry
from indodana import ContradictingAnswer, CredentialsRejected

ROOT = Path(__file__).parents[2]
TEMPLATE = Template.load_local().document
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
NAMESPACE = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"]
STACK = "a-stack"

# What AWS emits of its own, by namespace: the dimension, and the metrics that are used here.
AWS_METRICS = {
    "AWS/SQS": (
        "QueueName",
        {
            "ApproximateAgeOfOldestMessage",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesVisible",
        },
    ),
    "AWS/Lambda": ("FunctionName", {"Errors", "Throttles"}),
    "AWS/ApiGateway": ("ApiId", {"4xx", "5xx", "Count", "Latency"}),
}

# Namespace, metric and its dimensions: to CloudWatch, that is what one metric is.
Metric = tuple[str, str, frozenset[tuple[str, str]]]


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    return {name: resource["Properties"] for name, resource in RESOURCES.items() if resource["Type"] == kind}


ALARMS = of_type("AWS::CloudWatch::Alarm")
FUNCTIONS = of_type("AWS::Serverless::Function")


class Broken:
    """An Indodana that answers nothing."""

    def check_status(self, *_: Any) -> Never:
        raise CredentialsRejected("refused", http_status=401)

    def cancel(self, *_: Any, **__: Any) -> Never:
        raise CredentialsRejected("refused", http_status=401)


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> set[Metric]:
    """Every metric that the functions can emit, read from what they print."""
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", STACK)
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", NAMESPACE)
    capsys.readouterr()
    telemetry.upstream_error(CredentialsRejected("refused", http_status=401))
    telemetry.upstream_error(ContradictingAnswer("OK, and another sum", field="refundAmount"))
    telemetry.audit_lost()
    telemetry.open_refunds(Counts(), Totals())
    order = OrderKey("m1", "ORDER")
    request = RefundRequest(order, "key", Decimal(1), Reason.OTHERS, None, "rina")
    for status in RefundStatus:
        context = RequestContext("rina", "api", "request-1")
        telemetry.transition(None, new_refund(request, status, datetime.now(UTC), context))
    timed: Any = telemetry.TimedIndodana(Broken())
    with pytest.raises(CredentialsRejected):
        timed.check_status("m1", "ORDER")
    with pytest.raises(CredentialsRejected):
        timed.cancel("m1", None, may_send=lambda: True)
    found: set[Metric] = set()
    for line in map(json.loads, capsys.readouterr().out.splitlines()):
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, line[name]) for name in names)
                found |= {(directive["Namespace"], metric["Name"], dimensions) for metric in directive["Metrics"]}
    return found


def text(value: Any) -> str:
    """An intrinsic as something that can be compared: the stack's name is known, others keep their own."""
    if isinstance(value, str):
        return value
    if value == {"Ref": "AWS::StackName"}:
        return STACK
    [(intrinsic, target)] = value.items()
    assert intrinsic in ("Ref", "Fn::GetAtt")
    return str(target)


def watched(alarm: dict[str, Any]) -> Iterator[Metric]:
    queries = [query["MetricStat"]["Metric"] for query in alarm.get("Metrics", []) if "MetricStat" in query]
    for query in queries or [alarm]:
        dimensions = frozenset((each["Name"], text(each["Value"])) for each in query.get("Dimensions", []))
        yield query["Namespace"], query["MetricName"], dimensions


def filtered() -> set[Metric]:
    """What the metric filters make of log lines; their dimension is a field of the line."""
    return {
        (made["MetricNamespace"], made["MetricName"], frozenset({("service", STACK)}))
        for properties in of_type("AWS::Logs::MetricFilter").values()
        for made in properties["MetricTransformations"]
    }


def is_there(metric: Metric, emitted: set[Metric]) -> bool:
    namespace, name, dimensions = metric
    if namespace not in AWS_METRICS:
        return metric in emitted | filtered()
    dimension, names = AWS_METRICS[namespace]
    [(found, target)] = dimensions
    return found == dimension and name in names and target.split(".")[0] in RESOURCES


# ---- alarms


def test_every_alarm_looks_at_a_metric_that_is_emitted(emitted: set[Metric]) -> None:
    assert len(ALARMS) > 10
    for name, alarm in ALARMS.items():
        assert [metric for metric in watched(alarm) if not is_there(metric, emitted)] == [], name


def test_the_metrics_service_is_the_stack_so_each_has_its_own_alarms() -> None:
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_SERVICE_NAME"] == {"Ref": "AWS::StackName"}


@pytest.mark.parametrize("name", ALARMS)
def test_every_alarm_rings_at_the_given_topic_and_says_where_help_stands(name: str) -> None:
    alarm = ALARMS[name]
    to_topic = {"Fn::If": ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}], {"Ref": "AWS::NoValue"}]}
    assert alarm["AlarmActions"] == alarm["OKActions"] == to_topic
    assert alarm["TreatMissingData"] in ("breaching", "notBreaching", "ignore")
    where = re.search(r"docs/operations\.md#([a-z-]+)$", alarm["AlarmDescription"])
    assert where, "the description ends with its place in docs/operations.md"
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert where[1] in {re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_what_needs_a_human_has_an_alarm() -> None:
    looked_at = {(namespace, name) for alarm in ALARMS.values() for namespace, name, _ in watched(alarm)}
    assert looked_at == {
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
        ("AWS/SQS", "ApproximateAgeOfOldestMessage"),
        ("AWS/Lambda", "Errors"),
        ("AWS/Lambda", "Throttles"),
        ("AWS/ApiGateway", "5xx"),
        ("AWS/ApiGateway", "Latency"),
        (NAMESPACE, "OldestUnknownRefundAge"),
        (NAMESPACE, "OldestQueuedRefundAge"),
        (NAMESPACE, "UpstreamErrors"),
        (NAMESPACE, "CredentialFailures"),
        (NAMESPACE, "ContradictingAnswers"),
        (NAMESPACE, "UnknownRefunds"),  # that it is emitted at all: recovery runs
        (NAMESPACE, "RecoveryFailures"),
        (NAMESPACE, "AuditRecordsLost"),
        (NAMESPACE, "LoggedErrors"),
    }
    assert next(watched(ALARMS["DeadLettersAlarm"]))[2] == {("QueueName", "RefundDeadLetterQueue.QueueName")}


def test_a_silent_recovery_rings_an_alarm() -> None:
    alarm = ALARMS["RecoverySilentAlarm"]
    assert (alarm["Statistic"], alarm["ComparisonOperator"]) == ("SampleCount", "LessThanThreshold")
    assert alarm["TreatMissingData"] == "breaching"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_functions_logged_errors_are_counted(function: str) -> None:
    group = FUNCTIONS[function]["LoggingConfig"]["LogGroup"]
    filters = [each for each in of_type("AWS::Logs::MetricFilter").values() if each["LogGroupName"] == group]
    assert [each["FilterPattern"] for each in filters] == ['{ $.level = "ERROR" || $.level = "CRITICAL" }']


def test_what_is_logged_as_an_error_has_the_fields_that_the_filters_read() -> None:
    record = logging.LogRecord("qris-gateway", logging.ERROR, __file__, 1, "a bug", None, None)
    line = json.loads(telemetry.logger.registered_formatter.format(record))
    assert line["level"] == "ERROR"
    assert line["service"]


# ---- dashboard


def dashboard() -> list[dict[str, Any]]:
    body = of_type("AWS::CloudWatch::Dashboard")["Dashboard"]["DashboardBody"]["Fn::Sub"]
    for reference in re.findall(r"\$\{([^}]+)\}", body):
        assert reference.startswith("AWS::") or reference.split(".")[0] in RESOURCES, reference
    widgets: list[dict[str, Any]] = json.loads(
        re.sub(r"\$\{([^}]+)\}", lambda found: STACK if found[1] == "AWS::StackName" else found[1], body)
    )["widgets"]
    return widgets


def shown() -> Iterator[Metric]:
    """The widgets' metrics, with "…" and "." written out."""
    for widget in dashboard():
        before: list[str] = []
        for row in widget["properties"].get("metrics", []):
            words = [word for word in row if isinstance(word, str)]
            if not words:
                continue  # an expression
            if words[0] == "...":
                words = before[: len(before) - len(words) + 1] + words[1:]
            words = [before[index] if word == "." else word for index, word in enumerate(words)]
            yield words[0], words[1], frozenset(zip(words[2::2], words[3::2], strict=True))
            before = words


def test_the_dashboard_shows_metrics_that_are_emitted(emitted: set[Metric]) -> None:
    metrics = [*shown()]
    assert len(metrics) > 20
    assert [metric for metric in metrics if not is_there(metric, emitted)] == []


def test_the_dashboard_searches_for_metrics_that_are_emitted(emitted: set[Metric]) -> None:
    """By the names of their dimensions, whatever the values."""
    expressions = [row[0]["expression"] for widget in dashboard() for row in widget["properties"].get("metrics", [])
                   if isinstance(row[0], dict)]  # fmt: skip
    searched = [re.match(r'SEARCH\(\'\{(\w+),([\w,]+)\} MetricName="(\w+)"', expression) for expression in expressions]
    kinds = {(namespace, name, frozenset(dict(dimensions))) for namespace, name, dimensions in emitted}
    assert len(searched) == 2
    for found in searched:
        assert found
        assert (found[1], found[3], frozenset(found[2].split(","))) in kinds


def test_the_dashboard_shows_every_alarm_and_what_became_of_every_refund() -> None:
    [alarms] = [widget["properties"]["alarms"] for widget in dashboard() if widget["type"] == "alarm"]
    assert sorted(alarms) == sorted(f"{name}.Arn" for name in ALARMS)
    outcomes = {dict(dimensions)["status"] for _, name, dimensions in shown() if name == "RefundOutcomes"}
    assert outcomes == set(RefundStatus) - {RefundStatus.SUBMITTING}


def test_the_dashboards_widgets_do_not_overlap() -> None:
    cells = [
        (column, row)
        for widget in dashboard()
        for column in range(widget["x"], widget["x"] + widget["width"])
        for row in range(widget["y"], widget["y"] + widget["height"])
    ]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24
