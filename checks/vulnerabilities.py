"""Audits every pinned package, deployed or not, for known vulnerabilities with pip-audit and OSV: `make audit`.

    python -m checks.vulnerabilities

The development tools' own dependencies are not audited: they are not pinned, so a fresh venv has the newest versions.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import requests

from checks.pins import ROOT, VENVS, normalized, pins

PIP_AUDIT = ROOT / ".venv-checkov" / "bin" / "pip-audit"
OSV_URL = "https://api.osv.dev/v1/query"
PROBE_TIMEOUT_SECONDS = 10
# pip-audit sends one request per package, each with a timeout of 15 seconds.
AUDIT_TIMEOUT_SECONDS = 600


def why_unreachable(osv_url: str) -> str | None:
    """Asked before pip-audit, whose exit code is 1 alike for a vulnerability, no network and its own failures."""
    question = {"package": {"name": "requests", "ecosystem": "PyPI"}, "version": requests.__version__}
    try:
        answer = requests.post(osv_url, json=question, timeout=PROBE_TIMEOUT_SECONDS)
    except (requests.ConnectionError, requests.Timeout) as error:
        return str(error)
    return f"HTTP status {answer.status_code}" if answer.status_code >= 500 else None


def not_audited(files: Iterable[Path], report: str) -> set[str]:
    """The pinned packages that the JSON report skips or does not have: pip-audit exits with 0 even if it skips all."""
    pinned = {normalized(name) for file in files for name in pins(file)}
    return pinned - {found["name"] for found in json.loads(report)["dependencies"] if "skip_reason" not in found}


def audit(files: Iterable[Path] = VENVS, osv_url: str = OSV_URL) -> int:
    """The exit code: 1 for a vulnerability or a failed audit; 0 where none is known, or where OSV is unreachable."""
    if why := why_unreachable(osv_url):
        print(f"!!! NOT RUN: the audit for known vulnerabilities. {osv_url} is unreachable: {why}", file=sys.stderr)
        return 0
    files = [ROOT / file for file in files]
    command: list[str | Path] = [PIP_AUDIT, "--vulnerability-service", "osv", "--osv-url", osv_url, "--format", "json"]
    command += ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--cache-dir", ROOT / ".local" / "pip-audit"]
    command += [argument for file in files for argument in ("--requirement", file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=AUDIT_TIMEOUT_SECONDS)
    if result.returncode:
        print(result.stdout, result.stderr, "pip-audit found vulnerabilities or failed.", sep="\n", file=sys.stderr)
        return 1
    if missing := not_audited(files, result.stdout):
        print(f"pip-audit did not audit: {', '.join(sorted(missing))}", result.stdout, sep="\n", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(audit())
