"""`make prune-versions` deletes what no alias needs, and nothing else."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest

from deploy import account, versions
from deploy.target import DeployError
from tests.deploy.conftest import STACK, Account


def code(number: int) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("handler.py", str(number))
    return archive.getvalue()


@pytest.fixture
def functions(aws: Account, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Three functions with six versions each; the third is no part of the stack."""
    client: Any = aws.client("lambda")
    trust = '{"Version": "2012-10-17", "Statement": []}'
    role = aws.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    names = {name: f"{STACK}-{name}" for name in ("One", "Two", "Other")}
    for name in names.values():
        client.create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=role,
            Handler="handler.handler",
            Code={"ZipFile": code(0)},
            Publish=True,
        )
        for number in range(1, 6):
            client.update_function_code(FunctionName=name, ZipFile=code(number), Publish=True)
    # Traffic shifts from 1 to 3, as during a deployment; another alias was forgotten at 2.
    client.create_alias(
        FunctionName=names["One"],
        Name="live",
        FunctionVersion="1",
        RoutingConfig={"AdditionalVersionWeights": {"3": 0.1}},
    )
    client.create_alias(FunctionName=names["One"], Name="forgotten", FunctionVersion="2")
    client.create_alias(FunctionName=names["Two"], Name="live", FunctionVersion="6")
    monkeypatch.setattr(versions, "functions", lambda session, stack: [names["One"], names["Two"]])
    aws.deploy("Resources: {Queue: {Type: AWS::SQS::Queue}}", {})
    return names


def left(aws: Account, function: str) -> list[str]:
    found = aws.client("lambda").list_versions_by_function(FunctionName=function)["Versions"]
    return [version["Version"] for version in found]


def test_the_newest_and_those_with_traffic_are_kept(
    aws: Account, functions: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert versions.main(["staging", "2", "no"]) == 0
    assert left(aws, functions["One"]) == ["$LATEST", "1", "2", "3", "5", "6"]
    assert left(aws, functions["Two"]) == ["$LATEST", "5", "6"]
    assert left(aws, functions["Other"]) == ["$LATEST", "1", "2", "3", "4", "5", "6"]
    assert capsys.readouterr().out == (
        f"{functions['One']}: versions 4\n{functions['Two']}: versions 1, 2, 3, 4\nDeleted 5 versions.\n"
    )
    assert versions.main(["staging", "2", "no"]) == 0
    assert capsys.readouterr().out == f"{functions['One']}: nothing to delete\n{functions['Two']}: nothing to delete\n"


def test_versions_are_counted_as_numbers(aws: Account, functions: dict[str, str]) -> None:
    client: Any = aws.client("lambda")
    for number in range(6, 11):
        client.update_function_code(FunctionName=functions["Two"], ZipFile=code(number), Publish=True)
    assert versions.old_versions(aws, functions["Two"], 2) == ["1", "2", "3", "4", "5", "7", "8", "9"]


def test_deleting_asks_first(
    aws: Account, functions: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "")
    assert versions.main(["staging", "1", ""]) == 1
    assert capsys.readouterr().err == "make prune-versions: nothing was changed\n"
    assert len(left(aws, functions["Two"])) == 7


@pytest.mark.parametrize("keep", ["0", "-1", "all"])
def test_at_least_one_version_is_kept(aws: Account, functions: dict[str, str], keep: str) -> None:
    with pytest.raises(DeployError, match="at least 1"):
        versions.prune("staging", keep, "no")


def test_nothing_is_deleted_during_a_deployment(
    aws: Account, functions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = account.Stack("UPDATE_IN_PROGRESS", "", {}, ())
    monkeypatch.setattr(account, "describe", lambda session, name: changing)
    with pytest.raises(DeployError, match="is being changed"):
        versions.prune("staging", "1", "no")
    assert len(left(aws, functions["Two"])) == 7


def test_the_functions_are_those_of_the_stack(aws: Account) -> None:
    trust = '{"Version": "2012-10-17", "Statement": []}'
    role = aws.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    code = "{ZipFile: 'def handler(event, context): pass'}"
    properties = (
        f"{{FunctionName: a-function, Runtime: python3.13, Handler: index.handler, Role: '{role}', Code: {code}}}"
    )
    aws.deploy(
        "Resources:\n  Queue: {Type: AWS::SQS::Queue}\n"
        f"  Function: {{Type: AWS::Lambda::Function, Properties: {properties}}}",
        {},
    )
    assert versions.functions(aws, STACK) == ["a-function"]


def test_a_stack_that_is_not_there_is_said(aws: Account, capsys: pytest.CaptureFixture[str]) -> None:
    assert versions.main(["staging", "3", "no"]) == 1
    assert capsys.readouterr().err == f"make prune-versions: there is no stack {STACK} in ap-southeast-3\n"
