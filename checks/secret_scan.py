"""`make secrets`: scans the files that git tracks for secrets.

    python -m checks.secret_scan

detect-secrets finds them; not_secrets.toml lists the false positives, each value with the reason. That list is the only
way to allow a value, apart from the hashes of packages in the requirements files. Pragma comments in the code are
ignored, because they say neither for which value nor why.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from checks.pins import LOCKED, ROOT

DETECT_SECRETS = ROOT / ".venv-checkov" / "bin" / "detect-secrets"
NOT_SECRETS = Path("checks/not_secrets.toml")
TIMEOUT_SECONDS = 300

# What detect-secrets skips by default: lines with a pragma, files named like a lock file or an OpenAPI document, and
# UUIDs, which Indodana's API keys may be.
DISABLED_FILTERS = (
    "detect_secrets.filters.allowlist.is_line_allowlisted",
    "detect_secrets.filters.heuristic.is_lock_file",
    "detect_secrets.filters.heuristic.is_potential_uuid",
    "detect_secrets.filters.heuristic.is_swagger_file",
)

# detect-secrets reads only the values of a YAML file, so each is scanned again as text, for its comments.
AS_TEXT = ".as-text.txt"

# Of a package's file, in what `make lock` writes: thousands, and no secrets.
PACKAGE_HASH = re.compile(r"(?<=^    )--hash=sha256:[0-9a-f]{64}(?=(?: \\)?$)", re.MULTILINE)


class SecretScanError(Exception):
    """not_secrets.toml is invalid."""


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    kind: str
    digest: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}"


def digest(value: str) -> str:
    """The hash by which detect-secrets reports a value."""
    return hashlib.sha1(value.encode(), usedforsecurity=False).hexdigest()


def tracked_files(root: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def scan(root: Path) -> list[Finding]:
    with tempfile.TemporaryDirectory() as directory:
        for name in tracked_files(root):
            copy = Path(directory, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copy)
            if Path(name) in LOCKED:
                copy.write_text(PACKAGE_HASH.sub("--hash=…", copy.read_text(encoding="utf-8")), encoding="utf-8")
            if copy.suffix in (".yaml", ".yml"):
                shutil.copyfile(copy, f"{copy}{AS_TEXT}")
        filters = [argument for name in DISABLED_FILTERS for argument in ("--disable-filter", name)]
        scanned = subprocess.run(
            # Without verification, which would send each finding to the service it seems to belong to.
            [DETECT_SECRETS, "scan", "--all-files", "--no-verify", *filters, "."],
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=TIMEOUT_SECONDS,
        )
    return sorted(
        {
            Finding(path.removesuffix(AS_TEXT), found["line_number"], found["type"], found["hashed_secret"])
            for path, all_found in json.loads(scanned.stdout)["results"].items()
            for found in all_found
        }
    )


def listed_values(root: Path) -> list[str]:
    document = tomllib.loads((root / NOT_SECRETS).read_text(encoding="utf-8"))
    if not all(entry.get("why") for entry in document["not_secret"]):
        raise SecretScanError(f"{NOT_SECRETS}: an entry has no reason (why)")
    return [value for entry in document["not_secret"] for value in entry["values"]]


def problems(findings: Iterable[Finding], listed: Collection[str]) -> list[str]:
    """One line for each finding that is not listed and each listed value that is no longer found."""
    findings = list(findings)
    by_digest = {digest(value): value for value in listed}
    in_use = {finding.digest for finding in findings if finding.path != str(NOT_SECRETS)}
    return [str(finding) for finding in findings if finding.digest not in by_digest] + [
        f"{NOT_SECRETS}: {value!r} is no longer found; remove it"
        for value_digest, value in by_digest.items()
        if value_digest not in in_use
    ]


def main(root: Path = ROOT) -> int:
    found = problems(scan(root), listed_values(root))
    if found:
        print(*found, sep="\n", file=sys.stderr)
        print(
            "\nThese look like secrets. Revoke a real one, even if you remove it: everyone with the repository has it."
            f"\nList a false positive in {NOT_SECRETS}, with the reason.",
            file=sys.stderr,
        )
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
