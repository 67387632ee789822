"""`make audit` against a local OSV server: a vulnerability fails, an unreachable OSV is reported, no failure passes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from checks import vulnerabilities
from checks.pins import ROOT, VENVS, normalized, pins

NOT_RUN = "!!! NOT RUN"
VULNERABILITY = {
    "id": "GHSA-test-0000-0001",
    "summary": "Signs with a fixed key",
    "affected": [
        {
            "package": {"name": "urllib3", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


class Osv(ThreadingHTTPServer):
    """An OSV server without vulnerabilities, until a test adds one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), OsvHandler)
        self.asked: list[tuple[str, str]] = []
        self.vulnerable: dict[str, dict[str, Any]] = {}
        self.status = 200
        self.body: str | None = None
        self.answers_left: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class OsvHandler(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = question["package"]["name"]
        self.server.asked.append((name, question["version"]))
        if self.server.answers_left is not None:
            if not self.server.answers_left:
                self.close_connection = True
                return
            self.server.answers_left -= 1
        found = self.server.vulnerable.get(name)
        body = (self.server.body or json.dumps({"vulns": [found]} if found else {})).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests read `asked`."""


@pytest.fixture
def osv() -> Iterator[Osv]:
    with Osv() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def requirements(tmp_path: Path) -> list[Path]:
    file = tmp_path / "requirements.txt"
    file.write_text("urllib3==2.8.0\nsix==1.17.0\n")
    return [file]


def test_audit_asks_for_every_pin_and_passes_without_a_finding(osv: Osv, capfd: pytest.CaptureFixture[str]) -> None:
    assert vulnerabilities.audit(osv_url=osv.url) == 0
    assert capfd.readouterr() == ("", "")
    assert set(osv.asked) == {
        (normalized(name), version) for file in VENVS for name, version in pins(ROOT / file).items()
    }


def test_vulnerability_fails_the_audit_and_is_named_with_its_fix(
    osv: Osv, requirements: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    osv.vulnerable["urllib3"] = VULNERABILITY
    assert vulnerabilities.audit(requirements, osv.url) == 1
    said = capfd.readouterr().err
    assert all(text in said for text in ("urllib3", "2.8.0", "GHSA-test-0000-0001", "99.0"))
    assert NOT_RUN not in said


def test_audit_without_a_connection_is_reported_as_not_run(
    osv: Osv, requirements: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    url = osv.url
    osv.server_close()
    assert vulnerabilities.audit(requirements, url) == 0
    assert capfd.readouterr().err.startswith(f"{NOT_RUN}: the audit for known vulnerabilities. {url} is unreachable: ")


def test_audit_with_osv_down_is_reported_as_not_run(
    osv: Osv, requirements: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    osv.status = 503
    assert vulnerabilities.audit(requirements, osv.url) == 0
    assert capfd.readouterr().err == (
        f"{NOT_RUN}: the audit for known vulnerabilities. {osv.url} is unreachable: HTTP status 503\n"
    )


@pytest.mark.parametrize(
    "broken",
    [
        {"body": "<html>Please sign in to this network</html>"},
        {"status": 403, "body": "{}"},
        {"answers_left": 2},
    ],
    ids=["not an OSV server", "request refused", "connection lost"],
)
def test_audit_that_does_not_finish_fails(
    osv: Osv, requirements: list[Path], capfd: pytest.CaptureFixture[str], broken: dict[str, Any]
) -> None:
    for name, value in broken.items():
        setattr(osv, name, value)
    assert vulnerabilities.audit(requirements, osv.url) == 1
    assert NOT_RUN not in capfd.readouterr().err


def test_audit_without_the_requirements_file_fails(osv: Osv, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert vulnerabilities.audit([tmp_path / "missing.txt"], osv.url) == 1
    assert NOT_RUN not in capfd.readouterr().err


@pytest.mark.parametrize(
    "dependencies",
    [
        [],
        [{"name": "urllib3", "version": "2.8.0", "vulns": []}],
        [
            {"name": "six", "skip_reason": "could not be audited"},
            {"name": "urllib3", "version": "2.8.0", "vulns": []},
        ],
    ],
    ids=["nothing audited", "one missing", "one skipped"],
)
def test_audit_that_skips_a_pin_fails_despite_exit_code_0(
    osv: Osv,
    requirements: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    dependencies: list[dict[str, Any]],
) -> None:
    pip_audit = tmp_path / "pip-audit"
    pip_audit.write_text(f"#!/bin/sh\necho '{json.dumps({'dependencies': dependencies})}'\n")
    pip_audit.chmod(0o755)
    monkeypatch.setattr(vulnerabilities, "PIP_AUDIT", pip_audit)
    assert vulnerabilities.audit(requirements, osv.url) == 1
    assert "did not audit: six" in capfd.readouterr().err
