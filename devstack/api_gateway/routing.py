"""Which of the template's routes a request takes."""

from collections.abc import Iterable, Sequence

from devstack.template import Route


class Router:
    """The most specific route wins: fixed segments before variables. (template.yaml has no ANY and no {greedy+}.)"""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = [(route.path[1:].split("/"), route) for route in routes]

    def find(self, method: str, segments: Sequence[str]) -> tuple[Route, dict[str, str]] | None:
        """The route with its path parameters."""
        found = [
            ([_is_variable(part) for part in pattern], route, parameters)
            for pattern, route in self._routes
            if route.method == method and (parameters := _match(pattern, segments)) is not None
        ]
        if not found:
            return None
        _, route, parameters = min(found, key=lambda candidate: candidate[0])
        return route, parameters


def _is_variable(segment: str) -> bool:
    return segment.startswith("{") and segment.endswith("}")


def _match(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    parameters: dict[str, str] = {}
    for part, segment in zip(pattern, segments, strict=True):
        if not _is_variable(part):
            if part != segment:
                return None
        elif segment:
            parameters[part[1:-1]] = segment
        else:
            return None
    return parameters
