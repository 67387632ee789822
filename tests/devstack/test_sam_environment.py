from __future__ import annotations

import json
from pathlib import Path

import pytest

from devstack import sam_environment
from devstack.errors import DevstackError

STACK = {
    "simulatorUrl": "http://127.0.0.1:9001",
    "awsEndpointUrl": "http://127.0.0.1:5000",
    "queueUrl": "http://127.0.0.1:5000/123456789012/RefundQueue",
    "deadLetterQueueUrl": "http://127.0.0.1:5000/123456789012/RefundDeadLetterQueue",
    "ledgerTable": "ledger",
    "auditTable": "audit",
}


def run_a_stack(directory: Path, **changes: str | None) -> None:
    (directory / "stack.json").write_text(json.dumps(STACK | changes))


def test_containers_get_the_stacks_names_at_a_reachable_address(tmp_path: Path) -> None:
    run_a_stack(tmp_path)
    written = json.loads(sam_environment.write(tmp_path, tmp_path / "env.json", "host.docker.internal").read_text())
    assert written == {
        "Parameters": {
            "AWS_ENDPOINT_URL": "http://host.docker.internal:5000",
            "INDODANA_URL": "http://host.docker.internal:9001",
            "LEDGER_TABLE": "ledger",
            "AUDIT_TABLE": "audit",
            "REFUND_QUEUE_URL": "http://host.docker.internal:5000/123456789012/RefundQueue",
            "REFUND_DEAD_LETTER_QUEUE_URL": "http://host.docker.internal:5000/123456789012/RefundDeadLetterQueue",
        }
    }


def test_upstream_elsewhere_keeps_its_address() -> None:
    given = {"INDODANA_URL": "https://stg-k-api.indodanafinance.com"}
    assert sam_environment.for_containers(given) == {"Parameters": given}


def test_missing_stack_is_an_error_that_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(DevstackError, match="make run"):
        sam_environment.write(tmp_path, tmp_path / "env.json")


def test_stack_without_simulator_needs_upstream_url_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPSTREAM_URL", raising=False)
    run_a_stack(tmp_path, simulatorUrl=None)
    with pytest.raises(DevstackError, match="UPSTREAM_URL"):
        sam_environment.write(tmp_path, tmp_path / "env.json", "host.docker.internal")
