"""The alarms that stop a deployment: each watches the new version of one function, and nothing else."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from devstack.template import Template
from gateway.runtime import telemetry

TEMPLATE = Template.load_local().document
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]
FUNCTIONS = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::Serverless::Function"]


def alarm_of(function: str) -> dict[str, Any]:
    properties: dict[str, Any] = RESOURCES[f"{function.removesuffix('Function')}DeploymentAlarm"]["Properties"]
    return properties


def dimensions(metric: dict[str, Any]) -> dict[str, Any]:
    return {each["Name"]: each["Value"] for each in metric["Dimensions"]}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_deployment_watches_the_new_versions_own_errors_only(function: str) -> None:
    preference = RESOURCES[function]["Properties"]["DeploymentPreference"]
    own = [{"Ref": f"{function.removesuffix('Function')}DeploymentAlarm"}]
    assert preference["Alarms"] == {"Fn::If": ["WatchesDeployments", own, [{"Ref": "AWS::NoValue"}]]}

    version = {"Fn::GetAtt": f"{function}.Version.Version"}
    metrics = [query["MetricStat"]["Metric"] for query in alarm_of(function)["Metrics"] if "MetricStat" in query]
    found = {(metric["Namespace"], metric["MetricName"]): dimensions(metric) for metric in metrics}
    assert found == {
        ("AWS/Lambda", "Errors"): {
            "FunctionName": {"Ref": function},
            "Resource": {"Fn::Sub": f"${{{function}}}:live"},
            "ExecutedVersion": version,
        },
        ("QrisGateway", "LoggedErrors"): {"FunctionName": {"Ref": function}, "ExecutedVersion": version},
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_version_has_an_alarm_of_its_own_that_begins_without_a_state(function: str) -> None:
    """An alarm that is only changed keeps its state: the old version's errors would stop the deployment of the fix."""
    alarm = alarm_of(function)
    name = f"${{AWS::StackName}}-{function}-version-${{{function}.Version.Version}}"
    assert alarm["AlarmName"] == {"Fn::Sub": name}
    assert alarm["TreatMissingData"] == "notBreaching"
    # It stops a deployment; the functions' own alarms wake somebody.
    assert "AlarmActions" not in alarm


def test_off_breaks_the_glass() -> None:
    assert TEMPLATE["Parameters"]["DeploymentAlarms"]["Default"] == "on"
    assert TEMPLATE["Conditions"]["WatchesDeployments"] == {"Fn::Equals": [{"Ref": "DeploymentAlarms"}, "on"]}


@pytest.mark.parametrize("level", [logging.ERROR, logging.CRITICAL])
def test_an_error_line_names_the_version_that_the_filters_read(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "stack-RefundApiFunction-1")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_VERSION", "7")
    record = logging.LogRecord("qris-gateway", level, __file__, 1, "a bug", None, None)
    assert telemetry.logger.registered_handler.filter(record)
    line = json.loads(telemetry.logger.registered_formatter.format(record))
    fields = {
        each["Key"]: each["Value"]
        for name, resource in RESOURCES.items()
        if name.endswith("VersionErrors")
        for each in resource["Properties"]["MetricTransformations"][0]["Dimensions"]
    }
    assert fields.keys() == {"FunctionName", "ExecutedVersion"}
    assert line[fields["FunctionName"].removeprefix("$.")] == "stack-RefundApiFunction-1"
    assert line[fields["ExecutedVersion"].removeprefix("$.")] == "7"


def test_a_line_that_is_no_error_does_not_pay_for_the_version() -> None:
    record = logging.LogRecord("qris-gateway", logging.WARNING, __file__, 1, "slow", None, None)
    telemetry.logger.registered_handler.filter(record)
    assert not {"function_name", "function_version"} & vars(record).keys()
