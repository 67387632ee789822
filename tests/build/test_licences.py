"""docs/licences.md lists the pinned packages, and what is deployed has licences that allow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from checks import licences
from checks.licences import Package, not_allowed, packages
from checks.pins import DEPLOYED, ROOT, VENVS, PinsError, pins

GPL = "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)"

ALLOWED = {
    "expression": ("License-Expression: MIT", "MIT"),
    "metadata": ("License: Apache-2.0", "Apache-2.0"),
    "classifier": ("Classifier: License :: OSI Approved :: Apache Software License", "Apache Software License"),
}
REFUSED = {
    "copyleft": "License-Expression: GPL-3.0-or-later",
    "both": "License-Expression: MIT AND AGPL-3.0-only",
    "vague": "License: MIT or so",
    "affero": "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
    "classifier-against-metadata": f"License: MIT\n{GPL}",
    "expression-against-metadata": "License-Expression: GPL-3.0-only\nLicense: MIT",
    "two-classifiers": f"Classifier: License :: OSI Approved :: MIT License\n{GPL}",
    "silent": "Summary: has no licence",
}


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with version 1.0 of each package above: pip-licenses asks its interpreter for nothing but the paths."""
    venv = tmp_path_factory.mktemp("venv")
    python = venv / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho {venv}\n")
    python.chmod(0o755)
    for name, metadata in [*((name, metadata) for name, (metadata, _) in ALLOWED.items()), *REFUSED.items()]:
        folder = venv / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}\n")
    return venv


@pytest.fixture(scope="module")
def found(venv: Path) -> dict[str, Package]:
    pinned = requirements(
        venv, "# why\n-r other.in\n-c other.txt\n" + "".join(f"{name}[extra]==1.0\n" for name in ALLOWED | REFUSED)
    )
    return {package.name: package for package in packages(pinned, venv)}


def requirements(folder: Path, text: str) -> Path:
    file = folder / "requirements.in"
    file.write_text(text)
    return file


def test_licence_list_is_what_make_licences_writes() -> None:
    assert licences.LICENCES.read_text(encoding="utf-8") == licences.document(), "run make licences"


def test_licence_list_names_every_deployed_package() -> None:
    listed = licences.LICENCES.read_text(encoding="utf-8").split("## Development")[0].replace("_", "-")
    deployed = pins(ROOT / DEPLOYED)
    assert len(deployed) > 10
    assert [name for name, version in deployed.items() if f"| {name} | {version} |" not in listed] == []


def test_deployed_packages_have_allowed_licences() -> None:
    assert not_allowed(packages(ROOT / DEPLOYED, ROOT / VENVS[DEPLOYED])) == []


@pytest.mark.parametrize("name", ALLOWED)
def test_package_with_an_allowed_licence_passes(found: dict[str, Package], name: str) -> None:
    assert found[name] == Package(name, "1.0", ALLOWED[name][1])
    assert not_allowed([found[name]]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_package_with_another_licence_or_none_is_refused(found: dict[str, Package], name: str) -> None:
    assert not_allowed([found[name]]) == [found[name]]


@pytest.mark.parametrize("line", ["six", "six>=1", "six==1.17.0; python_version<'3'", "six==1.17.0 --hash=sha256:0"])
def test_requirement_without_an_exact_pin_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(PinsError, match="no exact pin"):
        pins(requirements(tmp_path, f"{line}\n"))


@pytest.mark.parametrize("pin", ["expression==0.1", "not-installed==1.0"])
def test_venv_that_differs_from_the_pins_is_refused(venv: Path, tmp_path: Path, pin: str) -> None:
    with pytest.raises(PinsError, match="does not have"):
        packages(requirements(tmp_path, f"{pin}\n"), venv)
