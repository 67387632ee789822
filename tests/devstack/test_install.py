"""The installer: what pip does is shown, and what it says when it fails."""

import hashlib
import io
import sys
import tarfile
import venv
import zipfile
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


# ---- what pip is told, tried with packages in a folder


@pytest.fixture(scope="module")
def own_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the package index: `built` and `other` as wheels, `source` as a source archive alone."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in ("built", "other"):
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
            info = f"{name}-1.0.dist-info"
            archive.writestr(f"own_{name}.py", "")
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
    with tarfile.open(folder / "source-1.0.tar.gz", "w:gz") as archive:
        setup = b"raise SystemExit('the setup of a source archive ran')"
        entry = tarfile.TarInfo("source-1.0/setup.py")
        entry.size = len(setup)
        archive.addfile(entry, io.BytesIO(setup))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(sys, "executable", "/bin/true")  # the virtual environment is there already
    return folder


def installed(own_venv: Path, packages: Path, requirement: str) -> int:
    requirements = packages / "requirements.txt"
    requirements.write_text(requirement)
    return install.main([str(own_venv), str(requirements), "nothing"])


def sha256(file: Path) -> str:
    return f"--hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def test_package_with_the_hash_of_the_file_is_installed(own_venv: Path, packages: Path) -> None:
    assert installed(own_venv, packages, f"built==1.0 {sha256(packages / 'built-1.0-py3-none-any.whl')}") == 0
    assert list(own_venv.rglob("own_built.py"))


@pytest.mark.parametrize(
    ("requirement", "why"),
    [
        (f"other==1.0 --hash=sha256:{'0' * 64}", "DO NOT MATCH THE HASHES"),
        ("other==1.0", "Hashes are required in --require-hashes mode"),
        ("source==1.0 {source}", "No matching distribution found for source==1.0"),
    ],
    ids=["another file", "without a hash", "source archive"],
)
def test_package_is_refused(
    own_venv: Path, packages: Path, capsys: pytest.CaptureFixture[str], requirement: str, why: str
) -> None:
    wanted = requirement.format(source=sha256(packages / "source-1.0.tar.gz"))
    assert installed(own_venv, packages, wanted) == 1
    said = capsys.readouterr().err
    assert why in said
    assert "the setup of a source archive ran" not in said
    assert not list(own_venv.rglob("own_other.py"))
