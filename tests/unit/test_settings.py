"""The functions' environment: what is missing or wrong is named."""

from __future__ import annotations

import re

import pytest

from devstack.template import Template
from gateway.core.model import AmbiguousRefunds
from gateway.runtime.settings import Settings, SettingsError

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
    "MERCHANT_IDS": "m1,m2",
    "QUEUE_SENDERS": "AROAEXAMPLE123456=m1,AROAEXAMPLE123456=m2,AIDAEXAMPLE123456=m2",
    "SCOPE_PREFIX": "qris-gateway/",
    "RESOLUTION_HOLD_SECONDS": "600",
    "CONFLICT_KINDS_NOT_DONE": "ConflictError,BusyError",
    "CONFLICT_KINDS_DONE": "DuplicateError",
}
MAY_BE_EMPTY: dict[str, tuple[str, object]] = {
    "INDODANA_BASE_PATH": ("indodana_base_path", ""),
    "MERCHANT_CLAIM": ("merchant_claim", ""),
    "QUEUE_SENDERS": ("queue_senders", frozenset()),
    "SCOPE_PREFIX": ("scope_prefix", ""),
    "CONFLICT_KINDS_NOT_DONE": ("conflict_kinds_not_done", frozenset()),
    "CONFLICT_KINDS_DONE": ("conflict_kinds_done", frozenset()),
}
REQUIRED = sorted(set(ENVIRONMENT) - set(MAY_BE_EMPTY) - {"MERCHANT_IDS"})


def test_each_variable_is_one_setting() -> None:
    assert Settings.from_environment(ENVIRONMENT) == Settings(
        indodana_url="https://stg-k-api.indodanafinance.com",
        indodana_base_path="/chermes/merchant",
        indodana_status_version="v1",
        indodana_cancellation_version="v3",
        secret_prefix="qris-gateway/",
        merchant_id="m1",
        merchant_claim="merchant_id",
        merchant_ids=frozenset({"m1", "m2"}),
        queue_senders=frozenset(
            {("AROAEXAMPLE123456", "m1"), ("AROAEXAMPLE123456", "m2"), ("AIDAEXAMPLE123456", "m2")}
        ),
        scope_prefix="qris-gateway/",
        ledger_table="ledger",
        audit_table="audit",
        refund_queue_url="https://sqs.test/refunds",
        refund_dead_letter_queue_url="https://sqs.test/dead-letters",
        max_receive_count=5,
        ambiguous_refunds=AmbiguousRefunds.REVIEW,
        resolution_hold_seconds=600,
        conflict_kinds_not_done=frozenset({"ConflictError", "BusyError"}),
        conflict_kinds_done=frozenset({"DuplicateError"}),
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
        *[("MERCHANT_IDS", value, "must be 1 to 64 letters") for value in ("m 1", "m1, m2", "m1;m2", "m1,é")],
        *[
            ("QUEUE_SENDERS", value, f"has {value.split(',')[0]!r}, which must be the unique id of an AWS role")
            for value in (
                "m1",
                "AROAEXAMPLE123456",
                "AROAEXAMPLE123456=",
                "AROAEXAMPLE123456=m 1",
                " AROAEXAMPLE123456=m1",
                "AROAEXAMPLE123456=m1\n",
                "AROAEXAMPLE123456:session=m1",
                "AROASHORT=m1",
                "aroaexample123456=m1",
                "ASIAEXAMPLE123456=m1",
                "123456789012=m1",
                "arn:aws:iam::123456789012:role/tills=m1",
                "AROAEXAMPLE123456=AIDAEXAMPLE123456",
                "AROAEXAMPLE123456=AROA",
            )
        ],
        (
            "QUEUE_SENDERS",
            "AROAEXAMPLE123456=m3",
            "has 'AROAEXAMPLE123456=m3', but MERCHANT_ID and MERCHANT_IDS do not",
        ),
        *[
            ("MAX_RECEIVE_COUNT", value, "must be a whole number from 1")
            for value in ("0", "-1", "five", "1.5", "5 ", "²", "1e1", "9" * 5000)
        ],
        *[("RESOLUTION_HOLD_SECONDS", value, "must be a whole number from 0") for value in ("-1", "1.5", "ten", "²")],
        ("CONFLICT_KINDS_DONE", "BusyError", "must not contain kinds of CONFLICT_KINDS_NOT_DONE: BusyError"),
        *[("AMBIGUOUS_REFUNDS", value, "must be one of review, resubmit") for value in ("REVIEW", "retry", "review ")],
    ],
)
def test_a_wrong_variable_is_named_with_what_would_be_right(name: str, value: str, right: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} {re.escape(right)}"):
        Settings.from_environment(ENVIRONMENT | {name: value})


@pytest.mark.parametrize(("name", "setting", "then"), [(name, *then) for name, then in MAY_BE_EMPTY.items()])
def test_some_may_be_empty(name: str, setting: str, then: object) -> None:
    assert getattr(Settings.from_environment(ENVIRONMENT | {name: ""}), setting) == then
    assert getattr(Settings.from_environment({k: v for k, v in ENVIRONMENT.items() if k != name}), setting) == then


def test_the_merchant_of_messages_that_name_none_is_served_too() -> None:
    settings = Settings.from_environment(ENVIRONMENT | {"MERCHANT_IDS": "m2,m3"})
    assert settings.merchant_ids == {"m1", "m2", "m3"}


@pytest.mark.parametrize("merchant_ids", [None, ""])
def test_a_stack_may_serve_one_merchant(merchant_ids: str | None) -> None:
    only = {key: value for key, value in ENVIRONMENT.items() if key != "MERCHANT_IDS"} | {"QUEUE_SENDERS": ""}
    settings = Settings.from_environment(only if merchant_ids is None else only | {"MERCHANT_IDS": merchant_ids})
    assert settings.merchant_ids == {"m1"}


def test_the_parameter_and_the_function_take_the_same_senders(template: Template) -> None:
    pattern = template.document["Parameters"]["QueueSenders"]["AllowedPattern"]
    right = "AROAEXAMPLE123456=m1"
    for senders in (right, f"{right},{right}", "AIDAEXAMPLE123456=m1,AROAEXAMPLE123456=m2", f"AROA{'A' * 124}=m2", ""):
        assert re.fullmatch(pattern, senders), senders
        Settings.from_environment(ENVIRONMENT | {"QUEUE_SENDERS": senders})
    for wrong in ("m1", "AROASHORT=m1", "AROAEXAMPLE123456=AIDAX", "AROAEXAMPLE123456:s=m1", f"AROA{'A' * 125}=m1"):
        for senders in (wrong, f"{right},{wrong}", f"{wrong},{right}"):
            assert not re.fullmatch(pattern, senders), senders
            with pytest.raises(SettingsError):
                Settings.from_environment(ENVIRONMENT | {"QUEUE_SENDERS": senders})


@pytest.mark.parametrize("value", AmbiguousRefunds)
def test_both_ways_with_ambiguous_refunds_are_taken(value: AmbiguousRefunds) -> None:
    settings = Settings.from_environment(ENVIRONMENT | {"AMBIGUOUS_REFUNDS": str(value)})
    assert settings.ambiguous_refunds is value
