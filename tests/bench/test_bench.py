"""How `make bench` evaluates its measurements: figures, bounds, regressions, table and picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.__main__ import RELEASE, load
from bench.figures import Figure, Spread, ratios
from bench.picture import draw
from bench.stub import Call
from bench.table import regressions, table
from bench.warm import batch_event, most_conflicts, refund_event, status_event
from checks.pins import DEPLOYED, ROOT, pins


def figure(value: float, *, scatter: float = 0.0, **changes: Any) -> Figure:
    fields: dict[str, Any] = {"key": "cold/F", "group": "Cold start", "title": "one", "unit": "×", "over": "F"}
    return Figure(**{**fields, "value": Spread(value, value - scatter, value + scatter), **changes})


def test_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([3]) == Spread(3, 3, 3)
    assert Spread.worst([1, 1, 2, 1]) == Spread(2, 2, 2)


def test_ratios_do_not_change_when_the_machine_slows_down() -> None:
    assert ratios([90.0, 900.0], [100.0, 1000.0]) == [0.9, 0.9]


@pytest.mark.parametrize(("value", "bound", "met"), [(1.0, 1.0, True), (1.01, 1.0, False), (9.0, None, True)])
def test_bound_is_met_up_to_its_own_value(value: float, bound: float | None, met: bool) -> None:
    assert figure(value, bound=bound).is_met is met


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (figure(1.0), figure(1.2), True),
        (figure(1.0), figure(1.09), False),  # within a tenth
        (figure(1.0), figure(1.2, scatter=0.1), False),  # within the quartiles
        (figure(1.0, scatter=0.1), figure(1.2), False),
        (figure(1.0, scatter=0.01), figure(1.2, scatter=0.02), True),
        (figure(1.0), figure(0.5), False),
        (figure(2), figure(3), True),
        (figure(0), figure(1), True),
    ],
)
def test_figure_is_worse_only_by_more_than_noise(before: Figure, after: Figure, worse: bool) -> None:
    assert after.is_worse_than(before) is worse


def test_times_and_peers_are_never_regressions() -> None:
    assert not figure(9.0, machine_dependent=True).is_worse_than(figure(1.0))
    assert not figure(9.0, is_ours=False).is_worse_than(figure(1.0))


def test_regression_names_the_figure_and_its_old_value() -> None:
    (text,) = regressions([figure(1.5)], {"cold/F": figure(1.0)})
    assert text == "Cold start: one (cold/F) is 1.50 ×, was 1"


def test_missing_figure_is_a_regression_but_a_new_one_is_not() -> None:
    assert regressions([figure(1.0)], {"gone": figure(1.0, key="gone")}) == [
        "Cold start: one (gone) is no longer measured"
    ]
    assert regressions([figure(1.0)], {}) == []


def test_table_shows_whether_each_bound_is_met() -> None:
    shown = table(
        [
            figure(0.5, bound=0.9, measured=Spread(310.4, 300.0, 320.0)),
            figure(1.5, scatter=0.25, title="two", bound=1.0),
            figure(3, title="three", unit="calls", group="Warm"),
        ],
        {"cold/F": figure(0.45)},
    )
    assert [line.split() for line in shown.splitlines()[2:]] == [
        ["Cold", "start"],
        ["one", "310", "ms", "300", "–", "320", "0.50", "×", "F", "0.90", "met", "0.45"],
        ["two", "1.50", "×", "1.25", "–", "1.75", "F", "1", "MISSED", "0.45"],
        [],
        ["Warm"],
        ["three", "3", "calls", "F", "0.45"],
    ]


def test_kept_release_is_read_back_unchanged(tmp_path: Path) -> None:
    kept = figure(0.5, bound=0.9, measured=Spread(310.0, 300.0, 320.0))
    (tmp_path / "release.json").write_text(json.dumps({"figures": {kept.key: kept.to_json()}}))
    assert load(tmp_path / "release.json") == {kept.key: kept}
    assert load(tmp_path / "none.json") == {}


def test_picture_has_a_bar_and_a_label_for_each_ratio() -> None:
    figures = [figure(0.5, title="<one> & all", bound=0.9), figure(4.5, title="two", is_ours=False)]
    counted = figure(3, title="three", unit="calls")
    root = ElementTree.fromstring(draw([*figures, counted]))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<one> & all", "0.50 × F", "≤ 0.90", "two", "4.50 × F"} <= set(words)
    assert "three" not in words
    bars = [
        float(bar.get("width", 0)) for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.get("x") == "310"
    ]
    assert bars[1] / bars[0] == pytest.approx(9, rel=0.01)


def test_picture_in_docs_shows_the_kept_release() -> None:
    assert (ROOT / "docs" / "bench.svg").read_text(encoding="utf-8") == draw(list(load(RELEASE).values()))


def test_each_sample_event_requests_a_new_refund() -> None:
    one, other = refund_event("O-1"), refund_event("O-1")
    assert one["pathParameters"] == {"merchantOrderId": "O-1"}
    assert one["rawPath"] == "/v1/transactions/O-1/refunds"
    assert one["headers"]["idempotency-key"] != other["headers"]["idempotency-key"]
    bodies = [json.loads(record["body"]) for record in batch_event(["O-1", "O-2"])["Records"]]
    assert [body["merchantOrderId"] for body in bodies] == ["O-1", "O-2"]
    assert len({body["idempotencyKey"] for body in bodies}) == 2
    assert status_event("O-1")["pathParameters"] == {"merchantOrderId": "O-1"}


def test_conflicts_are_counted_for_the_refund_with_the_most() -> None:
    def refused(refund: str) -> Call:
        items = (f"ledger/m1#O-1/REFUND#{refund}", "ledger/m1#O-1/ORDER")
        return Call("dynamodb", "TransactWriteItems", 0, 1, "TransactionCanceledException", items, items[1:])

    assert most_conflicts([refused("a"), refused("b"), refused("b")]) == 2
    assert most_conflicts([Call("dynamodb", "GetItem", 0, 1, None)]) == 0


def test_floors_and_peers_use_the_deployed_versions() -> None:
    deployed, compared = pins(ROOT / DEPLOYED), pins(ROOT / "requirements" / "bench-floor.txt")
    assert {"boto3", "botocore", "requests"} <= compared.keys()
    assert {name: version for name, version in compared.items() if deployed.get(name, version) != version} == {}
