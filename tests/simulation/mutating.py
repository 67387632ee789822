"""Small changes to the gateway's code, made while it is loaded and found by what they change, not by where it stands.

    Edit("Ledger._already_written", "current.transition_id == after.transition_id", "False")

The first part names a definition: a function, a method, a class or a constant of a module, by the end of its dotted
name, as much of it as tells it apart (`Ledger._wait`, or `gateway.core.ledger.Ledger._wait`). Its module is searched
for in all that is deployed. The second is what must stand there exactly once, the third is what stands there instead.
Both are Python: an expression, or one or more statements that follow each other. Syntax is compared, so layout,
comments and quotes do not matter.

    `name=value`    is found as an assignment and as a keyword argument
    `...`           in the second part: any expression; among arguments, elements or statements, any number of them
    `ORIGINAL`      in the third part: what was found; within an expression, its value

`apply` must be called before the gateway is imported, and so in one of the `interpreters`.
"""

from __future__ import annotations

import ast
import copy
import multiprocessing
import pickle
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
IMPORT_ROOTS = (ROOT / "functions", ROOT / "layers" / "indodana")
RUN_SECONDS = 300

type Modules = Mapping[str, ast.Module]  # by dotted name


class NoAnchor(Exception):
    """What an edit changes is not there exactly once."""


@dataclass(frozen=True)
class Edit:
    where: str
    old: str
    new: str


def sources() -> dict[str, ast.Module]:
    """All that is deployed."""
    modules: dict[str, ast.Module] = {}
    for root in IMPORT_ROOTS:
        for file in sorted(root.rglob("*.py")):
            name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            modules[name] = ast.parse(file.read_text(), str(file))
    return modules


def edited(modules: Modules, edits: Iterable[Edit]) -> dict[str, ast.Module]:
    """The modules that are changed, as they are then. Raises NoAnchor."""
    changed: dict[str, ast.Module] = {}
    for edit in edits:
        module, _ = _definition({**modules, **changed}, edit)
        if module not in changed:
            changed[module] = pickle.loads(pickle.dumps(modules[module]))  # a copy in a quarter of deepcopy's time
        _, definition = _definition(changed, edit)
        _apply(edit, module, definition)
    return changed


def apply(edits: Iterable[Edit]) -> None:
    """Makes the gateway importable, and each of its modules that is changed load so."""
    changed = edited(sources(), edits)
    if loaded := changed.keys() & sys.modules.keys():
        raise RuntimeError(f"loaded before they could be edited: {loaded}")
    sys.path[:0] = [str(root) for root in IMPORT_ROOTS]
    sys.meta_path.insert(0, _Finder(changed))


def interpreters(at_a_time: int) -> ProcessPoolExecutor:
    """Gives each task an interpreter of its own, in which nothing of the gateway is imported.

    Not forked from a server of forks: a process has one of those, and the bench's has imported the gateway.
    """
    context = multiprocessing.get_context("spawn")
    # A task that comes to no end takes the run with it.
    return ProcessPoolExecutor(at_a_time, context, signal.alarm, (RUN_SECONDS,), max_tasks_per_child=1)


class _Finder(MetaPathFinder):
    def __init__(self, changed: Modules) -> None:
        self._changed = changed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._changed:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.origin:
            spec.loader = _Loader(fullname, spec.origin, self._changed[fullname])
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, tree: ast.Module) -> None:
        super().__init__(fullname, path)
        self._tree = tree

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._tree, self.path, "exec")


# ---- definitions


def _definition(modules: Modules, edit: Edit) -> tuple[str, ast.stmt]:
    """The one that `edit` names, and its module."""
    found = [
        (name, module, definition)
        for module, tree in modules.items()
        for name, definition in _definitions(module, tree.body)
        if f".{name}".endswith(f".{edit.where}")
    ]
    if len(found) != 1:
        raise NoAnchor(f"{edit.where} must name one definition, and names {', '.join(f[0] for f in found) or 'none'}")
    _, module, definition = found[0]
    return module, definition


def _definitions(prefix: str, body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield f"{prefix}.{statement.name}", statement
            case ast.ClassDef():
                yield f"{prefix}.{statement.name}", statement
                yield from _definitions(f"{prefix}.{statement.name}", statement.body)
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                yield f"{prefix}.{name}", statement


# ---- what is found in them


@dataclass
class _Found:
    """Where it stands: in a field of `parent`, there between two positions if that is a list."""

    parent: ast.AST
    field: str
    start: int | None
    nodes: list[ast.AST]

    def replace(self, nodes: list[ast.AST]) -> None:
        if self.start is None:
            (node,) = nodes
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.start : self.start + len(self.nodes)] = nodes


def _apply(edit: Edit, module: str, definition: ast.stmt) -> None:
    old, new = _statements(edit.old), _statements(edit.new)
    readings: list[tuple[Sequence[ast.AST], Sequence[ast.AST]]] = [(old, new)]
    match old, new:
        case [ast.Expr(before)], [ast.Expr(after)]:
            readings = [([before], [after])]
        case [ast.Assign()], _ if (keywords := _keywords(old)) and (others := _keywords(new)) is not None:
            readings.append((keywords, others))
    found = [(place, replacement) for pattern, replacement in readings for place in _places(definition, pattern)]
    if len(found) != 1:
        raise NoAnchor(f"{edit.where} in {module} has {len(found)} times, and not once:\n{textwrap.dedent(edit.old)}")
    place, replacement = found[0]
    place.replace(_with_original(replacement, place.nodes))


def _statements(text: str) -> list[ast.stmt]:
    return ast.parse(textwrap.dedent(text)).body


def _keywords(statements: list[ast.stmt]) -> list[ast.keyword] | None:
    keywords = []
    for statement in statements:
        match statement:
            case ast.Assign([ast.Name(name)], value):
                keywords.append(ast.keyword(name, value, lineno=0, col_offset=0))
            case _:
                return None
    return keywords


def _places(definition: ast.stmt, pattern: Sequence[ast.AST]) -> Iterator[_Found]:
    for parent in ast.walk(definition):
        for field, value in ast.iter_fields(parent):
            if not isinstance(value, list):
                if isinstance(value, ast.AST) and _all_equal(pattern, [value]):
                    yield _Found(parent, field, None, [value])
                continue
            for start in range(len(value) - len(pattern) + 1):
                nodes = value[start : start + len(pattern)]
                if _all_equal(pattern, nodes):
                    yield _Found(parent, field, start, nodes)


def _all_equal(pattern: Sequence[Any], values: Sequence[Any]) -> bool:
    return len(pattern) == len(values) and all(map(_equal, pattern, values))


def _equal(pattern: Any, value: Any) -> bool:
    if isinstance(value, ast.expr) and _is_hole(pattern):
        return True
    if type(pattern) is not type(value):
        return False
    match pattern:
        case ast.Call() if any(map(_is_hole, pattern.args)):
            return (
                _equal(pattern.func, value.func)
                and _fits(pattern.args, value.args)
                and all(any(_equal(keyword, other) for other in value.keywords) for keyword in pattern.keywords)
            )
        case ast.Constant():
            return _equal(pattern.value, value.value)
        case ast.AST():
            return all(_equal(getattr(pattern, field), getattr(value, field)) for field in pattern._fields)
        case list():
            return _fits(pattern, value)
    return bool(pattern == value)


def _fits(pattern: Sequence[Any], values: Sequence[Any]) -> bool:
    """Equal, where a hole takes any number."""
    if not pattern:
        return not values
    if _is_hole(pattern[0]):
        return any(_fits(pattern[1:], values[skipped:]) for skipped in range(len(values) + 1))
    return bool(values) and _equal(pattern[0], values[0]) and _fits(pattern[1:], values[1:])


def _is_hole(pattern: Any) -> bool:
    if isinstance(pattern, ast.Expr):
        pattern = pattern.value
    return isinstance(pattern, ast.Constant) and pattern.value is ...


# ---- what is put there instead


class _Original(ast.NodeTransformer):
    def __init__(self, nodes: list[ast.AST]) -> None:
        self._nodes = nodes

    def visit_Expr(self, node: ast.Expr) -> Any:
        match node.value, self._nodes:
            case ast.Name("ORIGINAL"), [ast.stmt(), *_]:
                return copy.deepcopy(self._nodes)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> Any:
        if node.id != "ORIGINAL":
            return node
        (original,) = self._nodes
        return copy.deepcopy(original if isinstance(original, ast.expr) else original.value)  # type: ignore[attr-defined]


def _with_original(replacement: Sequence[ast.AST], found: list[ast.AST]) -> list[ast.AST]:
    """Tracebacks show it where the original stands."""
    whole = ast.Module(list(replacement), [])  # type: ignore[arg-type]
    for node in ast.walk(whole):
        for attribute in ("lineno", "end_lineno", "col_offset", "end_col_offset"):
            if hasattr(node, attribute):
                setattr(node, attribute, getattr(found[0], attribute))
    return list(_Original(found).visit(whole).body)
