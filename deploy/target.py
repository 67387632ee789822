"""What is deployed where: an environment of samconfig.toml, and the parameters given on the command line.

python -m deploy.target staging "A=b"     say what is missing in them, before anything is installed or asked

Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import TemplateError
from devstack.samconfig import ROOT, load_samconfig, parse_overrides

SAMCONFIG = ROOT / "samconfig.toml"
PLACEHOLDER = re.compile(r"<[^<>]*>")


class DeployError(Exception):
    """What stops a deployment, in words that say what to do."""


@dataclass(frozen=True)
class Target:
    environment: str
    stack: str
    region: str
    profile: str | None
    given: Mapping[str, str]
    """The parameters of samconfig.toml and, over them, of the command line; without the template's defaults."""


def load_target(environment: str, parameters: str, path: Path = SAMCONFIG) -> Target:
    try:
        config = load_samconfig(path, environment)
        given = parse_overrides(parameters, "PARAMETERS")
    except TemplateError as error:
        raise DeployError(str(error)) from error
    if environment not in config.deployed:
        known = ", ".join(config.deployed)
        raise DeployError(f"{path.name} has no environment {environment!r} to deploy; it has {known or 'none'}")
    return Target(environment, config.stack_name, config.region, config.profile, {**config.parameters, **given})


def placeholders(target: Target) -> list[str]:
    """Of the parameters whose values must still be replaced, and the stack's own name."""
    named = {"stack_name": target.stack, "region": target.region, **target.given}
    return [f"{name} is still {value}" for name, value in named.items() if PLACEHOLDER.search(value)]


def main(arguments: list[str]) -> int:
    environment, parameters = arguments
    try:
        found = placeholders(load_target(environment, parameters))
    except DeployError as error:
        print(error, file=sys.stderr)
        return 1
    if found:
        print(f"Nothing is deployed to {environment}. Replace in {SAMCONFIG.name}:", file=sys.stderr)
        print(*(f"  {each}" for each in found), sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
