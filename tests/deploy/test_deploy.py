"""What a deployment does with its parameters: all of them are given, stamped into the functions, and recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import deploy.__main__ as command
from deploy import account, history, parameters
from deploy.parameters import UNSTAMPED, stamp, stamped
from deploy.target import DeployError, Target
from devstack.cloudformation import Document
from devstack.samconfig import ROOT
from tests.deploy.conftest import STACK, Account

GIVEN = {"MerchantId": "m1", "JwtIssuer": "https://issuer.example", "JwtAudience": "gateway"}
PARAMETERS = " ".join(f"{name}={value}" for name, value in GIVEN.items())
TEMPLATE = "Parameters: {MerchantId: {Type: String}}\nResources: {Queue: {Type: AWS::SQS::Queue}}\n# CONFIGURATION: "


def target_with(**given: str) -> Target:
    return Target("staging", STACK, "ap-southeast-3", None, GIVEN | given)


def test_every_parameter_is_deployed_so_that_none_keeps_an_earlier_value() -> None:
    values = parameters.all_values(target_with(DeploymentAlarms="off"))
    assert values.keys() == Document.load(overrides=GIVEN).parameters.keys()
    assert (values["DeploymentAlarms"], values["LogRetentionDays"], values["AlarmTopicArn"]) == ("off", "90", "")


def test_a_parameter_of_the_command_line_makes_another_version() -> None:
    def stamp_of(**given: str) -> str:
        return stamp(parameters.all_values(target_with(**given)))

    assert stamp_of() == stamp_of() == stamp_of(LogRetentionDays="90")
    assert len({stamp_of(), stamp_of(MerchantId="m2"), stamp_of(DeploymentAlarms="off")}) == 3
    # After a deployment that was rolled back, the same again is another version.
    values = parameters.all_values(target_with())
    assert stamp(values, "2026-11-28 03:10") not in (stamp(values), stamp(values, "2026-11-28 03:20"))


def test_the_stamp_is_put_into_the_template_once() -> None:
    written = stamped((ROOT / "template.yaml").read_text(), "configuration-1")
    assert written.count("CONFIGURATION: configuration-1") == 1
    assert UNSTAMPED not in written
    assert stamped(written, "configuration-2").count("CONFIGURATION: configuration-2") == 1
    with pytest.raises(DeployError, match="has 0 places for the stamp"):
        stamped("Resources: {}", "x")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(command, "BUILT", tmp_path)
    (tmp_path / "template.yaml").write_text(TEMPLATE + "unstamped")
    return tmp_path


def fake_sam(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    sam = folder / "bin" / "sam"
    sam.parent.mkdir()
    sam.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/arguments"\nexit {code}\n')
    sam.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sam.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize(("confirm", "asks"), [("", True), ("no", False)])
def test_sam_is_given_all_parameters_and_takes_an_empty_change(
    built: Path, monkeypatch: pytest.MonkeyPatch, confirm: str, asks: bool
) -> None:
    fake_sam(built, monkeypatch)
    values = {"MerchantId": "m1", "AlarmTopicArn": ""}
    assert command.sam_deploy(target_with(), values, confirm) == 0
    arguments = (built / "arguments").read_text().splitlines()
    assert arguments[:4] == ["deploy", "--config-env", "staging", "--no-fail-on-empty-changeset"]
    assert ("--no-confirm-changeset" in arguments) is not asks
    file = arguments[arguments.index("--parameter-overrides") + 1]
    assert file == f"file://{built}/parameters.yaml"
    assert json.loads((built / "parameters.yaml").read_text()) == values


def sam_that_deploys(aws: Account, built: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """In place of SAM's own; the list has the parameters of each deployment."""
    deployed: list[dict[str, str]] = []

    def sam_deploy(target: Target, values: dict[str, str], confirm: str) -> int:
        template = (built / "template.yaml").read_text()
        if not deployed or template != history.current_template(aws, STACK):
            aws.deploy(template, {"MerchantId": values["MerchantId"]})
        deployed.append(values)
        return 0

    monkeypatch.setattr(command, "sam_deploy", sam_deploy)
    return deployed


def test_a_deployment_is_stamped_and_recorded_and_an_empty_one_is_not(
    aws: Account, built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed = sam_that_deploys(aws, built, monkeypatch)
    assert command.main(["staging", PARAMETERS, "no"]) == 0
    assert "Recorded in s3://" in capsys.readouterr().out
    assert command.main(["staging", PARAMETERS, "no"]) == 0
    assert capsys.readouterr().out == ""

    [recorded] = history.History(aws, target_with()).all()
    assert recorded.parameters == {"MerchantId": "m1"}
    assert recorded.tags == {"Application": "qris-gateway"}
    assert recorded.commit == command.commit() != ""
    kept = history.History(aws, target_with()).template(recorded)
    assert kept == TEMPLATE + stamp(deployed[0])


def test_a_deployment_after_a_rollback_is_another_version(
    aws: Account, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam_that_deploys(aws, built, monkeypatch)
    assert command.main(["staging", PARAMETERS, "no"]) == 0
    before = history.current_template(aws, STACK)
    real = account.describe

    def rolled_back(session: Any, name: str) -> Any:
        stack = real(session, name)
        return stack and account.Stack("UPDATE_ROLLBACK_COMPLETE", "03:10", stack.parameters, stack.tags)

    monkeypatch.setattr(account, "describe", rolled_back)
    assert command.main(["staging", PARAMETERS, "no"]) == 0
    assert history.current_template(aws, STACK) != before


def test_a_change_that_was_declined_is_not_recorded(aws: Account, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM ends with 0 then, whether there is a stack, that of an earlier release, or none."""
    fake_sam(built, monkeypatch)
    assert command.main(["staging", PARAMETERS, ""]) == 0
    aws.deploy(TEMPLATE + "of-an-earlier-release", {"MerchantId": "m1"})
    assert command.main(["staging", PARAMETERS, ""]) == 0
    assert history.History(aws, target_with()).all() == []


def test_a_deployment_that_fails_is_not_recorded(aws: Account, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sam(built, monkeypatch, code=7)
    assert command.main(["staging", PARAMETERS, "no"]) == 7
    assert history.History(aws, target_with()).all() == []


def test_what_stops_a_deployment_is_one_line(aws: Account, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nowhere", "", "no"]) == 1
    assert capsys.readouterr().err.startswith("make deploy: samconfig.toml has no environment 'nowhere'")
