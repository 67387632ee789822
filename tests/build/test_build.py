"""What `sam build` made, where it has been run (`make test` runs it before the tests)."""

from __future__ import annotations

import importlib.util
import json
import marshal
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.loaders import Loader

from checks.pins import DEPLOYED, ROOT, normalized, pins

BUILD = ROOT / ".aws-sam" / "build"
LAYER = BUILD / "IndodanaLayer" / "python"
FUNCTIONS = (
    "StatusCheckFunction",
    "RefundApiFunction",
    "RefundWorkerFunction",
    "RecoveryFunction",
    "AuditQueryFunction",
    "HealthFunction",
)

pytestmark = pytest.mark.skipif(not LAYER.exists(), reason="nothing is built; make build")


def distributions(folder: Path) -> set[str]:
    return {normalized(path.name.split("-")[0]) for path in folder.glob("*.dist-info")}


def test_the_layer_holds_the_signing_package_and_the_pinned_ones_only() -> None:
    assert (LAYER / "indodana" / "__init__.py").exists()
    assert distributions(LAYER) == {normalized(name) for name in pins(ROOT / DEPLOYED)}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_distribution_or_module_stands_in_both_a_function_and_the_layer(function: str) -> None:
    assert distributions(BUILD / function) & distributions(LAYER) == set()
    assert {path.name for path in (BUILD / function).iterdir()} & {path.name for path in LAYER.iterdir()} == set()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_built_function_holds_its_handler(function: str) -> None:
    assert len(list((BUILD / function).glob("*/handler.py"))) == len(FUNCTIONS)
    assert not (BUILD / function / "Makefile").exists()


def test_the_build_is_the_same_for_every_architecture() -> None:
    assert list(BUILD.rglob("*.so")) == []


@pytest.mark.parametrize(("folder", "where"), [("IndodanaLayer", "/opt"), ("RefundApiFunction", "/var/task")])
def test_every_module_is_compiled_and_never_checked_against_its_source(folder: str, where: str) -> None:
    sources = list((BUILD / folder).rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        compiled = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        assert compiled[:4] == importlib.util.MAGIC_NUMBER
        assert int.from_bytes(compiled[4:8], "little") == 0b01, "hash-based, and unchecked"
        code = marshal.loads(compiled[16:])
        assert code.co_filename == f"{where}/{source.relative_to(BUILD / folder)}"


# ---- botocore's data, trimmed

TRIM = runpy.run_path(str(ROOT / "layers" / "indodana" / "trim.py"))
CALLED = re.compile(r"self\._client\.([a-z_]+)\b(?!\.)")


def test_the_operations_that_are_left_are_those_that_the_code_calls() -> None:
    called = {
        name
        for folder in ("functions", "layers/indodana/indodana")
        for path in (ROOT / folder).rglob("*.py")
        for name in CALLED.findall(path.read_text())
    }
    left = {xform_name(operation) for operations in TRIM["OPERATIONS"].values() for operation in operations}
    assert called == left


def without_documentation(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: inner for name, inner in value.items() if name != "documentation" or not isinstance(inner, str)}
        return {name: without_documentation(inner) for name, inner in kept.items()}
    return [without_documentation(inner) for inner in value] if isinstance(value, list) else value


def shapes_of(description: dict[str, Any], name: str, seen: set[str]) -> Iterator[str]:
    if name in seen:
        return
    seen.add(name)
    yield name
    for inner in re.findall(r'"shape": "(\w+)"', json.dumps(description["shapes"][name])):
        yield from shapes_of(description, inner, seen)


@pytest.mark.parametrize("service", TRIM["OPERATIONS"])
def test_a_trimmed_service_is_described_as_botocore_does(service: str) -> None:
    whole = Loader()
    trimmed = Loader(extra_search_paths=[str(LAYER / "botocore" / "data")], include_default_search_paths=False)
    before = without_documentation(whole.load_service_model(service, "service-2"))
    after = trimmed.load_service_model(service, "service-2")
    assert after["metadata"] == before["metadata"]
    assert sorted(after["operations"]) == sorted(TRIM["OPERATIONS"][service])
    seen: set[str] = set()
    for name, operation in after["operations"].items():
        assert operation == before["operations"][name]
        for inner in re.findall(r'"shape": "(\w+)"', json.dumps(operation)):
            for shape in shapes_of(before, inner, seen):
                assert after["shapes"][shape] == before["shapes"][shape]
    rules = whole.load_service_model(service, "endpoint-rule-set-1")
    assert trimmed.load_service_model(service, "endpoint-rule-set-1") == without_documentation(rules)


def test_every_region_of_every_partition_is_left() -> None:
    whole = Loader().load_data("endpoints")
    trimmed = json.loads((LAYER / "botocore" / "data" / "endpoints.json").read_text())
    for before, after in zip(whole["partitions"], trimmed["partitions"], strict=True):
        kept = {name: at for name, at in before["services"].items() if name in TRIM["OPERATIONS"]}
        assert after == before | {"services": kept}


IMPORT_ALL = """
import importlib, json, pkgutil
import boto3, botocore

failed = []
for package in (boto3, botocore):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        try:
            importlib.import_module(module.name)
        except ImportError:
            failed.append(module.name)
print(json.dumps(failed))
"""
# Of S3, whose transfers are not deployed, and of awscrt, which is not either.
NOT_FOR_US = ["boto3.crt", "boto3.s3.inject", "boto3.s3.transfer", "botocore.crt.auth"]


def test_what_boto3_imports_is_there() -> None:
    assert json.loads(printed_by(IMPORT_ALL)) == NOT_FOR_US


# ---- requests and urllib3, where trim.py replaced what they import

STOOD_IN = """
import json, sys, warnings

warnings.simplefilter("error")
import botocore.session, certifi, idna, requests
import urllib3.connection

loaded = sorted({"charset_normalizer.api", "idna.core", "importlib.metadata", "configparser"} & set(sys.modules))
answer = requests.Response()
answer._content = b"abc"
try:
    guessed = answer.apparent_encoding
except NotImplementedError as error:
    guessed = str(error)
print(json.dumps({
    "loaded": loaded,
    "umlaut": requests.Request("GET", "https://b\u00fccher.example/").prepare().url,
    "missing of idna": [name for name in ("IDNAError", "encode", "decode") if not hasattr(idna, name)],
    "guessed": guessed,
    "profiles": botocore.session.Session().full_config,
    "certifi": certifi.where(),
}))
"""


def test_names_whose_lines_were_removed_are_used_nowhere() -> None:
    names = [line.partition(" = ")[0] for line in TRIM["UNUSED_LINES"].values()]
    assert names
    for source in LAYER.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        assert [name for name in names if re.search(rf"(?<!\w){name}(?!\w)", text)] == [], source


def test_stand_ins_do_what_they_say() -> None:
    assert json.loads(printed_by(STOOD_IN)) == {
        "loaded": [],
        "umlaut": "https://xn--bcher-kva.example/",
        "missing of idna": [],
        "guessed": "charset_normalizer is not deployed: layers/indodana/trim.py",
        "profiles": {"profiles": {}},
        "certifi": f"{LAYER}/certifi/authorities",
    }


# The clients as the functions make them, but nothing is sent: where it would have gone is said instead.
SAY_WHERE = """
import json
from gateway.runtime.aws import AwsClients

class Sent(Exception): ...

def stop(request, **_):
    raise Sent(request.url)

def where(client, call, **arguments):
    client.meta.events.register("before-send", stop)
    try:
        call(**arguments)
    except Sent as sent:
        return str(sent)

clients = AwsClients()
print(json.dumps([
    where(clients.dynamodb, clients.dynamodb.scan, TableName="Table"),
    where(clients.sqs, clients.sqs.send_message, QueueUrl="https://queue.example", MessageBody="{}"),
    where(clients.secretsmanager, clients.secretsmanager.get_secret_value, SecretId="qris-gateway/"),
]))
"""


@pytest.mark.parametrize("region", ["ap-southeast-3", "us-gov-west-1"])
def test_what_is_built_finds_aws_in_its_region(region: str) -> None:
    """The Docker tests give the functions an endpoint, so they cannot tell."""
    printed = printed_by(SAY_WHERE, AWS_REGION=region, AWS_DEFAULT_REGION=region)
    services = ("dynamodb", "sqs", "secretsmanager")
    assert json.loads(printed) == [f"https://{service}.{region}.amazonaws.com/" for service in services]


def printed_by(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", program],  # with nothing of this venv, and leaving no trace in the build
        env={
            "PYTHONPATH": f"{BUILD / 'RefundApiFunction'}:{LAYER}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "nonsense",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
