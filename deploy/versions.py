"""Delete old versions of the stack's functions. CloudFormation keeps every version that it publishes.

python -m deploy.versions staging 3 "no"     environment, KEEP, CONFIRM

Kept are the newest KEEP versions of each function, and whatever an alias sends traffic to.
"""

from __future__ import annotations

import sys

from botocore.exceptions import BotoCoreError, ClientError

from deploy import account
from deploy.confirm import ask
from deploy.target import DeployError, load_target


def functions(aws: account.Session, stack: str) -> list[str]:
    pages = aws.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
    return [
        resource["PhysicalResourceId"]
        for page in pages
        for resource in page["StackResourceSummaries"]
        if resource["ResourceType"] == "AWS::Lambda::Function"
    ]


def in_use(aws: account.Session, function: str) -> set[str]:
    """The versions to which an alias sends traffic, a part of it included."""
    pages = aws.client("lambda").get_paginator("list_aliases").paginate(FunctionName=function)
    aliases = [alias for page in pages for alias in page["Aliases"]]
    shifting = [alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}) for alias in aliases]
    return {alias["FunctionVersion"] for alias in aliases} | {version for weights in shifting for version in weights}


def old_versions(aws: account.Session, function: str, keep: int) -> list[str]:
    """The oldest first."""
    pages = aws.client("lambda").get_paginator("list_versions_by_function").paginate(FunctionName=function)
    found = sorted(int(each["Version"]) for page in pages for each in page["Versions"] if each["Version"] != "$LATEST")
    used = in_use(aws, function)
    return [str(version) for version in found[:-keep] if str(version) not in used]


def prune(environment: str, keep: str, confirm: str) -> None:
    if not keep.isdecimal() or int(keep) < 1:
        raise DeployError(f"KEEP is {keep!r}; it must be a number of versions, at least 1")
    target = load_target(environment, "")
    aws = account.session(target)
    account.identity(aws, target.region)
    stack = account.describe(aws, target.stack)
    if stack is None:
        raise DeployError(f"there is no stack {target.stack} in {target.region}")
    if stack.status.endswith("_IN_PROGRESS"):  # it may be going back to a version that no alias names yet
        raise DeployError(
            f"{target.stack} is being changed ({stack.status}): wait until it ends, then repeat the command"
        )
    old = {function: old_versions(aws, function, int(keep)) for function in functions(aws, target.stack)}
    for function, versions in old.items():
        print(f"{function}: {'versions ' + ', '.join(versions) if versions else 'nothing to delete'}")
    if not any(old.values()):
        return
    ask("Delete these versions?", confirm)
    client = aws.client("lambda")
    for function, versions in old.items():
        for version in versions:
            client.delete_function(FunctionName=function, Qualifier=version)
    print(f"Deleted {sum(map(len, old.values()))} versions.")


def main(arguments: list[str]) -> int:
    try:
        prune(*arguments)
    except (DeployError, ClientError, BotoCoreError) as error:
        print(f"make prune-versions: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
