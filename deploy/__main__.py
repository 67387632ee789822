"""Deploy what `make build` built.

python -m deploy staging "A=b" "no"     environment, PARAMETERS, CONFIRM
"""

from __future__ import annotations

import json
import subprocess
import sys

from botocore.exceptions import BotoCoreError, ClientError

from deploy import account, history, parameters
from deploy.target import DeployError, Target, load_target
from devstack.samconfig import ROOT

BUILT = ROOT / ".aws-sam" / "build"


def commit() -> str:
    """Of the working copy; "-dirty" where a file differs from it. Empty outside a repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--tags"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def sam_deploy(target: Target, values: dict[str, str], confirm: str) -> int:
    # A file: on SAM's command line a value would be read as shell words.
    given = BUILT / "parameters.yaml"
    given.write_text(json.dumps(values, indent=1), encoding="utf-8")
    command = ["sam", "deploy", "--config-env", target.environment, "--no-fail-on-empty-changeset"]
    command += ["--parameter-overrides", given.as_uri()]
    command += ["--no-confirm-changeset"] if confirm == "no" else []
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def deploy(environment: str, given: str, confirm: str) -> int:
    target = load_target(environment, given)
    values = parameters.all_values(target)
    aws = account.session(target)
    stack = account.describe(aws, target.stack)
    # What was published and rolled back is still there as a version, and the same again would be none.
    salt = stack.changed if stack and stack.was_rolled_back else ""
    template = BUILT / "template.yaml"
    stamp = parameters.stamp(values, salt)
    template.write_text(parameters.stamped(template.read_text(encoding="utf-8"), stamp), encoding="utf-8")

    if code := sam_deploy(target, values, confirm):
        return code
    record(aws, target, stamp)
    return 0


def record(aws: account.Session, target: Target, stamp: str) -> None:
    """For `make rollback`. Nothing is recorded where nothing was changed, or the change set was declined."""
    stack = account.describe(aws, target.stack)
    if stack is None:
        return
    template = history.current_template(aws, target.stack)
    if stamp not in template:
        return
    kept = history.History(aws, target)
    if history.is_recorded(kept, kept.all(), stack, template):
        return
    deployment = history.Deployment(history.now(), commit(), dict(stack.parameters), dict(stack.tags))
    kept.record(deployment, template)
    at = history.in_wib(deployment.at)
    print(f"Recorded in s3://{kept.bucket} as of {at}; make rollback goes back to the one before.")


def main(arguments: list[str]) -> int:
    environment, given, confirm = arguments
    try:
        return deploy(environment, given, confirm)
    except (DeployError, ClientError, BotoCoreError) as error:
        print(f"make deploy: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
