"""What `sam build` made, where it has been run (`make test` runs it before the tests)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / ".aws-sam" / "build"
LAYER = BUILD / "IndodanaLayer" / "python"
FUNCTIONS = (
    "StatusCheckFunction",
    "RefundApiFunction",
    "RefundWorkerFunction",
    "ReconcilerFunction",
    "AuditQueryFunction",
    "HealthFunction",
)

pytestmark = pytest.mark.skipif(not LAYER.exists(), reason="nothing is built; make build")


def distributions(folder: Path) -> set[str]:
    return {re.sub(r"[-_.]+", "-", path.name.split("-")[0]).lower() for path in folder.glob("*.dist-info")}


def test_the_layer_holds_the_signing_package_and_every_third_party_package() -> None:
    assert (LAYER / "indodana" / "__init__.py").exists()
    assert {"boto3", "requests", "aws-lambda-powertools"} <= distributions(LAYER)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_distribution_or_module_stands_in_both_a_function_and_the_layer(function: str) -> None:
    assert distributions(BUILD / function) & distributions(LAYER) == set()
    assert {path.name for path in (BUILD / function).iterdir()} & {path.name for path in LAYER.iterdir()} <= {
        "requirements.txt"
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_built_function_holds_its_handler_and_nothing_compiled(function: str) -> None:
    assert len(list((BUILD / function).glob("*/handler.py"))) == len(FUNCTIONS)
    assert list((BUILD / function).rglob("*.so")) == []
