"""Asks OSV for known vulnerabilities of every pinned package, deployed or not: `make audit`.

    python -m checks.vulnerabilities

What the development tools bring with them is not asked for: it is not pinned, so a fresh venv has the newest.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import requests

from checks.pins import ROOT, VENVS

PIP_AUDIT = ROOT / ".venv-checkov" / "bin" / "pip-audit"
OSV_URL = "https://api.osv.dev/v1/query"
PROBE_TIMEOUT_SECONDS = 10
# One question per package, each of them with pip-audit's own timeout of 15 seconds.
AUDIT_TIMEOUT_SECONDS = 600


def why_not_askable(osv_url: str) -> str | None:
    """Found out before pip-audit is run, which ends alike for a vulnerability, no network and a fault of its own."""
    question = {"package": {"name": "requests", "ecosystem": "PyPI"}, "version": requests.__version__}
    try:
        answer = requests.post(osv_url, json=question, timeout=PROBE_TIMEOUT_SECONDS)
    except (requests.ConnectionError, requests.Timeout) as error:
        return str(error)
    return f"it answers {answer.status_code}" if answer.status_code >= 500 else None


def audit(requirements: Iterable[Path] = VENVS, osv_url: str = OSV_URL) -> int:
    """1 for a vulnerability or an audit that came to no end; 0 where none is known, or where OSV cannot be asked."""
    if why := why_not_askable(osv_url):
        print(f"!!! NOT RUN: the audit for known vulnerabilities. {osv_url} cannot be asked: {why}", file=sys.stderr)
        return 0
    command: list[str | Path] = [PIP_AUDIT, "--vulnerability-service", "osv", "--osv-url", osv_url, "--strict"]
    command += ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--cache-dir", ROOT / ".local" / "pip-audit"]
    for file in requirements:
        command += ["--requirement", ROOT / file]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=AUDIT_TIMEOUT_SECONDS)
    if result.returncode == 0:
        return 0
    print(result.stdout, result.stderr, "The audit found vulnerabilities, or failed.", sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(audit())
