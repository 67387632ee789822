"""Names of tests are read in reports: short, and each once in its file."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
LONGEST = 70


def names(file: Path) -> list[str]:
    tree = ast.parse(file.read_text(), str(file))
    scopes: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    return [
        f"{scope.name}.{node.name}" if isinstance(scope, ast.ClassDef) else node.name
        for scope in scopes
        for node in scope.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


ALL = {str(file.relative_to(TESTS)): names(file) for file in sorted(TESTS.rglob("test_*.py"))}


def test_names_have_at_most_70_characters() -> None:
    too_long = [
        f"{file}: {name}" for file, found in ALL.items() for name in found if len(name.rpartition(".")[2]) > LONGEST
    ]

    assert len(ALL) > 50
    assert not too_long, "\n".join(too_long)


def test_no_test_hides_another_of_its_name() -> None:
    twice = {f"{file}: {name}" for file, found in ALL.items() for name, times in Counter(found).items() if times > 1}

    assert not twice
