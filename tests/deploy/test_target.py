"""What `make deploy` says before anything is installed, built or asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import preflight, target
from deploy.target import DeployError, load_target, placeholders
from devstack.samconfig import ROOT

FILLED = "MerchantId=m1 JwtIssuer=https://issuer.example JwtAudience=gateway"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """As in a shell without a terminal and without credentials."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MAKE"))}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/none", "HOME": "/none"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("make", "--no-print-directory", f"PYTHON={sys.executable}", *arguments)


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_make_deploy_names_every_placeholder_and_stops(environment: str) -> None:
    done = make("deploy", f"ENVIRONMENT={environment}")
    assert done.returncode != 0
    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert said[0] == f"Nothing is deployed to {environment}. Replace in samconfig.toml:"
    expected = [f"  {each}" for each in placeholders(load_target(environment, ""))]
    assert len(expected) >= 3
    assert said[1 : len(expected) + 1] == expected


def test_make_deploy_says_which_environments_there_are() -> None:
    done = make("deploy", "ENVIRONMENT=prod")
    assert done.returncode != 0
    assert "samconfig.toml has no environment 'prod' to deploy; it has staging, production" in done.stderr


def test_a_deployment_without_credentials_says_what_to_do() -> None:
    done = run(sys.executable, "-m", "deploy.preflight", "staging", FILLED, "no")
    assert done.returncode == 1
    assert done.stderr.startswith("Nothing is deployed to staging:\n  there are no AWS credentials: sign in")


def test_parameters_of_the_command_line_stand_over_the_files(tmp_path: Path) -> None:
    path = tmp_path / "samconfig.toml"
    path.write_text(
        '[a.global.parameters]\nregion = "eu-west-1"\n[a.deploy.parameters]\nstack_name = "s"\nprofile = "p"\n'
        'parameter_overrides = ["A=1", "B=<b>"]\n'
    )
    found = load_target("a", "B=2 C=3", path)
    assert (found.stack, found.region, found.profile, found.given) == (
        "s",
        "eu-west-1",
        "p",
        {"A": "1", "B": "2", "C": "3"},
    )
    assert placeholders(found) == []
    assert placeholders(load_target("a", "", path)) == ["B is still <b>"]


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(DeployError, match="'JwtIssuer', which is not Name=value"):
        load_target("staging", "JwtIssuer")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("Typo=1", "Typo is given, which template.yaml does not declare"),
        ("DeploymentAlarms=maybe", "DeploymentAlarms is 'maybe', not one of on, off"),
        ("JwtIssuer=", "JwtIssuer must be set unless CreateUserPool is yes"),
    ],
)
def test_what_the_template_refuses_is_said_before_aws_is_asked(
    given: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.account.session", lambda target: pytest.fail("AWS was asked"))
    with pytest.raises(DeployError, match=said):
        preflight.look("staging", f"{FILLED} {given}", "no")


def test_the_look_at_the_files_needs_the_standard_library_only() -> None:
    """It runs before anything is installed."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "deploy.target", "staging", FILLED], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert target.main(["staging", ""]) == 1
