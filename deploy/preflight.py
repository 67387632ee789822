"""What `make deploy` looks at first, in about a second.

python -m deploy.preflight staging "A=b" "no"     environment, PARAMETERS, CONFIRM
"""

from __future__ import annotations

import sys

from deploy import account, parameters
from deploy.target import DeployError, load_target, placeholders


def look(environment: str, given: str, confirm: str) -> list[str]:
    """What is missing. Raises DeployError where it cannot look on."""
    target = load_target(environment, given)
    found = placeholders(target)
    if found:
        return found
    values = parameters.all_values(target)
    if confirm != "no" and not sys.stdin.isatty():
        found.append("there is no terminal to confirm the change set at: CONFIRM=no deploys without asking")
    aws = account.session(target)
    caller = account.identity(aws, target.region)
    found += account.flaws(aws, target, values, parameters.log_groups(target))
    if not found:
        print(f"Deploying {target.stack} in {target.region} as {caller}")
    return found


def main(arguments: list[str]) -> int:
    environment, given, confirm = arguments
    try:
        found = look(environment, given, confirm)
    except DeployError as error:
        found = [str(error)]
    if found:
        print(f"Nothing is deployed to {environment}:", *(f"  {each}" for each in found), sep="\n", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
