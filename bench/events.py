"""Sample events for other orders, for what bench/warm.py does not have."""

from __future__ import annotations

from bench.warm import Event, batch_event, refund_event, sample

LARGEST_PAGE = "100"


def refund_later_event(order: str) -> Event:
    event = refund_event(order)
    event["headers"]["prefer"] = "respond-async"
    return event


def list_event(order: str) -> Event:
    return sample("refund_api/list.json", order)


def timeline_event(order: str, token: str | None) -> Event:
    event = sample("audit_query/timeline.json", order)
    event["queryStringParameters"] = {"limit": LARGEST_PAGE} | ({"nextToken": token} if token else {})
    return event


def recovery_event() -> Event:
    return sample("recovery/schedule.json")


def message_body(order: str) -> str:
    """Of another refund each time."""
    body: str = batch_event([order])["Records"][0]["body"]
    return body
