"""`make secrets` finds planted secrets. They are generated when the test runs, because this file is scanned too."""

from __future__ import annotations

import random
import shutil
import string
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from checks import secret_scan
from checks.pins import ROOT
from checks.secret_scan import Finding, digest, problems, scan

RANDOM = random.Random("secrets")  # a seed, because a scan by entropy misses a few of thousands of random values
ALPHANUMERIC = string.ascii_letters + string.digits


def drawn(length: int, characters: str = ALPHANUMERIC) -> str:
    return "".join(RANDOM.choices(characters, k=length))


UUID = "-".join(drawn(length, "0123456789abcdef") for length in (8, 4, 4, 4, 12))
SECRET_KEY = drawn(40)
AWS_KEY = "AKIA" + drawn(16, string.ascii_uppercase + "234567")
PRIVATE_KEY = f"-----BEGIN {'PRIVATE'} KEY-----\n{drawn(64)}\n-----END {'PRIVATE'} KEY-----\n"
GITHUB = "ghp_" + drawn(36)


def appended(name: str, text: str) -> str:
    return f"{(ROOT / name).read_text(encoding='utf-8')}\n{text}\n"


def replaced(name: str, old: str, new: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert old in text
    return text.replace(old, new, 1)


PLANTED = {
    "keys.json": f'{{"secretKey": "{SECRET_KEY}"}}\n',
    "api-key.json": f'{{"apiKey": "{UUID}"}}\n',
    "key.pem": PRIVATE_KEY,
    "layers/indodana/indodana/client.py": appended("layers/indodana/indodana/client.py", f'KEY = "{AWS_KEY}"'),
    "with-a-pragma.py": f'KEY = "{AWS_KEY}"  # pragma: {"allowlist"} secret\n',
    "samconfig.toml": appended("samconfig.toml", f'secret_key = "{SECRET_KEY}"'),
    "Makefile": appended("Makefile", f"export INDODANA_SECRET_KEY={SECRET_KEY}"),
    "README.md": appended("README.md", f"    curl -H 'Authorization: token {GITHUB}'"),
    "template.yaml": appended("template.yaml", f"# aws_access_key_id = {AWS_KEY}"),
    "docs/openapi.yaml": appended("docs/openapi.yaml", f"# aws_access_key_id = {AWS_KEY}"),
    "values.yaml": f"Secret:\n  SecretString: {SECRET_KEY}\n",
    "events/status_check/paid.json": replaced(
        "events/status_check/paid.json", '"version"', f'"secret": "{SECRET_KEY}", "version"'
    ),
    "tests/transport/signature-vectors.json": replaced(
        "tests/transport/signature-vectors.json", "merchant-secret", f"merchant-secret{SECRET_KEY}"
    ),
    "docs/swagger.yaml": f"secretKey: {SECRET_KEY}\n",
    "package-lock.json": f'{{"token": "{SECRET_KEY}"}}\n',
    "requirements/run.txt": appended("requirements/run.txt", f"# api_key = {SECRET_KEY}"),
}
CLEAN = {"notes.md": "The secret is in Secrets Manager.\n", "functions/handler.py": 'SECRET_KEY = settings["secret"]\n',
         "requirements/dev.txt": f"six==1.17.0 \\\n    --hash=sha256:{drawn(64, '0123456789abcdef')}\n"}  # fmt: skip
UNTRACKED = "keys-of-my-own.json"


def repository(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    root = repository(tmp_path_factory.mktemp("planted"), PLANTED | CLEAN)
    (root / UNTRACKED).write_text(PLANTED["keys.json"])
    return scan(root)


@pytest.fixture(scope="module")
def listed() -> list[str]:
    return secret_scan.listed_values(ROOT)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_secret_is_found(found: list[Finding], listed: list[str], name: str) -> None:
    known = {digest(value) for value in listed}
    assert [finding for finding in found if finding.path == name and finding.digest not in known] != []


def test_scan_finds_nothing_in_clean_or_untracked_files(found: list[Finding]) -> None:
    assert {finding.path for finding in found} <= set(PLANTED)


def test_finding_shows_place_and_kind_but_never_the_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = {"one.py": f'\nKEY = "{AWS_KEY}"\n', str(secret_scan.NOT_SECRETS): "not_secret = []\n"}
    assert secret_scan.main(repository(tmp_path, files)) == 1
    said = capfd.readouterr().err
    assert "one.py:2: AWS Access Key\n" in said
    assert AWS_KEY not in said


def test_value_listed_with_a_reason_passes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listed = f'[[not_secret]]\nwhy = "Made up for a test."\nvalues = ["{AWS_KEY}"]\n'
    files = {"one.py": f'KEY = "{AWS_KEY}"\n', str(secret_scan.NOT_SECRETS): listed}
    assert secret_scan.main(repository(tmp_path, files)) == 0
    assert capfd.readouterr().err == ""


def test_list_allows_only_the_exact_value() -> None:
    findings = [Finding("one.py", 1, "AWS Access Key", digest(AWS_KEY)), Finding("two.py", 1, "Hex", digest("other"))]
    assert problems(findings, [AWS_KEY]) == ["two.py:1: Hex"]
    assert problems(findings, [AWS_KEY, "other"]) == []


def test_listed_value_that_is_no_longer_found_is_reported() -> None:
    in_the_list_only = [Finding(str(secret_scan.NOT_SECRETS), 1, "Hex", digest("gone"))]
    assert problems(in_the_list_only, ["gone"]) == ["checks/not_secrets.toml: 'gone' is no longer found; remove it"]


@pytest.mark.parametrize("why", ["", 'why = ""\n'])
def test_listed_value_without_a_reason_is_refused(tmp_path: Path, why: str) -> None:
    (tmp_path / secret_scan.NOT_SECRETS).parent.mkdir()
    (tmp_path / secret_scan.NOT_SECRETS).write_text(f'[[not_secret]]\n{why}values = ["{AWS_KEY}"]\n')
    with pytest.raises(secret_scan.SecretScanError, match="why"):
        secret_scan.listed_values(tmp_path)


def test_scan_outside_a_repository_fails(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "checks", tmp_path / "checks", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.raises(subprocess.CalledProcessError):
        secret_scan.main(tmp_path)
