from __future__ import annotations

from pathlib import Path

import pytest

from checks import licences
from checks.licences import is_allowed, packages
from checks.pins import DEPLOYED, ROOT, VENVS, PinsError, pins


def test_the_list_is_what_the_pins_and_the_packages_say() -> None:
    assert licences.LICENCES.read_text(encoding="utf-8") == licences.document(), "run make licences"


def test_the_list_names_every_deployed_package() -> None:
    listed = licences.LICENCES.read_text(encoding="utf-8").split("## For development")[0]
    deployed = pins(ROOT / DEPLOYED)
    assert len(deployed) > 10
    assert [f"| {name} | {version} |" in listed for name, version in deployed.items()] == [True] * len(deployed)


def test_what_is_deployed_has_a_licence_that_is_allowed() -> None:
    assert [package for package in packages(DEPLOYED, VENVS[DEPLOYED]) if not is_allowed(package.licence)] == []


@pytest.mark.parametrize(
    "licence", ["MIT", "BSD-3-Clause AND PSF-2.0", "AFL-2.1 OR MIT", "GPL-3.0 AND MIT OR Apache-2.0"]
)
def test_an_alternative_of_allowed_licences_is_enough(licence: str) -> None:
    assert is_allowed(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-3.0-or-later",
        "MIT AND AGPL-3.0",
        "unknown",
        "",
        "Dual License",
        "MIT License OR BSD",
        "(MIT OR GPL-3.0) AND GPL-2.0",
    ],
)
def test_any_other_licence_is_not_allowed(licence: str) -> None:
    assert not is_allowed(licence)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MPL-2.0", "MPL-2.0"),
        ("License: Apache License 2.0", "Apache-2.0"),
        ("Classifier: License :: OSI Approved :: Apache Software License", "Apache-2.0"),
        ("Classifier: License :: OSI Approved :: GNU Affero General Public License v3", None),
        ("Summary: says nothing of a licence", None),
    ],
)
def test_a_licence_is_what_the_installed_package_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: str, licence: str | None
) -> None:
    monkeypatch.setattr(licences, "ROOT", tmp_path)
    installed = tmp_path / "venv" / "lib" / "python3.13" / "site-packages" / "a_package-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.4\nName: a-package\nVersion: 1.0\n{metadata}\n")
    (tmp_path / "requirements.txt").write_text("# why\n-r other.txt\nA.Package[extra]==1.0\n")
    [package] = packages(Path("requirements.txt"), "venv")
    assert (package.name, package.version) == ("A.Package", "1.0")
    assert package.licence == licence if licence else not is_allowed(package.licence)


@pytest.mark.parametrize("line", ["six", "six>=1", "six==1.17.0; python_version<'3'", "six==1.17.0 --hash=sha256:0"])
def test_a_line_that_is_no_exact_pin_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"{line}\n")
    with pytest.raises(PinsError, match="no exact pin"):
        pins(tmp_path / "requirements.txt")


@pytest.mark.parametrize("pin", ["six==0.1", "a-package-that-nobody-installed==1.0"])
def test_a_venv_that_is_not_as_the_pins_say_is_refused(tmp_path: Path, pin: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"{pin}\n")
    with pytest.raises(PinsError, match="is not as"):
        list(packages(tmp_path / "requirements.txt", ".venv"))
