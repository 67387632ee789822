"""The pages hold together: links lead somewhere, and what is made from the code is what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from checks import state_diagram
from checks.pins import ROOT
from gateway.core.transitions import LEGAL_TRANSITIONS, RefundStatus
from tests.pages import anchors

NOT_OURS = {"node_modules", "build"}
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in NOT_OURS for part in page.relative_to(ROOT).parts)
)
README = ROOT / "README.md"
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]

# Of what somebody may add.
EXAMPLES = {
    *("functions/report/__init__.py", "functions/report/handler.py", "events/report/"),
    *("ReportFunction", "ReportRole", "ReportLogs", "ReportLoggedErrors", "ReportErrorsAlarm"),
    *("ReportVersionErrors", "ReportDeploymentAlarm"),
}

CODE = re.compile(r"^```.*?^```$|^(?: {4}|\t)[^\n]*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    return CODE.sub(lambda found: "`" if found[0].startswith("`") else "", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """What the page links to inside the repository: the file and the anchor."""
    for target in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def broken(page: Path) -> list[str]:
    return [
        f"{target.name}#{anchor}"
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_anchors_of_a_page_resolve(page: Path) -> None:
    assert broken(page) == []


def test_a_link_to_a_missing_page_or_heading_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n[a](#one-heading) [b](#no-heading) [c](gone.md) `[d](code.md)`\n\n    [e](block.md)\n"
    )

    assert broken(page) == ["page.md#no-heading", "gone.md#"]


OF_THE_PAST = {ROOT / "CHANGELOG.md", ROOT / "docs/upgrading.md"}
PATH = re.compile(r"`((?:bench|checks|deploy|devstack|docs|events|functions|layers|testkit|tests)/[\w./-]+)`")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OF_THE_PAST], ids=lambda page: page.name)
def test_paths_that_a_page_names_exist(page: Path) -> None:
    named = set(PATH.findall(page.read_text(encoding="utf-8"))) - EXAMPLES

    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


STEP = re.compile(r"^\d+\. .*?(?=^\d+\. |^#|^$)", re.DOTALL | re.MULTILINE)
FILE_OR_NAME = re.compile(r"`([\w./-]+\.(?:py|yaml|md|toml)|_?[A-Z]+_[A-Z_]+|_?[a-z]+_[a-z_]+|[A-Z][a-z]+[A-Z]\w+)`")


def missing_names(step: str) -> list[str]:
    """The names of code in the step that are in none of the files that the step names."""
    found = [name for name in FILE_OR_NAME.findall(step) if name not in EXAMPLES]
    files = [ROOT / name for name in found if "." in name and (ROOT / name).is_file()]
    texts = [file.read_text(encoding="utf-8") for file in files]
    return [name for name in found if "." not in name and texts and not any(name in text for text in texts)]


def test_names_in_a_step_of_the_guide_are_in_the_files_that_it_names() -> None:
    steps = STEP.findall((ROOT / "docs/contributing.md").read_text(encoding="utf-8"))

    assert len(steps) > 40
    assert [name for step in steps for name in missing_names(step)] == []


def test_a_name_that_has_left_its_file_is_found() -> None:
    assert missing_names("1. `functions/gateway/core/model.py`: `NO_SUCH_NAME` of `RefundRequest`.") == ["NO_SUCH_NAME"]


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, ahead = set(), [README]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            ahead += [target for target, _ in links(page) if target.suffix == ".md"]

    assert {page for page in PAGES if page not in reached} == set()


def test_the_readme_stays_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


# ---- made from the code


def test_the_state_diagram_is_that_of_the_transitions() -> None:
    page = state_diagram.PAGE.read_text(encoding="utf-8")

    assert state_diagram.with_diagram(page) == page, "python -m checks.state_diagram --write"


def test_the_state_diagram_has_an_arrow_for_each_transition() -> None:
    arrows = re.findall(r"^ +(\S+) --> (\S+) : ", state_diagram.diagram(), re.MULTILINE)

    assert sorted(arrows) == sorted(
        (str(before or "[*]"), str(after)) for before, follow in LEGAL_TRANSITIONS.items() for after in follow
    )


def test_a_transition_without_a_label_stops_the_state_diagram() -> None:
    allowed = {**LEGAL_TRANSITIONS, RefundStatus.FAILED: frozenset({RefundStatus.QUEUED})}

    with pytest.raises(state_diagram.DiagramError, match="FAILED → QUEUED"):
        state_diagram.diagram(allowed)


def test_a_page_without_a_state_diagram_is_refused() -> None:
    with pytest.raises(state_diagram.DiagramError, match="has 0"):
        state_diagram.with_diagram("no diagram")


# ---- the workflow


def test_the_workflow_runs_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    run = [step["run"] for step in STEPS if "run" in step]

    assert run == ["make test", "make verify"]
    assert {command.removeprefix("make ") for command in run} <= set(targets)


def test_the_workflow_pins_every_action_to_a_commit() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]

    assert used
    assert [action for action in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []


def test_the_workflow_runs_the_python_of_the_functions() -> None:
    versions = {step["with"]["python-version"] for step in STEPS if "setup-python" in step.get("uses", "")}
    [runtime] = set(re.findall(r"Runtime: python(\S+)", (ROOT / "template.yaml").read_text()))

    assert versions == {runtime}
