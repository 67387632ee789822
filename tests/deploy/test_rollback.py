"""`make rollback` goes back to the deployment before, by CloudFormation and for all functions at once."""

from __future__ import annotations

from typing import Any

import pytest

from deploy import account, history, rollback
from deploy.target import DeployError, Target
from tests.deploy.conftest import STACK, Account

TEMPLATE = """
Description: COLOUR
Parameters:
  Colour: {Type: String}
  DeploymentPreference: {Type: String}
Resources:
  Queue: {Type: AWS::SQS::Queue}
# CONFIGURATION: configuration-COLOUR"""


class Times:
    def __init__(self) -> None:
        self.next = 0

    def __call__(self) -> str:
        self.next += 1
        return f"2026-11-28T0300{self.next:02}Z"


@pytest.fixture(autouse=True)
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "now", Times())


def deploy(aws: Account, target: Target, colour: str, *, recorded: bool = True) -> None:
    template = TEMPLATE.replace("COLOUR", colour)
    values = {"Colour": colour, "DeploymentPreference": "Canary10Percent5Minutes"}
    aws.deploy(template, values)
    if recorded:
        kept = history.History(aws, target)
        kept.record(history.Deployment(history.now(), f"commit-{colour}", values, {"Colour": colour}), template)


class Spy:
    """Notes what a change set is made of."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.asked: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_change_set(self, **asked: Any) -> Any:
        self.asked = asked
        return self._client.create_change_set(**asked)


def go_back() -> None:
    rollback.rollback("staging", "no")


def colour(aws: Account) -> str:
    """Of what the stack has now: its parameter, and the template that says the same."""
    found = aws.stack().parameters["Colour"]
    assert f"Description: {found}\n" in history.current_template(aws, STACK)
    return found


def test_going_back_restores_template_parameters_and_tags(aws: Account, target: Target) -> None:
    deploy(aws, target, "blue")
    deploy(aws, target, "red")
    spy = Spy(aws.client("cloudformation"))
    aws.replaced["cloudformation"] = spy
    go_back()
    assert colour(aws) == "blue"
    assert spy.asked["Tags"] == [{"Key": "Colour", "Value": "blue"}]  # moto forgets them
    assert (spy.asked["ChangeSetType"], spy.asked["Capabilities"]) == ("UPDATE", ["CAPABILITY_IAM"])
    # A version of its own: Lambda publishes none that is like an earlier one, and CloudFormation would fail.
    assert "CONFIGURATION: rollback-2026-11-28T030003Z" in history.current_template(aws, STACK)
    # Not a tenth of the traffic first: it had all of it.
    assert aws.stack().parameters["DeploymentPreference"] == "AllAtOnce"


def test_going_back_twice_goes_further_back_and_not_to_what_was_left(aws: Account, target: Target) -> None:
    for each in ("green", "blue", "red"):
        deploy(aws, target, each)
    go_back()
    go_back()
    assert colour(aws) == "green"
    with pytest.raises(DeployError, match=r"no deployment of .* is recorded before that of 2026-11-28 10:00:01 WIB"):
        go_back()
    assert colour(aws) == "green"


def test_a_deployment_after_going_back_can_be_left_for_the_same(aws: Account, target: Target) -> None:
    deploy(aws, target, "blue")
    deploy(aws, target, "red")
    go_back()
    deploy(aws, target, "purple")
    go_back()
    assert colour(aws) == "blue"
    last = history.History(aws, target).all()[-1]
    assert (last.restores, last.commit) == ("2026-11-28T030001Z", "commit-blue")


def test_what_was_deployed_otherwise_is_left_for_the_last_record(aws: Account, target: Target) -> None:
    deploy(aws, target, "blue")
    deploy(aws, target, "red", recorded=False)
    go_back()
    assert colour(aws) == "blue"


WITH_TABLE = TEMPLATE.replace("Resources:", "  ExistingLedgerTable: {Type: String}\nResources:")


def deploy_with_table(aws: Account, target: Target, colour: str, table: str) -> None:
    template = WITH_TABLE.replace("COLOUR", colour)
    values = {"Colour": colour, "DeploymentPreference": "AllAtOnce", "ExistingLedgerTable": table}
    aws.deploy(template, values)
    history.History(aws, target).record(history.Deployment(history.now(), "", values, {}), template)


def test_going_back_keeps_a_ledger_that_was_restored_since(aws: Account, target: Target) -> None:
    deploy_with_table(aws, target, "blue", "")
    deploy_with_table(aws, target, "red", "ledger-restored")
    go_back()
    assert colour(aws) == "blue"
    assert aws.stack().parameters["ExistingLedgerTable"] == "ledger-restored"


def test_going_back_to_a_release_without_the_parameter_is_refused(aws: Account, target: Target) -> None:
    deploy(aws, target, "blue")
    deploy_with_table(aws, target, "red", "ledger-restored")
    with pytest.raises(DeployError, match=r"uses the table ledger-restored; .* would create an empty table"):
        go_back()
    assert colour(aws) == "red"


def test_going_back_asks_and_says_what_will_be(
    aws: Account, target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy(aws, target, "blue")
    deploy(aws, target, "red")
    questions: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

    def answer(question: str) -> str:
        questions.append(question)
        return "n"

    monkeypatch.setattr("builtins.input", answer)
    assert rollback.main(["staging", ""]) == 1
    said = capsys.readouterr()
    assert (
        said.out
        == f"{STACK} goes back to the deployment of 2026-11-28 10:00:01 WIB, commit commit-blue.\n  Colour = blue\n"
    )
    assert said.err == "make rollback: nothing was changed\n"
    assert questions == ["Go back? [y/N] "]
    assert colour(aws) == "red"

    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert rollback.main(["staging", ""]) == 0
    assert colour(aws) == "blue"


def test_without_a_terminal_it_goes_back_only_with_confirm_no(
    aws: Account, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(aws, target, "blue")
    deploy(aws, target, "red")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(DeployError, match="CONFIRM=no goes on without asking"):
        rollback.rollback("staging", "")
    assert colour(aws) == "red"


def test_where_nothing_is_recorded_the_way_back_is_said(aws: Account, target: Target) -> None:
    with pytest.raises(DeployError, match=f"there is no stack {STACK}"):
        go_back()
    deploy(aws, target, "blue", recorded=False)
    with pytest.raises(DeployError, match="check out the release before, and make deploy"):
        go_back()
    aws.client("cloudformation").delete_stack(StackName=history.SAM_STACK)
    with pytest.raises(DeployError, match="does not name its bucket"):
        go_back()


def test_another_stacks_deployments_are_not_gone_back_to(aws: Account, target: Target) -> None:
    other = Target("production", f"{STACK}-2", target.region, None, {})
    history.History(aws, other).record(history.Deployment(history.now(), "", {}, {}), TEMPLATE)
    deploy(aws, target, "blue")
    with pytest.raises(DeployError, match="no deployment of"):
        go_back()


def test_a_failure_of_cloudformations_is_said(aws: Account, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(aws, target, "blue")
    deploy(aws, target, "red")
    monkeypatch.setattr(rollback, "POLL_SECONDS", 1)
    client = aws.client("cloudformation")
    real = client.describe_change_set

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def get_waiter(self, name: str) -> Any:
            assert name == "change_set_create_complete"
            return waiter

    def failed(**arguments: Any) -> Any:
        return real(**arguments) | {"Status": "FAILED", "StatusReason": "Role r cannot be assumed"}

    monkeypatch.setattr(client, "describe_change_set", failed)
    waiter = client.get_waiter("change_set_create_complete")
    aws.replaced["cloudformation"] = Failing()
    with pytest.raises(DeployError, match=r"did not finish .change_set_create_complete.: Role r cannot be assumed"):
        go_back()
    assert len(history.History(aws, target).all()) == 2


def test_that_a_failed_deployment_was_taken_back_already_is_said(
    aws: Account, target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy(aws, target, "blue")
    deploy(aws, target, "red")
    found = aws.stack()
    taken_back = account.Stack("UPDATE_ROLLBACK_COMPLETE", found.changed, found.parameters, found.tags)
    monkeypatch.setattr(account, "describe", lambda session, name: taken_back)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert rollback.main(["staging", ""]) == 1
    said = f"The last deployment of {STACK} failed, and CloudFormation has taken it back already."
    assert capsys.readouterr().out.startswith(said)
