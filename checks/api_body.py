"""The routes of the API in template.yaml, from docs/openapi.yaml.

python -m checks.api_body             print them
python -m checks.api_body --write     write them into template.yaml

SAM adds the functions, from their events. What it would make of the routes alone is not valid OpenAPI (path parameters
without schemas, no responses), and the API refuses a body with warnings (FailOnWarnings). See docs/decisions/0018.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import yaml

from checks.pins import ROOT

DOCUMENT = ROOT / "docs" / "openapi.yaml"
TEMPLATE = ROOT / "template.yaml"
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
BLOCK = re.compile(r"( +)# BEGIN routes.*?# END routes\n", re.DOTALL)
BEGIN = "# BEGIN routes: from docs/openapi.yaml, by `.venv/bin/python -m checks.api_body --write`"
END = "# END routes"


class BodyError(Exception):
    """The template has no place for the routes, or an operation says something that the API cannot check."""


def _security(key: str, operation: dict[str, Any]) -> Iterator[str]:
    """The document has an entry for each scope that opens the route; API Gateway takes one, with all of them."""
    if "security" not in operation:
        raise BodyError(f"{key} has no `security`; [] opens it to everybody")
    entries: list[dict[str, list[str]]] = operation["security"]
    if not entries:
        yield "security: []"
        return
    if any(set(entry) != {"jwt"} or len(entry["jwt"]) != 1 for entry in entries):
        raise BodyError(f"{key}: each entry of `security` must be one scope of the scheme jwt")
    yield "security:"
    yield "  - Jwt:"
    for entry in entries:
        [scope] = entry["jwt"]
        # Cognito puts the resource server's name before a scope.
        yield f'      - !If [CreatesUserPool, "qris-gateway/{scope}", "{scope}"]'


def routes(document: dict[str, Any]) -> Iterator[str]:
    """The lines of `paths`, without their indent."""
    for path, item in document["paths"].items():
        yield f"{path}:"
        for method in [name for name in METHODS if name in item]:
            operation = item[method]
            yield f"  {method}:"
            yield f"    operationId: {operation['operationId']}"
            if names := re.findall(r"\{(\w+)\}", path):
                yield "    parameters:"
            for name in names:
                yield f"      - {{ name: {name}, in: path, required: true, schema: {{ type: string }} }}"
            for line in _security(f"{method.upper()} {path}", operation):
                yield f"    {line}"
            yield "    responses: { default: { description: See docs/openapi.yaml } }"


def with_routes(template: str, document: dict[str, Any]) -> str:
    """The template with its routes replaced. Raises BodyError where it does not have exactly one place for them."""

    def block(found: re.Match[str]) -> str:
        return "".join(f"{found[1]}{line}\n" for line in [BEGIN, *routes(document), END])

    written, count = BLOCK.subn(block, template)
    if count != 1:
        raise BodyError(f"{TEMPLATE.name} has {count} places for the routes, not one")
    return written


def load_document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))
    return document


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--write"]):
        print(__doc__, file=sys.stderr)
        return 2
    if arguments:
        TEMPLATE.write_text(with_routes(TEMPLATE.read_text(encoding="utf-8"), load_document()), encoding="utf-8")
    else:
        print(*routes(load_document()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
