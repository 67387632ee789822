"""The requirements files, which pin every package to one version, and the venv that each is installed in.

<name>.in is written by hand: the packages that the project itself uses. <name>.txt is written by `make lock`: these and
all that they need, each with the hashes of its files.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

DEPLOYED = Path("layers/indodana/requirements.txt")
VENVS = {
    DEPLOYED: ".venv",
    Path("requirements/run.txt"): ".venv",
    Path("requirements/dev.txt"): ".venv",
    Path("requirements/sam.txt"): ".venv-sam",
    Path("requirements/checkov.txt"): ".venv-checkov",
    Path("requirements/ministack.txt"): ".venv-ministack",
}
LOCKED = (DEPLOYED, *sorted(path.relative_to(ROOT) for path in (ROOT / "requirements").glob("*.txt")))

_PIN = r"([\w.-]+)(?:\[[\w,]+\])?==([^\s;]+)"
_BY_HAND = re.compile(_PIN)
_LOCKED = re.compile(rf"{_PIN}(?: ; [^#]+?)?(?: --hash=sha256:[0-9a-f]{{64}})+")


class PinsError(Exception):
    """A requirements file has a line without an exact pin or without hashes, or a venv has other versions."""


def pins(requirements: Path) -> dict[str, str]:
    """Names as written there, with their versions; without the files that it includes. Raises PinsError."""
    locked = requirements.suffix == ".txt"
    found: dict[str, str] = {}
    for line in re.sub(r" \\\n *", " ", requirements.read_text(encoding="utf-8")).splitlines():
        if not line.strip() or line.lstrip().startswith("#") or (not locked and line.startswith(("-r ", "-c "))):
            continue
        pin = (_LOCKED if locked else _BY_HAND).fullmatch(line.strip())
        if not pin or pin[1] in found:
            raise PinsError(f"{requirements}: no exact pin{' with hashes' if locked else ''}: {line}")
        found[pin[1]] = pin[2]
    return found


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
