"""The example for GitHub Actions: tests, staging, an approval, production; with a role by OIDC and no stored key."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import yaml

from devstack.samconfig import ROOT

TEXT = (ROOT / "deploy/github/deploy.yml").read_text()
WORKFLOW: dict[str, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, Any] = WORKFLOW["jobs"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_production_follows_staging_and_staging_follows_the_tests() -> None:
    assert {name: job.get("needs") for name, job in JOBS.items()} == {
        "test": None,
        "staging": "test",
        "production": "staging",
    }
    samconfig = tomllib.loads((ROOT / "samconfig.toml").read_text())
    for name in ("staging", "production"):
        # The environment's protection rules hold the approval, and its name is in the token that the role trusts.
        assert JOBS[name]["environment"] == name
        assert "deploy" in samconfig[name]
        assert list(JOBS[name]["permissions"].items()) == [("contents", "read"), ("id-token", "write")]
    assert "environment" not in JOBS["test"]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is False


def test_its_commands_are_targets_and_wait_for_no_terminal() -> None:
    commands = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]
    assert {command.split()[1] for command in commands} <= TARGETS
    for name in ("staging", "production"):
        assert JOBS[name]["steps"][-1]["run"] == f"make deploy ENVIRONMENT={name} CONFIRM=no"


def test_every_action_is_pinned_to_a_commit() -> None:
    uses = re.findall(r"uses: (\S+)", TEXT)
    assert uses
    assert [each for each in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each)] == []
    # The same commits as in the project's own workflow, where both use an action.
    own = dict(re.findall(r"uses: ([\w/-]+)@(\w+)", (ROOT / ".github/workflows/test.yml").read_text()))
    used = dict(each.split("@") for each in uses)
    assert {name: commit for name, commit in used.items() if own.get(name, commit) != commit} == {}


def test_no_key_is_stored() -> None:
    assert "secrets." not in TEXT
    assert not re.search(r"access.key", TEXT, re.IGNORECASE)


def test_the_role_trusts_one_environment_of_one_repository() -> None:
    policy = json.loads((ROOT / "deploy/github/trust-policy.json").read_text())
    [statement] = policy["Statement"]
    assert statement["Action"] == "sts:AssumeRoleWithWebIdentity"
    condition = statement["Condition"].pop("StringEquals")
    assert statement["Condition"] == {}
    issuer = "token.actions.githubusercontent.com"
    assert condition == {
        f"{issuer}:aud": "sts.amazonaws.com",
        f"{issuer}:sub": "repo:<owner>/<repository>:environment:<environment>",
    }
