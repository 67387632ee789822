"""Which of the template's routes a request takes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from devstack.template import Route

FIXED, VARIABLE, GREEDY = range(3)


@dataclass(frozen=True)
class _Segment:
    text: str
    rank: int


class Router:
    """The most specific route wins: fixed segments before variables before {greedy+}, a method before ANY."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = [(_pattern(route.path), route) for route in routes]

    def find(self, method: str, segments: Sequence[str]) -> tuple[Route, dict[str, str]] | None:
        """The route with its path parameters."""
        best: tuple[tuple[object, ...], Route, dict[str, str]] | None = None
        for pattern, route in self._routes:
            if route.method not in (method, "ANY"):
                continue
            parameters = _match(pattern, segments)
            if parameters is None:
                continue
            rank = (tuple(segment.rank for segment in pattern), route.method == "ANY")
            if best is None or rank < best[0]:
                best = (rank, route, parameters)
        return best[1:] if best else None


def _pattern(path: str) -> list[_Segment]:
    pattern = []
    for segment in path[1:].split("/"):
        if segment.startswith("{") and segment.endswith("+}"):
            pattern.append(_Segment(segment[1:-2], GREEDY))
        elif segment.startswith("{") and segment.endswith("}"):
            pattern.append(_Segment(segment[1:-1], VARIABLE))
        else:
            pattern.append(_Segment(segment, FIXED))
    return pattern


def _match(pattern: Sequence[_Segment], segments: Sequence[str]) -> dict[str, str] | None:
    parameters: dict[str, str] = {}
    for index, expected in enumerate(pattern):
        if expected.rank == GREEDY:
            rest = "/".join(segments[index:])
            return {**parameters, expected.text: rest} if rest else None
        if index >= len(segments):
            return None
        if expected.rank == VARIABLE and segments[index]:
            parameters[expected.text] = segments[index]
        elif expected.rank == VARIABLE or segments[index] != expected.text:
            return None
    return parameters if len(segments) == len(pattern) else None
