"""Removes from the built layer what the gateway never uses; `sam build` runs it (Makefile).

    python3.13 trim.py <the layer's python/ folder>

boto3 has the descriptions of 400 services, and reading the descriptions of three takes most of a client's start time.
What stays: three services with the operations that the functions call (tests/build/test_build.py compares the list
with the code), the logging and metrics of Powertools, and stand-ins for modules that boto3 and requests import but the
gateway does not use.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OPERATIONS = {
    "dynamodb": ["BatchGetItem", "PutItem", "Query", "Scan", "TransactWriteItems", "UpdateItem"],
    "secretsmanager": ["GetSecretValue"],
    "sqs": ["ChangeMessageVisibility", "ReceiveMessage", "SendMessage", "SendMessageBatch"],
}
DESCRIPTION, ENDPOINTS = "service-2.json", "endpoint-rule-set-1.json"
NOT_DEPLOYED = (
    "bin",
    "boto3/data",
    "boto3/examples",
    "dateutil/zoneinfo",
    "aws_lambda_powertools/event_handler",
    "aws_lambda_powertools/metrics/provider/datadog",
    *(f"aws_lambda_powertools/utilities/{name}" for name in (
        "auth_alpha", "batch", "circuit_breaker", "data_classes", "data_masking", "feature_flags", "idempotency",
        "kafka", "parameters", "parser", "streaming", "validation",
    )),
    "simplejson/tests",
)  # fmt: skip
# Replacements for packages that boto3, botocore and requests import but the gateway never uses; None keeps a file
# unchanged. The shares are of a cold start's instructions.
STAND_INS: dict[str, dict[str, str | None]] = {
    # For boto3's S3 resource; the real one would load multiprocessing.
    "s3transfer": {
        "__init__.py": "",
        "manager.py": "class TransferConfig:\n    UNSET_DEFAULT = object()\n",
    },
    # The SDK's manual: every method gets its page as a docstring, which takes 4 % of a cold start.
    "botocore/docs": {
        "__init__.py": "",
        "docstring.py": """\
def no_docstring(**_: object) -> str:
    return ""


ClientMethodDocstring = PaginatorDocstring = WaiterDocstring = no_docstring
""",
        "utils.py": None,
    },
    # The same for boto3's resources, which are not used.
    "boto3/docs": {"__init__.py": "", "docstring.py": "ActionDocstring = None\n", "utils.py": None},
    # The folder that rehash.py makes of the file. Looking for it by importlib.resources takes 0.6 %.
    "certifi": {
        "__init__.py": """\
from os.path import dirname


def where() -> str:
    return dirname(__file__) + "/authorities"
""",
        "cacert.pem": None,
    },
    # Guesses the encoding of a requests.Response that names none. The gateway makes no such object: 2 %.
    "charset_normalizer": {
        "__init__.py": """\
from charset_normalizer.version import __version__


def detect(_: bytes) -> None:
    raise NotImplementedError("charset_normalizer is not deployed: layers/indodana/trim.py")
""",
        "version.py": None,
    },
    # As it is, but requests no longer loads its tables for hosts that are ASCII: 0.3 %.
    "idna": {
        "__init__.py": """\
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(import_module("idna.core"), name)
""",
        "core.py": None,
        "idnadata.py": None,
        "intranges.py": None,
        "package_data.py": None,
        "uts46data.py": None,
    },
    # HTTP/2, which somebody would have to inject. It would load importlib.metadata: 1 %.
    "urllib3/http2": {"__init__.py": "", "probe.py": None},
}
# The same for single modules.
STAND_IN_MODULES = {
    # Of ~/.aws/config and ~/.aws/credentials; in Lambda, both are in the environment. The parser takes 0.7 %.
    "botocore/configloader.py": """\
from botocore.exceptions import ConfigNotFound


def load_config(config_filename: str) -> None:
    raise ConfigNotFound(path=config_filename)


raw_config_parse = multi_file_load_config = load_config
""",
    # For older Pythons; Powertools takes `deprecated` from it: 0.7 %.
    "typing_extensions.py": """\
import typing
from warnings import deprecated


def __getattr__(name: str) -> typing.Any:
    return getattr(typing, name)
""",
}
# Lines that compile a regular expression which nothing uses: 1 %.
UNUSED_LINES = {"urllib3/util/url.py": '_IPV6_RE = re.compile("^" + _IPV6_PAT + "$")\n'}


def trim(layer: Path) -> None:
    for name in NOT_DEPLOYED:
        shutil.rmtree(layer / name)
    _trim_services(layer / "botocore" / "data")
    for package, modules in STAND_INS.items():
        _stand_in(layer / package, modules)
    for name, text in STAND_IN_MODULES.items():
        (layer / name).unlink()
        (layer / name).write_text(text)
    for name, line in UNUSED_LINES.items():
        before, found, after = (layer / name).read_text().partition(line)
        if not found:
            raise SystemExit(f"trim.py: {name} no longer has the line {line.strip()}")
        (layer / name).write_text(before + after)


def _stand_in(package: Path, modules: dict[str, str | None]) -> None:
    for path in package.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif modules.get(path.name, "") is not None:
            path.unlink()
    for name, text in modules.items():
        if text is not None:
            (package / name).write_text(text)


def _trim_services(data: Path) -> None:
    for folder in data.iterdir():
        if folder.is_dir() and folder.name not in OPERATIONS:
            shutil.rmtree(folder)
    for service, operations in OPERATIONS.items():
        *older, latest = sorted((data / service).iterdir())
        for version in older:
            shutil.rmtree(version)
        description = _undocumented(_with_only(operations, _read(latest / f"{DESCRIPTION}.gz")))
        endpoints = _undocumented(_read(latest / f"{ENDPOINTS}.gz"))
        for path in latest.iterdir():
            if not path.name.endswith(".sdk-extras.json"):
                path.unlink()
        _write(latest / DESCRIPTION, description)
        _write(latest / ENDPOINTS, endpoints)
    regions = _read(data / "endpoints.json")
    for partition in regions["partitions"]:
        partition["services"] = {name: at for name, at in partition["services"].items() if name in OPERATIONS}
    _write(data / "endpoints.json", regions)


def _with_only(operations: list[str], description: dict[str, Any]) -> dict[str, Any]:
    """A service's description with only these operations and the shapes that they use."""
    kept = {name: description["operations"][name] for name in operations}
    shapes: dict[str, Any] = {}
    unread = list(_shapes_named_in(kept))
    while unread:
        name = unread.pop()
        if name not in shapes:
            shapes[name] = description["shapes"][name]
            unread.extend(_shapes_named_in(shapes[name]))
    return description | {"operations": kept, "shapes": shapes}


def _shapes_named_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("shape"), str):
            yield value["shape"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _shapes_named_in(inner)


def _undocumented(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _undocumented(inner)
            for name, inner in value.items()
            if not (name == "documentation" and isinstance(inner, str))
        }
    if isinstance(value, list):
        return [_undocumented(inner) for inner in value]
    return value


def _read(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")))


if __name__ == "__main__":
    trim(Path(sys.argv[1]))
