"""DynamoDB's condition and update expressions, compiled."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from functools import cache
from typing import Any, NoReturn

from boto3.dynamodb.types import DYNAMODB_CONTEXT

from testkit.emulator.clients import invalid
from testkit.emulator.values import MAX_KEY_BYTES, Item, Value, number, number_text

type Names = Mapping[str, str]
type Values = Mapping[str, Value]
type Operand = Callable[[Item, Names, Values], Value | None]
type Condition = Callable[[Item, Names, Values], bool]
type Target = Callable[[Names], str]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TOKEN = re.compile(r"\s*([#:]?[A-Za-z_][A-Za-z0-9_]*|<>|<=|>=|[=<>+\-(),]|$)")
NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Expressions:
    """What one request says in expressions, compiled; each kind of request only once."""

    condition: Condition | None
    assignments: tuple[tuple[Target, Operand], ...]
    names: frozenset[str]  # the placeholders in them, which the request must define, and no others
    values: frozenset[str]

    def check(self, names: Names, values: Values) -> None:
        check_placeholders("ExpressionAttributeNames", "attribute name", self.names, names.keys())
        check_placeholders("ExpressionAttributeValues", "attribute value", self.values, values.keys())

    def applied(self, item: Item, names: Names, values: Values) -> Item:
        """The item after the update; every operand is as it was before."""
        changes: dict[str, Value] = {}
        for target, operand in self.assignments:
            name = target(names)
            if name in changes:
                raise invalid(f"Two document paths overlap with each other: [{name}]")
            if name in MAX_KEY_BYTES:
                raise invalid(f"Cannot update attribute {name}. This attribute is part of the key")
            value = operand(item, names, values)
            if value is None:
                raise invalid("The provided expression refers to an attribute that does not exist in the item")
            changes[name] = value
        return {**item, **changes}


def check_placeholders(argument: str, what: str, used: frozenset[str], given: Any) -> None:
    if given == used:
        return
    if missing := sorted(used - given):
        raise invalid(f"An expression {what} used in expression is not defined; {what}: {missing[0]}")
    unused = ", ".join(sorted(given - used))
    raise invalid(f"Value provided in {argument} unused in expressions: keys: {{{unused}}}")


@cache
def compiled(condition: str | None, update: str | None) -> Expressions:
    names: set[str] = set()
    values: set[str] = set()
    compiled_condition = _Parser(condition, names, values).condition() if condition is not None else None
    assignments = _Parser(update, names, values).assignments() if update is not None else ()
    return Expressions(compiled_condition, assignments, frozenset(names), frozenset(values))


class _Parser:
    """Recursive descent over one expression.

    condition    term { AND term }
    term         attribute_exists ( path )  |  attribute_not_exists ( path )  |  operand comparison operand
    assignments  SET path = operand [ + operand | - operand ] { , … }
    operand      path | :value
    path         name | #name
    """

    def __init__(self, text: str, names: set[str], values: set[str]) -> None:
        self._text = text
        self._tokens = list(self._tokenized(text))
        self._names = names
        self._values = values

    def condition(self) -> Condition:
        terms = [self._term()]
        while self._tokens[0].upper() == "AND":
            self._next()
            terms.append(self._term())
        self._expect("")
        return terms[0] if len(terms) == 1 else _conjunction(tuple(terms))

    def assignments(self) -> tuple[tuple[Target, Operand], ...]:
        if self._next().upper() != "SET":
            self._not_understood("only SET")
        assignments = [self._assignment()]
        while self._tokens[0] == ",":
            self._next()
            assignments.append(self._assignment())
        self._expect("")
        return tuple(assignments)

    def _term(self) -> Condition:
        if self._tokens[1] == "(":
            function = self._next()
            self._expect("(")
            target = self._path()
            self._expect(")")
            if function == "attribute_exists":
                return lambda item, names, _: target(names) in item
            if function == "attribute_not_exists":
                return lambda item, names, _: target(names) not in item
            self._not_understood(function)
        left = self._operand()
        comparison = self._next()
        if comparison not in _COMPARISONS:
            self._not_understood(comparison)
        return _comparison(_COMPARISONS[comparison], left, self._operand())

    def _assignment(self) -> tuple[Target, Operand]:
        target = self._path()
        self._expect("=")
        value = self._operand()
        if self._tokens[0] in ("+", "-"):
            sign = DYNAMODB_CONTEXT.add if self._next() == "+" else DYNAMODB_CONTEXT.subtract
            value = _arithmetic(sign, value, self._operand())
        return target, value

    def _operand(self) -> Operand:
        if self._tokens[0].startswith(":"):
            placeholder = self._next()
            self._values.add(placeholder)
            return lambda _, __, values: values[placeholder]
        if self._tokens[0].startswith("#"):
            target = self._path()
            return lambda item, names, _: item.get(target(names))
        name = self._word()
        return lambda item, _, __: item.get(name)

    def _path(self) -> Target:
        if self._tokens[0].startswith("#"):
            placeholder = self._next()
            self._names.add(placeholder)
            return lambda names: names[placeholder]
        name = self._word()
        return lambda _: name

    def _word(self) -> str:
        word = self._next()
        if not word.isidentifier():
            self._not_understood(word)
        return word

    def _next(self) -> str:
        return self._tokens.pop(0)

    def _expect(self, token: str) -> None:
        if self._tokens[0] != token:
            self._not_understood(self._tokens[0])
        self._next()

    def _tokenized(self, text: str) -> Iterator[str]:
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self._not_understood(text[position:])
            position = match.end()
            if match[1]:
                yield match[1]
        yield from ("", "")  # the end, and what a look one further ahead finds there

    def _not_understood(self, token: str) -> NoReturn:
        raise NotImplementedError(f"{token or 'the end'!r} in the expression {self._text!r}")


def _conjunction(terms: tuple[Condition, ...]) -> Condition:
    def holds(item: Item, names: Names, values: Values) -> bool:
        for term in terms:  # noqa: SIM110 - all() over a generator takes twice the time
            if not term(item, names, values):
                return False
        return True

    return holds


def _comparison(compare: Callable[[Any, Any], bool], left: Operand, right: Operand) -> Condition:
    is_ordering = compare not in (operator.eq, operator.ne)

    def holds(item: Item, names: Names, values: Values) -> bool:
        one, other = left(item, names, values), right(item, names, values)
        if one is None or other is None:
            return compare is operator.ne  # what is not there is not equal to anything
        ((kind, content),) = one.items()
        ((other_kind, other_content),) = other.items()
        if kind != other_kind:
            return compare is operator.ne
        if kind == "N":
            return compare(Decimal(content), Decimal(other_content))
        if is_ordering and kind != "S":
            raise invalid(f"Incorrect operand type for operator or function; operand type: {kind}")
        return compare(content, other_content)  # texts by code points, which is the order of their UTF-8 too

    return holds


def _arithmetic(sign: Callable[[Decimal, Decimal], Decimal], left: Operand, right: Operand) -> Operand:
    def result(item: Item, names: Names, values: Values) -> Value | None:
        one, other = left(item, names, values), right(item, names, values)
        if one is None or other is None:
            return None
        if "N" not in one or "N" not in other:
            raise invalid("An operand in the update expression has an incorrect data type")
        try:
            return {"N": number_text(sign(number(one["N"]), number(other["N"])))}
        except DecimalException:
            raise invalid("Number overflow. Attempting to store a number beyond 38 digits") from None

    return result
