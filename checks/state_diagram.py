"""The state diagram of docs/architecture.md, from the transitions that the ledger allows.

python -m checks.state_diagram             print it
python -m checks.state_diagram --write     write it into docs/architecture.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Set

from checks.pins import ROOT

sys.path[:0] = [str(ROOT / "functions"), str(ROOT / "layers/indodana")]

from gateway.core.transitions import LEGAL_TRANSITIONS, RefundStatus  # noqa: E402

PAGE = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(r"```mermaid\nstateDiagram-v2\n.*?\n```", re.DOTALL)

# What takes a refund along each arrow.
LABELS: Mapping[tuple[RefundStatus | None, RefundStatus], str] = {
    (None, RefundStatus.QUEUED): "asked for later, or Indodana cannot take it now",
    (None, RefundStatus.SUBMITTING): "reserve",
    (None, RefundStatus.FAILED): "a queue message is refused",
    (RefundStatus.QUEUED, RefundStatus.SUBMITTING): "it is due: reserve",
    (RefundStatus.QUEUED, RefundStatus.FAILED): "refused before it was sent, or withdrawn",
    (RefundStatus.SUBMITTING, RefundStatus.SUCCEEDED): "Indodana accepted it",
    (RefundStatus.SUBMITTING, RefundStatus.FAILED): "Indodana refused it",
    (RefundStatus.SUBMITTING, RefundStatus.UNKNOWN): "no clear answer, or the lease expired",
    (RefundStatus.SUBMITTING, RefundStatus.QUEUED): "surely not sent",
    (RefundStatus.UNKNOWN, RefundStatus.SUCCEEDED): "an operator settles it, or a late answer",
    (RefundStatus.UNKNOWN, RefundStatus.FAILED): "an operator settles it, or a late answer",
    (RefundStatus.UNKNOWN, RefundStatus.SUBMITTING): "sent again (AmbiguousRefunds = resubmit)",
}


class DiagramError(Exception):
    """The labels and the transitions, or the page, do not fit together."""


def diagram(
    transitions: Mapping[RefundStatus | None, Set[RefundStatus]] = LEGAL_TRANSITIONS,
    labels: Mapping[tuple[RefundStatus | None, RefundStatus], str] = LABELS,
) -> str:
    """Raises DiagramError where an arrow has no label or a label has no arrow."""
    arrows = [(before, after) for before, follow in transitions.items() for after in RefundStatus if after in follow]
    if differing := set(arrows) ^ set(labels):
        named = ", ".join(sorted(f"{before or 'none'} → {after}" for before, after in differing))
        raise DiagramError(f"LABELS and LEGAL_TRANSITIONS differ in: {named}")
    lines = [f"    {before or '[*]'} --> {after} : {labels[before, after]}" for before, after in arrows]
    lines += [f"    {last} --> [*]" for last, follow in transitions.items() if not follow]
    return "\n".join(["stateDiagram-v2", *lines])


def with_diagram(page: str) -> str:
    """The page with its state diagram replaced. Raises DiagramError where the page does not have exactly one."""
    block = f"```mermaid\n{diagram()}\n```"
    written, count = BLOCK.subn(lambda _: block, page)
    if count != 1:
        raise DiagramError(f"{PAGE.name} must have one block that begins with stateDiagram-v2, and has {count}")
    return written


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--write"]):
        print(__doc__, file=sys.stderr)
        return 2
    if arguments:
        PAGE.write_text(with_diagram(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(diagram())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
