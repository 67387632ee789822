"""The functions' environment: what is missing or wrong is named."""

from __future__ import annotations

import re

import pytest

from devstack.template import Template
from refunds.model import AmbiguousRefunds
from settings import Settings, SettingsError

ENVIRONMENT = {
    "INDODANA_URL": "https://stg-k-api.indodanafinance.com",
    "INDODANA_BASE_PATH": "/chermes/merchant",
    "INDODANA_STATUS_VERSION": "v1",
    "INDODANA_CANCELLATION_VERSION": "v3",
    "SECRET_PREFIX": "qris-gateway/",
    "MERCHANT_ID": "m1",
    "MERCHANT_CLAIM": "merchant_id",
    "LEDGER_TABLE": "ledger",
    "AUDIT_TABLE": "audit",
    "REFUND_QUEUE_URL": "https://sqs.test/refunds",
    "REFUND_DEAD_LETTER_QUEUE_URL": "https://sqs.test/dead-letters",
    "MAX_RECEIVE_COUNT": "5",
    "AMBIGUOUS_REFUNDS": "review",
}
MAY_BE_EMPTY = {"INDODANA_BASE_PATH": "indodana_base_path", "MERCHANT_CLAIM": "merchant_claim"}
REQUIRED = sorted(set(ENVIRONMENT) - set(MAY_BE_EMPTY))


def test_each_variable_is_one_setting() -> None:
    assert Settings.from_environment(ENVIRONMENT) == Settings(
        indodana_url="https://stg-k-api.indodanafinance.com",
        indodana_base_path="/chermes/merchant",
        indodana_status_version="v1",
        indodana_cancellation_version="v3",
        secret_prefix="qris-gateway/",
        merchant_id="m1",
        merchant_claim="merchant_id",
        ledger_table="ledger",
        audit_table="audit",
        refund_queue_url="https://sqs.test/refunds",
        refund_dead_letter_queue_url="https://sqs.test/dead-letters",
        max_receive_count=5,
        ambiguous_refunds=AmbiguousRefunds.REVIEW,
    )


def test_the_template_sets_each_of_them_for_every_function(template: Template) -> None:
    for name in template.model().functions:
        assert set(ENVIRONMENT) <= set(variables(template, name)), name


def variables(template: Template, function: str) -> dict[str, object]:
    shared: dict[str, object] = template.document["Globals"]["Function"]["Environment"]["Variables"]
    own = template.document["Resources"][function]["Properties"].get("Environment", {}).get("Variables", {})
    return shared | own


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_variable_is_named(name: str, missing: str | None) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != name}
    if missing is not None:
        environment[name] = missing

    with pytest.raises(SettingsError, match=f"^{name} is not set"):
        Settings.from_environment(environment)


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        *[("MERCHANT_ID", value, "must be 1 to 64 letters") for value in ("m 1", "m/1", "m#1", "m1\n", "é", "m" * 65)],
        *[
            ("MAX_RECEIVE_COUNT", value, "must be a whole number from 1")
            for value in ("0", "-1", "five", "1.5", "5 ", "²", "1e1")
        ],
        *[("AMBIGUOUS_REFUNDS", value, "must be one of review, resubmit") for value in ("REVIEW", "retry", "review ")],
    ],
)
def test_a_wrong_variable_is_named_with_what_would_be_right(name: str, value: str, right: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} {re.escape(right)}"):
        Settings.from_environment(ENVIRONMENT | {name: value})


@pytest.mark.parametrize(("name", "setting"), MAY_BE_EMPTY.items())
def test_some_may_be_empty(name: str, setting: str) -> None:
    assert getattr(Settings.from_environment(ENVIRONMENT | {name: ""}), setting) == ""
    assert getattr(Settings.from_environment({k: v for k, v in ENVIRONMENT.items() if k != name}), setting) == ""


@pytest.mark.parametrize("value", AmbiguousRefunds)
def test_both_ways_with_ambiguous_refunds_are_taken(value: AmbiguousRefunds) -> None:
    settings = Settings.from_environment(ENVIRONMENT | {"AMBIGUOUS_REFUNDS": str(value)})
    assert settings.ambiguous_refunds is value
