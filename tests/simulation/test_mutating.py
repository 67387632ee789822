"""The mutants are found by what they change, wherever and however it is written; see mutating.py."""

from __future__ import annotations

import ast

import pytest

from tests.simulation.catalogue import MUTANTS as OF_THE_PROTOCOL
from tests.simulation.catalogue import Mutant
from tests.simulation.mutating import Edit, Modules, NoAnchor, edited, sources
from tests.wire.mutants import MUTANTS as OF_THE_TRANSPORT
from tests.wire.mutants import Mutant as TransportMutant

MUTANTS = (*OF_THE_PROTOCOL, *OF_THE_TRANSPORT)
SOURCES = sources()
SOME = {
    "shop.till": ast.parse("""
LIMIT = 10

class Till:
    def pay(self, amount):
        if amount > LIMIT:
            raise ValueError(amount)
        self.book.write(amount, at=self.clock(), signed=True)
        return amount

    def close(self):
        return self.book.write(0, at=self.clock(), signed=True)
"""),
    "shop.door": ast.parse("""
def close():
    lock(1); lock(2)
    return {1, 2, 3}
"""),
}


def text_of(modules: Modules) -> dict[str, str]:
    return {name: ast.unparse(tree) for name, tree in modules.items()}


def lines_of(modules: Modules) -> set[str]:
    return {line for text in text_of(modules).values() for line in text.splitlines()}


def after(edit: Edit) -> str:
    (text,) = text_of(edited(SOME, [edit])).values()
    return text


def reformatted(tree: ast.Module) -> ast.Module:
    """No comment and no layout is left, and every docstring says something else."""
    tree = ast.parse(ast.unparse(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() if ast.get_docstring(node) is not None:
                node.body[0] = ast.Expr(ast.Constant("Other words."))
    return tree


LINES = {name: set(ast.unparse(tree).splitlines()) for name, tree in SOURCES.items()}
REFORMATTED = {name: reformatted(tree) for name, tree in SOURCES.items()}
# Each function, class and constant in a module of its own.
MOVED = {f"moved.{name}{i}": ast.Module([each], []) for name in SOURCES for i, each in enumerate(SOURCES[name].body)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_differs_from_the_code_as_it_is_and_can_be_compiled(mutant: Mutant | TransportMutant) -> None:
    for name, tree in edited(SOURCES, mutant.edits).items():
        assert ast.dump(tree) != ast.dump(SOURCES[name])
        compile(tree, name, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_layout_comments_and_docstrings_change_no_mutant(mutant: Mutant | TransportMutant) -> None:
    of_the_code_as_it_is = {name: reformatted(tree) for name, tree in edited(SOURCES, mutant.edits).items()}

    assert text_of(edited(REFORMATTED, mutant.edits)) == text_of(of_the_code_as_it_is)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_definition_in_another_module_is_found_there(mutant: Mutant | TransportMutant) -> None:
    changed = edited(SOURCES, mutant.edits)
    unchanged = set().union(*(LINES[name] for name in changed))

    moved = edited(MOVED, mutant.edits)

    assert lines_of(moved) - unchanged == lines_of(changed) - unchanged


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (Edit("LIMIT", "10", "11"), "LIMIT = 11"),
        (Edit("pay", "amount > LIMIT", "ORIGINAL and self.strict"), "if amount > LIMIT and self.strict:"),
        (Edit("Till.pay", "signed=True", "signed=False"), "self.book.write(amount, at=self.clock(), signed=False)"),
        (Edit("Till.pay", "signed=True", ""), "self.book.write(amount, at=self.clock())"),
        (Edit("Till.pay", "signed=...", "signed=not ORIGINAL"), "signed=not True)"),
        (Edit("Till.pay", "self . book . write(\n  ..., signed = True)", "print()"), "        print()"),
        (
            Edit("Till.pay", "if amount > LIMIT: ...", "while amount:\n    ORIGINAL"),
            "while amount:\n            if amount",
        ),
        (Edit("Till.pay", "return amount", "ORIGINAL\nself.never()"), "return amount\n        self.never()"),
        (Edit("Till.pay", "raise ...", "pass"), "if amount > LIMIT:\n            pass\n"),
        (Edit("door.close", "{1, ...}", "set()"), "return set()"),
        (Edit("door.close", "lock(1)\nlock(2)", "lock(2)\nlock(1)"), "lock(2)\n    lock(1)\n"),
    ],
)
def test_an_edit_changes_what_it_names(edit: Edit, line: str) -> None:
    assert line in after(edit)


def test_edits_of_one_module_follow_each_other() -> None:
    edits = [Edit("LIMIT", "10", "20"), Edit("LIMIT", "20", "30"), Edit("Till.pay", "amount > LIMIT", "False")]

    text = text_of(edited(SOME, edits))

    assert text.keys() == {"shop.till"}
    assert "LIMIT = 30" in text["shop.till"]
    assert "if False" in text["shop.till"]
    assert "LIMIT = 10" in ast.unparse(SOME["shop.till"])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (Edit("Till.open", "1", "2"), "Till.open must name one definition, and names none"),
        (Edit("ill.pay", "1", "2"), "ill.pay must name one definition, and names none"),
        (Edit("close", "1", "2"), "close must name one definition, and names shop.till.Till.close, shop.door.close"),
        (
            Edit("Till.pay", "amount >= LIMIT", "True"),
            "Till.pay in shop.till has 0 times, and not once:\namount >= LIMIT",
        ),
        (Edit("Till", "at=self.clock()", "at=0"), "Till in shop.till has 2 times, and not once:\nat=self.clock()"),
        (Edit("Till.pay", "self.book.write(amount)", "0"), "has 0 times, and not once:\nself.book.write(amount)"),
        (Edit("Till.pay", "self.book.write(..., signed=1)", "0"), "has 0 times"),
        (Edit("door.close", "lock(...)", "pass"), "door.close in shop.door has 2 times, and not once:\nlock(...)"),
        (Edit("door.close", "{1, 2}", "0"), "door.close in shop.door has 0 times, and not once:\n{1, 2}"),
    ],
)
def test_what_is_not_there_once_is_an_error_that_names_it(edit: Edit, said: str) -> None:
    with pytest.raises(NoAnchor) as error:
        edited(SOME, [edit])

    assert said in str(error.value)
