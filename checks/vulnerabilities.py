"""Audits every package of the requirements files for known vulnerabilities with pip-audit and OSV.

    python -m checks.vulnerabilities [--strict]

`make audit` says so where OSV cannot be reached, and succeeds: CI may have no network. `make audit-strict`, which a
deployment needs, fails then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import requests

from checks.pins import LOCKED, ROOT, normalized, pins

PIP_AUDIT = ROOT / ".venv-checkov" / "bin" / "pip-audit"
ACCEPTED = Path("checks/accepted_vulnerabilities.toml")
OSV_URL = "https://api.osv.dev/v1/query"
PROBE_TIMEOUT_SECONDS = 10
# pip-audit sends one request per package, each with a timeout of 15 seconds.
AUDIT_TIMEOUT_SECONDS = 1200

Pin = tuple[str, str]
"""A normalized name and a version."""


class AcceptedError(Exception):
    """The list of accepted vulnerabilities has an entry without its id, its reason or its last day."""


def why_unreachable(osv_url: str) -> str | None:
    """Asked before pip-audit, whose exit code is 1 alike for a vulnerability, no network and its own failures."""
    question = {"package": {"name": "requests", "ecosystem": "PyPI"}, "version": requests.__version__}
    try:
        answer = requests.post(osv_url, json=question, timeout=PROBE_TIMEOUT_SECONDS)
    except (requests.ConnectionError, requests.Timeout) as error:
        return str(error)
    return f"HTTP status {answer.status_code}" if answer.status_code >= 500 else None


def pinned(files: Iterable[Path]) -> set[Pin]:
    return {(normalized(name), version) for file in files for name, version in pins(file).items()}


def without_repetition(wanted: Iterable[Pin]) -> Iterator[dict[str, str]]:
    """pip-audit refuses a package in two versions, and the tools' venvs have other versions than the functions."""
    left = sorted(wanted)
    while left:
        chosen = dict(left)
        left = [pin for pin in left if pin not in chosen.items()]
        yield chosen


def accepted(root: Path, today: date) -> list[str]:
    """The ids that are accepted today. Raises AcceptedError."""
    ids = []
    for entry in tomllib.loads((root / ACCEPTED).read_text(encoding="utf-8")).get("accepted", []):
        given = {name: entry.get(name) for name in ("id", "why", "until")}
        if not all(given.values()) or not isinstance(given["until"], date):
            raise AcceptedError(f"{ACCEPTED}: an entry needs id, why and until (a day): {entry}")
        if today <= given["until"]:
            ids.append(str(given["id"]))
    return ids


def not_audited(wanted: set[Pin], report: list[dict[str, Any]]) -> dict[str, str]:
    """The packages that the report skips or lacks, and why: pip-audit exits with 0 even if it skips all."""
    audited = {(normalized(package["name"]), package["version"]) for package in report if "skip_reason" not in package}
    reasons = {normalized(package["name"]): package.get("skip_reason") for package in report}
    return {f"{name} {version}": reasons.get(name) or "not in its report" for name, version in wanted - audited}


def audit(
    files: Iterable[Path] = LOCKED,
    osv_url: str = OSV_URL,
    *,
    strict: bool = False,
    root: Path = ROOT,
    today: date | None = None,
) -> int:
    """The exit code: 1 for a vulnerability, a package that was not audited, or a failure.

    0 where nothing is known; and, unless `strict`, where OSV is unreachable.
    """
    wanted = pinned(root / file for file in files)
    ignored = [f"--ignore-vuln={name}" for name in accepted(root, today or datetime.now(UTC).date())]
    if why := why_unreachable(osv_url):
        print(
            f"!!! NOT AUDITED: {len(wanted)} packages, for known vulnerabilities. {osv_url} is unreachable: {why}",
            file=sys.stderr,
        )
        return 1 if strict else 0
    problems = [
        problem
        for chosen in without_repetition(wanted)
        for problem in _problems(chosen, ["--osv-url", osv_url, *ignored])
    ]
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


def _problems(chosen: dict[str, str], arguments: list[str]) -> list[str]:
    command: list[str | Path] = [PIP_AUDIT, "--vulnerability-service", "osv", "--format", "json", *arguments]
    command += ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--cache-dir", ROOT / ".local" / "pip-audit"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(f"{name}=={version}\n" for name, version in chosen.items())
        file.flush()
        command += ["--requirement", file.name]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=AUDIT_TIMEOUT_SECONDS)
    try:
        report = json.loads(result.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [result.stdout, result.stderr, "pip-audit failed."]
    return [
        *_vulnerabilities(report),
        *(
            f"pip-audit did not audit {one}: {why}"
            for one, why in sorted(not_audited(set(chosen.items()), report).items())
        ),
        *([result.stderr, "pip-audit failed."] if result.returncode and not any(map(_found, report)) else []),
    ]


def _vulnerabilities(report: list[dict[str, Any]]) -> Iterator[str]:
    for package in report:
        for found in _found(package):
            fixed = ", ".join(found["fix_versions"]) or "no version"
            yield f"{package['name']} {package['version']} is vulnerable: {found['id']}, fixed in {fixed}"


def _found(package: dict[str, Any]) -> list[dict[str, Any]]:
    vulnerabilities: list[dict[str, Any]] = package.get("vulns", [])
    return vulnerabilities


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m checks.vulnerabilities", description=__doc__.partition("\n")[0])
    parser.add_argument("--strict", action="store_true", help="fail where OSV is unreachable")
    return audit(strict=parser.parse_args(arguments).strict)


if __name__ == "__main__":
    raise SystemExit(main())
