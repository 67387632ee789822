"""Which part of the repository may import which: handlers → http, features → core → layer, and the folders beside it.

docs/architecture.md draws the same picture.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEATURES = {"refunds", "status"}
LAYER = "indodana"

# Part of the gateway: what it may import beside itself.
RULES: dict[str, set[str]] = {
    "handler": {"http", "runtime", "core", *FEATURES},
    "http": {"core", "runtime"},
    "runtime": {"core"},
    "runtime.bootstrap": {"http", "runtime", "core", LAYER, *FEATURES},
    "refunds": {"core"},
    "status": {"core"},
    "core": {LAYER},
    LAYER: set(),
}
# What goes beyond the rules, each with its reason.
EXCEPTIONS = {
    ("gateway.http.problems", "indodana"): "each error of the layer has its problem",
    ("gateway.status.checks", "indodana"): "a status check's result and error are the layer's",
    ("gateway.runtime.telemetry", "indodana"): "it wraps the layer's client to measure it",
    ("gateway.runtime.tls", "indodana"): "the layer has the certificate authorities",
    ("gateway.runtime.telemetry", "gateway.refunds.recovery"): "the type of what it counts",
    ("gateway.runtime.telemetry", "gateway.refunds.sweep"): "the type of what it counts",
}
# Folder: those of the repository that its code may import. Only tests import tests.
FOLDERS = {
    "functions": {"functions", "layers"},
    "layers": {"layers"},
    "testkit": {"testkit"},
    "checks": {"checks", "functions"},  # the state diagram is made from the transitions
    "devstack": {"devstack", "testkit", "functions", "layers"},
    "deploy": {"deploy", "devstack"},  # the reader of the template
    "bench": {"bench", "devstack", "testkit", "functions", "layers"},
}


def modules(folder: Path) -> dict[str, Path]:
    """Every module below an entry of the import path, by its dotted name."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*.py")):
        name = ".".join(file.relative_to(folder).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file
    return found


FUNCTIONS = modules(ROOT / "functions")
LAYERS = modules(ROOT / "layers" / "indodana")
OTHERS = {
    folder: {f"{folder}.{name}": file for name, file in modules(ROOT / folder).items()}
    for folder in ("testkit", "checks", "devstack", "deploy", "bench", "tests")
}
FOLDER_OF = (
    dict.fromkeys(FUNCTIONS, "functions")
    | dict.fromkeys(LAYERS, "layers")
    | {name: folder for folder, found in OTHERS.items() for name in [folder, *found]}
)


def imported(file: Path) -> Iterator[str]:
    """Modules, wherever the import stands; `from package import module` names the module."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            assert node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in FOLDER_OF else node.module


def part_of(module: str) -> str:
    """What the rules call it."""
    if module == LAYER or module.startswith(f"{LAYER}."):
        return LAYER
    first, _, rest = module.partition(".")
    if first != "gateway":
        return "handler"
    return "runtime.bootstrap" if rest == "runtime.bootstrap" else rest.partition(".")[0]


def package_of(module: str) -> str:
    """Whose modules may import each other."""
    return ".".join(module.split(".")[: 2 if module.startswith("gateway.") else 1])


def beyond_the_rules() -> Iterator[tuple[str, str]]:
    for module, file in (FUNCTIONS | LAYERS).items():
        for name in imported(file):
            is_ours = FOLDER_OF.get(name) in ("functions", "layers")
            if is_ours and package_of(name) != package_of(module):
                part = part_of(name).partition(".")[0]
                if part not in RULES[part_of(module)]:
                    yield module, LAYER if part == LAYER else name


def test_parts_of_the_gateway_import_only_what_they_may() -> None:
    assert {part_of(module) for module in FUNCTIONS | LAYERS} - {""} == set(RULES)
    assert set(beyond_the_rules()) == set(EXCEPTIONS)


def test_bootstrap_is_imported_by_handlers_and_the_router_alone() -> None:
    importers = {module for module, file in FUNCTIONS.items() if "gateway.runtime.bootstrap" in imported(file)}

    assert {module for module in importers if part_of(module) != "handler"} == {"gateway.http.router"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_only_what_they_may(folder: str) -> None:
    files = {"functions": FUNCTIONS, "layers": LAYERS}.get(folder) or OTHERS[folder]
    found = {
        (module, name)
        for module, file in files.items()
        for name in imported(file)
        if FOLDER_OF.get(name, folder) not in FOLDERS[folder]
    }

    assert not found


def test_tests_import_no_test_module() -> None:
    """What two of them need stands in a helper, so that none runs the other's."""
    found = {
        (module, name)
        for module, file in OTHERS["tests"].items()
        for name in imported(file)
        if FOLDER_OF.get(name) == "tests" and name.rpartition(".")[2].startswith("test_")
    }

    assert not found
