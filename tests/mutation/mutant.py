"""What the runner knows of a mutant: where it stands, how it reads, and how it comes into a process."""

from __future__ import annotations

import ast
import copy
import difflib
import gc
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
IMPORT_ROOTS = (ROOT / "functions", ROOT / "layers" / "indodana")

type Function = ast.FunctionDef | ast.AsyncFunctionDef


class NotInPlace(Exception):
    """The mutant cannot be put into loaded code: its module must be imported anew."""


@dataclass(frozen=True)
class Mutant:
    """`function` and `first_line` name the outermost function around it; None where importing the module runs it.

    `lines` run the mutated code, and `names` are what the statement defines.
    """

    id: str
    file: str
    where: str
    change: str
    lines: range
    function: str | None
    first_line: int
    names: frozenset[str]
    text: str

    @property
    def module(self) -> str:
        path = ROOT / self.file
        root = next(root for root in IMPORT_ROOTS if path.is_relative_to(root))
        return ".".join(path.relative_to(root).with_suffix("").parts)

    @property
    def label(self) -> str:
        return f"{self.module}{'.' if self.where else ''}{self.where}: {self.change}"


def load(made: Path) -> list[Mutant]:
    times: Counter[str] = Counter()
    mutants = []
    for line in made.read_text().splitlines():
        raw = json.loads(line)
        mutant = _mutant(raw, 0)
        times[mutant.id] += 1
        mutants.append(_mutant(raw, times[mutant.id]) if times[mutant.id] > 1 else mutant)
    return mutants


def _mutant(raw: Mapping[str, Any], time: int) -> Mutant:
    source = _source(raw["file"])
    start, end, new = raw["start"], raw["end"], raw["new"]
    mutated = source[:start] + new + source[end:]
    first, last = source.count("\n", 0, start) + 1, source.count("\n", 0, max(start, end - 1)) + 1
    scope = _scope(raw["file"], first, start - (source.rfind("\n", 0, start) + 1))
    change = _change(source, mutated) + (f" ({time})" if time else "")
    exchange = [" ".join(source[start:end].split()), " ".join(new.split()), raw["operator"], str(time)]
    known_by = "\0".join([raw["file"], raw["where"], *exchange, scope.text])
    return Mutant(
        hashlib.sha256(known_by.encode()).hexdigest()[:16],
        raw["file"],
        raw["where"],
        change,
        range(min(first, scope.lines.start), max(last + 1, scope.lines.stop)),
        scope.function,
        scope.first_line,
        scope.names,
        mutated,
    )


@cache
def _source(file: str) -> str:
    return (ROOT / file).read_text()


def _change(source: str, mutated: str) -> str:
    """The lines that differ, before and after."""
    differing = list(difflib.unified_diff(source.splitlines(), mutated.splitlines(), n=0, lineterm=""))[2:]
    sides = [
        " ".join(" ".join(line[1:].split()) for line in differing if line.startswith(sign)).strip() for sign in "-+"
    ]
    return " → ".join(sides)


# ---- where it stands


@dataclass(frozen=True)
class _Scope:
    function: str | None
    first_line: int
    lines: range
    names: frozenset[str]
    text: str


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(_source(file))


def _scope(file: str, line: int, column: int) -> _Scope:
    """The statement around a place. A character beyond ASCII before it on its line puts the column off by a little."""
    classes: list[str] = []
    names: set[str] = set()
    body: Sequence[ast.stmt] = _tree(file).body
    statement: ast.stmt | None = None
    while True:
        statement = next((found for found in body if _first(found) <= line <= (found.end_lineno or 0)), statement)
        if statement is None:
            return _Scope(None, line, range(line, line + 1), frozenset(), "")
        match statement:
            case ast.ClassDef() if line >= statement.body[0].lineno:
                names.add(statement.name)
                classes.append(statement.name)
                body, statement = statement.body, None
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef() if _is_in_body(statement, line, column):
                return _Scope(
                    ".".join([*classes, statement.name]),
                    _first(statement),
                    _statement_lines(statement, line),
                    frozenset(),
                    _code(statement),
                )
        names |= _defined(statement)
        lines = range(_first(statement), (statement.end_lineno or 0) + 1)
        return _Scope(None, _first(statement), lines, frozenset(names), _code(statement))


def _is_in_body(function: Function, line: int, column: int) -> bool:
    return (line, column) >= (function.body[0].lineno, function.body[0].col_offset)


def _first(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _code(statement: ast.stmt) -> str:
    """Without comments, layout and docstrings: what is said of code does not change it."""
    statement = copy.deepcopy(statement)
    for node in ast.walk(statement):
        match node:
            case (
                ast.FunctionDef(body=[ast.Expr(ast.Constant(str())), *rest])
                | ast.ClassDef(body=[ast.Expr(ast.Constant(str())), *rest])
            ):
                node.body = rest or [ast.Pass()]
    return ast.dump(statement)


def _defined(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name}
        case ast.Assign(targets=targets):
            return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
        case ast.AnnAssign(target=ast.Name(name)):
            return {name}
    return set()


def _statement_lines(function: Function, line: int) -> range:
    """Of the innermost statement; of one with a block, its head."""
    innermost: ast.stmt = function
    for node in ast.walk(function):
        if isinstance(node, ast.stmt) and innermost.lineno <= node.lineno <= line <= (node.end_lineno or 0):
            innermost = node
    body = getattr(innermost, "body", None)
    last = body[0].lineno - 1 if body else innermost.end_lineno or 0
    return range(innermost.lineno, max(last, innermost.lineno) + 1)


# ---- into loaded code


type Functions = Mapping[tuple[str, str, int], Sequence[FunctionType]]


def functions_of(files: Iterable[str]) -> Functions:
    """Every function of these files that is alive, by path, qualified name and first line."""
    names = {str(ROOT / file) for file in files}
    found: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename in names:
            code = function.__code__
            found[code.co_filename, code.co_qualname, code.co_firstlineno].append(function)
    return found


def put_in_place(mutant: Mutant, functions: Functions) -> None:
    """Exchanges the code of the function around it. Raises NotInPlace."""
    if mutant.function is None:
        raise NotInPlace(mutant.label)
    path = str(ROOT / mutant.file)
    key = (path, mutant.function, mutant.first_line)
    (code,) = (
        code
        for code in codes(compile(mutant.text, path, "exec"))
        if (code.co_filename, code.co_qualname, code.co_firstlineno) == key
    )
    if key not in functions:
        raise NotInPlace(mutant.label)
    for function in functions[key]:
        try:
            function.__code__ = code
        except ValueError as error:  # other variables of an outer function
            raise NotInPlace(mutant.label) from error


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


# ---- into code that is still to be loaded


class Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.origin:
            spec.loader = _Loader(fullname, spec.origin, self._mutant.text)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, text: str) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec")
