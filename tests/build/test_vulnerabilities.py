"""`make audit` against a local OSV server: a vulnerability fails, what is not audited is named, no failure passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from checks import vulnerabilities
from checks.pins import DEPLOYED, LOCKED, ROOT, VENVS, normalized, pins

NOT_AUDITED = "!!! NOT AUDITED"
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
    file = tmp_path / "requirements.in"
    file.write_text("urllib3==2.8.0\nsix==1.17.0\n")
    return [file]


def test_audit_asks_for_every_pin_and_passes_without_a_finding(osv: Osv, capfd: pytest.CaptureFixture[str]) -> None:
    assert vulnerabilities.audit(osv_url=osv.url) == 0
    assert capfd.readouterr() == ("", "")
    assert set(osv.asked) == {
        (normalized(name), version) for file in LOCKED for name, version in pins(ROOT / file).items()
    }
    assert {version for name, version in osv.asked if name == "boto3"} > {pins(ROOT / DEPLOYED)["boto3"]}


def test_audit_covers_what_is_deployed_and_every_tool() -> None:
    assert {DEPLOYED, *VENVS, *(path.relative_to(ROOT) for path in (ROOT / "requirements").iterdir())} >= set(LOCKED)
    assert set(VENVS) < set(LOCKED)


def test_vulnerability_fails_the_audit_and_is_named_with_its_fix(
    osv: Osv, requirements: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    osv.vulnerable["urllib3"] = VULNERABILITY
    assert vulnerabilities.audit(requirements, osv.url) == 1
    said = capfd.readouterr().err
    assert said == "urllib3 2.8.0 is vulnerable: GHSA-test-0000-0001, fixed in 99.0\n"


@pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
def test_audit_without_a_connection_says_so_and_fails_if_strict(
    osv: Osv, requirements: list[Path], capfd: pytest.CaptureFixture[str], strict: bool
) -> None:
    url = osv.url
    osv.server_close()
    assert vulnerabilities.audit(requirements, url, strict=strict) == int(strict)
    said = capfd.readouterr().err
    assert said.startswith(f"{NOT_AUDITED}: 2 packages, for known vulnerabilities. {url} is unreachable: ")


@pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
def test_audit_with_osv_down_says_so_and_fails_if_strict(
    osv: Osv, requirements: list[Path], capfd: pytest.CaptureFixture[str], strict: bool
) -> None:
    osv.status = 503
    assert vulnerabilities.audit(requirements, osv.url, strict=strict) == int(strict)
    assert capfd.readouterr().err == (
        f"{NOT_AUDITED}: 2 packages, for known vulnerabilities. {osv.url} is unreachable: HTTP status 503\n"
    )


def test_strict_is_what_the_command_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []

    def audit(*, strict: bool) -> int:
        given.append(strict)
        return 0

    monkeypatch.setattr(vulnerabilities, "audit", audit)
    assert vulnerabilities.main([]) == vulnerabilities.main(["--strict"]) == 0
    assert given == [False, True]


# ---- vulnerabilities that are accepted until a day

TODAY = date(2026, 11, 28)


@pytest.fixture
def accepting(tmp_path: Path) -> Callable[[str], Path]:
    """A root whose list of accepted vulnerabilities reads so."""

    def write(text: str) -> Path:
        (tmp_path / vulnerabilities.ACCEPTED).parent.mkdir()
        (tmp_path / vulnerabilities.ACCEPTED).write_text(text)
        return tmp_path

    return write


ENTRY = '[[accepted]]\nid = "GHSA-test-0000-0001"\nwhy = "Nothing here signs."\nuntil = '


@pytest.mark.parametrize(
    ("until", "code"), [("2026-11-28", 0), ("2026-11-27", 1)], ids=["to its last day", "no longer after it"]
)
def test_accepted_vulnerability_passes(
    osv: Osv, requirements: list[Path], accepting: Callable[[str], Path], until: str, code: int
) -> None:
    osv.vulnerable["urllib3"] = VULNERABILITY
    root = accepting(ENTRY + until)
    assert vulnerabilities.audit(requirements, osv.url, strict=True, root=root, today=TODAY) == code


def test_another_vulnerability_than_the_accepted_one_fails(
    osv: Osv, requirements: list[Path], accepting: Callable[[str], Path]
) -> None:
    osv.vulnerable["six"] = VULNERABILITY | {"id": "GHSA-test-0000-0002"}
    root = accepting(f"{ENTRY}2026-11-28")
    assert vulnerabilities.audit(requirements, osv.url, root=root, today=TODAY) == 1


@pytest.mark.parametrize(
    "text",
    [
        "why = 'x'\nuntil = 2026-11-28",
        "id = 'x'\nuntil = 2026-11-28",
        "id = 'x'\nwhy = 'x'",
        "id = 'x'\nwhy = 'x'\nuntil = 'some day'",
    ],
)
def test_acceptance_without_its_reason_or_last_day_is_refused(accepting: Callable[[str], Path], text: str) -> None:
    with pytest.raises(vulnerabilities.AcceptedError, match="needs id, why and until"):
        vulnerabilities.accepted(accepting(f"[[accepted]]\n{text}\n"), TODAY)


def test_list_of_the_project_can_be_read() -> None:
    assert vulnerabilities.accepted(ROOT, TODAY) is not None


# ---- audits that do not finish, or leave out something


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
    assert NOT_AUDITED not in capfd.readouterr().err


def test_audit_without_the_requirements_file_fails(osv: Osv, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        vulnerabilities.audit([tmp_path / "missing.txt"], osv.url)


URLLIB3 = {"name": "urllib3", "version": "2.8.0", "vulns": []}


@pytest.mark.parametrize(
    ("dependencies", "why"),
    [
        ([], "not in its report"),
        ([URLLIB3], "not in its report"),
        ([URLLIB3, {"name": "six", "skip_reason": "not found on PyPI"}], "not found on PyPI"),
        ([URLLIB3, {"name": "six", "version": "1.16.0", "vulns": []}], "not in its report"),
    ],
    ids=["nothing audited", "one missing", "one skipped", "another version"],
)
def test_audit_that_skips_a_pin_fails_despite_exit_code_0(
    osv: Osv,
    requirements: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    dependencies: list[dict[str, Any]],
    why: str,
) -> None:
    pip_audit = tmp_path / "pip-audit"
    pip_audit.write_text(f"#!/bin/sh\necho '{json.dumps({'dependencies': dependencies})}'\n")
    pip_audit.chmod(0o755)
    monkeypatch.setattr(vulnerabilities, "PIP_AUDIT", pip_audit)
    assert vulnerabilities.audit(requirements, osv.url) == 1
    assert f"pip-audit did not audit six 1.17.0: {why}" in capfd.readouterr().err
