"""Writes docs/licences.md, from the pins and from what the packages say of themselves: `make licences`.

python -m checks.licences
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, distributions
from pathlib import Path

from checks.pins import DEPLOYED, ROOT, VENVS, PinsError, normalized, pins

LICENCES = ROOT / "docs" / "licences.md"

# Those that let a merchant deploy the package unchanged in a service of its own, and ask for no more than the notice.
ALLOWED = frozenset({"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0"})

SPDX_NAMES = {"Apache License 2.0": "Apache-2.0", "License :: OSI Approved :: Apache Software License": "Apache-2.0"}

# Where a package's own licence file says more than its metadata, for as long as that says the same.
READ_IN_THE_FILE = {
    ("aws-lambda-powertools", "MIT"): "MIT-0",
    ("python-dateutil", "Dual License"): "BSD-3-Clause",  # all of it; its newer parts under Apache-2.0, too
}


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    licence: str


def packages(requirements: Path, venv: str) -> Iterator[Package]:
    site_packages = ROOT / venv / "lib" / "python3.13" / "site-packages"
    installed = {normalized(package.name): package for package in distributions(path=[str(site_packages)])}
    for name, version in sorted(pins(ROOT / requirements).items(), key=lambda pin: normalized(pin[0])):
        package = installed.get(normalized(name))
        if not package or package.version != version:
            raise PinsError(f"{venv} is not as {requirements} has it: {name} {package and package.version}")
        yield Package(name, version, _licence(name, package.metadata))


def _licence(name: str, metadata: PackageMetadata) -> str:
    classifiers = metadata.get_all("Classifier") or []
    said = (
        metadata.get("License-Expression")
        or metadata.get("License")
        or ", ".join(classifier for classifier in classifiers if classifier.startswith("License ::"))
    )
    return READ_IN_THE_FILE.get((name, said)) or SPDX_NAMES.get(said) or said or "unknown"


def is_allowed(licence: str) -> bool:
    """Of an SPDX expression without parentheses: one of its alternatives, with all that it joins."""
    return any(set(alternative.split(" AND ")) <= ALLOWED for alternative in licence.split(" OR "))


def table(listed: list[Package]) -> str:
    rows = [f"| {package.name} | {package.version} | {package.licence} |" for package in listed]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows])


def document() -> str:
    for_development = [package for file, venv in VENVS.items() if file != DEPLOYED for package in packages(file, venv)]
    return f"""# Licences of what is not ours

`make licences` writes this, from the pins and from what the packages say of themselves. A test holds it to the pins,
and what is deployed to the licences that `checks/licences.py` allows.

## Deployed

Every package that the signing layer is built from. The functions bring none of their own.

{table(list(packages(DEPLOYED, VENVS[DEPLOYED])))}

## For development only

What checks, builds, tests and plays the rest of the world; none of it reaches AWS. What these packages bring with them
is not listed.

{table(for_development)}
"""


def main() -> int:
    LICENCES.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
