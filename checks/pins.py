"""The requirements files, which pin every package to one version, and the venv that each is installed in."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

DEPLOYED = Path("layers/indodana/requirements.txt")
VENVS = {
    DEPLOYED: ".venv",
    Path("requirements-run.txt"): ".venv",
    Path("requirements-dev.txt"): ".venv",
    Path("requirements-sam.txt"): ".venv-sam",
    Path("requirements-checkov.txt"): ".venv-checkov",
    Path("requirements-ministack.txt"): ".venv-ministack",
}


class PinsError(Exception):
    """A requirements file has a line without an exact pin, or a venv has other versions."""


def pins(requirements: Path) -> dict[str, str]:
    """Names as written there, with their versions; without the files that it includes."""
    found = {}
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith(("#", "-r ")):
            continue
        pin = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?==(\S+)", line.strip())
        if not pin:
            raise PinsError(f"{requirements}: no exact pin: {line}")
        found[pin[1]] = pin[2]
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
