"""The installer: what pip does is shown, and what it says when it fails."""

import io
import sys
from pathlib import Path

import pytest

from devstack import install
from devstack.install import Progress, phases

PIP = """\
Looking in links: /opt/wheels
Collecting boto3==1.44.5 (from -r layers/indodana/requirements.txt (line 4))
  Downloading boto3-1.44.5-py3-none-any.whl.metadata (6.6 kB)
  Collecting botocore<1.45.0 (from boto3)
Processing /opt/wheels/aws_lambda_powertools-3.37.0-py3-none-any.whl (from -r requirements.txt (line 3))
Installing collected packages: botocore, boto3, aws-lambda-powertools
Successfully installed boto3-1.44.5
"""


def test_phases_name_each_package_and_then_count_them() -> None:
    assert list(phases(PIP.splitlines(keepends=True))) == [
        "package 1: boto3",
        "package 2: botocore",
        "package 3: aws_lambda_powertools",
        "unpacking 3 packages",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "REFRESH_SECONDS", 0.01)
    out = Terminal()
    with Progress(out, "Installing things") as progress:
        for phase in ("package 1: a", "unpacking 2 packages"):
            progress.says(phase)
            while f"\r\033[K    0 s  {phase}" not in out.getvalue():
                pass
    assert out.getvalue().startswith("Installing things …\n")
    assert out.getvalue().endswith("\r\033[K  installed in 0 s\n")
    assert out.getvalue().count("\n") == 2


def test_file_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(install, "LINE_SECONDS", 0.02)
    out = io.StringIO()
    with Progress(out, "Installing things") as progress:
        progress.says("unpacking")
        while out.getvalue().count("unpacking") < 2:
            pass
    assert "\r" not in out.getvalue()


def test_failure_shows_pips_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = tmp_path / "bin"
    venv.mkdir()
    (venv / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", "/bin/true")  # the virtual environment is there already
    monkeypatch.setattr(install, "PIP", ("-c", "print('no such package'); raise SystemExit(1)"))
    assert install.main([str(tmp_path), "requirements.txt", "nothing"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"Installing nothing into {tmp_path} …",
        "no such package",
        "",
        f"requirements.txt could not be installed into {tmp_path}.",
    ]
