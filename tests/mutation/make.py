"""Makes mutants of the given modules with mutmut's operators, and writes one JSON object a line for each.

    .venv-mutate/bin/python -m tests.mutation.make FILE …

Only mutmut's operators are used, not its runner. That one changes functions alone, so the table of legal transitions,
the constants and every decorated function would have no mutant; and it copies the code to one source root, where this
repository has two. cosmic-ray changes files in place and starts pytest anew for each of thousands of mutants.

mutmut lacks three operators that matter where money moves: a call whose result is not used disappears, a condition is
negated, an `except` no longer catches. They stand below.

Not mutated: docstrings, annotations and what only names types, imports, whether a dataclass is frozen, and texts for
people (the message of a log line or of an exception). A text that a machine reads gets one mutant, not also one in
capitals and one in small letters.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators

ROOT = Path(__file__).parents[2]
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
# With an argument less they raise a TypeError: any test that gets there kills those.
NEVER_MUTATED_CALLS = {"len", "isinstance", "TypeVar", "NewType", "cast"}


def drop_call(node: cst.Expr) -> Iterator[cst.CSTNode]:
    if isinstance(node.value, cst.Call):
        yield cst.Pass()


def negate_condition(node: cst.If | cst.While | cst.IfExp) -> Iterator[cst.CSTNode]:
    # The other forms have operators of mutmut.
    if isinstance(node.test, cst.Name | cst.Attribute | cst.Call | cst.NamedExpr | cst.Subscript):
        condition = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), condition))


def catch_nothing(node: cst.ExceptHandler) -> Iterator[cst.CSTNode]:
    if node.type is not None:
        yield node.with_changes(type=cst.Tuple([], lpar=[cst.LeftParen()], rpar=[cst.RightParen()]))


OPERATORS: list[tuple[type, Callable[[Any], Iterable[cst.CSTNode]]]] = [
    *mutation_operators,
    (cst.Expr, drop_call),
    (cst.If | cst.While | cst.IfExp, negate_condition),
    (cst.ExceptHandler, catch_nothing),
]


def is_text_for_people(node: cst.Call, argument: cst.Arg) -> bool:
    """The first argument of a log call."""
    return (
        isinstance(node.func, cst.Attribute)
        and node.func.attr.value in LOG_METHODS
        and bool(node.args)
        and argument is node.args[0]
    )


def chosen(node: cst.CSTNode, made: list[cst.CSTNode], *, within_raise: bool) -> Iterable[cst.CSTNode]:
    """Without those that say what another one says: each argument would become None and be left out too."""
    match node:
        case cst.SimpleString() if "r" not in node.prefix.lower():
            return made[:1]
        case cst.Call(cst.Name("dataclass")):
            return ()
        case cst.Call():
            texts = (cst.BaseString,) if within_raise else (cst.SimpleString,)
            return (
                mutated for mutated in made if not isinstance(mutated, cst.Call) or is_telling(node, mutated, texts)
            )
    return made


def is_telling(call: cst.Call, mutated: cst.Call, texts: tuple[type, ...]) -> bool:
    """A keyword argument is left out, so that its default counts. Another one, unless it is a literal, becomes None."""
    if len(mutated.args) < len(call.args):
        left_out = next(
            (old for old, new in zip(call.args, mutated.args, strict=False) if old is not new), call.args[-1]
        )
        return left_out.keyword is not None
    replaced = [old for old, new in zip(call.args, mutated.args, strict=True) if old is not new]
    return not replaced or (replaced[0].keyword is None and not isinstance(replaced[0].value, (*texts, cst.BaseNumber)))


class Maker(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (WhitespaceInclusivePositionProvider,)

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scopes: list[str] = []
        self._texts_for_people = 0
        self._seen = {ast.dump(ast.parse(source))}
        self.mutants: list[dict[str, Any]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        match node:
            case cst.ClassDef() | cst.FunctionDef():
                self._scopes.append(node.name.value)
            case cst.Annotation() | cst.Import() | cst.ImportFrom() | cst.TypeAlias() | cst.TypeParameters():
                return False
            case cst.Expr(cst.SimpleString() | cst.ConcatenatedString()):
                return False
            case cst.Arg(keyword=cst.Name("frozen" | "slots")):
                return False
            case cst.If(test=cst.Name("TYPE_CHECKING")):
                return False
            case cst.Raise():
                self._texts_for_people += 1
        if isinstance(node, cst.Call):
            name = node.func.value if isinstance(node.func, cst.Name) else ""
            if name in NEVER_MUTATED_CALLS:
                return False
        self._mutate(node)
        if isinstance(node, cst.Call) and any(is_text_for_people(node, argument) for argument in node.args):
            for argument in node.args[1:]:
                argument.visit(self)
            node.func.visit(self)
            return False
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        match original_node:
            case cst.ClassDef() | cst.FunctionDef():
                self._scopes.pop()
            case cst.Raise():
                self._texts_for_people -= 1

    def _mutate(self, node: cst.CSTNode) -> None:
        if isinstance(node, cst.BaseString) and (self._texts_for_people or not isinstance(node, cst.SimpleString)):
            return
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                for mutated in chosen(node, list(operator(node)), within_raise=self._texts_for_people > 0):
                    self._add(node, mutated, operator.__name__.removeprefix("operator_"))

    def _add(self, node: cst.CSTNode, mutated: cst.CSTNode, operator: str) -> None:
        place = self.get_metadata(WhitespaceInclusivePositionProvider, node)
        start = self._starts[place.start.line - 1] + place.start.column
        end = self._starts[place.end.line - 1] + place.end.column
        old = self._source[start:end]
        if cst.Module([]).code_for_node(node) == old:
            self._keep(start, end, cst.Module([]).code_for_node(mutated), operator)
        else:  # it has several lines, whose indentation only the module knows; slow
            self._add_lines(node, mutated, operator)

    def _add_lines(self, node: cst.CSTNode, mutated: cst.CSTNode, operator: str) -> None:
        changed = self._module.deep_replace(node, mutated).code
        start = 0
        while self._source[start] == changed[start]:
            start += 1
        ends = 0
        while self._source[-1 - ends] == changed[-1 - ends] and ends < min(len(changed), len(self._source)) - start:
            ends += 1
        self._keep(start, len(self._source) - ends, changed[start : len(changed) - ends], operator)

    def visit_Module(self, node: cst.Module) -> None:
        self._module = node

    def _keep(self, start: int, end: int, text: str, operator: str) -> None:
        changed = self._source[:start] + text + self._source[end:]
        try:
            tree = ast.dump(ast.parse(changed))
            compile(changed, "mutant", "exec")
        except SyntaxError:
            return
        if tree in self._seen:
            return
        self._seen.add(tree)
        self.mutants.append(
            {"where": ".".join(self._scopes), "operator": operator, "start": start, "end": end, "new": text}
        )


def mutants(file: Path) -> list[dict[str, Any]]:
    maker = Maker(file.read_text())
    # A copy would have no identity with what deep_replace looks for.
    wrapper = MetadataWrapper(cst.parse_module(file.read_text()), unsafe_skip_copy=True)
    maker._module = wrapper.module
    wrapper.visit(maker)
    return [{"file": str(file.relative_to(ROOT))} | mutant for mutant in maker.mutants]


def main() -> None:
    for name in sys.argv[1:]:
        for mutant in mutants((ROOT / name).resolve()):
            print(json.dumps(mutant))


if __name__ == "__main__":
    main()
