"""Two releases that run at once, in a deployment or after a rollback, read each other's items.

`previous/` has the code with which the last release reads and writes them, unchanged (docs/contributing.md).
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checks.pins import ROOT
from gateway.core.items import NEWEST_READABLE_SCHEMA, WRITTEN_SCHEMA, to_refund
from gateway.core.model import Refund, RefundRequest
from tests.releases import items

HERE = Path(__file__).parent
LAYER = ROOT / "layers/indodana"
THIS = ROOT / "functions"
PREVIOUS = HERE / "previous"


def run(release: Path, action: str, given: str = "") -> Any:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(release), str(LAYER)))}
    command = [sys.executable, str(HERE / "items.py"), action]
    done = subprocess.run(command, input=given, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def of_this() -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = run(THIS, "write")
    return written


@pytest.fixture(scope="module")
def of_previous() -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = run(PREVIOUS, "write")
    return written


def as_far_as_known(value: Any, known: Any) -> Any:
    """Without the fields that the other release does not have."""
    if isinstance(value, dict) and isinstance(known, dict):
        return {name: as_far_as_known(each, known[name]) for name, each in value.items() if name in known}
    return value


def test_the_previous_release_runs_its_own_code(of_this: Any, of_previous: Any) -> None:
    assert of_this != of_previous
    assert all("unreadable" not in refund for refund in run(PREVIOUS, "read", json.dumps(of_previous)))


def test_the_previous_release_reads_what_this_one_writes(of_this: Any) -> None:
    read_there = run(PREVIOUS, "read", json.dumps(of_this))
    read_here = run(THIS, "read", json.dumps(of_this))

    assert read_there == [as_far_as_known(here, there) for here, there in zip(read_here, read_there, strict=True)]


def test_this_release_reads_what_the_previous_one_wrote(of_previous: Any) -> None:
    read_there = run(PREVIOUS, "read", json.dumps(of_previous))
    read_here = run(THIS, "read", json.dumps(of_previous))

    assert [as_far_as_known(here, there) for here, there in zip(read_here, read_there, strict=True)] == read_there


def test_the_samples_fill_every_field_of_a_refund() -> None:
    of_the_samples = {"request", "status", "failure"}

    assert {each.name for each in dataclasses.fields(Refund)} == items.REFUND.keys() | of_the_samples
    assert {each.name for each in dataclasses.fields(RefundRequest)} == items.REQUEST.keys()


def test_every_item_carries_the_schema_it_is_written_in(of_this: Any) -> None:
    assert {item["schemaVersion"]["N"] for item in of_this} == {str(WRITTEN_SCHEMA)}
    assert WRITTEN_SCHEMA <= NEWEST_READABLE_SCHEMA


def test_a_schema_of_a_later_release_is_refused_not_guessed(of_this: Any) -> None:
    for item in (of_this[0], of_this[-1]):
        later = item | {"schemaVersion": {"N": str(NEWEST_READABLE_SCHEMA + 1)}}

        assert "schema version is 2; this release reads up to 1" in items.read(later)["unreadable"]


def test_an_item_without_a_schema_version_is_read(of_this: Any) -> None:
    without = {name: value for name, value in of_this[0].items() if name != "schemaVersion"}

    assert to_refund(without) == to_refund(of_this[0])
