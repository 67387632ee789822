"""What is installed is what was chosen: every package in one version, by hash, in the versions that are deployed."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from checks.pins import DEPLOYED, LOCKED, ROOT, PinsError, normalized, pins

RUN, DEV, FLOOR = (Path("requirements", f"{name}.txt") for name in ("run", "dev", "bench-floor"))
HASH = f"--hash=sha256:{'0' * 64}"


def of(file: Path) -> dict[str, str]:
    return {normalized(name): version for name, version in pins(ROOT / file).items()}


def by_hand(file: Path) -> dict[str, str]:
    """With the files that it includes."""
    included = re.findall(r"^-r (\S+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    found = of(file)
    for name in included:
        found |= by_hand(file.parent / name)
    return found


@pytest.mark.parametrize("file", LOCKED, ids=str)
def test_every_package_has_hashes_and_is_there_by_hand_or_for_another(file: Path) -> None:
    locked, chosen = of(file), by_hand(file.with_suffix(".in"))
    assert chosen.items() <= locked.items(), "run make lock"
    text = (ROOT / file).read_text(encoding="utf-8")
    assert text.splitlines()[1].strip() == "#    make lock"
    assert "--index-url" not in text
    assert "://" not in text
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
        name = normalized(re.split(r"[=\[]", block)[0])
        reasons = re.findall(r"^    # +(?:via )?([A-Za-z0-9._-]+)(?:\[.*\])?$", block, re.MULTILINE)
        needed_by = {normalized(reason) for reason in reasons} - {"via"}
        assert name in chosen or needed_by, f"{name} is needed by nothing: run make lock"
        assert needed_by <= locked.keys(), f"{name} is said to be needed by what is not there: run make lock"


def test_every_file_by_hand_is_locked_and_every_lock_has_a_file_by_hand() -> None:
    written = {path.relative_to(ROOT) for path in (*ROOT.glob("requirements/*.in"), ROOT / DEPLOYED.with_suffix(".in"))}
    assert {file.with_suffix(".in") for file in LOCKED} == written
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [listed] = re.findall(r"^LOCKED := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert sorted(listed.replace("\\", "").split()) == sorted(str(file.with_suffix("")) for file in LOCKED)


def test_tests_and_the_local_stack_run_the_deployed_versions() -> None:
    for smaller, larger in pairwise((DEPLOYED, RUN, DEV)):
        assert of(smaller).items() <= of(larger).items()
    shared = of(FLOOR).keys() & of(DEPLOYED).keys()
    assert {name: of(FLOOR)[name] for name in shared} == {name: of(DEPLOYED)[name] for name in shared}


@pytest.mark.parametrize("file", ["Makefile", "layers/indodana/Makefile", "devstack/install.py"])
def test_pip_installs_by_hash_and_wheels_only(file: str) -> None:
    text = re.sub(r"\\\n\s*", " ", (ROOT / file).read_text(encoding="utf-8"))
    installs = re.findall(r"-m pip install.*|PIP = \((?:\n.*)*?\n\)", text)
    assert installs
    for install in installs:
        words = install.replace('"', "").replace(",", "")
        assert "--require-hashes" in words, install
        assert "--only-binary :all:" in words, install


@pytest.mark.parametrize(
    "line",
    [
        "six",
        "six==1.17.0",
        f"six>=1 \\\n    {HASH}",
        "six==1.17.0 \\\n    --hash=sha256:0",
        f"six==1.17.0 \\\n    {HASH}\nsix==1.16.0 \\\n    {HASH}",
        f"--index-url https://example.invalid\nsix==1.17.0 \\\n    {HASH}",
    ],
)
def test_lock_without_exact_versions_and_hashes_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "some.txt"
    file.write_text(f"{line}\n")
    with pytest.raises(PinsError, match="no exact pin with hashes"):
        pins(file)


def test_lock_is_read_with_its_markers(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text(f"# why\nsix==1.17.0 ; sys_platform == 'win32' \\\n    {HASH} \\\n    {HASH}\n    # via x\n")
    assert pins(file) == {"six": "1.17.0"}
