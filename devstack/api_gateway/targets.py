"""The request target: its path and its query, decoded as API Gateway decodes them."""

import re
from urllib.parse import unquote_to_bytes, urlsplit

from devstack.api_gateway.messages import BadRequestError


def split_target(target: str) -> tuple[str, str]:
    """Path and query, still encoded; of an absolute URL, too, which HTTP allows in a request line."""
    if re.search(r"[^\x21-\x7e]", target) or re.search(r"%(?![0-9A-Fa-f]{2})", target):
        raise BadRequestError
    if not target.startswith("/"):
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https"):
            raise BadRequestError
        target = f"{parts.path or '/'}?{parts.query}"
    path, _, query = target.partition("?")
    return path, query


def decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequestError from None


def query_parameters(query: str) -> dict[str, str]:
    """Decoded; the values of a repeated name are joined by a comma."""
    parameters: dict[str, str] = {}
    for pair in query.split("&"):
        if not pair:
            continue
        name, _, value = (decoded(part.replace("+", " ")) for part in pair.partition("="))
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    return parameters
