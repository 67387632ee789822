"""The values of all parameters of a deployment, and the stamp that makes a changed one count."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.target import DeployError, Target
from devstack.cloudformation import Document, Resolver
from devstack.errors import TemplateError
from devstack.samconfig import ROOT

TEMPLATE = ROOT / "template.yaml"
UNSTAMPED = "CONFIGURATION: unstamped"
STAMP = re.compile(r"\bCONFIGURATION: [\w-]+")


def all_values(target: Target, path: Path = TEMPLATE) -> dict[str, str]:
    """What the target gives, and the template's defaults for the rest. Raises DeployError where the template refuses.

    All of them are deployed: SAM would keep the earlier value of one that is not given, so that a value given once on
    the command line would stay, and no file would say so.
    """
    try:
        document = Document.load(path, region=target.region, stack_name=target.stack, overrides=target.given)
        for name in target.given:
            if name not in document.parameters:
                raise TemplateError(f"{name} is given, which {path.name} does not declare")
        Resolver(document, {}).check_rules()
    except TemplateError as error:
        raise DeployError(str(error)) from error
    return {name: str(value) for name, value in document.parameters.items()}


def log_groups(target: Target, path: Path = TEMPLATE) -> list[str]:
    """The names of the stack's log groups, which outlive it."""
    document = Document.load(path, region=target.region, stack_name=target.stack, overrides=target.given)
    resolver = Resolver(document, {})
    return [
        str(resolver.resolve(resolver.properties(group)["LogGroupName"], group))
        for group in resolver.of_type("AWS::Logs::LogGroup")
    ]


def stamp(values: Mapping[str, str], salt: str = "") -> str:
    """A digest of all parameters. The salt makes a version of what was published before and rolled back: Lambda
    publishes no version that is like the last one, and the deployment would fail."""
    text = json.dumps([salt, sorted(values.items())])
    return f"configuration-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def stamped(template: str, value: str) -> str:
    """The template with the stamp in the functions' environment."""
    written, count = STAMP.subn(f"CONFIGURATION: {value}", template)
    if count != 1:
        raise DeployError(f"the template has {count} places for the stamp, not one: {UNSTAMPED} in Globals")
    return written


def as_cloudformation(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
