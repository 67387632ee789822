"""docs/openapi.yaml in the forms that tests want."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from devstack.pages import load, resolve

DOCUMENT = load()


def inlined(node: Any) -> Any:
    """`node` with every reference in it replaced by what it points to."""
    if isinstance(node, dict):
        return {name: inlined(value) for name, value in resolve(DOCUMENT, node).items()}
    return [inlined(item) for item in node] if isinstance(node, list) else node


def closed(node: Any) -> Any:
    """`node` with no more than the documented fields in any object of its schemas.

    Callers must take what is new; we must not send what is not documented.
    """
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {name: closed(value) for name, value in node.items()}
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def complaints(schema: Any, value: Any) -> list[str]:
    """What the schema, with or without references, has against the value; numbers with a point as Decimal."""
    validator = Draft202012Validator(closed(inlined(schema)), format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(value)]


def schema(name: str) -> Any:
    return DOCUMENT["components"]["schemas"][name]
