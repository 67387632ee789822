"""Writes docs/licences.md from the pins and from what pip-licenses finds in the venvs: `make licences`.

python -m checks.licences
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from checks.pins import DEPLOYED, ROOT, VENVS, PinsError, normalized, pins

PIP_LICENSES = ROOT / ".venv-checkov" / "bin" / "pip-licenses"
LICENCES = ROOT / "docs" / "licences.md"

# For what is deployed, exactly as pip-licenses prints them. Each lets a merchant run the unchanged package in its own
# service and asks for no more than the notice.
ALLOWED = frozenset(
    {
        "Apache Software License",
        "Apache Software License; BSD License",
        "Apache-2.0",
        "BSD-3-Clause",
        "MIT",
        "MIT License",
        "MIT License; MIT No Attribution License (MIT-0)",
        "MIT OR AFL-2.1",
        "Mozilla Public License 2.0 (MPL 2.0)",
        "PSF-2.0",
    }
)


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    licence: str


def packages(requirements: Path, venv: Path) -> list[Package]:
    """The pinned packages and their licences. Raises PinsError where the venv has other versions than the pins."""
    pinned = {normalized(name): version for name, version in pins(requirements).items()}
    command: list[str | Path] = [PIP_LICENSES, "--python", venv / "bin" / "python", "--with-system", "--format", "json"]
    printed = subprocess.run([*command, "--packages", *pinned], stdout=subprocess.PIPE, check=True).stdout
    found = [Package(row["Name"], row["Version"], row["License"]) for row in json.loads(printed)]
    installed = {normalized(package.name): package.version for package in found}
    if differing := dict(pinned.items() - installed.items()):
        raise PinsError(f"{requirements} pins versions that {venv} does not have: {differing}")
    return sorted(found, key=lambda package: normalized(package.name))


def not_allowed(deployed: list[Package]) -> list[Package]:
    return [package for package in deployed if package.licence not in ALLOWED]


def table(listed: list[Package]) -> str:
    rows = [f"| {package.name} | {package.version} | {package.licence} |" for package in listed]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows])


def document() -> str:
    """Raises PinsError."""
    by_hand = {file.with_suffix(".in"): venv for file, venv in VENVS.items() if file != DEPLOYED}
    development = [package for file, venv in by_hand.items() for package in packages(ROOT / file, ROOT / venv)]
    return f"""# Licences of third-party packages

`make licences` writes this file with pip-licenses, from the pins and the metadata of the installed packages. A test
compares it with them, and the licences of what is deployed with those that `checks/licences.py` allows.

## Deployed

All packages of the Lambda layer. The functions bring none of their own.

{table(packages(ROOT / DEPLOYED, ROOT / VENVS[DEPLOYED]))}

## Development only

Used to check, build and test, and by the local stack; never deployed. Their own dependencies are not listed.

{table(development)}
"""


def main() -> None:
    LICENCES.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
