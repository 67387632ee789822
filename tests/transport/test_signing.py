import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indodana import Credentials, authorization

VECTORS = json.loads((Path(__file__).parent / "signature-vectors.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["nonce"])
def test_the_header_is_the_one_other_implementations_make(vector: dict[str, Any]) -> None:
    credentials = Credentials(vector["apiKey"], vector["secretKey"])
    assert authorization(credentials, vector["nonce"]) == vector["authorization"]


# A secret longer than SHA-256's block of 64 bytes is hashed first; around that length an implementation may go wrong.
SECRETS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40) | st.text(
    "k\u00e9\u5bc6", min_size=20, max_size=130
)
SIGNED = st.tuples(st.text(st.characters(codec="utf-8"), max_size=40), SECRETS, st.integers(0, 10**12).map(str))


def by_openssl(secret: str, text: str) -> str:
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{secret.encode().hex()}", "-r"]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout.decode().split()[0]


def all_by_openssl(pairs: list[tuple[str, str]]) -> list[str]:
    return [by_openssl(secret, text) for secret, text in pairs]


def all_by_node(pairs: list[tuple[str, str]]) -> list[str]:
    script = """
        const { createHmac } = require('node:crypto')
        const pairs = JSON.parse(require('node:fs').readFileSync(0))
        const hex = pairs.map(([secret, text]) => createHmac('sha256', secret).update(text).digest('hex'))
        console.log(JSON.stringify(hex))
    """
    done = subprocess.run(["node", "-e", script], input=json.dumps(pairs).encode(), capture_output=True, check=True)
    signatures: list[str] = json.loads(done.stdout)
    return signatures


OTHERS = {"openssl": all_by_openssl, "node": all_by_node}


def test_there_is_another_implementation_to_compare_with() -> None:
    assert any(map(shutil.which, OTHERS)), f"signatures are NOT CHECKED: none of {', '.join(OTHERS)} is here"


@pytest.mark.parametrize("program", OTHERS)
def test_other_implementations_make_the_same_signatures(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"there is no {program} here")

    @settings(max_examples=10, deadline=None)
    @given(st.lists(SIGNED, min_size=10, max_size=20))
    def compare(cases: list[tuple[str, str, str]]) -> None:
        made = OTHERS[program]([(secret, f"{api_key}:{nonce}") for api_key, secret, nonce in cases])
        for (api_key, secret, nonce), signature in zip(cases, made, strict=True):
            assert authorization(Credentials(api_key, secret), nonce) == f"Bearer {api_key}:{nonce}:{signature}"

    compare()


def test_credentials_show_nothing_secret() -> None:
    credentials = Credentials("the-key", "the-secret")
    shown = f"{credentials} {credentials!r}"
    assert "the-key" not in shown
    assert "the-secret" not in shown
