"""Go back to the deployment before: its template, its code and its parameters, for all functions at once.

python -m deploy.rollback staging "no"     environment, CONFIRM

CloudFormation makes it, as a deployment like any other, so that the stack does not drift from its template. Nothing is
built: the template names the code in the bucket.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, WaiterError

from deploy import account, history, parameters, tables
from deploy.confirm import ask
from deploy.target import DeployError, load_target

AT_ONCE = {"DeploymentPreference": "AllAtOnce"}
"""What had all the traffic before needs no tenth of it first."""
POLL_SECONDS = 10
LONGEST_SECONDS = 3600


def to_restore(aws: account.Session, stack: account.Stack, name: str, kept: history.History) -> history.Deployment:
    """Raises DeployError where nothing is recorded to go back to."""
    deployments = kept.all()
    if not deployments:
        raise DeployError(
            f"s3://{kept.bucket} has no deployment of {name}; check out the release before, and make deploy"
        )
    if not history.is_recorded(kept, deployments, stack, history.current_template(aws, name)):
        return history.last(deployments)  # what the stack has now was not deployed by make deploy
    found = history.before(deployments)
    if found is None:
        first = history.in_wib(history.last(deployments).at)
        raise DeployError(f"no deployment of {name} is recorded before that of {first}")
    return found


def with_the_stacks_tables(wanted: history.Deployment, stack: account.Stack) -> history.Deployment:
    """Code and the other parameters go back, and the refunds stay: the deployment before may be older than a restored
    table. Raises DeployError where the wanted template would create an empty one."""
    tables_in_use = tables.in_use(stack.parameters)
    for name, table in tables_in_use.items():
        if name not in wanted.parameters:
            raise DeployError(
                f"the stack uses the table {table}; the deployment of {history.in_wib(wanted.at)} does not have {name} "
                "and would create an empty table. Deploy a newer release instead"
            )
    return replace(wanted, parameters={**wanted.parameters, **tables_in_use})


def restore(aws: account.Session, name: str, kept: history.History, wanted: history.Deployment) -> None:
    cloudformation = aws.client("cloudformation")
    at = history.now()
    # A stamp of its own: what was published before is still there as a version, and the same again would be none.
    template = parameters.stamped(kept.template(wanted), f"rollback-{at}")
    values = {**wanted.parameters, **AT_ONCE}
    change: dict[str, Any] = cloudformation.create_change_set(
        StackName=name,
        ChangeSetName=f"rollback-{at}",
        ChangeSetType="UPDATE",
        TemplateURL=kept.keep_template(at, template),
        Parameters=parameters.as_cloudformation(values),
        Tags=[{"Key": key, "Value": value} for key, value in wanted.tags.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    _wait(cloudformation, "change_set_create_complete", ChangeSetName=change["Id"])
    cloudformation.execute_change_set(ChangeSetName=change["Id"])
    _wait(cloudformation, "stack_update_complete", StackName=name)
    kept.record(
        replace(wanted, at=at, parameters=values, restores=wanted.restores or wanted.at),
        history.current_template(aws, name),
    )


def _wait(cloudformation: Any, what: str, **arguments: str) -> None:
    attempts = LONGEST_SECONDS // POLL_SECONDS
    try:
        cloudformation.get_waiter(what).wait(**arguments, WaiterConfig={"Delay": POLL_SECONDS, "MaxAttempts": attempts})
    except WaiterError as error:
        last: Any = error.last_response or {}
        stacks = last.get("Stacks") or [last]
        reason = stacks[0].get("StatusReason") or stacks[0].get("StackStatusReason") or stacks[0].get("StackStatus")
        raise DeployError(
            f"CloudFormation did not finish ({what}): {reason or error}. See the stack's events"
        ) from error


def rollback(environment: str, confirm: str) -> None:
    target = load_target(environment, "")
    aws = account.session(target)
    account.identity(aws, target.region)
    stack = account.describe(aws, target.stack)
    if stack is None:
        raise DeployError(f"there is no stack {target.stack} in {target.region}")
    if refused := account.not_deployable(target.stack, stack):
        raise DeployError(refused)
    if stack.was_rolled_back:
        print(f"The last deployment of {target.stack} failed, and CloudFormation has taken it back already.")
    kept = history.History(aws, target)
    wanted = with_the_stacks_tables(to_restore(aws, stack, target.stack, kept), stack)
    at = history.in_wib(wanted.at)
    print(f"{target.stack} goes back to the deployment of {at}, commit {wanted.commit or 'not known'}.")
    changed = {
        f"{name} = {value or '(empty)'}"
        for name, value in wanted.parameters.items()
        if stack.parameters.get(name) != value
    }
    print(*(f"  {each}" for each in sorted(changed)), sep="\n", end="\n" if changed else "")
    ask("Go back?", confirm)
    restore(aws, target.stack, kept, wanted)
    print(f"{target.stack} is as it was deployed at {history.in_wib(wanted.at)}; all traffic goes there.")


def main(arguments: list[str]) -> int:
    environment, confirm = arguments
    try:
        rollback(environment, confirm)
    except (DeployError, ClientError, BotoCoreError) as error:
        print(f"make rollback: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
