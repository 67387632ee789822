import json
from pathlib import Path
from typing import Any

import pytest

from indodana import Credentials, authorization

VECTORS = json.loads((Path(__file__).parent / "signature-vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["nonce"])
def test_the_header_is_the_one_other_implementations_make(vector: dict[str, Any]) -> None:
    credentials = Credentials(vector["apiKey"], vector["secretKey"])
    assert authorization(credentials, vector["nonce"]) == vector["authorization"]


def test_credentials_show_nothing_secret() -> None:
    credentials = Credentials("the-key", "the-secret")
    shown = f"{credentials} {credentials!r}"
    assert "the-key" not in shown
    assert "the-secret" not in shown
