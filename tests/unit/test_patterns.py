"""No text makes a regular expression of ours slow."""

from __future__ import annotations

import importlib
import inspect
import re
import re._parser as parser  # type: ignore[import-not-found]
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHARACTERS = 16 * 1024
SECONDS = 0.1  # linear ones take a millisecond, others seconds and minutes


def modules() -> Iterator[ModuleType]:
    for folder in (ROOT / "functions", ROOT / "layers" / "indodana"):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if path.with_name("__init__.py").exists() or len(parts) == 1:
                yield importlib.import_module(".".join(part for part in parts if part != "__init__"))


def patterns() -> dict[str, tuple[re.Pattern[str], bool]]:
    """Each with whether its module looks for patterns anywhere in a text, or only where it begins."""
    found: dict[str, tuple[re.Pattern[str], bool]] = {}

    def walk(name: str, value: Any, depth: int = 0) -> None:
        if isinstance(value, re.Pattern):
            source = inspect.getsource(sys.modules[name])
            searches = re.search(r"(?<!\bre)\.(search|sub|split|findall|finditer)\(", source) is not None
            found[value.pattern] = value, searches
        elif depth < 3 and isinstance(value, dict):
            for inner in value.values():
                walk(name, inner, depth + 1)
        elif depth < 3 and isinstance(value, list | tuple | set | frozenset):
            for inner in value:
                walk(name, inner, depth + 1)
        elif depth < 3 and isinstance(value, type) and value.__module__ == name:
            for inner in vars(value).values():
                walk(name, inner, depth + 1)

    for module in modules():
        for value in list(vars(module).values()):
            walk(module.__name__, value)
    return found


PATTERNS = patterns()


def words(pattern: re.Pattern[str]) -> set[str]:
    """Runs of characters that it names, a character of each class that it has, and all of them after one another."""
    runs: list[str] = []

    def read(parsed: Any) -> None:
        run = ""
        for operation, argument in parsed:
            name = str(operation)
            if name == "LITERAL":
                run += chr(argument)
                continue
            runs.append(run)
            run = ""
            if name == "IN":
                runs.extend(samples(argument))
            for inner in argument if isinstance(argument, tuple | list) else [argument]:
                for part in inner if isinstance(inner, list) else [inner]:
                    if isinstance(part, parser.SubPattern):
                        read(part)
        runs.append(run)

    read(parser.parse(pattern.pattern, pattern.flags))
    known = {run for run in runs if run}
    return known | {"".join(sorted(known))[:200], "a", "0", " ", "a ", "a0 ", "é"}


def samples(members: Any) -> Iterator[str]:
    for operation, argument in members:
        match str(operation):
            case "LITERAL":
                yield chr(argument)
            case "RANGE":
                yield chr(argument[0])
            case "CATEGORY":
                yield from ("7", "x", " ", "-")


def test_the_patterns_are_found() -> None:
    names = {module.__name__ for module in modules()}
    assert {"indodana.masking", "gateway.refunds.validation", "gateway.runtime.settings", "refund_api.handler"} <= names
    assert len(PATTERNS) > 15


@pytest.mark.parametrize(
    ("pattern", "searches"), PATTERNS.values(), ids=lambda value: getattr(value, "pattern", "")[:40]
)
def test_a_pattern_takes_no_time_on_its_own_words_repeated(pattern: re.Pattern[str], searches: bool) -> None:
    slow = {}
    for word in sorted(words(pattern)):
        text = (word * (CHARACTERS // len(word) + 1))[: CHARACTERS - 1]
        for ending in ("", "\0", "!"):
            started = time.process_time()
            pattern.match(text + ending)
            pattern.fullmatch(text + ending)
            if searches:
                pattern.sub("", text + ending)
            took = time.process_time() - started
            if took > SECONDS:
                slow[word + ending] = took
    assert not slow
