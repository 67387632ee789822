"""The parts of a page of docs/."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(page: Path, heading: str) -> str:
    """The page's text from that heading to the next of its rank."""
    [(level, text)] = re.findall(
        rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)", page.read_text(), re.DOTALL | re.MULTILINE
    )
    assert level == "##"
    return str(text)


def blocks(text: str) -> list[str]:
    """The commands of a section: lines indented by four or more, each block without its indentation."""
    return [textwrap.dedent(block) for block in re.findall(r"(?:^ {4,}\S.*\n?)+", text, re.MULTILINE)]
