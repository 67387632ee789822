"""One refund has one key, however a client spells it, and a refund of an earlier release is found under its old one."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from gateway.core.context import RequestContext
from gateway.core.model import Reason, RefundRequest
from gateway.refunds.service import RefundResult
from tests.world import World

SPELLINGS = ['"u"', "u,u", "u, u", '"u","u"', 'u,"u"', '"u" , u,u']
LISTS = ["u,v", "u,u,v", '"u","v"', "u,", ",u", '"a,b",c']


def made_by_an_earlier_release(world: World, order: str, key: str) -> str:
    """Which took each spelling for a key of its own."""
    request = RefundRequest(world.order_key(order), key, Decimal(1000), Reason.OTHERS, None, "rina")
    answer = world.gateway.service.refund_now(request, RequestContext("agent-7", "api", "r-1"))
    assert isinstance(answer, RefundResult)
    return answer.refund.refund_id


def refund(world: World, order: str, key: str) -> tuple[int, str | None, bool]:
    answer = world.refund(order, 1000, key=key, fields={"reason": "OTHERS", "requestedBy": "rina"})
    return answer.status, answer.body.get("refundId"), "idempotency-replayed" in answer.headers


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("first", ["bare", "spelled"])
def test_a_key_names_one_refund_however_it_is_spelled(world: World, spelling: str, first: str) -> None:
    order = world.order()
    keys = ["u", spelling] if first == "bare" else [spelling, "u"]

    made, again = (refund(world, order, key) for key in keys)
    world.send(order, spelling, amount=1000, requestedBy="rina")
    assert world.work_queue() == []

    assert made == (201, made[1], False)
    assert again == (201, made[1], True)
    assert world.moved(order) == 1000
    assert world.dead_letters() == []


@pytest.mark.parametrize("key", LISTS)
def test_a_list_of_keys_is_refused_and_says_why(world: World, key: str) -> None:
    order = world.order()

    answer = world.refund(order, 1000, key=key)
    world.send(order, key, amount=1000)
    assert world.work_queue() == []

    assert (answer.status, answer.body["errors"][0]["field"]) == (400, "Idempotency-Key")
    assert "comma" in answer.body["errors"][0]["detail"]
    assert "comma" in world.dead_letters()[0]["MessageAttributes"]["cause"]["StringValue"]
    assert world.moved(order) == 0
    assert world.list_refunds(order).status == 404


def test_a_comma_within_quotes_is_a_part_of_the_key(world: World) -> None:
    order = world.order()

    made = refund(world, order, '"a,b"')
    again = refund(world, order, '"a,b","a,b"')

    assert (made[0], again) == (201, (201, made[1], True))


@pytest.mark.parametrize("spelling", ['"q-1"', "u,v", "u,u", '"a,b"'])
def test_a_refund_of_an_earlier_release_is_found_under_its_key_as_spelled(world: World, spelling: str) -> None:
    order = world.order()
    old = made_by_an_earlier_release(world, order, spelling)

    for _ in range(2):
        assert refund(world, order, spelling) == (201, old, True)
        world.reassemble()  # a process that remembers the order, and one that doesn't
    world.send(order, spelling, amount=1000, requestedBy="rina")
    assert world.work_queue() == []

    assert world.moved(order) == 1000


def test_a_message_of_an_earlier_release_works_its_refund(world: World) -> None:
    """The refund is on record and QUEUED under the spelled key, and so is its message."""
    order = world.order()
    request = RefundRequest(world.order_key(order), '"q-1"', Decimal(1000), Reason.OTHERS, None, "rina")
    answer = world.gateway.service.refund_later(request, RequestContext("agent-7", "api", "r-1"))
    assert isinstance(answer, RefundResult)

    assert world.work_queue() == []

    assert world.get(order, answer.refund.refund_id).body["status"] == "SUCCEEDED"
    assert len(world.list_refunds(order).body["refunds"]) == 1
    assert world.moved(order) == 1000


def test_texts_of_an_earlier_release_are_compared_in_their_present_form(world: World) -> None:
    order, decomposed = world.order(), "Jose\u0301"
    request = RefundRequest(world.order_key(order), "k", Decimal(1000), Reason.OTHERS, None, decomposed)
    old = world.gateway.service.refund_now(request, RequestContext("agent-7", "api", "r-1"))
    assert isinstance(old, RefundResult)

    for spelled in (decomposed, "Jos\u00e9"):
        again = world.refund(order, 1000, key="k", fields={"reason": "OTHERS", "requestedBy": spelled})
        assert (again.status, again.body["refundId"]) == (201, old.refund.refund_id)
    assert replace(request, requested_by="Jose").asks_the_same_as(request) is False


def test_a_key_used_with_another_payload_is_on_record(world: World) -> None:
    order = world.order()
    first = world.refund(order, 1000, key="k")

    assert world.refund(order, 2000, key="k").status == 422

    record = world.audit(order)[-1]
    assert (record["action"], record["failureCode"]) == ("REFUND_REFUSED", "IDEMPOTENCY_KEY_REUSED")
    assert (record["refundId"], record["amount"]) == (first.body["refundId"], 2000)
