"""The API's description on the local stack: docs/openapi.yaml as JSON, and as a page to read that needs no network."""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

import simplejson
import yaml

from devstack.local_files import DEFAULT_PORT, TOKEN_FILE
from devstack.samconfig import ROOT
from devstack.yaml_loader import SafeLoader

DOCUMENT = ROOT / "docs" / "openapi.yaml"
STYLE = Path(__file__).with_name("pages.css")
JSON_PATH = "/openapi.json"
PAGE_PATH = "/docs"
METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
BODY_METHODS = frozenset({"put", "post", "patch"})

# As a shell takes it.
DEFAULT_TOKEN_FILE = f".local/{DEFAULT_PORT}/{TOKEN_FILE}"

type Json = Any
type Headers = tuple[tuple[str, str], ...]


class _Loader(SafeLoader):
    """Numbers with a decimal point keep their digits: a limit of 99999999999999.99 is no binary float."""


_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: Decimal(node.value))


def load(path: Path = DOCUMENT) -> dict[str, Json]:
    document: dict[str, Json] = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    return document


def serve(path: str, base_url: str, token_file: str = DEFAULT_TOKEN_FILE) -> tuple[bytes, Headers] | None:
    """Read again for every request, so that an edit shows at the next reload."""
    if path not in (JSON_PATH, PAGE_PATH, f"{PAGE_PATH}/") or not DOCUMENT.exists():
        return None
    document = load() | {"servers": [{"url": base_url}]}
    if path == JSON_PATH:
        return simplejson.dumps(document, use_decimal=True).encode(), (("content-type", "application/json"),)
    headers = (
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    )
    return html(document, token_file).encode(), headers


def resolve(document: Mapping[str, Json], node: Json) -> Json:
    """`node`, or what its `$ref` points to; what stands beside a `$ref` wins."""
    if not isinstance(node, dict) or "$ref" not in node:
        return node
    target: Json = document
    for name in node["$ref"].removeprefix("#/").split("/"):
        target = target[name.replace("~1", "/").replace("~0", "~")]
    beside = {name: value for name, value in node.items() if name != "$ref"}
    return {**resolve(document, target), **beside}


def operations(document: Mapping[str, Json]) -> Iterator[tuple[str, str, dict[str, Json]]]:
    """Method, path and operation, its path's parameters among its own."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                parameters = [*item.get("parameters", []), *operation.get("parameters", [])]
                resolved = [resolve(document, parameter) for parameter in parameters]
                yield method.upper(), path, {**operation, "parameters": resolved}


def html(document: Mapping[str, Json], token_file: str = DEFAULT_TOKEN_FILE) -> str:
    return _Page(document, token_file).html()


class _Page:
    def __init__(self, document: Mapping[str, Json], token_file: str) -> None:
        self._document = document
        self._token_file = token_file
        self._schemas: Mapping[str, Json] = document["components"]["schemas"]
        self._base_url: str = document["servers"][0]["url"]

    def html(self) -> str:
        info = self._document["info"]
        tags = [tag["name"] for tag in self._document["tags"]]
        found = sorted(operations(self._document), key=lambda entry: tags.index(entry[2]["tags"][0]))
        navigation, main = [], []
        for tag in self._document["tags"]:
            own = [entry for entry in found if entry[2]["tags"][0] == tag["name"]]
            navigation.append(f"<h2>{escape(tag['name'])}</h2>{''.join(_entry(*entry) for entry in own)}")
            main.append(f"<section><h2>{escape(tag['name'])}</h2>{_text(tag['description'])}")
            main += [self._operation(*entry) for entry in own]
            main.append("</section>")
        navigation.append("<h2>Reference</h2><a href='#problems'>Problems</a><a href='#schemas'>Schemas</a>")
        security = self._document["components"]["securitySchemes"]["jwt"]
        return (
            "<!doctype html><html lang=en><head><meta charset=utf-8>"
            "<meta name=viewport content='width=device-width, initial-scale=1'>"
            f"<title>{escape(info['title'])} API</title><style>{STYLE.read_text(encoding='utf-8')}</style></head><body>"
            f"<nav><a class=home href='#top'>{escape(info['title'])}</a>{''.join(navigation)}"
            f"<a class=raw href='{JSON_PATH}'>openapi.json</a></nav>"
            f"<main id=top><h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
            f"<p class=lead>{_inline(info['summary'])}</p>{_text(info['description'])}"
            f"<h3>Authorization</h3>{_text(security['description'])}"
            f"{''.join(main)}{self._problems(found)}{self._all_schemas()}</main></body></html>"
        )

    def _operation(self, method: str, path: str, operation: Mapping[str, Json]) -> str:
        scopes = [scope for requirement in operation["security"] for scope in requirement.get("jwt", [])]
        scope = "".join(f"<span class=scope>{escape(name)}</span>" for name in scopes or ["no token"])
        badge = f"<span class='method {method.lower()}'>{method}</span>"
        parts = [
            f"<article id='{escape(operation['operationId'])}'>"
            f"<h3>{badge}<code class=path>{_path(path)}</code>{scope}</h3>"
            f"<p class=summary>{_inline(operation['summary'])}</p>{_text(operation.get('description', ''))}"
        ]
        if operation["parameters"]:
            rows = [self._parameter(parameter) for parameter in operation["parameters"]]
            parts.append(f"<h4>Parameters</h4>{_table(rows)}")
        if body := resolve(self._document, operation.get("requestBody")):
            content = body["content"]["application/json"]
            parts.append(f"<h4>Body</h4>{_text(body.get('description', ''))}{self._fields(content['schema'])}")
            parts += self._examples(content)
        parts.append(f"<h4>Try it</h4><pre>{escape(self._curl(method, path, operation))}</pre><h4>Answers</h4>")
        answers = operation["responses"].items()
        parts += [self._response(status, resolve(self._document, answer)) for status, answer in answers]
        return f"{''.join(parts)}</article>"

    def _parameter(self, parameter: Mapping[str, Json]) -> tuple[str, ...]:
        schema = resolve(self._document, parameter["schema"])
        says = parameter.get("description") or schema.get("description", "")
        where = f"<br><small>in the {escape(parameter['in'])}</small>"
        return _row(parameter["name"], parameter.get("required"), self._type(schema) + where, says, _rules(schema))

    def _response(self, status: str, response: Mapping[str, Json]) -> str:
        opened = " open" if status.startswith("2") else ""
        inside = []
        for name, given in response.get("headers", {}).items():
            header = resolve(self._document, given)
            always = "" if header.get("required") else ", where it applies"
            inside.append(
                f"<p><small>header{always}</small> <code>{escape(name)}</code> {_inline(header['description'])}</p>"
            )
        for media_type, content in response.get("content", {}).items():
            what = self._type(content["schema"])
            inside.append(f"<p><small>{escape(media_type)}</small> {what}</p>")
            inside += self._examples(content)
        return (
            f"<details class='answer s{status[0]}'{opened}><summary><b>{escape(status)}</b> "
            f"{_inline(response['description'])}</summary>{''.join(inside)}</details>"
        )

    def _examples(self, content: Mapping[str, Json]) -> Iterator[str]:
        for name, given in content.get("examples", {}).items():
            example = resolve(self._document, given)
            code = f"<code>{escape(name)}</code> " if name.isupper() else ""
            yield (
                f"<figure><figcaption>{code}{_inline(example['summary'])}</figcaption>"
                f"<pre>{_json(example['value'])}</pre></figure>"
            )

    def _curl(self, method: str, path: str, operation: Mapping[str, Json]) -> str:
        """To paste into a shell in the project's folder; without optional parts."""
        query = []
        headers = [f'-H "Authorization: Bearer $(cat {self._token_file})"'] if any(operation["security"]) else []
        for parameter in operation["parameters"]:
            example = str(parameter.get("example", ""))
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", example)
            elif parameter.get("required") and parameter["in"] == "query":
                query.append(f"{parameter['name']}={example}")
            elif parameter.get("required") and parameter["in"] == "header":
                headers.append(f"-H '{parameter['name']}: {example}'")
        url = f"'{self._base_url}{path}{'?' if query else ''}{'&'.join(query)}'"
        lines = [f"curl -sS {url}", *headers]
        if method.lower() in BODY_METHODS and "requestBody" in operation:
            content = resolve(self._document, operation["requestBody"])["content"]["application/json"]
            example = resolve(self._document, next(iter(content["examples"].values())))["value"]
            text = simplejson.dumps(example, use_decimal=True).replace("'", r"'\''")
            lines += ["-H 'Content-Type: application/json'", f"-d '{text}'"]
        return " \\\n  ".join(lines)

    def _problems(self, found: Iterable[tuple[str, str, Mapping[str, Json]]]) -> str:
        """Every code with its status and the operations that answer with it."""
        seen: dict[tuple[str, str], tuple[str, list[str]]] = {}
        for _, _, operation in found:
            for status, given in operation["responses"].items():
                content = resolve(self._document, given).get("content", {}).get("application/problem+json", {})
                for code, example in content.get("examples", {}).items():
                    summary = resolve(self._document, example)["summary"]
                    link = f"<a href='#{operation['operationId']}'>{operation['operationId']}</a>"
                    seen.setdefault((status, code), (summary, []))[1].append(link)
        rows = [
            (f"<code>{code}</code>", status, _inline(summary), " ".join(links))
            for (status, code), (summary, links) in sorted(seen.items())
        ]
        return (
            "<section id=problems><h2>Problems</h2><p>What <code>application/problem+json</code> answers say in "
            f"<code>code</code>.</p>{_table(rows, ('code', 'status', 'means', 'answered by'))}</section>"
        )

    def _all_schemas(self) -> str:
        parts = []
        for name, schema in self._schemas.items():
            if schema.get("type") == "object":
                body = f"{_text(schema.get('description', ''))}{self._fields(schema)}"
            else:
                rules = f"<p class=rules>{_rules(schema)}</p>" if _rules(schema) else ""
                body = f"<p>{self._type(schema)}</p>{_text(schema.get('description', ''))}{rules}"
            parts.append(f"<article class=schema id='schema-{escape(name)}'><h3>{escape(name)}</h3>{body}</article>")
        return f"<section id=schemas><h2>Schemas</h2>{''.join(parts)}</section>"

    def _fields(self, schema: Mapping[str, Json]) -> str:
        resolved = resolve(self._document, schema)
        required = resolved.get("required", ())
        rows = []
        for name, given in resolved.get("properties", {}).items():
            field = resolve(self._document, given)
            # A schema of its own says the rest where its name leads.
            says, rules = field.get("description", ""), "" if "$ref" in given else _rules(field)
            if "$ref" in given and field.get("type") != "object":
                rules = _rules(field)
            rows.append(_row(name, name in required, self._type(given), says, rules))
        return _table(rows)

    def _type(self, schema: Mapping[str, Json]) -> str:
        """What a value is, with links to the schemas that have a name."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return f"<a href='#schema-{escape(name)}'>{escape(name)}</a>"
        if "allOf" in schema:
            first, *narrowed = schema["allOf"]
            fixed = [
                f"{name} {' | '.join(map(str, rule.get('enum', [rule.get('const')])))}"
                for part in narrowed
                for name, rule in part.get("properties", {}).items()
                if name != "code"  # the examples have the codes
            ]
            return f"{self._type(first)}{''.join(f' <code>{escape(text)}</code>' for text in fixed)}"
        if "anyOf" in schema:
            return " or ".join(self._type(part) for part in schema["anyOf"])
        kind = schema.get("type", "string or null" if None in schema.get("enum", ()) else "any value")
        if kind == "array":
            return f"list of {self._type(schema['items'])}"
        return escape(" or ".join(kind) if isinstance(kind, list) else kind)


def _entry(method: str, _: str, operation: Mapping[str, Json]) -> str:
    return (
        f"<a href='#{escape(operation['operationId'])}'><span class='method {method.lower()}'>{method}</span>"
        f"<span>{_inline(operation['summary'])}</span></a>"
    )


def _row(name: str, required: Json, kind: str, description: str, rules: str) -> tuple[str, ...]:
    mark = "<br><small class=required>required</small>" if required else ""
    return (
        f"<code>{escape(name)}</code>{mark}",
        kind,
        _text(description) + (f"<p class=rules>{rules}</p>" if rules else ""),
    )


def _table(rows: Iterable[tuple[str, ...]], heads: tuple[str, ...] = ()) -> str:
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in heads)}</tr>" if heads else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table>{head}{body}</table></div>"


NUMBER_RULES = {
    "exclusiveMinimum": "over {}",
    "minimum": "at least {}",
    "maximum": "at most {:,}",
    "multipleOf": "a multiple of {}",
}


def _rules(schema: Mapping[str, Json]) -> str:
    found = []
    if "enum" in schema:
        found.append(
            " ".join(f"<code>{escape(simplejson.dumps(value).strip(chr(34)))}</code>" for value in schema["enum"])
        )
    found += [words.format(schema[name]) for name, words in NUMBER_RULES.items() if name in schema]
    if "maxLength" in schema:
        found.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    if "pattern" in schema:
        found.append(f"<code>{escape(schema['pattern'])}</code>")
    if "default" in schema:
        found.append(f"default {escape(str(schema['default']))}")
    return " · ".join(found)


def _path(path: str) -> str:
    return re.sub(r"\{[^}]*\}", r"<var>\g<0></var>", escape(path).replace("/", "/<wbr>"))


def _json(value: Json) -> str:
    return escape(simplejson.dumps(value, indent=2, use_decimal=True, ensure_ascii=False), quote=False)


def _inline(text: str) -> str:
    """Of Markdown, what the document uses: `code` and **bold**."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text.strip(), quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)


def _text(text: str) -> str:
    """Paragraphs, and lists of lines that begin with a dash."""
    parts = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("- "):
            parts.append(f"<ul>{''.join(f'<li>{_inline(line)}</li>' for line in block[2:].split('\n- '))}</ul>")
        elif block:
            parts.append(f"<p>{_inline(block)}</p>")
    return "".join(parts)
