"""The alarms and the dashboard: each looks at a metric that somebody emits, under exactly those dimensions."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Never

import botocore.session
import pytest

from devstack.template import Template
from gateway.core.context import RequestContext
from gateway.core.model import OrderKey, Reason, RefundRequest, new_refund
from gateway.core.protocol import LEASE_SECONDS
from gateway.core.transitions import RefundStatus
from gateway.core.upstream import StatusChecksPaused
from gateway.refunds.recovery import STOP_SECONDS, Counts
from gateway.refunds.sweep import Totals
from gateway.runtime import telemetry
from indodana import ContradictingAnswer, CredentialsRejected
from indodana.client import CANCEL_READ_SECONDS, CONNECT_SECONDS, RETRY_WITHIN_SECONDS, STATUS_READ_SECONDS
from tests.pages import anchors

ROOT = Path(__file__).parents[2]
TEMPLATE = Template.load_local().document
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
NAMESPACE = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"]
STACK = "a-stack"

TABLE, INDEX = ("TableName",), ("GlobalSecondaryIndexName", "TableName")
# What AWS emits of its own, as far as it is used here: each metric, and the sets of dimensions that it has.
AWS_METRICS: dict[tuple[str, str], set[tuple[str, ...]]] = {
    ("AWS/SQS", "ApproximateAgeOfOldestMessage"): {("QueueName",)},
    ("AWS/SQS", "ApproximateNumberOfMessagesNotVisible"): {("QueueName",)},
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): {("QueueName",)},
    ("AWS/Lambda", "Duration"): {("FunctionName",)},
    ("AWS/Lambda", "Errors"): {("FunctionName",)},
    ("AWS/Lambda", "Throttles"): {("FunctionName",)},
    ("AWS/Lambda", "ClaimedAccountConcurrency"): {()},
    ("AWS/ApiGateway", "4xx"): {("ApiId",)},
    ("AWS/ApiGateway", "5xx"): {("ApiId",)},
    ("AWS/ApiGateway", "Count"): {("ApiId",)},
    ("AWS/ApiGateway", "Latency"): {("ApiId",)},
    ("AWS/DynamoDB", "ReadThrottleEvents"): {TABLE, INDEX},
    ("AWS/DynamoDB", "WriteThrottleEvents"): {TABLE, INDEX},
    ("AWS/DynamoDB", "SystemErrors"): {("Operation", "TableName")},
    ("AWS/Events", "FailedInvocations"): {("RuleName",)},
}

# Namespace, metric and its dimensions: to CloudWatch, that is what one metric is.
Metric = tuple[str, str, frozenset[tuple[str, str]]]


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    return {name: resource["Properties"] for name, resource in RESOURCES.items() if resource["Type"] == kind}


# The others stop a deployment: tests/unit/test_deployment_alarms.py.
ALARMS = {
    name: alarm for name, alarm in of_type("AWS::CloudWatch::Alarm").items() if not name.endswith("DeploymentAlarm")
}
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
    telemetry.upstream_error(StatusChecksPaused("paused"))
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
    """An intrinsic as something that can be compared: the stack's name is known, others keep their own.

    A table is the stack's own; with the parameter for an existing one, that one has to be watched.
    """
    if isinstance(value, str):
        return value
    if value == {"Ref": "AWS::StackName"}:
        return STACK
    [(intrinsic, target)] = value.items()
    if intrinsic == "Fn::If":
        table = str(target[1]["Ref"])
        assert target == [f"Creates{table}", {"Ref": table}, {"Ref": f"Existing{table}"}]
        return table
    assert intrinsic in ("Ref", "Fn::GetAtt")
    return str(target)


def watched(alarm: dict[str, Any]) -> Iterator[Metric]:
    queries = [query["MetricStat"]["Metric"] for query in alarm.get("Metrics", []) if "MetricStat" in query]
    for query in queries or [alarm]:
        dimensions = frozenset((each["Name"], text(each["Value"])) for each in query.get("Dimensions", []))
        yield query["Namespace"], query["MetricName"], dimensions


def filtered() -> set[Metric]:
    """What the metric filters make of log lines; their dimensions are fields of the line."""
    found: set[Metric] = set()
    for properties in of_type("AWS::Logs::MetricFilter").values():
        for made in properties["MetricTransformations"]:
            dimensions = {each["Key"]: each["Value"] for each in made["Dimensions"]}
            if "ExecutedVersion" in dimensions:
                continue  # for deployments: tests/unit/test_deployment_alarms.py
            assert dimensions == {name: f"$.{name}" for name in dimensions}
            # A filter that has a status as dimension lets certain statuses through.
            statuses = re.findall(r'\$\.status = "(\d+)"', properties["FilterPattern"])
            own = [{"service": STACK} | ({"status": status} if status else {}) for status in statuses or [""]]
            assert all(set(each) == set(dimensions) for each in own)
            found |= {(made["MetricNamespace"], made["MetricName"], frozenset(each.items())) for each in own}
    return found


def is_there(metric: Metric, emitted: set[Metric]) -> bool:
    namespace, name, dimensions = metric
    if not namespace.startswith("AWS/"):
        return metric in emitted | filtered()
    values = dict(dimensions)
    if tuple(sorted(values)) not in AWS_METRICS.get((namespace, name), set()):
        return False
    table = RESOURCES.get(values.get("TableName", ""), {}).get("Properties", {})
    if index := values.pop("GlobalSecondaryIndexName", None):
        return index in {each["IndexName"] for each in table["GlobalSecondaryIndexes"]}
    values.pop("Operation", None)  # test_the_errors_of_every_call_of_a_table_are_counted
    return all(target.split(".")[0] in RESOURCES for target in values.values())


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
    assert runbook_anchor(alarm["AlarmDescription"]["Fn::Sub"]) in anchors(ROOT / "docs/operations.md")


def runbook_anchor(text: str) -> str:
    where = re.search(r"\. \$\{RunbookUrl\}#([a-z-]+)$", text)
    assert where, "the description ends with its place in the runbook"
    return where[1]


def test_the_first_table_of_the_runbook_has_every_alarm() -> None:
    rows = re.findall(
        r"^\| \[[^]]+\]\(#([a-z-]+)\)((?: \|[^|\n]+){4}) \|$", (ROOT / "docs/operations.md").read_text(), re.M
    )
    assert {anchor for anchor, _ in rows} == {
        *(runbook_anchor(alarm["AlarmDescription"]["Fn::Sub"]) for alarm in ALARMS.values()),
        "failed-deployments",
    }
    assert len(rows) == len(dict(rows)), "an alarm stands in one row"


def test_what_needs_a_human_has_an_alarm() -> None:
    looked_at = {(namespace, name) for alarm in ALARMS.values() for namespace, name, _ in watched(alarm)}
    assert looked_at == {
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
        ("AWS/SQS", "ApproximateAgeOfOldestMessage"),
        ("AWS/Lambda", "Errors"),
        ("AWS/Lambda", "Throttles"),
        ("AWS/Lambda", "Duration"),
        ("AWS/Lambda", "ClaimedAccountConcurrency"),
        ("AWS/ApiGateway", "5xx"),
        ("AWS/ApiGateway", "Latency"),
        ("AWS/DynamoDB", "ReadThrottleEvents"),
        ("AWS/DynamoDB", "WriteThrottleEvents"),
        ("AWS/DynamoDB", "SystemErrors"),
        ("AWS/Events", "FailedInvocations"),
        (NAMESPACE, "OldestSubmittingRefundAge"),
        (NAMESPACE, "RefusedRequests"),
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


def test_an_alarm_has_no_more_metrics_than_cloudwatch_takes() -> None:
    for name, alarm in ALARMS.items():
        assert len(alarm.get("Metrics", [])) <= 10, name


GATEWAY = ROOT / "functions/gateway"
TABLES = {"core/ledger.py": "LedgerTable", "core/audit.py": "AuditTable", "refunds/sweep.py": "LedgerTable"}


def dynamodb_calls(module: Path) -> set[str]:
    """The DynamoDB operations that the module calls."""
    names = {
        node.attr.title().replace("_", "")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "_client"
    }
    return names & set(botocore.session.get_session().get_service_model("dynamodb").operation_names)


def test_the_errors_of_every_call_of_a_table_are_counted() -> None:
    calls = {str(module.relative_to(GATEWAY)): dynamodb_calls(module) for module in GATEWAY.rglob("*.py")}
    used = {(TABLES[module], call) for module, names in calls.items() for call in names}
    assert ("LedgerTable", "TransactWriteItems") in used
    used.add(("AuditTable", "TransactWriteItems"))  # each transition writes both
    counted = {tuple(dict(dimensions)[name] for name in ("TableName", "Operation"))
               for _, _, dimensions in watched(ALARMS["StorageErrorsAlarm"])}  # fmt: skip
    assert counted == used


def test_throttles_of_both_tables_and_of_every_index_are_counted() -> None:
    dimensions = {
        frozenset({("TableName", table), *([("GlobalSecondaryIndexName", index)] if index else [])})
        for table, properties in of_type("AWS::DynamoDB::Table").items()
        for index in ["", *(each["IndexName"] for each in properties.get("GlobalSecondaryIndexes", []))]
    }
    assert len(dimensions) == 3
    assert {*watched(ALARMS["StorageThrottlesAlarm"])} == {
        ("AWS/DynamoDB", metric, each)
        for metric in ("ReadThrottleEvents", "WriteThrottleEvents")
        for each in dimensions
    }


@pytest.mark.parametrize("alarm", ["ThrottlesAlarm", "LongRunsAlarm"])
def test_an_alarm_of_all_functions_has_all_functions(alarm: str) -> None:
    assert {dict(dimensions)["FunctionName"] for _, _, dimensions in watched(ALARMS[alarm])} == set(FUNCTIONS)


def test_the_longest_run_is_compared_with_each_functions_own_timeout() -> None:
    alarm = ALARMS["LongRunsAlarm"]
    [expression] = [query["Expression"] for query in alarm["Metrics"] if "Expression" in query]
    assert re.fullmatch(r"100 \* MAX\(\[\w+ / \d+(, \w+ / \d+)*\]\)", expression)
    divisors = {name: int(milliseconds) for name, milliseconds in re.findall(r"(\w+) / (\d+)", expression)}
    functions = {query["Id"]: query["MetricStat"]["Metric"]["Dimensions"][0]["Value"]["Ref"]
                 for query in alarm["Metrics"] if "MetricStat" in query}  # fmt: skip
    assert divisors == {name: FUNCTIONS[function]["Timeout"] * 1000 for name, function in functions.items()}


SLOW_STATUS_SECONDS = RETRY_WITHIN_SECONDS + CONNECT_SECONDS + STATUS_READ_SECONDS
SLOW_REFUND_SECONDS = SLOW_STATUS_SECONDS + CONNECT_SECONDS + CANCEL_READ_SECONDS
AWS_SECONDS = 3  # all its calls in one run, when only Indodana is slow


@pytest.mark.parametrize(
    ("function", "slowest_seconds"),
    [
        ("StatusCheckFunction", SLOW_STATUS_SECONDS + AWS_SECONDS),
        ("RefundApiFunction", SLOW_REFUND_SECONDS + AWS_SECONDS),
        ("RefundWorkerFunction", SLOW_REFUND_SECONDS + AWS_SECONDS),
        ("RecoveryFunction", FUNCTIONS["RecoveryFunction"]["Timeout"] - STOP_SECONDS + AWS_SECONDS),
    ],
)
def test_a_slow_indodana_alone_raises_no_alarm_about_long_runs(function: str, slowest_seconds: float) -> None:
    threshold = FUNCTIONS[function]["Timeout"] * ALARMS["LongRunsAlarm"]["Threshold"] / 100
    assert slowest_seconds < threshold


def test_a_submission_in_its_lease_raises_no_alarm() -> None:
    runs_seconds = 2 * 60  # the run that ends the lease may fail, and the next one begin late
    assert ALARMS["SubmittingRefundsAlarm"]["Threshold"] > LEASE_SECONDS + runs_seconds


def test_refused_requests_are_counted_from_fields_of_the_access_log() -> None:
    properties = of_type("AWS::Logs::MetricFilter")["RefusedRequests"]
    settings = RESOURCES["Api"]["Properties"]["AccessLogSettings"]
    assert settings["DestinationArn"] == {"Fn::GetAtt": f"{properties['LogGroupName']['Ref']}.Arn"}
    line = json.loads(settings["Format"]["Fn::Sub"])
    assert (line["service"], line["status"], line["routeKey"]) == (
        *("${AWS::StackName}", "$context.status", "$context.routeKey"),
    )
    # Anybody can cause a 429 of the route that needs no token.
    open_route = re.search(r'\(\$\.status = "429" && \$\.routeKey != "([^"]+)"\)', properties["FilterPattern"])
    assert open_route
    assert open_route[1] == "GET /v1/health"


def test_a_failed_deployment_is_told_to_the_topic_of_the_alarms() -> None:
    rule = of_type("AWS::Events::Rule")["DeploymentFailedRule"]
    pattern = rule["EventPattern"]
    assert pattern["source"] == ["aws.cloudformation"]
    assert pattern["detail"]["stack-id"] == [{"Ref": "AWS::StackId"}]
    assert "UPDATE_ROLLBACK_IN_PROGRESS" in pattern["detail"]["status-details"]["status"]
    condition, [target], otherwise = rule["Targets"]["Fn::If"]
    assert (condition, otherwise) == ("HasAlarmTopic", {"Ref": "AWS::NoValue"})
    assert target["Arn"] == {"Ref": "AlarmTopicArn"}
    told = json.loads(target["InputTransformer"]["InputTemplate"]["Fn::Sub"])
    assert set(re.findall(r"<(\w+)>", told)) == set(target["InputTransformer"]["InputPathsMap"])
    assert runbook_anchor(told) in anchors(ROOT / "docs/operations.md")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_functions_logged_errors_are_counted(function: str) -> None:
    group = FUNCTIONS[function]["LoggingConfig"]["LogGroup"]
    filters = [each for each in of_type("AWS::Logs::MetricFilter").values() if each["LogGroupName"] == group]
    # For the stack's alarm, and for a new version's own.
    assert {each["FilterPattern"] for each in filters} == {'{ $.level = "ERROR" || $.level = "CRITICAL" }'}
    assert len(filters) == 2


def test_what_is_logged_as_an_error_has_the_fields_that_the_filters_read() -> None:
    record = logging.LogRecord("qris-gateway", logging.ERROR, __file__, 1, "a bug", None, None)
    line = json.loads(telemetry.logger.registered_formatter.format(record))
    assert line["level"] == "ERROR"
    assert line["service"]


# ---- dashboard


def dashboard() -> list[dict[str, Any]]:
    body, own = of_type("AWS::CloudWatch::Dashboard")["Dashboard"]["DashboardBody"]["Fn::Sub"]
    body = re.sub(r"\$\{(\w+)\}", lambda found: text(own[found[1]]) if found[1] in own else found[0], body)
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
