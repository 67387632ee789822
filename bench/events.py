"""What callers ask for beside refunds and statuses (bench/warm.py): the sample events, with orders of their own."""

from __future__ import annotations

import json
from typing import Any

from bench.warm import EVENTS, SAMPLE_ORDER, Event, batch_event, refund_event

LARGEST_PAGE = "100"


def refund_later_event(order: str) -> Event:
    event = refund_event(order)
    event["headers"]["prefer"] = "respond-async"
    return event


def list_event(order: str) -> Event:
    return _sample("refund_api/list.json", order)


def timeline_event(order: str, token: str | None) -> Event:
    event = _sample("audit_query/timeline.json", order)
    event["queryStringParameters"] = {"limit": LARGEST_PAGE} | ({"nextToken": token} if token else {})
    return event


def reconcile_event() -> Event:
    return _sample("reconciler/schedule.json")


def message_body(order: str) -> str:
    """Asks for another refund each time."""
    body: str = batch_event([order])["Records"][0]["body"]
    return body


def _sample(name: str, order: str = SAMPLE_ORDER) -> dict[str, Any]:
    event: Event = json.loads((EVENTS / name).read_text(encoding="utf-8").replace(SAMPLE_ORDER, order))
    return event
